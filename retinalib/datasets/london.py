"""Open photographs with hand-marked eyes: 102 of the Face Research Lab London Set (DeBruine and Jones, 2017, CC BY 4.0).

Adults, frontal, looking into the camera. For testing only: nothing in this project was trained on them."""

from pathlib import Path

import numpy as np
import pandas as pd

from retinalib.datasets.table import BOX, FaceDataset
from retinalib.landmarks import WFLW_98

PHOTOS = Path(__file__).resolve().parents[2] / "data/photos"
_BOX = np.array([-0.85, -0.62, 0.85, 1.28])  # x1 y1 x2 y2 from between the outer canthi, in their distances: the average face's


def load(root: str | Path | None = None) -> FaceDataset:
    """The photos of ``root`` (by default ``data/photos/``) that its ``eyes.csv`` names, each with its one face.

    Landmarks: pupils, canthi and lids, marked by hand, at their numbers in WFLW's 98; the others are unknown (NaN). Further
    columns: iris_diameter_right and iris_diameter_left, pixels. The box is **not** labelled: it is where an average face has
    its own around these eyes. Raises FileNotFoundError without ``eyes.csv``, and what :class:`FaceDataset` raises."""
    root = Path(root or PHOTOS)
    if not (root / "eyes.csv").is_file():
        raise FileNotFoundError(f"no eyes.csv in {root}: the open photographs lie in data/photos/ of the project's repository")
    marks = pd.read_csv(root / "eyes.csv")
    points = np.full((len(marks), WFLW_98.count, 2), np.nan)
    for side, eye in (("right", WFLW_98.right_eye), ("left", WFLW_98.left_eye)):
        across = (1, 2, 3) if side == "right" else (3, 2, 1)  # from the outer canthus on; the file goes from left to right
        names = ["pupil", "outer", "inner", *(f"{lid}{number}" for lid in ("upper", "lower") for number in across)]
        for name, index in zip(names, [eye.pupil, eye.outer, eye.inner, *eye.upper, *eye.lower], strict=True):
            points[:, index] = marks[[f"{side}_{name}_x", f"{side}_{name}_y"]]
    right, left = (points[:, index] for index in WFLW_98.inter_ocular)
    distance = np.linalg.norm(left - right, axis=1, keepdims=True)
    table = pd.DataFrame(np.tile((right + left) / 2, 2) + distance * _BOX, columns=BOX)
    table.insert(0, "image", marks["photo"])
    table["landmarks"] = list(points)
    table[["iris_diameter_right", "iris_diameter_left"]] = marks[["right_iris_diameter", "left_iris_diameter"]]
    return FaceDataset(table, root, WFLW_98)
