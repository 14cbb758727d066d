"""The explorer of chapter 2: an anchor design, and what it does to the faces of the data."""

from functools import cache

import cv2
import numpy as np
import torch
from ipywidgets import Dropdown, FloatSlider, IntSlider, SelectionSlider
from matplotlib.figure import Figure

from retinalib.anchors import AnchorConfig, anchor_grid, match
from retinalib.datasets.table import FaceDataset
from retinalib.faces import Faces
from retinalib.plots.anchors import KINDS, draw_coverage, draw_match
from retinalib.studies.anchor_coverage import anchor_boxes, coverage
from retinalib.widgets.explorer import Explorer, panels

_MOST_FACES = 500  # more lag behind the hand
_MINIMUM = 0.2  # IoU of a kept anchor
_STRIDES = {"8, 16, 32": (8, 16, 32), "4, 8, 16, 32": (4, 8, 16, 32), "8, 16, 32, 64": (8, 16, 32, 64), "16, 32": (16, 32)}


def anchor_explorer(dataset: FaceDataset) -> Explorer:
    """Shows what becomes of the faces under a design of anchors: left, all faces by size class; right, one face (by its rank in
    size) with the anchors that answer for it. Of more than 500 faces, some stand for all. Raises ValueError without faces."""
    every = max(1, -(-len(dataset.table) // _MOST_FACES))
    numbers = [n for n in range(0, len(dataset), every) if len(dataset.faces(n))]
    if not numbers:
        raise ValueError("the data set holds no face to look at")
    count = sum(len(dataset.faces(n)) for n in numbers)
    photos = dataset.sizes

    @cache
    def at_input(size: int) -> list[Faces]:
        return [dataset.faces(n).transformed((size / max(photos[n]),) * 2) for n in numbers]

    def draw(
        strides: str, smallest: int, per_cell: int, ratio: float, image_size: int, threshold: float, face: int
    ) -> tuple[Figure, str]:
        config = ladder(_STRIDES[strides], smallest, per_cell, ratio)
        table = coverage(at_input(image_size), image_size, config, threshold, _MINIMUM)
        figure, (left, right) = panels([5.4, 4.2], 4)
        draw_coverage(left, table)
        left.set_ylabel("share of the faces (numbers: faces)")
        left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(KINDS), fontsize=7)
        row = table.sort_values("size", kind="stable").iloc[face - 1]
        photo, own = int(row["image"]), int(row["face"])
        image, faces = dataset[numbers[photo]][0], at_input(image_size)[photo]
        corners, strides_of = anchor_boxes(image_size, config)
        small = [max(1, round(image_size / max(image.shape[:2]) * side)) for side in image.shape[1::-1]]
        grid = anchor_grid(image_size, image_size, config)
        mine = (match(torch.from_numpy(faces.boxes / image_size), grid, threshold, _MINIMUM) == own).numpy()
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        draw_match(right, image, faces[own], corners[mine].numpy(), strides_of[mine], closer=0.85)
        title = f"{row['size']:.0f} px, best IoU {row['iou']:.2f}, anchors that answer for it: {mine.sum()}"
        right.set_title(title, fontsize=8)
        right.legend(loc="upper right", frameon=True, fontsize=8)
        shares = table["kind"].value_counts(normalize=True)
        sizes = " | ".join(", ".join(f"{size:.0f}" for size in level) for level in config.sizes)
        said = ", ".join(f"{shares.get(kind, 0):.1%} {kind}" for kind in KINDS)
        of = "" if count == len(dataset.table) else f" of {len(dataset.table):,}"
        return figure, f"{count:,}{of} faces: {said}. Anchors of {sizes} px, {len(grid):,} per image."

    controls = {
        "strides": Dropdown(options=list(_STRIDES), description="strides"),
        "smallest": SelectionSlider(options=[4, 8, 11, 16, 23, 32, 45, 64], value=16, description="smallest (px)"),
        "per_cell": SelectionSlider(options=[1, 2, 3], value=2, description="sizes per cell"),
        "ratio": SelectionSlider(options=[1.26, 1.41, 1.59, 2.0, 2.83, 4.0], value=2.0, description="ratio"),
        "image_size": SelectionSlider(options=[80, 160, 320, 480, 640], description="input (px)"),
        "threshold": FloatSlider(value=0.35, min=0.2, max=0.7, step=0.05, description="threshold"),
        "face": IntSlider(value=(count + 1) // 2, min=1, max=count, description="face, by size"),
    }
    return Explorer(controls, draw)


def ladder(strides: tuple[int, ...], smallest: float, per_cell: int, ratio: float) -> AnchorConfig:
    """A design whose sizes grow by ``ratio`` from one to the next, ``per_cell`` of them at each stride."""
    sizes = smallest * ratio ** np.arange(len(strides) * per_cell)
    return AnchorConfig(strides, tuple(tuple(level) for level in sizes.reshape(-1, per_cell).tolist()))
