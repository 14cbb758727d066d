"""The same said in the straightforward way: what the fast ways are compared with, in tests for what they give and in
:mod:`benchmarks.__main__` for what they cost.

The landmark head at every anchor, anchors made in loops for every image, NMS in NumPy, a loss that goes from image to image
and encodes 98 points for every anchor, colours distorted in floating point on the whole photo.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision import ops

from retinalib.anchors import AnchorConfig, decode_boxes, decode_landmarks, encode_boxes, encode_landmarks
from retinalib.augment import AugmentConfig, augment
from retinalib.faces import Faces, box_iou
from retinalib.loss import LossConfig, Target
from retinalib.model import RetinaFace


def plain_anchors(height: int, width: int, config: AnchorConfig = AnchorConfig()) -> Tensor:  # noqa: B008 (frozen)
    """:func:`retinalib.anchors.anchor_grid` in loops, made anew at every call."""
    anchors = []
    for stride, sizes in zip(config.strides, config.sizes, strict=True):
        for row in range(math.ceil(height / stride)):
            for column in range(math.ceil(width / stride)):
                for size in sizes:
                    x, y = (column + 0.5) * stride / width, (row + 0.5) * stride / height
                    anchors.append((x, y, size / width, size / height))
    return torch.tensor(anchors)


def plain_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """The rows that stay of (N, 4) boxes x1 y1 x2 y2, best first."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        kept.append(int(order[0]))
        overlap = box_iou(boxes[order[:1]], boxes[order[1:]])[0]
        order = order[1:][overlap <= threshold]
    return kept


@torch.no_grad()
def plain_detect(model: RetinaFace, image: np.ndarray, score_threshold: float = 0.5, nms_threshold: float = 0.4) -> Faces:
    """``Detector.detect`` of one image: everything at every anchor, then threshold, NMS, and a second look face by face."""
    height, width = image.shape[:2]
    schema, variances = model.config.schema, model.config.anchors.variances
    size = torch.tensor([width, height])
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    logits, boxes, landmarks = (t[0] for t in model.dense(model.config.normalisation.apply(pixels)))
    anchors = plain_anchors(height, width, model.config.anchors)
    scores = logits.softmax(-1)[:, 1].numpy()
    boxes = (decode_boxes(boxes, anchors, variances) * size.repeat(2)).numpy()
    landmarks = (decode_landmarks(landmarks.view(-1, schema.count, 2), anchors, variances) * size).numpy()
    chosen = scores >= score_threshold
    boxes, landmarks, scores = boxes[chosen], landmarks[chosen], scores[chosen]
    kept = plain_nms(boxes, scores, nms_threshold)
    points = torch.from_numpy(landmarks[kept])
    looked = [model.look_again(pixels.float(), torch.zeros(1, dtype=torch.int64), p[None]) for p in points]
    points = torch.cat(looked).numpy() if looked else points.numpy()
    visible = ((points >= 0) & (points <= [width, height])).all(-1)
    return Faces(boxes[kept], points, visible, scores[kept], schema=schema)


def plain_loss(
    logits: Tensor, boxes: Tensor, landmarks: Tensor, targets: list[Target], anchors: Tensor, config: LossConfig
) -> Tensor:
    """The total of :func:`retinalib.loss.multi_task_loss` for completely labelled photos (smooth L1, no pupil part), image by
    image, with (B, A, 2L) ``landmarks`` given and encoded at every anchor, and the hardest negatives found by two sorts."""
    corners = ops.box_convert(anchors, "cxcywh", "xyxy")
    shape = logits.shape[:2]
    positive, pointed = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    wanted_boxes, wanted_points = torch.zeros_like(boxes), torch.zeros_like(landmarks)
    seen = torch.zeros_like(landmarks, dtype=torch.bool)
    for row, target in enumerate(targets):
        if not len(target.boxes):
            continue
        best, face = torch.full(shape[1:], -1.0), torch.zeros(shape[1:], dtype=torch.int64)
        keepers = []
        for number, box in enumerate(target.boxes):
            overlap = ops.box_iou(box[None], corners)[0]  # the library's: anchors that tie must tie here, too
            face[overlap > best] = number
            best = torch.maximum(best, overlap)
            if overlap.max() >= config.minimum_iou:
                keepers.append((int(overlap.argmax()), number))
        for anchor, number in keepers:
            best[anchor], face[anchor] = 2.0, number
        positive[row] = best >= config.positive_iou
        wanted_boxes[row] = encode_boxes(target.boxes[face], anchors)
        wanted_points[row] = encode_landmarks(target.landmarks[face].nan_to_num(), anchors).flatten(1)
        seen[row] = target.visible[face].repeat_interleave(2, dim=1)
        pointed[row] = positive[row] & target.visible[face].any(1)

    def smooth_l1(given: Tensor, wanted: Tensor) -> Tensor:
        gap = (given - wanted).abs()
        return torch.where(gap < 1, 0.5 * gap * gap, gap - 0.5)

    nll = logits.logsumexp(-1) - torch.where(positive, logits[..., 1], logits[..., 0])
    _, order = nll.detach().masked_fill(positive, 0).sort(1, descending=True)
    _, rank = order.sort(1)
    wanted = (config.negatives_per_positive * positive.sum(1, keepdim=True)).clamp(min=config.least_negatives)
    negative = (rank < wanted) & ~positive
    count, with_points = max(int(positive.sum()), 1), max(int(pointed.sum()), 1)
    box = smooth_l1(boxes[positive], wanted_boxes[positive]).sum() / count
    landmark = (smooth_l1(landmarks[pointed], wanted_points[pointed]) * seen[pointed]).sum() / with_points
    return (
        config.box_weight * box
        + config.class_weight * nll[positive | negative].sum() / count
        + (config.landmark_weight * landmark)
    )


def plain_augment(image: np.ndarray, faces: Faces, size: int, rng: np.random.Generator) -> tuple[np.ndarray, Faces]:
    """A training crop with the colours of the whole photo distorted first, in floating point; the crop is :func:`augment`'s."""
    photo = image.astype(np.float32)
    photo = (photo - 128) * (1 + rng.uniform(-0.4, 0.4)) + 128 + rng.uniform(-32, 32)
    hsv = cv2.cvtColor((photo / 255).clip(0, 1), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-12, 12)) % 360
    hsv[..., 1] = (hsv[..., 1] * (1 + rng.uniform(-0.5, 0.5))).clip(0, 1)
    photo = (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).round().astype(np.uint8)
    still = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)
    return augment(photo, faces, size, rng, still)


def plain_step(
    model: RetinaFace,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    targets: list[Target],
    config: LossConfig,
    clip_norm: float,
) -> Tensor:
    """One update of the weights on (B, 3, H, W) uint8 ``images``. Returns the loss."""
    given = model.dense(model.config.normalisation.apply(images))
    loss = plain_loss(*given, targets, plain_anchors(*images.shape[2:], model.config.anchors), config)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimiser.step()
    return loss.detach()
