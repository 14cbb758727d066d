"""Faces and eyes close up, and distributions side by side."""

from collections.abc import Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retinalib.faces import Faces
from retinalib.landmarks import Eye
from retinalib.plots.style import PREDICTION, TRUTH, draw_faces


def plate(
    pictures: Sequence[tuple[np.ndarray, Faces] | tuple[np.ndarray, Faces, Faces]],
    titles: Sequence[str] | None = None,
    columns: int = 6,
    width: float = 1.5,
    **drawn: bool,
) -> Figure:
    """A contact sheet of pictures, (H, W, 3) uint8, with their true faces, or with those and predicted ones; width: inches per
    picture; drawn: options of :func:`retinalib.plots.style.draw_faces` (regions unless said otherwise, no boxes)."""
    columns = min(columns, max(1, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    height = width + (0.22 if titles is not None else 0.04)
    fig, axes = plt.subplots(rows, columns, figsize=(columns * width, rows * height), layout="constrained", squeeze=False)
    fig.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for ax in axes.flat[len(pictures) :]:
        ax.axis("off")
    for number, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        draw_faces(ax, *picture, **{"boxes": False, "regions": True} | drawn)
        if titles is not None:
            ax.set_title(titles[number], fontsize=7, weight="normal", pad=2)
    return fig


def level_eye(
    image: np.ndarray, landmarks: np.ndarray, eye: Eye, size: tuple[int, int] = (120, 72)
) -> tuple[np.ndarray, np.ndarray]:
    """One eye of (L, 2) landmarks turned level, the canthi 60 % of the width apart: (h, w, 3) uint8, and the 2×3 matrix from
    photo to crop pixels."""
    ends = landmarks[[eye.outer, eye.inner]]
    ends = ends[np.argsort(ends[:, 0])]
    across = ends[1] - ends[0]
    scale, angle = 0.6 * size[0] / max(np.linalg.norm(across), 1e-6), np.arctan2(across[1], across[0])
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shift = np.array(size) / 2 - turn @ ends.mean(0)
    matrix = np.column_stack([turn, shift])
    pixels = matrix.copy()
    pixels[:, 2] += turn @ [0.5, 0.5] - 0.5  # OpenCV counts from the middle of the first pixel
    return cv2.warpAffine(image, pixels, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), matrix


def draw_level_eye(
    ax: Axes,
    image: np.ndarray,
    at: np.ndarray,
    eye: Eye,
    looks: Sequence[tuple[str, np.ndarray, str, str]],
    size: tuple[int, int] = (120, 72),
) -> None:
    """One eye of an image, (H, W, 3) uint8, turned level, with lids and pupils over it. at: (L, 2) landmarks that say where the
    eye is; looks: name, (L, 2) landmarks, colour and marker of the pupil; size: width and height of what is shown."""
    crop, matrix = level_eye(image, at, eye, size)
    ax.imshow(crop, extent=(0, crop.shape[1], crop.shape[0], 0))
    for name, landmarks, colour, marker in looks:
        points = landmarks @ matrix[:, :2].T + matrix[:, 2]
        ax.plot(*points[[*eye.lids, eye.lids[0]]].T, color=colour, lw=1.2)
        ax.plot(*points[eye.pupil], marker, color=colour, mfc="none", ms=10, mew=1.8, ls="none", label=name)
    ax.set(xlim=(0, crop.shape[1]), ylim=(crop.shape[0], 0), xticks=[], yticks=[])
    ax.grid(False)


def eye_sheet(
    photos: Sequence[np.ndarray], true: np.ndarray, predicted: np.ndarray, eye: Eye, titles: Sequence[str], columns: int = 6
) -> Figure:
    """Level eyes with the true (green circle) and the predicted pupil (blue cross; a triangle at the border: outside). photos:
    one for each of (N, L, 2) true and predicted landmarks."""
    rows = max(1, -(-len(true) // columns))
    fig, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.25 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for ax, photo, *points, title in zip(axes.flat, photos, true, predicted, titles, strict=False):
        crop, matrix = level_eye(photo, points[0], eye)
        there, found = (matrix[:, :2] @ landmarks[eye.pupil] + matrix[:, 2] for landmarks in points)
        size = np.array(crop.shape[1::-1])
        ax.imshow(crop, extent=(0, size[0], size[1], 0))
        ax.plot(*there, "o", mfc="none", mec=TRUTH, ms=9, mew=1.6)
        shown = np.clip(found, 0, size)
        beyond, axis = found - shown, int(np.abs(found - shown).argmax())
        inside = not beyond.any()
        marker = "+" if inside else ("<>", "^v")[axis][int(beyond[axis] > 0)]
        ax.plot(*shown, marker, color=PREDICTION, ms=10 if inside else 7, mew=1.8, clip_on=False)
        ax.set(xlim=(0, size[0]), ylim=(size[1], 0))
        ax.set_title(title if inside else f"{title}, outside", fontsize=8, loc="center", weight="normal")
    return fig


def distributions_figure(table: pd.DataFrame, labels: dict[str, str], ks: dict[str, float]) -> Figure:
    """A panel per column of ``labels`` (column -> label with unit), the distributions by the column ``source`` of the table;
    ks: label -> Kolmogorov–Smirnov statistic."""
    fig, axes = plt.subplots(2, -(-len(labels) // 2), figsize=(10.5, 5.4), squeeze=False, layout="constrained")
    for ax in axes.flat[len(labels) :]:
        ax.axis("off")
    for ax, (column, label) in zip(axes.flat, labels.items(), strict=False):
        span = tuple(table[column].quantile([0.005, 0.995]))
        options = {"bins": 24, "stat": "density", "element": "step", "alpha": 0.25, "common_norm": False}
        sns.histplot(table, x=column, hue="source", binrange=span, ax=ax, legend=ax is axes.flat[0], **options)
        ax.set(xlabel=label, ylabel="density")
        ax.set_title(f"KS {ks[label]:.2f}", fontsize=9)
    axes.flat[0].get_legend().set_title("")
    return fig
