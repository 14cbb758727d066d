"""Which faces get which anchors, before any training: the numbers behind the choice of strides and sizes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from retinalib.anchors import AnchorConfig, anchor_grid, match
from retinalib.faces import Faces


def anchor_boxes(size: int, config: AnchorConfig) -> tuple[Tensor, np.ndarray]:
    """All anchors of a square image of ``size`` pixels: (A, 4) x1 y1 x2 y2 in pixels, and (A,) their strides."""
    counts = [rows * columns * config.per_cell for rows, columns in config.levels(size, size)]
    return box_convert(anchor_grid(size, size, config), "cxcywh", "xyxy") * size, np.repeat(config.strides, counts)


def coverage(
    faces: Sequence[Faces], size: int, config: AnchorConfig, threshold: float = 0.35, minimum: float = 0.2
) -> pd.DataFrame:
    """How the anchors of a square image of ``size`` pixels serve each face; the faces of one image compete for them.

    faces: those of each image, in pixels of that square. Returns one row per face: image, face, size (pixels), iou (with its
    best anchor), stride (of that anchor), positives (anchors that answer for it), kind: "matched" (from ``threshold`` on),
    "kept" (its best anchor, from ``minimum`` on), "missed". ValueError without a face."""
    if not sum(map(len, faces)):
        raise ValueError("anchor coverage needs at least one face")
    anchors, (corners, strides) = anchor_grid(size, size, config), anchor_boxes(size, config)
    tables = []
    for image, found in enumerate(faces):
        if not len(found):
            continue
        boxes = torch.from_numpy(found.boxes)
        matched = match(boxes / size, anchors, threshold, minimum)
        positives = torch.bincount(matched[matched >= 0], minlength=len(found)).numpy()
        iou, best = (values.numpy() for values in box_iou(boxes, corners).max(1))
        columns = {"size": found.size, "iou": iou, "stride": strides[best], "positives": positives}
        tables.append(pd.DataFrame({"image": image, "face": range(len(found)), **columns}))
    table = pd.concat(tables, ignore_index=True)
    kind = np.where(table["positives"] == 0, "missed", np.where(table["iou"] < threshold, "kept", "matched"))
    return table.assign(kind=kind)
