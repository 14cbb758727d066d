"""From images to ``Faces``: the one decode path of notebooks, evaluation and training pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from retinalib.anchors import anchor_grid, decode_boxes, decode_landmarks
from retinalib.checkpoint import load_model
from retinalib.datasets.table import read_image
from retinalib.faces import Faces
from retinalib.model import Outputs, RetinaFace

CHECKPOINTS = Path(__file__).resolve().parents[1] / "data" / "checkpoints"
_BEFORE_NMS = 5000  # candidates of one image that go to NMS, best first, as in the reference
_PIXELS_AT_ONCE = 4_000_000  # images of one size go through the network together up to this many pixels


def available_detectors() -> list[str]:
    """The names of the shipped checkpoints, for :func:`load_detector`."""
    return sorted(path.stem for path in CHECKPOINTS.glob("*.pt"))


def load_detector(name_or_path: str | Path, device: str | torch.device | None = None) -> Detector:
    """A detector from a shipped name, a run folder, one of our checkpoints or a public reference checkpoint.

    device: by default a GPU if there is one. Raises FileNotFoundError or ValueError saying what was looked for.
    """
    path = Path(name_or_path)
    if str(name_or_path) in available_detectors():
        path = CHECKPOINTS / f"{name_or_path}.pt"
    elif path.is_dir():
        path = next((path / name for name in ("best.pt", "last.pt") if (path / name).is_file()), path / "best.pt")
    elif not path.exists():
        raise FileNotFoundError(
            f"no detector '{name_or_path}': it is neither a file, nor a run folder, nor one of the shipped names "
            f"({', '.join(available_detectors()) or 'none'})"
        )
    return Detector(load_model(path), device)


class Detector:
    """A ``RetinaFace`` with all that belongs before and after it."""

    def __init__(self, model: RetinaFace, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()

    def detect(
        self,
        images: np.ndarray | str | Path | Sequence[np.ndarray | str | Path],
        score_threshold: float = 0.5,
        nms_threshold: float = 0.4,
        max_faces: int = 750,
    ) -> Faces | list[Faces]:
        """Finds faces.

        images: one RGB image, (H, W, 3) uint8, or the path of one (turned as its EXIF orientation says), or a list of them,
        of equal or unequal sizes; they go through the network at their own size. Faces with a score of at least
        ``score_threshold`` that no better face overlaps by an IoU over ``nms_threshold``, the best ``max_faces`` of them.

        Returns one ``Faces`` for one image and a list for a list, best score first, in the image's pixels; landmarks
        outside the image are not visible. Raises ValueError for arrays of another shape or type, or thresholds that are none.
        """
        if isinstance(images, (np.ndarray, str, Path)):
            return self.detect([images], score_threshold, nms_threshold, max_faces)[0]
        if not isinstance(images, Iterable):
            got = type(images).__name__
            raise ValueError(f"detect takes RGB arrays (H, W, 3) of uint8 or paths, or a list of them, got {got}")
        if not (score_threshold >= 0 and nms_threshold >= 0 and isinstance(max_faces, (int, np.integer)) and max_faces >= 0):
            asked = f"{score_threshold}, {nms_threshold} and {max_faces}"
            raise ValueError(f"thresholds must not be negative and max_faces be a whole number from 0 on, got {asked}")
        pictures = [
            _checked(read_image(i, honour_exif=True) if isinstance(i, (str, Path)) else i, n) for n, i in enumerate(images)
        ]
        found: list[Faces] = [Faces.empty(self.model.config.schema)] * len(pictures)
        for group in _groups([p.shape for p in pictures]):
            batch = torch.from_numpy(np.stack([pictures[i] for i in group])).to(self.device).permute(0, 3, 1, 2)
            faces = self._detect_batch(batch, score_threshold, nms_threshold, max_faces)
            for i, result in zip(group, faces, strict=True):
                found[i] = result
        return found

    @torch.inference_mode()
    def _detect_batch(self, images: Tensor, score_threshold: float, nms_threshold: float, max_faces: int) -> list[Faces]:
        """``images``: (B, 3, H, W) uint8 RGB."""
        images = self.model.config.normalisation.apply(images)
        return decode(self.model, images, self.model(images), score_threshold, nms_threshold, max_faces)


@torch.inference_mode()
def decode(
    model: RetinaFace,
    images: Tensor,
    outputs: Outputs,
    score_threshold: float = 0.5,
    nms_threshold: float = 0.4,
    max_faces: int = 750,
) -> list[Faces]:
    """Network input (B, 3, H, W) and outputs to the faces of B images: threshold, boxes, NMS, then landmarks."""
    height, width = images.shape[-2:]
    config = model.config
    anchors = anchor_grid(height, width, config.anchors).to(outputs.boxes.device)
    scores = outputs.logits.float().softmax(-1)[..., 1]
    image, anchor = (scores >= score_threshold).nonzero(as_tuple=True)
    score = scores[image, anchor]
    best = score.argsort(descending=True, stable=True)
    rank = torch.zeros_like(best)  # of a candidate among those of its image
    for i in range(len(scores)):
        own = image[best] == i
        rank[own] = torch.arange(int(own.sum()), device=best.device)
    best = best[rank < _BEFORE_NMS]
    image, anchor, score = image[best], anchor[best], score[best]
    pixels = torch.tensor([width, height], device=anchors.device, dtype=torch.float32)
    boxes = decode_boxes(outputs.boxes[image, anchor].float(), anchors[anchor], config.anchors.variances) * pixels.repeat(2)
    kept = batched_nms(boxes, score, image, nms_threshold)
    kept = torch.cat([kept[image[kept] == i][:max_faces] for i in range(len(scores))])
    image, anchor, score, boxes = image[kept], anchor[kept], score[kept], boxes[kept]
    shifts = model.landmarks_at(outputs.features, image, anchor).float().view(len(kept), config.schema.count, 2)
    landmarks = decode_landmarks(shifts, anchors[anchor], config.anchors.variances) * pixels
    landmarks = model.look_again(images, image, landmarks)
    inside = ((landmarks >= 0) & (landmarks <= pixels)).all(-1)
    found = []
    for i in range(len(scores)):
        own = image == i
        arrays = (t[own].cpu().numpy() for t in (boxes, landmarks, inside, score))
        found.append(Faces(*arrays, schema=config.schema))
    return found


def _checked(image: np.ndarray, number: int) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image {number}: detect takes RGB arrays (H, W, 3) of uint8 or paths, got {got}")
    return image


def _groups(shapes: list[tuple[int, ...]]) -> list[list[int]]:
    """Numbers of images that go through the network together: of one size, and not too many pixels."""
    groups: list[list[int]] = []
    open_group: dict[tuple[int, ...], list[int]] = {}
    for number, shape in enumerate(shapes):
        group = open_group.get(shape)
        if group is None or (len(group) + 1) * shape[0] * shape[1] > _PIXELS_AT_ONCE:
            group = open_group[shape] = []
            groups.append(group)
        group.append(number)
    return groups
