"""Eyes close up."""

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.axes import Axes

from retinalib.landmarks import Eye


def level_eye(
    image: np.ndarray, landmarks: np.ndarray, eye: Eye, size: tuple[int, int] = (120, 72)
) -> tuple[np.ndarray, np.ndarray]:
    """One eye of (L, 2) landmarks turned level, canthi 60 % of the width apart: (h, w, 3) uint8, and the 2×3 matrix to it."""
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
