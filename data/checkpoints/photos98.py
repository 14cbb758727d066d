"""Trains ``photos98``: 98 landmarks on the public five-point weights, and second looks at the face and at each eye.

    python data/checkpoints/photos98.py --real FACES --real POOL --start mobilenet0.25_Final.pth --out photos98.pt

FACES and POOL are folders in WFLW's layout with a training list; where a ``*_bbx_gt.txt`` list names all faces of a photo, its
boxes are taken. The first look keeps the public weights as they are and learns the landmark head alone. The second looks
learn from windows around the faces, real and rendered, in frames that are off as first answers are. Needs a GPU: three times
500 seconds on an H100, at once or one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from retinalib import rendered
from retinalib.anchors import anchor_grid
from retinalib.checkpoint import load_model, save_model
from retinalib.datasets import wflw, wider
from retinalib.datasets.table import BOX, read_image
from retinalib.landmarks import WFLW_98
from retinalib.loss import LossConfig, Target, multi_task_loss
from retinalib.model import ModelConfig, RetinaFace, TrainedOn
from retinalib.second_look import Look, LookConfig, eye_look, fit_frames, look_loss, to_frames

WINDOW, AROUND = 208, 1.7  # pixels of a window around a face at most, and its side in extents of the landmarks
FILL = (124, 116, 104)
TURN, SMALLEST, LARGEST = 40.0, 14.0, 320.0


class Photo(NamedTuple):
    """A photo and its faces. weight: how often it is drawn."""

    path: Path
    boxes: np.ndarray  # (F, 4) x1 y1 x2 y2
    points: np.ndarray  # (F, 98, 2), NaN where unknown
    complete: bool  # all faces of the photo are boxed
    weight: float


def read_photos(root: Path) -> list[Photo]:
    """The photos of a folder in WFLW's layout. The boxes of aligned crops (``utk``) are the extents of their points."""
    rows = wflw.read_annotations(next(root.rglob("*_train.txt")))
    listed = {
        name: group[BOX].to_numpy(float)
        for p in root.glob("*_bbx_gt.txt")
        for name, group in wider.read_boxes(p).groupby("image")
    }
    weights, photos = {"lfpw": 0.5, "youtube": 0.3, "utk": 0.3, "afw": 0.0}, []  # afw watches the training
    for name, group in rows.groupby("image", sort=False):
        boxes, points = group[BOX].to_numpy(float), np.stack(group["landmarks"].to_list()).astype(float)
        if name in listed:
            boxes, points = _joined(listed[name], boxes, points)
        event = name.split("/")[0]
        photos.append(Photo(root / "WFLW_images" / name, boxes, points, name in listed, weights.get(event, 1.0)))
    return photos


def _joined(listed: np.ndarray, boxes: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All boxes of a photo, each with the points whose own box overlaps it most."""
    joined = np.full((len(listed), *points.shape[1:]), np.nan)
    for box, face in zip(boxes, points, strict=True):
        size = (np.minimum(listed[:, 2:], box[2:]) - np.maximum(listed[:, :2], box[:2])).clip(0).prod(1)
        union = (listed[:, 2:] - listed[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - size
        if (size / union).max() > 0.4:
            joined[(size / union).argmax()] = face
    return listed, joined


class Crops(Dataset):
    """Endless crops for the first look: a face from 14 pixels to the whole crop, turned up to ``turn``°, mirrored, coloured."""

    def __init__(self, photos: list[Photo], size: int, seed: int, turn: float = TURN) -> None:
        self.photos, self.size, self.seed, self.turn = photos, size, seed, turn
        weights = np.array([photo.weight for photo in photos])
        self.share = weights / weights.sum()

    def __len__(self) -> int:
        return 10**7

    def __getitem__(self, number: int) -> tuple[Tensor, Target]:
        rng, size = np.random.default_rng([self.seed, number]), self.size
        photo = self.photos[rng.choice(len(self.photos), p=self.share)]
        image = read_image(photo.path)
        matrix, mirrored = self._matrix(image.shape[:2], photo.boxes, rng)
        crop = _warp(image, matrix, size, FILL)
        scale = math.hypot(*matrix[:, 0])
        points = photo.points @ matrix[:, :2].T + matrix[:, 2]
        points = points[:, list(WFLW_98.flip_order)] if mirrored else points
        centre = (photo.boxes[:, :2] + photo.boxes[:, 2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
        half = (photo.boxes[:, 2:] - photo.boxes[:, :2]) / 2 * scale
        boxes = np.concatenate([centre - half, centre + half], 1)
        if matrix[0, 1]:  # a turned face's box is the extent of its points, where they are known
            known = np.isfinite(points).all((1, 2))
            boxes[known] = np.concatenate([points[known].min(1), points[known].max(1)], 1)
        cut = boxes.clip(0, size)
        shown, whole = (cut[:, 2:] - cut[:, :2]).clip(0), boxes[:, 2:] - boxes[:, :2]
        kept = ((centre > 0) & (centre < size)).all(1) & (shown.prod(1) > 0.35 * whole.prod(1)) & (shown.min(1) >= 5)
        points, cut = points[kept], cut[kept]
        visible = ((points >= 0) & (points <= size)).all(-1)
        arrays = (cut.astype(np.float32) / size, np.nan_to_num(points).astype(np.float32) / size, visible)
        return torch.from_numpy(_spoilt(crop, rng)), Target(*map(torch.from_numpy, arrays), photo.complete)

    def _matrix(self, shape: tuple[int, int], boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """(2, 3) from the photo to the crop: the chosen face's size is uniform in its logarithm."""
        height, width = shape
        box = boxes[rng.integers(len(boxes))]
        extent, centre = (box[2:] - box[:2]).max(), (box[:2] + box[2:]) / 2
        high = min(0.95 * self.size / extent, 3.2)
        low = min(max(SMALLEST / extent, 0.55 * self.size / max(height, width)), high)
        scale = math.exp(rng.uniform(math.log(low), math.log(high)))
        turn = math.radians(rng.uniform(-self.turn, self.turn)) if rng.random() < 0.6 else 0.0
        mirrored = rng.random() < 0.5
        cos, sin = scale * math.cos(turn), scale * math.sin(turn)
        axes = np.array([[cos, -sin], [sin, cos]]) * ([[-1, 1]] if mirrored else 1)
        room = max(0.0, self.size - extent * scale) / 2
        place = self.size / 2 + rng.uniform(-room, room, 2)
        return np.concatenate([axes, (place - axes @ centre)[:, None]], 1), mirrored


def _warp(image: np.ndarray, matrix: np.ndarray, size: int, fill: tuple | None = None) -> np.ndarray:
    """The image through (2, 3) ``matrix``, made smaller by areas first."""
    source, matrix = image, matrix.copy()
    while math.hypot(*matrix[:, 0]) < 0.55 and min(source.shape[:2]) > 8:
        before = source.shape
        source = cv2.resize(source, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        matrix[:, :2] *= [before[1] / source.shape[1], before[0] / source.shape[0]]
    border = {"borderMode": cv2.BORDER_REPLICATE} if fill is None else {"borderValue": fill}
    return cv2.warpAffine(source, matrix, (size, size), flags=cv2.INTER_LINEAR, **border)


def _spoilt(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, colour, grey, blur and JPEG, each now and then."""
    if rng.random() < 0.6:
        levels = (np.arange(256) / 255) ** math.exp(rng.uniform(-0.5, 0.5)) * 255
        levels = (levels - 128) * (1 + rng.uniform(-0.45, 0.45)) + 128 + rng.uniform(-35, 35)
        image = cv2.LUT(image, levels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        image = (image * rng.uniform(0.85, 1.15, 3)).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        image = np.repeat(image.mean(2, keepdims=True).astype(np.uint8), 3, 2)
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.2))
    if rng.random() < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(25, 90))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image)


def _collate(items: list) -> tuple[Tensor, list[Target]]:
    return torch.stack([image for image, _ in items]).permute(0, 3, 1, 2), [target for _, target in items]


def _rates(steps: int, rate: float) -> Iterator[float]:
    """Learning rates: a rise over 200 steps, then a cosine to nearly nothing."""
    for step in range(steps):
        yield rate * min(1.0, (step + 1) / 200) * max(0.5 * (1 + math.cos(math.pi * step / steps)), 0.003)


def train_first_look(
    photos: list[Photo], start: Path | None, steps: int, device: str, workers: int, size: int = 512, batch: int = 32,
    whole: bool = False, se_reduction: int | None = None, turn: float = TURN,
) -> RetinaFace:  # fmt: skip
    """The public weights with a landmark head for 98 points; everything else stays as it is.

    whole: everything learns, also from scratch, and with SE blocks where ``se_reduction`` says so. turn: of the crops, degrees.
    """
    model = RetinaFace(ModelConfig(se_reduction=se_reduction))
    if start is not None:
        public = load_model(start)
        model = RetinaFace(replace(model.config, normalisation=replace(public.config.normalisation, assumed=False)))
        own = model.state_dict()
        model.load_state_dict({n: v for n, v in public.state_dict().items() if own[n].shape == v.shape}, strict=False)
    known = [(p, b) for photo in photos for p, b in zip(photo.points, photo.boxes, strict=True) if np.isfinite(p).all()]
    places = [(p - b[:2]) / (b[2:] - b[:2]) for p, b in known]
    model.start_from_shape(torch.tensor(np.median(places, 0), dtype=torch.float32))
    model = model.to(device).train(whole)
    anchors, loss = anchor_grid(size, size).to(device), LossConfig(pupil_weight=2.0, least_negatives=64)
    learning = (model if whole else model.landmark_head).parameters()
    optimiser = torch.optim.AdamW(learning, weight_decay=5e-4)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
    loader = DataLoader(Crops(photos, size, 0, turn), batch, num_workers=workers, collate_fn=_collate)
    for rate, (images, targets) in zip(_rates(steps, 2e-3), loader, strict=False):
        optimiser.param_groups[0]["lr"] = rate
        targets = [Target(*(t.to(device) for t in target[:3]), target.complete) for target in targets]
        with torch.set_grad_enabled(whole):
            logits, boxes, features = model(model.config.normalisation.apply(images.to(device)))
        at = lambda image, anchor, features=features: model.landmarks_at(features, image, anchor)  # noqa: E731
        eyes = (WFLW_98.right_eye, WFLW_98.left_eye)
        parts = multi_task_loss(logits, boxes, at, targets, anchors, loss, model.config.anchors, eyes)
        optimiser.zero_grad(set_to_none=True)
        (parts.total if whole else parts.landmark + loss.pupil_weight * parts.pupil).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        average.update_parameters(model)
    return average.module.cpu()


class Windows(NamedTuple):
    """Square windows around faces, and the landmarks in them."""

    images: Tensor  # (N, 3, 208, 208) uint8
    points: Tensor  # (N, 98, 2) pixels


def windows(faces: list[tuple[np.ndarray, np.ndarray]]) -> Windows:
    """The windows of faces, (image, (98, 2) points) each; small ones are not enlarged, and their border is repeated."""
    images, places = [], []
    for image, points in faces:
        low, high = points.min(0), points.max(0)
        side = (high - low).max() * AROUND
        pixels = int(np.clip(round(side / 8) * 8, 96, WINDOW))
        scale = pixels / side
        matrix = np.array([[scale, 0, 0], [0, scale, 0.0]])
        matrix[:, 2] = pixels / 2 - (low + high) / 2 * scale
        window, rest = _warp(image, matrix, pixels), WINDOW - pixels
        images.append(cv2.copyMakeBorder(window, 0, rest, 0, rest, cv2.BORDER_REPLICATE))
        places.append(points * scale + matrix[:, 2])
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Windows(pixels, torch.tensor(np.stack(places), dtype=torch.float32))


def face_look(points: Tensor) -> LookConfig:
    """A look at the face whose shape is the median of (N, 98, 2) points: upright, across two thirds of its patch."""
    shape, upright = points[0] - points[0].mean(0), torch.zeros(len(points), dtype=torch.bool)
    for _ in range(5):
        placed = to_frames(points, fit_frames(points, shape, upright)).median(0).values
        shape = placed - placed.mean(0)
    axis = shape[WFLW_98.inter_ocular[1]] - shape[WFLW_98.inter_ocular[0]]
    axis = axis / torch.linalg.vector_norm(axis)
    shape = shape @ torch.stack([torch.stack([axis[0], -axis[1]]), torch.stack([axis[1], axis[0]])])
    weights = torch.ones(WFLW_98.count)
    weights[list(WFLW_98.pupils)], weights[list(WFLW_98.regions["contour"])] = 2.0, 0.7
    shape = tuple(map(tuple, (0.68 * shape / shape.abs().max()).tolist()))
    return LookConfig((tuple(range(WFLW_98.count)),), (False,), shape, weights=tuple(weights.tolist()))


def _shown_otherwise(x: Tensor, hidden: float) -> Tensor:
    """(N, 3, R, C) patches with things before them, cut off, lit, coloured, coarse and noisy; ``hidden``: how often hidden."""
    n, _, rows, columns = x.shape

    def u(*size: int) -> Tensor:
        return torch.rand(n, *size, device=x.device)

    across, down = torch.linspace(-1, 1, columns, device=x.device), torch.linspace(-1, 1, rows, device=x.device)[:, None]
    angle, a, b = math.pi * u(1, 1), 0.15 + 0.45 * u(1, 1), 0.15 + 0.45 * u(1, 1)
    dx, dy = across - 2.4 * u(1, 1) + 1.2, down - 2.4 * u(1, 1) + 1.2
    p, q = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    thing = torch.where(u(1, 1) < 0.5, (p / a) ** 2 + (q / b) ** 2 < 1, (p.abs() < a) & (q.abs() < b)) & (u(1, 1) < hidden)
    x = torch.where(thing[:, None], torch.where(u(1, 1, 1) < 0.5, x.roll(1, 0), 255 * u(3, 1, 1).expand_as(x)), x)
    angle = 2 * math.pi * u(1, 1)
    side = across * angle.cos() + down * angle.sin()
    x = torch.where(((side > 0.35 + 0.6 * u(1, 1)) & (u(1, 1) < 0.4 * hidden))[:, None], 255 * u(1, 1, 1), x)
    x = x * (1 + (u(1, 1) - 0.5) * side * (u(1, 1) < 0.4))[:, None]
    x = (x.clamp(0.03, 255) / 255) ** (u(1, 1, 1) - 0.5).exp() * 255
    x = ((x - 128) * (0.45 + u(1, 1, 1)) + 128 + 90 * (u(1, 1, 1) - 0.5)) * (0.85 + 0.3 * u(3, 1, 1))
    grey = x.mean(1, keepdim=True)
    x = torch.where(u(1, 1, 1) < 0.15, grey, grey + (x - grey) * (0.6 + 0.8 * u(1, 1, 1)))
    parts = list(x.chunk(8))
    for number in range(1, min(5, len(parts))):  # half of them from fewer pixels, a factor each
        small = interpolate(parts[number], scale_factor=1 / (1 + 3 * float(torch.rand(()))), mode="bilinear", antialias=True)
        parts[number] = interpolate(small, size=(rows, columns), mode="bilinear")
    x = torch.cat(parts)
    return (x + torch.randn_like(x) * 14 * u(1, 1, 1) ** 2).clamp(0, 255)


def train_look(real: Windows, drawn: Windows, eyes: bool, steps: int, device: str, batch: int = 512) -> Look:
    """A second look at faces, or at eyes: seven tenths real windows, three tenths rendered ones, half of them mirrored."""
    config = replace(eye_look(WFLW_98), rounds=1) if eyes else face_look(real.points[:3000])  # the face look came before
    look = Look(config).to(device)
    sets = [Windows(*(t.to(device) for t in s)) for s in (real, drawn)]
    counts = (batch - int(0.3 * batch), int(0.3 * batch))
    flip = torch.tensor(WFLW_98.flip_order, device=device)
    optimiser = torch.optim.AdamW(look.parameters(), weight_decay=0.02)
    average = AveragedModel(look, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
    everyone, generator = torch.arange(batch, device=device), torch.Generator().manual_seed(0)
    for rate in _rates(steps, 2e-3):
        optimiser.param_groups[0]["lr"] = rate
        chosen = [torch.randint(len(s.images), (k,), device=device) for s, k in zip(sets, counts, strict=True)]
        pixels = torch.cat([s.images[i] for s, i in zip(sets, chosen, strict=True)]).float()
        points = torch.cat([s.points[i] for s, i in zip(sets, chosen, strict=True)])
        turned = points[:, flip] * torch.tensor([-1, 1], device=device) + torch.tensor([WINDOW, 0], device=device)
        mirrored = torch.rand(batch, device=device) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        points = torch.where(mirrored[:, None, None], turned, points)
        spoil = partial(_shown_otherwise, hidden=0.12 if eyes else 0.3)
        loss = look_loss(look, pixels, everyone, points, generator, spoil)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(look.parameters(), 5.0)
        optimiser.step()
        average.update_parameters(look)
    return average.module.cpu().eval()


def assemble(first: RetinaFace, looks: list[Look]) -> RetinaFace:
    """The detector with its second looks."""
    trained_on = TrainedOn(SMALLEST, LARGEST, TURN)
    model = RetinaFace(replace(first.config, looks=tuple(look.config for look in looks), trained_on=trained_on))
    model.load_state_dict(first.state_dict(), strict=False)
    for own, look in zip(model.looks, looks, strict=True):
        own.load_state_dict(look.state_dict())
    return model.eval()


def _faces(photos: list[Photo]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for photo in photos:
        image = read_image(photo.path)
        yield from ((image, points) for points in photo.points if np.isfinite(points).all())


@click.command()
@click.option("--real", "roots", multiple=True, required=True, type=click.Path(exists=True, path_type=Path), help="Photos.")
@click.option("--start", required=True, type=click.Path(exists=True, path_type=Path), help="The public five-point weights.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The checkpoint.")
@click.option("--steps", default=10_000, show_default=True, help="Of each of the three trainings.")
@click.option("--pictures", default=3200, show_default=True, help="Rendered pictures, made in data/rendered-photos98.")
@click.option("--workers", default=7, show_default=True, help="Processes that make the crops.")
@click.option("--batch", default=512, show_default=True, help="Windows a step of a second look.")
def main(roots: tuple[Path, ...], start: Path, out: Path, steps: int, pictures: int, workers: int, batch: int) -> None:
    """Trains photos98 and writes it to OUT."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    photos = [photo for root in roots for photo in read_photos(root)]
    root = rendered.make(Path(__file__).parents[1] / "rendered-photos98", pictures, seed=4242)
    drawn = [rendered.load(root, split) for split in ("train", "test")]
    painted = [(image, p) for s in drawn for image, faces in s for p in faces.landmarks if np.ptp(p, axis=0).max() >= 28]
    real, drawn_windows = windows(list(_faces(photos))), windows(painted)
    more = [Photo(drawn[0].images_root / drawn[0].names[n], drawn[0].faces(n).boxes, drawn[0].faces(n).landmarks, True, 0.35)
            for n in range(min(1500, len(drawn[0]))) if len(drawn[0].faces(n))]  # fmt: skip
    first = train_first_look(photos + more, start, steps, device, workers)
    looks = [train_look(real, drawn_windows, eyes, steps, device, batch) for eyes in (False, True)]
    save_model(assemble(first, looks), out)


if __name__ == "__main__":
    main()
