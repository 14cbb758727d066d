"""Which faces which anchors reach, before any training: the numbers behind the choice of strides and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_convert, box_iou

from retinalib.anchors import AnchorConfig, anchor_grid
from retinalib.faces import Faces


def fitted(faces: Faces, photo: tuple[int, int], size: int) -> Faces:
    """The faces of a photo (height, width) after it was scaled to fit a square of ``size`` pixels, from the corner."""
    scale = size / max(photo)
    return faces.transformed((scale, scale))


def reach(
    faces: Sequence[Faces], size: int, config: AnchorConfig, threshold: float = 0.35, minimum: float = 0.2
) -> pd.DataFrame:
    """How the anchors of a square image of ``size`` pixels serve each face; the faces of one image compete for them.

    faces: those of each image, in pixels of that square. Returns one row per face: image, face, size (pixels), iou (with its
    best anchor), stride (of that anchor), positives (anchors that answer for it), kind: "matched" (an anchor from
    ``threshold`` on), "kept" (only its best anchor, at least ``minimum``), "missed" (no anchor: it is trained as background).

    The same as :func:`retinalib.anchors.match` image by image, and much faster: anchors lie on grids, so the overlap with a
    face is a width that depends on the column alone times a height that depends on the row alone.
    """
    counts = np.array([len(found) for found in faces], int)
    if not counts.sum():
        raise ValueError("reach needs at least one face")
    boxes = np.concatenate([found.boxes for found in faces]).astype(np.float32)
    image = np.repeat(np.arange(len(faces)), counts)
    best = _Best(np.zeros(len(boxes), np.float32), np.zeros(len(boxes), int), np.zeros(len(boxes), int))
    pairs, first = [], 0
    for (rows, _), stride, level in zip(config.levels(size, size), config.strides, config.sizes, strict=True):
        for place, side in enumerate(level):
            grid = _Grid(stride, side, rows, first + place, config.per_cell)
            grid.improve(best, boxes)
            pairs.append(grid.pairs(boxes, threshold))
        first += rows * rows * config.per_cell
    face, anchor, iou = (np.concatenate(part) for part in zip(*pairs, strict=True))
    kept = np.flatnonzero(best.iou >= minimum)
    # what an anchor answers for: of the faces that keep it the last, else the one that it overlaps most
    claims = pd.DataFrame(
        {
            "face": np.concatenate([face, kept]),
            "anchor": np.concatenate([anchor, best.anchor[kept]]),
            "rank": np.concatenate([iou, 2.0 + kept]),
        }
    )
    claims["image"] = image[claims["face"]]
    won = claims.sort_values(["rank", "face"], ascending=[False, True], kind="stable").drop_duplicates(["image", "anchor"])
    positives = np.bincount(won["face"], minlength=len(boxes))
    kind = np.where(positives == 0, "missed", np.where(best.iou < threshold, "kept", "matched"))
    within = np.arange(len(boxes)) - np.repeat(counts.cumsum() - counts, counts)
    extent = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    columns = {"size": np.sqrt(extent.prod(1)), "iou": best.iou, "stride": best.stride, "positives": positives, "kind": kind}
    return pd.DataFrame({"image": image, "face": within, **columns})


class _Best(NamedTuple):
    """Each face's best anchor so far."""

    iou: np.ndarray
    anchor: np.ndarray
    stride: np.ndarray


@dataclass(frozen=True)
class _Grid:
    """The anchors of one size at one level, and their overlaps with (F, 4) boxes in pixels."""

    stride: int
    side: float
    cells: int  # rows, and columns
    first: int  # number of the first anchor in the whole list
    step: int  # from one cell to the next in that list

    def _shared(self, low: np.ndarray, high: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """How many pixels of ``low`` to ``high``, (F,), the anchors of (F, n) columns or rows cover; none beyond the grid."""
        centre = (cell + np.float32(0.5)) * np.float32(self.stride)
        half = np.float32(self.side / 2)
        covered = np.minimum(high[:, None], centre + half) - np.maximum(low[:, None], centre - half)
        return np.where((cell >= 0) & (cell < self.cells), covered, 0).clip(min=0)

    def _iou(self, boxes: np.ndarray, shared: np.ndarray) -> np.ndarray:
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1).reshape(-1, *[1] * (shared.ndim - 1))
        return shared / (area + np.float32(self.side**2) - shared)

    def improve(self, best: _Best, boxes: np.ndarray) -> None:
        """Puts the grid's best anchor of each face into ``best`` where it is better; of equals the first stays."""
        cell = np.arange(self.cells, dtype=np.float32)[None]
        wide, high = self._shared(boxes[:, 0], boxes[:, 2], cell), self._shared(boxes[:, 1], boxes[:, 3], cell)
        iou = self._iou(boxes, wide.max(1) * high.max(1))
        anchor = self.first + self.step * (self.cells * high.argmax(1) + wide.argmax(1))
        better = (iou > best.iou) | (best.stride == 0)
        for old, new in zip(best, (iou, anchor, self.stride), strict=True):
            old[better] = new if np.isscalar(new) else new[better]

    def pairs(self, boxes: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Face, anchor and IoU of every pair with an IoU of at least ``threshold``."""
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        likely = np.flatnonzero(np.minimum(area, self.side**2) >= 0.999 * threshold * np.maximum(area, self.side**2))
        found = boxes[likely]
        start = np.floor((found[:, :2] - self.side / 2) / self.stride - 0.5)
        most = int(np.ceil(((found[:, 2:] - found[:, :2]).max(initial=0) + self.side) / self.stride)) + 2
        start = start if most < self.cells else np.zeros_like(start)
        columns, rows = (start[:, axis, None] + np.arange(min(most, self.cells)) for axis in (0, 1))
        wide = self._shared(found[:, 0], found[:, 2], columns)
        high = self._shared(found[:, 1], found[:, 3], rows)
        iou = self._iou(found, high[:, :, None] * wide[:, None, :])
        face, row, column = np.nonzero(iou >= threshold)
        anchor = self.first + self.step * (self.cells * rows[face, row] + columns[face, column]).astype(int)
        return likely[face], anchor, iou[face, row, column]


def best_iou_by_size(
    sizes: np.ndarray,
    image_size: int,
    config: AnchorConfig,
    aspect: float = 1.0,
    positions: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """The best IoU that a lone face gets, by its size alone: a row for each size and position drawn.

    sizes: (S,) square roots of the boxes' areas, pixels; aspect: height by width. Positions are drawn evenly over those at
    which the face is whole; a size that does not fit is left out. Columns: size, iou, stride (of the best anchor).
    """
    rng = np.random.default_rng(seed)
    corners = box_convert(anchor_grid(image_size, image_size, config), "cxcywh", "xyxy") * image_size
    strides = np.repeat(config.strides, [r * c * config.per_cell for r, c in config.levels(image_size, image_size)])
    tables = []
    for size in sizes:
        extent = np.array([size / np.sqrt(aspect), size * np.sqrt(aspect)])
        if extent.max() > image_size:
            continue
        corner = rng.uniform(0, 1, (positions, 2)) * (image_size - extent)
        boxes = torch.from_numpy(np.concatenate([corner, corner + extent], 1).astype(np.float32))
        iou, best = box_iou(boxes, corners).max(1)
        tables.append(pd.DataFrame({"size": size, "iou": iou.numpy(), "stride": strides[best.numpy()]}))
    return pd.concat(tables, ignore_index=True)


def size_reaching(curve: pd.DataFrame, iou: float, quantile: float = 0.5) -> float:
    """The smallest face size (pixels) whose best IoU reaches ``iou``, in the median over places, or in the luckiest for a
    ``quantile`` of 1; between the sizes of ``curve``, a table of :func:`best_iou_by_size`, by interpolation. NaN: none does."""
    level = curve.groupby("size")["iou"].quantile(quantile)
    first = int((level >= iou).to_numpy().argmax())
    if level.iloc[first] < iou:
        return float("nan")
    around = level.iloc[max(first - 1, 0) : first + 1]
    return float(np.interp(iou, around, around.index))
