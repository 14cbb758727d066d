"""From images to ``Faces``: the one decode path of notebooks, evaluation and training pictures."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.optimizer import register_optimizer_step_post_hook
from torchvision.ops import batched_nms, nms

from retinalib.anchors import AnchorConfig, anchor_grid, decode_boxes, decode_landmarks
from retinalib.checkpoint import load_model
from retinalib.datasets.table import read_image
from retinalib.faces import Faces
from retinalib.model import Outputs, RetinaFace

CHECKPOINTS = Path(__file__).resolve().parents[1] / "data" / "checkpoints"
_BEFORE_NMS = 5000  # candidates of one image that go to NMS, best first, as in the reference
_PYRAMID_TOP = 200  # pixels of the longer side that the smallest level of a pyramid has at least, and faces in others at most
_PART = 0.7  # of its area that a part of a face has inside the face
_PIXELS_AT_ONCE = 4_000_000  # images of one size go through the network together up to this many pixels


def available_detectors() -> list[str]:
    """The names of the shipped checkpoints, for :func:`load_detector`."""
    return sorted(path.stem for path in CHECKPOINTS.glob("*.pt"))


def load_detector(name_or_path: str | Path, device: str | torch.device | None = None) -> Detector:
    """A detector from a shipped name, a run folder, one of our checkpoints or a public reference checkpoint.

    device: by default a GPU if there is one. Raises FileNotFoundError or ValueError saying what was looked for.
    """
    return Detector(load_model(find_checkpoint(name_or_path)), device)


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The file of a shipped name, a run folder (its best epoch) or a path. Raises FileNotFoundError where there is none."""
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
    return path


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 natively: a GPU from Ampere on; avx512_bf16, AMX or ARM's bf16 in a processor.
    Where torch can't tell (2.9 can't), a processor passes for one that does."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return True
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def warn_of_slow_bfloat16(device: torch.device) -> None:
    """UserWarning where bfloat16 is computed in software."""
    if not native_bfloat16(device):
        said = (
            f"this {device.type} has no bfloat16 and computes it in software, many times slower than float32: use float32 here"
        )
        warnings.warn(said, stacklevel=3)


def for_inference(model: RetinaFace) -> RetinaFace:
    """A copy that gives the same results faster, to rounding: batch norms folded into the convolutions before them, weights in
    ``channels_last``. It can't be trained."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        parts = list(module.named_children())  # a batch norm stands behind its convolution, here and in torchvision
        for (name, convolution), (after, norm) in pairwise(parts):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, after, nn.Identity())
    return model.to(memory_format=torch.channels_last)


_steps = 0


def _count_step(*_: object) -> None:
    """Of any optimiser: fused ones change weights without a note in their versions."""
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count_step)


class Detector:
    """A ``RetinaFace`` with all that belongs before and after it.

    ``model`` is the network itself; detection runs through a copy made for inference, anew when its weights have changed in
    place or an optimiser has stepped.
    bfloat16: let the network compute in half the digits, which pays where the processor has them natively (avx512_bf16, AMX, a
    GPU); elsewhere there is a warning. On 63 rendered faces and 51 photographed ones the worst coordinate of a face moved by
    0.1 to 0.3 % of the face's size in the median and by 7.5 % at most, and one face near the threshold was lost.
    """

    def __init__(self, model: RetinaFace, device: str | torch.device | None = None, bfloat16: bool = False) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()
        self.bfloat16 = bfloat16
        self._table = model.config.normalisation.table()
        self._made_from: tuple = ()
        if bfloat16:
            warn_of_slow_bfloat16(self.device)

    def _network(self) -> RetinaFace:
        """The copy for inference of the model as it is now."""
        if not self._made_from or self._made_from != self._state():
            self._watched = [t for t in [*self.model.parameters(), *self.model.buffers()] if not t.is_inference()]
            self._made_from, self._copy = self._state(), for_inference(self.model)
        return self._copy

    def _state(self) -> tuple:
        return self.model.eye_head, _steps, sum(t._version for t in self._watched)

    def detect(
        self,
        images: np.ndarray | str | Path | Sequence[np.ndarray | str | Path],
        score_threshold: float = 0.5,
        nms_threshold: float = 0.4,
        max_faces: int = 750,
        pyramid: bool = False,
    ) -> Faces | list[Faces]:
        """Finds faces.

        images: one RGB image, (H, W, 3) uint8, or the path of one (turned as its EXIF orientation says), or a list of them,
        of equal or unequal sizes; they go through the network at their own size. Time grows with pixels: where faces are large
        enough, scale a large photo down with :func:`retinalib.augment.letterbox`, which says how to bring its faces back.
        Faces with a score of at least ``score_threshold`` that no better face overlaps by an IoU over ``nms_threshold``, the
        best ``max_faces`` of them. pyramid: look at each image also at a half, a quarter, … of its size, down to 200 pixels on
        the longer side, for faces larger than those that the network was trained on; a third more time. Of each of these sizes
        count the faces of up to 200 pixels in it, of the smallest all (scales by range, as in SNIP: Singh & Davis, CVPR 2018).

        Returns one ``Faces`` for one image and a list for a list, best score first, in the image's pixels; landmarks
        outside the image are not visible. Raises ValueError for arrays of another shape or type, or thresholds that are none.
        """
        if isinstance(images, (np.ndarray, str, Path)):
            return self.detect([images], score_threshold, nms_threshold, max_faces, pyramid)[0]
        if not isinstance(images, Iterable):
            got = type(images).__name__
            raise ValueError(f"detect takes RGB arrays (H, W, 3) of uint8 or paths, or a list of them, got {got}")
        if not (score_threshold >= 0 and nms_threshold >= 0 and isinstance(max_faces, (int, np.integer)) and max_faces >= 0):
            asked = f"{score_threshold}, {nms_threshold} and {max_faces}"
            raise ValueError(f"thresholds must not be negative and max_faces be a whole number from 0 on, got {asked}")
        pictures = [
            _checked(read_image(i, honour_exif=True) if isinstance(i, (str, Path)) else i, n) for n, i in enumerate(images)
        ]
        if pyramid:
            return [self._at_all_sizes(p, score_threshold, nms_threshold, max_faces) for p in pictures]
        found: list[Faces] = [Faces.empty(self.model.config.schema)] * len(pictures)
        for group in _groups([p.shape for p in pictures]):
            faces = self._detect_batch([pictures[i] for i in group], score_threshold, nms_threshold, max_faces)
            for i, result in zip(group, faces, strict=True):
                found[i] = result
        return found

    def _at_all_sizes(self, picture: np.ndarray, score_threshold: float, nms_threshold: float, max_faces: int) -> Faces:
        height, width = picture.shape[:2]
        levels = []
        while True:
            faces = self.detect(picture, score_threshold, nms_threshold, max_faces)
            coarsest = max(picture.shape) < 2 * _PYRAMID_TOP
            if not coarsest:  # larger ones are the next level's
                faces = faces[(faces.boxes[:, 2:] - faces.boxes[:, :2]).max(1) <= _PYRAMID_TOP]
            levels.append(faces.transformed((width / picture.shape[1], height / picture.shape[0])))
            if coarsest:
                break
            size = tuple(max(1, round(side / 2)) for side in picture.shape[1::-1])
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        parts = zip(*((f.boxes, f.landmarks, f.visible, f.scores) for f in levels), strict=True)
        boxes, landmarks, visible, scores = (np.concatenate(arrays) for arrays in parts)
        kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), nms_threshold).numpy()
        level = np.repeat(range(len(levels)), [len(f) for f in levels])[kept]
        kept = kept[~_parts_of_faces(boxes[kept], level)][:max_faces]
        return Faces(boxes[kept], landmarks[kept], visible[kept], scores[kept], schema=self.model.config.schema)

    @torch.inference_mode()
    def _detect_batch(
        self, pictures: list[np.ndarray], score_threshold: float, nms_threshold: float, max_faces: int
    ) -> list[Faces]:
        """``pictures``: RGB uint8 of one size."""
        network, images = self._network(), self._input(pictures)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            outputs = network(images)
        outputs = outputs._replace(features=[level.float() for level in outputs.features])
        return decode(network, images, outputs, score_threshold, nms_threshold, max_faces)

    def _input(self, pictures: list[np.ndarray]) -> Tensor:
        """Network input (B, 3, H, W) in ``channels_last``: the numbers that Normalisation.apply gives, on a CPU by its table,
        which takes a fifth of the time."""
        normalisation = self.model.config.normalisation
        if self.device.type != "cpu":
            return normalisation.apply(torch.from_numpy(np.stack(pictures)).to(self.device).permute(0, 3, 1, 2))
        if normalisation.bgr:
            pictures = [cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) for picture in pictures]
        rows = np.empty((len(pictures), *pictures[0].shape), np.float32)
        for row, picture in zip(rows, pictures, strict=True):
            cv2.LUT(picture, self._table, dst=row)
        return torch.from_numpy(rows).permute(0, 3, 1, 2)


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
    config, count = model.config, len(images)
    anchors = _grid_on(height, width, config.anchors, outputs.boxes.device)
    logits = outputs.logits.float()
    scores = (logits[..., 1] - logits[..., 0]).sigmoid()  # a softmax over two
    image, anchor = (scores >= score_threshold).nonzero(as_tuple=True)
    score, best = scores[image, anchor].sort(descending=True, stable=True)
    image, anchor = image[best], anchor[best]
    kept = _best_of_each(image, count, _BEFORE_NMS)
    image, anchor, score = image[kept], anchor[kept], score[kept]
    pixels = torch.tensor([width, height], device=anchors.device, dtype=torch.float32)
    boxes = decode_boxes(outputs.boxes[image, anchor].float(), anchors[anchor], config.anchors.variances) * pixels.repeat(2)
    kept = batched_nms(boxes, score, image, nms_threshold)
    kept = kept[_best_of_each(image[kept], count, max_faces)]
    image, anchor, score, boxes = image[kept], anchor[kept], score[kept], boxes[kept]
    shifts = model.landmarks_at(outputs.features, image, anchor).float().view(len(kept), config.schema.count, 2)
    landmarks = decode_landmarks(shifts, anchors[anchor], config.anchors.variances) * pixels
    landmarks = model.look_again(images, image, landmarks)
    inside = ((landmarks >= 0) & (landmarks <= pixels)).all(-1)
    ends = image.bincount(minlength=count).cumsum(0)[:-1].tolist()
    arrays = [np.split(t.cpu().numpy(), ends) for t in (boxes, landmarks, inside, score)]
    return [Faces(*of_one, schema=config.schema) for of_one in zip(*arrays, strict=True)]


def _best_of_each(image: Tensor, images: int, limit: int) -> Tensor:
    """(N,) numbers of images, of candidates sorted by score, to the first ``limit`` of each image, image by image."""
    order = image.argsort(stable=True)
    counts = image.bincount(minlength=images)
    first = (counts.cumsum(0) - counts)[image[order]]
    return order[torch.arange(len(order), device=order.device) - first < limit]


@lru_cache(maxsize=64)
def _grid_on(height: int, width: int, config: AnchorConfig, device: torch.device) -> Tensor:
    """The anchors on a device, kept there."""
    return anchor_grid(height, width, config).to(device)


def _parts_of_faces(boxes: np.ndarray, level: np.ndarray) -> np.ndarray:
    """(N,) bool, of (N, 4) boxes, best first: found inside a better face of at least twice the area that a smaller level of the
    pyramid shows, such as an eye or a cheek that looks like a face from too near."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    shared = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    inside = shared.clip(0).prod(-1) > _PART * area[:, None]
    larger = (area > 2 * area[:, None]) & (level > level[:, None])
    return np.tril(inside & larger, -1).any(1)


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
