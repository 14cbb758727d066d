"""Which faces which anchors reach, before any training: the numbers behind the choice of strides and sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_convert, box_iou

from retinalib.anchors import AnchorConfig, anchor_grid, match
from retinalib.faces import Faces


def fitted(faces: Faces, photo: tuple[int, int], size: int) -> Faces:
    """The faces of a photo (height, width) after it was scaled to fit a square of ``size`` pixels, from the corner."""
    scale = size / max(photo)
    return faces.transformed((scale, scale))


def reach(
    faces: Sequence[Faces], size: int, config: AnchorConfig, threshold: float = 0.35, minimum: float = 0.2
) -> pd.DataFrame:
    """How the anchors of a square image of ``size`` pixels serve each face; the faces of one image compete for them.

    faces: those of each image, in pixels of that square. Returns a row a face: image, face, size (pixels), iou (with its best
    anchor), stride (of that anchor), positives (anchors that answer for it), kind: "matched" (an anchor from ``threshold``
    on), "kept" (only its best anchor, at least ``minimum``), "missed" (no anchor: it is trained as background).
    """
    anchors = anchor_grid(size, size, config)
    corners = box_convert(anchors, "cxcywh", "xyxy")
    per_level = [rows * columns * config.per_cell for rows, columns in config.levels(size, size)]
    strides = np.repeat(config.strides, per_level)
    tables = []
    for image, found in enumerate(faces):
        boxes = torch.from_numpy(found.boxes / size)
        if not len(boxes):
            continue
        iou, best = box_iou(boxes, corners).max(1)
        matched = match(boxes, anchors, threshold, minimum)
        positives = torch.bincount(matched[matched >= 0], minlength=len(boxes)).numpy()
        best_iou = iou.numpy()
        kind = np.where(positives == 0, "missed", np.where(best_iou < threshold, "kept", "matched"))
        columns = {"size": found.size, "iou": best_iou, "stride": strides[best.numpy()], "positives": positives, "kind": kind}
        tables.append(pd.DataFrame({"image": image, "face": np.arange(len(boxes)), **columns}))
    if not tables:
        raise ValueError("reach needs at least one face")
    return pd.concat(tables, ignore_index=True)


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
