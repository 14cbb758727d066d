"""From images to ``Faces``: the one decode path of notebooks, evaluation and training pictures."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import batched_nms, box_iou, nms

from retinalib.anchors import anchor_grid, decode_boxes, decode_landmarks
from retinalib.checkpoint import load_model
from retinalib.datasets.table import read_image
from retinalib.faces import Faces
from retinalib.model import Normalisation, Outputs, RetinaFace, pick_device
from retinalib.second_look import sample_parts, to_pixels

CHECKPOINTS = Path(__file__).resolve().parent / "shipped"  # in an installed package
if not CHECKPOINTS.is_dir():
    CHECKPOINTS = Path(__file__).resolve().parents[1] / "data" / "checkpoints"  # in a copy of the project
_DEFAULTS = ("photos98", "rendered98")  # the first of them that is shipped
_BEFORE_NMS = 5000  # candidates of one image that go to NMS, best first, as in the reference
_PART = 0.7  # of its area that a part of a face has inside the face
_TURNED = 0.5  # of the smaller one's area that two boxes share if they are one face at two turns
_SEEN_BETTER = 0.4  # of the largest size: smaller faces of a level are seen in more detail at the level before it
_TRACE, _SURE = 0.02, 0.8  # what the half of an image shows with this share of the score asked for, but not with this score, …
_BESIDE, _FAINT = 1.5, 0.06  # … (within so many sizes of a surely found face: with this share), …
_ROOM = 128  # … gets a closer look, with at least so many pixels around it
_WINDOWS_AT_ONCE = 16  # given boxes of an image that go through the network together
_PIXELS_AT_ONCE = 1_000_000  # neighbouring images of one size go through the network together up to this many pixels


def available_detectors() -> list[str]:
    """The names of the shipped checkpoints, for :func:`load_detector`; the default first."""
    names = sorted(path.stem for path in CHECKPOINTS.glob("*.pt"))
    return sorted(names, key=lambda name: _DEFAULTS.index(name) if name in _DEFAULTS else len(_DEFAULTS))


def load_detector(
    name_or_path: str | Path | None = None,
    device: str | torch.device | None = None,
    normalisation: Normalisation | str | None = None,
) -> Detector:
    """A detector from a shipped name, a run folder, one of our checkpoints or a public reference checkpoint.

    name_or_path: by default the first of :func:`available_detectors`. device: by default a GPU if there is one. normalisation:
    of weights that do not say theirs, see :func:`retinalib.checkpoint.load_model`. Raises FileNotFoundError or ValueError.
    """
    return Detector(load_model(find_checkpoint(name_or_path), normalisation), device)


def find_checkpoint(name_or_path: str | Path | None = None) -> Path:
    """The file of a shipped name (by default the first), a run folder (its best epoch) or a path. Raises FileNotFoundError
    where there is none."""
    shipped = available_detectors()
    if name_or_path is None:
        name_or_path = shipped[0] if shipped else "by default"
    if not isinstance(name_or_path, (str, Path)):
        raise ValueError(f"a detector is found by its name or path, got {type(name_or_path).__name__}")
    path = Path(name_or_path)
    if str(name_or_path) in shipped:
        path = CHECKPOINTS / f"{name_or_path}.pt"
    elif path.is_dir():
        path = next((path / name for name in ("best.pt", "last.pt") if (path / name).is_file()), path / "best.pt")
    elif not path.exists():
        raise FileNotFoundError(
            f"no detector '{name_or_path}': it is neither a file, nor a run folder, nor one of the shipped names "
            f"({', '.join(shipped) or 'none'})"
        )
    return path


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


class _Look(NamedTuple):
    turn: int  # degrees
    halved: int  # times
    faces: Faces  # in the picture's pixels


class Detector:
    """A ``RetinaFace`` with all that belongs before and after it.

    ``model`` is the network itself; detection runs through a copy made for inference at the first use, and :meth:`refresh`
    takes over weights that have changed since. Within ``torch.autocast("cpu", torch.bfloat16)`` the network computes in half
    the digits, which pays where the processor has them natively; places in an image keep theirs.
    """

    def __init__(self, model: RetinaFace, device: str | torch.device | None = None) -> None:
        if not isinstance(model, RetinaFace):
            raise ValueError(f"a Detector takes a RetinaFace, got {type(model).__name__}: load_detector makes one")
        self.device = pick_device(device)
        self.model = model.to(self.device).eval()
        self._copy: RetinaFace | None = None

    def refresh(self) -> None:
        """Lets detection see the weights of ``model`` as they are now, after a training step for example."""
        self._copy = None

    def detect(
        self,
        images: np.ndarray | str | Path | Iterable[np.ndarray | str | Path],
        score_threshold: float = 0.5,
        nms_threshold: float = 0.4,
        max_faces: int = 750,
        pyramid: bool = True,
        turns: Iterable[int] = (0,),
        second_look: bool = True,
    ) -> Faces | list[Faces]:
        """Finds faces.

        images: one RGB image, (H, W, 3) uint8, or the path of one (turned as its EXIF orientation says), or several of them,
        of equal or unequal sizes, which are read one after the other.
        Faces with a score of at least ``score_threshold`` that no better face overlaps by an IoU over ``nms_threshold``, the
        best ``max_faces`` of them.
        pyramid: look at an image larger than the faces that the network was trained on (``model.config.trained_on``) at a half,
        a quarter, … of its size, until it is no larger than they are, and at its own size; where a second look moves all
        landmarks, only around what is unclear in the half: small, with 2 % of the score asked for (6 % beside a sure face), and
        under 0.8 or that score. At each size but the last, faces up to the size of those in training count (scales by range,
        as in SNIP: Singh & Davis, CVPR 2018). False: at its own size alone.
        turns: look at each image turned clockwise by these degrees, multiples of 90, and keep the best look at each face: for
        photos that may lie on their side, at the price of a look each. second_look: let the network look at what it has found
        again, if it can.

        Returns one ``Faces`` for one image and a list for several, best score first, in the image's pixels; landmarks
        outside the image are not visible. Raises ValueError for arrays of another shape or type, or options that are none.
        """
        if isinstance(images, (np.ndarray, str, Path)):
            return self.detect([images], score_threshold, nms_threshold, max_faces, pyramid, turns, second_look)[0]
        if not isinstance(images, Iterable):
            raise ValueError(f"detect takes RGB arrays (H, W, 3) of uint8 or paths, or several, got {type(images).__name__}")
        numbers = isinstance(score_threshold, Real) and isinstance(nms_threshold, Real) and isinstance(max_faces, Integral)
        if not (numbers and score_threshold >= 0 and nms_threshold >= 0 and max_faces >= 0):
            asked = f"{score_threshold}, {nms_threshold} and {max_faces}"
            raise ValueError(f"thresholds must not be negative and max_faces be a whole number from 0 on, got {asked}")
        turns = tuple(turns) if isinstance(turns, Iterable) else (turns,)
        if not turns or not all(turn in (0, 90, 180, 270) for turn in turns):
            raise ValueError(f"turns must be some of 0, 90, 180 and 270 degrees, got {turns}")
        found: list[Faces] = []
        for pictures in _groups(images):
            looks = self._looks(pictures, pyramid, turns, score_threshold, nms_threshold)
            faces = [self._merged(of_one, nms_threshold)[:max_faces] for of_one in looks]
            found += self._looked_again(pictures, faces) if second_look else faces
        return found

    def look_again(self, image: np.ndarray, faces: Faces) -> Faces:
        """``faces`` of an RGB image, (H, W, 3) uint8, their landmarks moved by the second looks from where they are, as to
        follow a face through a video. Without second looks, or where a face is too small for them, they stay."""
        return self._looked_again([_checked(image, 0)], [faces])[0]

    @torch.inference_mode()
    def detect_in_boxes(self, image: np.ndarray, boxes: np.ndarray, second_look: bool = True) -> Faces:
        """A face for each of (F, 4) ``boxes`` of an RGB image, (H, W, 3) uint8, with that box, whatever its score: the protocol
        of landmark benchmarks, where boxes (x1 y1 x2 y2, pixels) are given and no face is missed.

        The network sees a window of twice the box's longer side, scaled so that the face has a size that it knows. Of its
        anchors the one with the highest product of score and IoU with the box answers. Raises ValueError for other boxes.
        """
        pixels, given = self._tensor([_checked(image, 0)]).float(), torch.from_numpy(np.array(boxes, np.float32, order="C"))
        if given.shape[1:] != (4,) or not (given.isfinite().all() and (given[:, 2:] > given[:, :2]).all()):
            raise ValueError("detect_in_boxes takes (F, 4) finite boxes x1 y1 x2 y2 with x2 over x1 and y2 over y1")
        if not len(given):
            return Faces.empty(self.model.config.schema)
        with torch.autocast(self.device.type, enabled=False):
            parts = [self._in_windows(pixels, some) for some in given.to(self.device).split(_WINDOWS_AT_ONCE)]
        landmarks, scores = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
        inside = ((landmarks >= 0) & (landmarks <= landmarks.new_tensor(image.shape[1::-1]))).all(-1)
        faces = Faces(*(t.cpu().numpy() for t in (given, landmarks, inside, scores)), schema=self.model.config.schema)
        return self.look_again(image, faces) if second_look else faces

    def _in_windows(self, pixels: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks (F, L, 2) and scores (F,) in (F, 4) boxes of a (1, 3, H, W) image; see above."""
        config, count, side = self.model.config, len(given), round(self._largest)
        half = (given[:, 2:] - given[:, :2]).amax(1)[:, None, None]  # of the window's width
        middle = (given[:, 2:] + given[:, :2])[..., None] / 2
        frames = torch.cat([half * torch.eye(2, device=self.device), middle], 2)
        face = torch.arange(count, device=self.device)
        outputs = self._network(config.normalisation.apply(sample_parts(pixels, 0 * face, frames, side, side)))
        anchors = anchor_grid(side, side, config.anchors).to(self.device)
        boxes = decode_boxes(outputs.boxes, anchors, config.anchors.variances).view(count, -1, 2)
        boxes = to_pixels(2 * boxes - 1, frames).view(count, -1, 4)
        overlap = torch.cat([box_iou(one[None], found) for one, found in zip(given, boxes, strict=True)])
        scores = (outputs.logits[..., 1] - outputs.logits[..., 0]).sigmoid()
        best = (scores * overlap).argmax(1)
        shifts = self._network.landmarks_at(outputs.features, face, best).view(count, config.schema.count, 2)
        landmarks = decode_landmarks(shifts, anchors[best], config.anchors.variances)
        return to_pixels(2 * landmarks - 1, frames), scores[face, best]

    @property
    def _network(self) -> RetinaFace:
        if self._copy is None:
            self._copy = for_inference(self.model)
        return self._copy

    def _tensor(self, pictures: list[np.ndarray]) -> Tensor:
        """(B, 3, H, W) uint8 of RGB pictures of one size."""
        return torch.from_numpy(np.stack(pictures)).to(self.device).permute(0, 3, 1, 2).contiguous()

    @property
    def _largest(self) -> float:
        """The longer side of the largest faces that the network knows, pixels."""
        known = self.model.config.trained_on
        return known.largest if known else max(map(max, self.model.config.anchors.sizes))

    def _looks(
        self, pictures: list[np.ndarray], pyramid: bool, turns: tuple[int, ...], score_threshold: float, nms_threshold: float
    ) -> list[list[_Look]]:
        """What counts in each of ``pictures``, RGB uint8 of one size, at each turn and size, the smallest size first."""
        found_anew = any(len({*chain(*look.parts)}) == self.model.config.schema.count for look in self.model.config.looks)
        looks: list[list[_Look]] = [[] for _ in pictures]
        for turn in turns:
            levels = [[np.ascontiguousarray(np.rot90(picture, -turn // 90)) for picture in pictures]]
            while pyramid and max(levels[-1][0].shape) > self._largest:
                size = tuple(max(1, round(side / 2)) for side in levels[-1][0].shape[1::-1])
                levels.append([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in levels[-1]])
            full = levels[0][0].shape[1::-1]
            traces: list[Faces] = []  # of each picture, in the picture as it is turned
            for halved, level in reversed(list(enumerate(levels))):
                scale = (full[0] / level[0].shape[1], full[1] / level[0].shape[0])
                if halved == 1 and found_anew:
                    seen = self._detect_batch(level, _TRACE * score_threshold, nms_threshold)
                    traces = [faces[self._unclear(faces, score_threshold)].transformed(scale) for faces in seen]
                elif halved == 0 and traces:
                    seen = [self._closer(*of_one, score_threshold, nms_threshold) for of_one in zip(level, traces, strict=True)]
                else:
                    seen = self._detect_batch(level, score_threshold, nms_threshold)
                for of_one, faces in zip(looks, seen, strict=True):
                    if faces is None:
                        continue
                    counts = faces.scores >= score_threshold
                    if halved < len(levels) - 1:  # larger ones are the next size's
                        counts &= _longer_sides(faces.boxes) <= self._largest
                    faces = faces[counts].transformed(scale)
                    of_one.append(_Look(turn, halved, _turned_back(faces, turn, full) if turn else faces))
        return looks

    def _unclear(self, faces: Faces, score_threshold: float) -> np.ndarray:
        """(F,) bool, which of ``faces``, in the half of an image, need a closer look and would gain by it. They are small,
        not sure, and not so faint beside a sure face that they are its hair, hands or collar."""
        sure, middles = faces.scores >= max(score_threshold, _SURE), faces.boxes.reshape(-1, 2, 2).mean(1)
        beside = (np.abs(middles[:, None] - middles[sure]).max(-1) <= _BESIDE * _longer_sides(faces.boxes[sure])).any(1)
        faint = beside & (faces.scores < _FAINT * score_threshold)
        return ~sure & ~faint & (_longer_sides(faces.boxes) < _SEEN_BETTER * self._largest)

    def _closer(self, picture: np.ndarray, traces: Faces, score_threshold: float, nms_threshold: float) -> Faces | None:
        """The faces in a window of an RGB picture around ``traces``, but those that the window cuts; None without traces."""
        if not len(traces):
            return None
        size = np.array(picture.shape[1::-1])
        low = np.maximum((traces.boxes[:, :2].min(0) - _ROOM) // _ROOM * _ROOM, 0).astype(int)
        high = np.minimum((traces.boxes[:, 2:].max(0) + 2 * _ROOM) // _ROOM * _ROOM, size).astype(int)
        window = np.ascontiguousarray(picture[low[1] : high[1], low[0] : high[0]])
        faces = self._detect_batch([window], score_threshold, nms_threshold)[0].transformed(shift=tuple(low))
        cut = (faces.boxes[:, :2] < low + _ROOM / 4) & (low > 0) | (faces.boxes[:, 2:] > high - _ROOM / 4) & (high < size)
        return faces[~cut.any(1)]

    def _merged(self, looks: list[_Look], nms_threshold: float) -> Faces:
        """One picture's faces of all looks. Of two that are one face the better score stays, or a small one's finest look."""
        if len(looks) == 1:
            return looks[0].faces
        last = {look.turn: look.halved for look in looks}  # the finest at each turn
        parts = zip(*((f.boxes, f.landmarks, f.visible, f.scores) for *_, f in looks), strict=True)
        boxes, landmarks, visible, scores = (np.concatenate(arrays) for arrays in parts)
        turn, halved = np.repeat([look[:2] for look in looks], [len(look.faces) for look in looks], axis=0).T
        coarse = (halved > [last[t] for t in turn]) & (_longer_sides(boxes) < _SEEN_BETTER * self._largest * 2**halved)
        kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores - coarse), nms_threshold).numpy()
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        kept = kept[~_seen_otherwise(boxes[kept], turn[kept], halved[kept])]
        return Faces(boxes[kept], landmarks[kept], visible[kept], scores[kept], schema=self.model.config.schema)

    @torch.inference_mode()
    def _detect_batch(self, pictures: list[np.ndarray], score_threshold: float, nms_threshold: float) -> list[Faces]:
        """``pictures``: RGB uint8 of one size."""
        images = self.model.config.normalisation.apply(self._tensor(pictures))
        outputs = self._network(images)
        with torch.autocast(self.device.type, enabled=False):
            outputs = outputs._replace(features=[level.float() for level in outputs.features])
            return decode(self._network, outputs, images.shape[-2:], score_threshold, nms_threshold)

    @torch.inference_mode()
    def _looked_again(self, pictures: list[np.ndarray], found: list[Faces]) -> list[Faces]:
        """The faces of ``pictures`` with their landmarks as the network's second looks leave them."""
        counts = [len(faces) for faces in found]
        if not self._network.looks or not sum(counts):
            return found
        image = torch.arange(len(found)).repeat_interleave(torch.tensor(counts)).to(self.device)
        landmarks = torch.from_numpy(np.concatenate([faces.landmarks for faces in found])).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            moved = self._network.look_again(self._tensor(pictures).float(), image, landmarks).cpu().numpy()
        shown = ((moved >= 0) & (moved <= pictures[0].shape[1::-1])).all(-1)
        parts = zip(found, np.split(moved, np.cumsum(counts)), np.split(shown, np.cumsum(counts)), strict=False)
        return [replace(faces, landmarks=points, visible=visible) for faces, points, visible in parts]


@torch.inference_mode()
def decode(
    model: RetinaFace, outputs: Outputs, size: tuple[int, int], score_threshold: float = 0.5, nms_threshold: float = 0.4
) -> list[Faces]:
    """Outputs for B images of a ``size`` (height, width) to their faces: threshold, boxes, NMS, then landmarks."""
    height, width = size
    config, count = model.config, len(outputs.logits)
    anchors = anchor_grid(height, width, config.anchors).to(outputs.boxes.device)
    logits = outputs.logits.float()
    scores = (logits[..., 1] - logits[..., 0]).sigmoid()  # a softmax over two
    image, anchor = (scores >= score_threshold).nonzero(as_tuple=True)
    score, best = scores[image, anchor].sort(descending=True, stable=True)
    image, anchor = image[best], anchor[best]
    kept = image.argsort(stable=True)
    counts = image.bincount(minlength=count)
    place = torch.arange(len(kept), device=kept.device) - (counts.cumsum(0) - counts)[image[kept]]  # among its image's
    kept = kept[place < _BEFORE_NMS]
    image, anchor, score = image[kept], anchor[kept], score[kept]
    pixels = torch.tensor([width, height], device=anchors.device, dtype=torch.float32)
    boxes = decode_boxes(outputs.boxes[image, anchor].float(), anchors[anchor], config.anchors.variances) * pixels.repeat(2)
    kept = batched_nms(boxes, score, image, nms_threshold)
    kept = kept[image[kept].argsort(stable=True)]
    image, anchor, score, boxes = image[kept], anchor[kept], score[kept], boxes[kept]
    shifts = model.landmarks_at(outputs.features, image, anchor).float().view(len(kept), config.schema.count, 2)
    landmarks = decode_landmarks(shifts, anchors[anchor], config.anchors.variances) * pixels
    inside = ((landmarks >= 0) & (landmarks <= pixels)).all(-1)
    ends = image.bincount(minlength=count).cumsum(0)[:-1].tolist()
    arrays = [np.split(t.cpu().numpy(), ends) for t in (boxes, landmarks, inside, score)]
    return [Faces(*of_one, schema=config.schema) for of_one in zip(*arrays, strict=True)]


def _longer_sides(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).max(1)


def _turned_back(faces: Faces, turn: int, size: tuple[int, int]) -> Faces:
    """The faces of a picture that was turned clockwise by ``turn`` degrees, to ``size`` (width, height), as they lay before."""
    boxes, landmarks = faces.boxes, faces.landmarks
    for quarter in range(turn // 90):
        width = size[quarter % 2]
        boxes = np.stack([boxes[:, 1], width - boxes[:, 2], boxes[:, 3], width - boxes[:, 0]], 1)
        landmarks = np.stack([landmarks[..., 1], width - landmarks[..., 0]], -1)
    return Faces(boxes, landmarks, faces.visible, faces.scores, schema=faces.schema)


def _seen_otherwise(boxes: np.ndarray, turn: np.ndarray, halved: np.ndarray) -> np.ndarray:
    """(N,) bool, of (N, 4) boxes, best first: what a look shows of a better face of another look. Inside a face of at least
    twice the area that a smaller size shows, it is an eye or a cheek that looks like a face from too near; with most of itself
    in a face that another turn shows, or the reverse, that face on its side."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    shared = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    shared = shared.clip(0).prod(-1)
    part = (shared > _PART * area[:, None]) & (area > 2 * area[:, None]) & (halved > halved[:, None])
    turned = (shared > _TURNED * np.minimum(area, area[:, None])) & (turn != turn[:, None])
    return np.tril(part | turned, -1).any(1)


def _checked(image: np.ndarray, number: int) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image {number}: detect takes RGB arrays (H, W, 3) of uint8 or paths, got {got}")
    return image


def _groups(images: Iterable[np.ndarray | str | Path]) -> Iterator[list[np.ndarray]]:
    """Neighbours that go through the network together: of one size, and not too many pixels. Each is read when it is due."""
    group: list[np.ndarray] = []
    for number, image in enumerate(images):
        picture = _checked(read_image(image, honour_exif=True) if isinstance(image, (str, Path)) else image, number)
        pixels = (len(group) + 1) * picture.shape[0] * picture.shape[1]
        if group and (picture.shape != group[0].shape or pixels > _PIXELS_AT_ONCE):
            yield group
            group = []
        group.append(picture)
    if group:
        yield group
