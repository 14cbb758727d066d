"""WIDER FACE (Yang et al., CVPR 2016): the official box lists, and the five landmarks that RetinaFace added to them.

What happens to bad rows: a line that is not what its place in the file asks for stops the reading with file and line; a box
of no area (the official lists have some) is set aside and counted in ``table.attrs["set_aside"]``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from retinalib.datasets.table import BOX, FaceDataset, safe_relative, usable
from retinalib.landmarks import WIDER_5

HOME = "http://shuoyang1213.me/WIDERFACE/"


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}: WIDER FACE is to be had from {HOME}; see data/README.md")
    return path.read_text(encoding="utf-8-sig").splitlines()


def _numbers(path: Path, line: int, text: str, counts: tuple[int, ...]) -> np.ndarray:
    columns = text.split()
    if len(columns) not in counts:
        raise ValueError(f"{path}, line {line}: {len(columns)} numbers, where {' or '.join(map(str, counts))} belong")
    try:
        return np.array(columns, float)
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from error


def _table(rows: list[tuple[str, int, np.ndarray, np.ndarray]], path: Path) -> pd.DataFrame:
    """Rows of (image, line, x y w h, (5, 2) landmarks)."""
    table = pd.DataFrame({"image": [r[0] for r in rows], "line": [r[1] for r in rows]})
    corners = np.array([r[2] for r in rows], float).reshape(-1, 4)
    table[BOX] = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    table["landmarks"] = [r[3] for r in rows]
    return usable(table, str(path))


def read_boxes(path: str | Path) -> pd.DataFrame:
    """An official ``wider_face_*_bbx_gt.txt`` as a table, a row a face.

    The file names a photo, then the number of its faces, then a face a line: x y w h in pixels, and in the full lists six more
    numbers, which are not kept. A photo of no faces has one line of zeros. Columns: image, line (from 1), x1 y1 x2 y2,
    landmarks (unknown: (5, 2) NaN). Raises FileNotFoundError, or ValueError naming file and line.
    """
    path = Path(path)
    lines = _lines(path)
    rows, unknown, at = [], np.full((WIDER_5.count, 2), np.nan, np.float32), 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        try:
            image = safe_relative(lines[at].strip())
        except ValueError as error:
            raise ValueError(f"{path}, line {at + 1}: {error}") from error
        count = lines[at + 1].strip() if at + 1 < len(lines) else ""
        if not count.isdigit():
            raise ValueError(f"{path}, line {at + 2}: the number of faces of {image} belongs here, not '{count[:40]}'")
        faces = max(int(count), 1)  # a photo of none still has a line of zeros
        if int(count) == 0 and (at + 2 >= len(lines) or set(lines[at + 2].split()) != {"0"}):
            faces = 0
        if at + 2 + faces > len(lines):
            raise ValueError(f"{path}, line {at + 2}: {faces} faces of {image} announced, but the file ends before")
        for line in range(at + 2, at + 2 + int(count)):
            rows.append((image, line + 1, _numbers(path, line + 1, lines[line], (4, 10))[:4], unknown))
        at += 2 + faces
    return _table(rows, path)


def read_labels(path: str | Path) -> pd.DataFrame:
    """RetinaFace's ``label.txt`` as a table, a row a face, with five landmarks.

    The file names a photo as ``# path``, then a face a line: x y w h, in training lists followed by x y and a number for each
    of five points and a blur score. A point with a negative coordinate is unknown (NaN). Columns as of :func:`read_boxes`.
    Raises FileNotFoundError, or ValueError naming file and line.
    """
    path = Path(path)
    rows, image = [], None
    for line, text in enumerate(_lines(path), 1):
        if not text.strip():
            continue
        if text.startswith("#"):
            try:
                image = safe_relative(text[1:].strip())
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from error
            continue
        if image is None:
            raise ValueError(f"{path}, line {line}: a face before any photo was named ('# path')")
        values = _numbers(path, line, text, (4, 4 + 3 * WIDER_5.count, 5 + 3 * WIDER_5.count))
        points = np.full((WIDER_5.count, 2), np.nan, np.float32)
        if len(values) > 4:
            points = values[4 : 4 + 3 * WIDER_5.count].reshape(-1, 3)[:, :2].astype(np.float32)
            points[(points < 0).any(1)] = np.nan
        rows.append((image, line, values[:4], points))
    return _table(rows, path)


def load(annotations: str | Path, images_root: str | Path) -> FaceDataset:
    """The photos of a box list (``*_bbx_gt.txt``) or of a ``label.txt`` with five landmarks; every face is labelled."""
    reader = read_labels if Path(annotations).name == "label.txt" else read_boxes
    return FaceDataset(reader(annotations), images_root, WIDER_5)
