"""The explorer of chapter 2: an anchor design, and what it does to the faces of the data."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pandas as pd
import torch
from ipywidgets import Dropdown, FloatSlider, IntSlider, SelectionSlider
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from retinalib.anchors import AnchorConfig, anchor_grid, match
from retinalib.datasets.describe import image_sizes
from retinalib.datasets.table import FaceDataset
from retinalib.faces import Faces
from retinalib.plots.anchors import KINDS, size_classes
from retinalib.plots.style import draw_faces
from retinalib.reach import fitted, reach
from retinalib.widgets.explorer import Explorer, panels

_MOST_FACES = 2000  # more would make the picture lag behind the hand
_MINIMUM = 0.2  # IoU from which a face keeps its best anchor
_INPUTS = (80, 160, 320, 480, 640)
_COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442")  # of the levels; green is the face's own
_STRIDES = {"8, 16, 32": (8, 16, 32), "4, 8, 16, 32": (4, 8, 16, 32), "8, 16, 32, 64": (8, 16, 32, 64), "16, 32": (16, 32)}


def anchor_explorer(dataset: FaceDataset) -> Explorer:
    """Shows what becomes of the faces under a design of anchors: matched, kept by their one best anchor, or missed.

    Anchor sizes form a ladder: from the smallest on, each is ``ratio`` times the one before, and each stride takes the next
    few. Left, the faces by size class; right, one face (by its rank in size) with the anchors that answer for it. Photos are
    scaled to fit the input. With more than 2,000 faces, photos evenly spread over the data set stand for all; the sentence says
    how many.
    """
    photos = image_sizes(dataset)
    every = max(1, -(-len(dataset.table) // _MOST_FACES))
    numbers = [n for n in range(0, len(dataset), every) if len(dataset.faces(n))]
    if not numbers:
        raise ValueError("the data set holds no face to reach")
    count = sum(len(dataset.faces(n)) for n in numbers)

    @cache
    def at_input(size: int) -> list[Faces]:
        return [fitted(dataset.faces(n), tuple(photos[n]), size) for n in numbers]

    for size in _INPUTS:  # once, and no hand waits for it
        at_input(size)

    def draw(
        strides: str, smallest: int, per_cell: int, ratio: float, image_size: int, threshold: float, face: int
    ) -> tuple[Figure, str]:
        config = ladder(_STRIDES[strides], smallest, per_cell, ratio)
        match_rule = (image_size, config, threshold, _MINIMUM)
        table = reach(at_input(image_size), *match_rule)
        figure, (left, right) = panels([5.4, 4.2], 4)
        _coverage(left, table)
        row = table.sort_values("size", kind="stable").iloc[face - 1]
        photo = int(row["image"])
        _one_face(right, dataset[numbers[photo]][0], at_input(image_size)[photo], row, *match_rule)
        shares = table["kind"].value_counts(normalize=True)
        sizes = " | ".join(", ".join(f"{size:.0f}" for size in level) for level in config.sizes)
        said = ", ".join(f"{shares.get(kind, 0):.1%} {kind}" for kind in KINDS)
        of = "" if count == len(dataset.table) else f" of {len(dataset.table):,}"
        anchors = config.per_cell * sum(rows * columns for rows, columns in config.levels(image_size, image_size))
        return figure, f"{count:,}{of} faces: {said}. Anchors of {sizes} px, {anchors:,} an image."

    controls = {
        "strides": Dropdown(options=list(_STRIDES), description="strides"),
        "smallest": SelectionSlider(options=[4, 8, 11, 16, 23, 32, 45, 64], value=16, description="smallest (px)"),
        "per_cell": SelectionSlider(options=[1, 2, 3], value=2, description="sizes a cell"),
        "ratio": SelectionSlider(options=[1.26, 1.41, 1.59, 2.0, 2.83, 4.0], value=2.0, description="ratio"),
        "image_size": SelectionSlider(options=_INPUTS, description="input (px)"),
        "threshold": FloatSlider(value=0.35, min=0.2, max=0.7, step=0.05, description="threshold"),
        "face": IntSlider(value=(count + 1) // 2, min=1, max=count, description="face, by size"),
    }
    return Explorer(controls, draw)


def ladder(strides: tuple[int, ...], smallest: float, per_cell: int, ratio: float) -> AnchorConfig:
    """A design whose sizes grow by ``ratio`` from one to the next, ``per_cell`` of them at each stride."""
    sizes = smallest * ratio ** np.arange(len(strides) * per_cell)
    return AnchorConfig(strides, tuple(tuple(level) for level in sizes.reshape(-1, per_cell).tolist()))


def _coverage(ax: Axes, table: pd.DataFrame) -> None:
    classes = size_classes(table["size"])
    shares = pd.crosstab(classes, table["kind"], normalize="index").reindex(columns=list(KINDS), fill_value=0)
    bottom = np.zeros(len(shares))
    for kind, colour in KINDS.items():
        ax.bar(range(len(shares)), shares[kind], bottom=bottom, color=colour, width=0.85, label=kind)
        bottom += shares[kind].to_numpy()
    for x, n in enumerate(classes.value_counts().reindex(shares.index)):
        ax.annotate(str(n), (x, 1.01), ha="center", fontsize=7)
    ax.set_xticks(range(len(shares)), shares.index, rotation=60, fontsize=7)
    ax.set(xlabel="face size (pixels of the input)", ylabel="share of the faces (numbers: faces)", ylim=(0, 1.07))
    ax.grid(axis="x", visible=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(KINDS), fontsize=8)


def _one_face(
    ax: Axes, image: np.ndarray, faces: Faces, row: pd.Series, size: int, config: AnchorConfig, threshold: float, minimum: float
) -> None:
    """The anchors that answer for the face of ``row`` in its photo at the input's size, as training matches them."""
    scale = size / max(image.shape[:2])
    face = int(row["face"])
    draw_faces(ax, cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), faces[face], landmarks=False)
    anchors = anchor_grid(size, size, config)
    numbers = np.flatnonzero(match(torch.from_numpy(faces.boxes / size), anchors, threshold, minimum).numpy() == face)
    boxes = anchors.numpy()[numbers] * size
    ends = np.cumsum([rows * columns * config.per_cell for rows, columns in config.levels(size, size)])
    levels = np.searchsorted(ends, numbers, side="right")
    squares = [Rectangle((x - w / 2, y - h / 2), w, h) for x, y, w, h in boxes]
    colours = [_COLOURS[level] for level in levels]
    ax.add_collection(PatchCollection(squares, facecolors="none", edgecolors=colours, linewidths=0.9))
    ax.scatter(boxes[:, 0], boxes[:, 1], c=colours, s=7, zorder=3)
    for level in sorted(set(levels)):
        ax.plot([], [], color=_COLOURS[level], label=f"stride {config.strides[level]}")
    x1, y1, x2, y2 = faces.boxes[face]
    half = 0.85 * max(x2 - x1, y2 - y1)
    ax.set(xlim=((x1 + x2) / 2 - half, (x1 + x2) / 2 + half), ylim=((y1 + y2) / 2 + half, (y1 + y2) / 2 - half))
    ax.set_title(f"{row['size']:.0f} px, best IoU {row['iou']:.2f}, anchors that answer for it: {len(numbers)}", fontsize=8)
    if len(numbers):
        ax.legend(loc="upper right", frameon=True, fontsize=8)
