"""The multi-task loss of RetinaFace (Deng et al., CVPR 2020, eq. 1) on matched anchors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torchvision.ops import box_convert

from retinalib.anchors import AnchorConfig, encode_boxes, encode_landmarks, match
from retinalib.landmarks import Eye


class Target(NamedTuple):
    """The F faces of one training image, in fractions of it."""

    boxes: Tensor  # (F, 4) float32 x1 y1 x2 y2
    landmarks: Tensor  # (F, L, 2) float32
    visible: Tensor  # (F, L) bool: learned ones
    complete: bool = True  # all faces are labelled


@dataclass(frozen=True)
class LossConfig:
    """How the three parts are made and weighed."""

    box_weight: float = 2.0
    class_weight: float = 1.0
    landmark_weight: float = 1.0
    pupil_weight: float = 0.0  # of the pupils' place between their canthi, which barely affects a sum over all points
    landmark_loss: str = "smooth_l1"  # or "wing"
    positive_iou: float = 0.35  # positive from here on
    minimum_iou: float = 0.2  # for a face's best anchor
    negatives_per_positive: int = 7  # the hardest
    least_negatives: int = 0  # hard negatives kept of an image with few positive anchors or none, whose share is smaller

    def __post_init__(self) -> None:
        if self.landmark_loss not in ("smooth_l1", "wing"):
            raise ValueError(f"landmark_loss must be 'smooth_l1' or 'wing', got '{self.landmark_loss}'")
        numbers = [value for value in asdict(self).values() if not isinstance(value, str)]
        if not all(0 <= number < math.inf for number in numbers):
            raise ValueError(f"weights and numbers of negatives must be finite and not negative, got {self}")
        if not 0 < self.minimum_iou <= self.positive_iou <= 1:
            raise ValueError(f"0 < minimum_iou <= positive_iou <= 1 must hold, got {self.minimum_iou}, {self.positive_iou}")


class Parts(NamedTuple):
    """The loss and its parts, scalars; ``total`` is the weighted sum, plus that of the second looks where there are any."""

    total: Tensor
    box: Tensor
    classification: Tensor
    landmark: Tensor
    pupil: Tensor
    look: Tensor  # of the second looks, or 0


def wing(difference: Tensor, width: float = 1.0, curvature: float = 0.2) -> Tensor:
    """Wing loss (Feng et al., CVPR 2018, eq. 5), elementwise, in units of encoded landmarks: 1 is a tenth of the anchor."""
    size = difference.abs()
    near = width * torch.log1p(size / curvature)
    offset = width - width * math.log1p(width / curvature)
    return torch.where(size < width, near, size - offset)


def multi_task_loss(
    logits: Tensor,
    boxes: Tensor,
    landmarks_at: Callable[[Tensor, Tensor], Tensor],
    targets: list[Target],
    anchors: Tensor,
    config: LossConfig = LossConfig(),
    anchor_config: AnchorConfig = AnchorConfig(),  # noqa: B008 (frozen)
    eyes: Sequence[Eye] = (),
) -> Parts:
    """The loss of a batch.

    logits: (B, A, 2), boxes: (B, A, 4) offsets; landmarks_at: gives (N, 2L) shifts for (N,) images and (N,) anchors, and is
    asked only for positive anchors whose face has visible landmarks; anchors: (A, 4) fractions.

    Box and class parts are sums over positives (and the hardest negatives) by the number of positive anchors; the landmark part
    is a sum over visible coordinates by the number of those with landmarks, and so is the pupil part, of the vectors from the
    middle of the canthi to the pupil. In a photo labelled in part, only anchors near labelled faces can be negatives."""
    logits, boxes = logits.float(), boxes.float()
    matched = torch.stack([match(t.boxes, anchors, config.positive_iou, config.minimum_iou) for t in targets])  # (B, A)
    offsets = torch.tensor([0, *[len(t.boxes) for t in targets]]).cumsum(0)[:-1].to(matched.device)
    image, anchor = (matched >= 0).nonzero(as_tuple=True)  # (P,) positives
    face = matched[image, anchor] + offsets[image]  # into the faces of all images, one after the other
    positives = max(len(image), 1)

    all_boxes = torch.cat([t.boxes for t in targets])
    wanted = encode_boxes(all_boxes[face], anchors[anchor], anchor_config.variances)
    box = smooth_l1_loss(boxes[image, anchor], wanted, reduction="sum") / positives

    classification = _classification(logits, matched, targets, anchors, config) / positives

    visible = torch.cat([t.visible for t in targets])[face]
    chosen = visible.any(1)
    image, anchor, face, visible = image[chosen], anchor[chosen], face[chosen], visible[chosen]
    wanted = encode_landmarks(torch.cat([t.landmarks for t in targets])[face], anchors[anchor], anchor_config.variances)
    wanted = torch.where(visible[..., None], wanted, 0)  # unknown ones may be NaN
    given = landmarks_at(image, anchor).float().view_as(wanted)
    wings = config.landmark_loss == "wing"
    by_coordinate = wing(given - wanted) if wings else smooth_l1_loss(given, wanted, reduction="none")
    with_landmarks = max(len(image), 1)
    landmark = (by_coordinate * visible[..., None]).sum() / with_landmarks

    gap, pupil = given - wanted, given.new_zeros(())
    for eye in eyes:
        if None not in (eye.pupil, eye.outer, eye.inner):
            shift = gap[:, eye.pupil] - (gap[:, eye.outer] + gap[:, eye.inner]) / 2
            pupil = pupil + (shift.abs().sum(1) * visible[:, [eye.pupil, eye.outer, eye.inner]].all(1)).sum()
    pupil = pupil / with_landmarks

    total = config.box_weight * box + config.class_weight * classification + config.landmark_weight * landmark
    return Parts(total + config.pupil_weight * pupil, box, classification, landmark, pupil, total.new_zeros(()))


def _classification(logits: Tensor, matched: Tensor, targets: list[Target], anchors: Tensor, config: LossConfig) -> Tensor:
    """Cross-entropy summed over positives and each image's hardest negatives (online hard example mining, as in SSD)."""
    positive = matched >= 0
    by_anchor = cross_entropy(logits.flatten(0, 1), positive.flatten().long(), reduction="none").view(positive.shape)
    negative = ~positive
    for row, target in enumerate(targets):
        if not target.complete:
            middle, size = box_convert(target.boxes, "xyxy", "cxcywh")[:, None].split(2, -1)
            negative[row] &= ((anchors[:, :2] - middle).abs() <= size).all(-1).any(0)  # in a box grown by half on each side
    count = positive.sum(1)
    keep = torch.minimum((config.negatives_per_positive * count).clamp(config.least_negatives), negative.sum(1))
    largest = int(keep.max())
    hardest = by_anchor.masked_fill(~negative, -torch.inf).topk(largest, dim=1).values if largest else by_anchor[:, :0]
    kept = torch.arange(largest, device=keep.device) < keep[:, None]
    return by_anchor[positive].sum() + hardest[kept].sum()
