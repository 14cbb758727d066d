"""WIDER FACE (Yang et al., CVPR 2016): the official box lists, and the five landmarks that RetinaFace added to them.

A line that is not what its place in the file asks for stops the reading with file and line; for all else that is bad, see
:class:`retinalib.datasets.table.FaceDataset`. A photo that has no face at all is kept: every detection on it is a mistake."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from retinalib.datasets.table import BOX, FaceDataset, numbers, read_lines, safe_relative, usable, warn
from retinalib.landmarks import WIDER_5

HOME = "http://shuoyang1213.me/WIDERFACE/"
LABELS_HOME = "https://github.com/deepinsight/insightface/tree/master/detection/retinaface"
BOXES = "wider_face_split/wider_face_{split}_bbx_gt.txt"
LABELS = "retinaface_gt_v1.1/{split}/label.txt"
IMAGES = "WIDER_{split}/images"


def _numbers(text: str, counts: tuple[int, ...]) -> np.ndarray:
    columns = text.split()
    if len(columns) not in counts:
        raise ValueError(f"{len(columns)} numbers, where {' or '.join(map(str, counts))} belong")
    return numbers(columns)


def _table(
    rows: list[tuple[str, int, np.ndarray, np.ndarray]], photos: dict[str, int], path: Path, below: Path | None = None
) -> pd.DataFrame:
    """rows: (image, line, x y w h, (5, 2) landmarks) each; photos: the lines that name them."""
    if not photos:
        raise ValueError(f"{path} lists no photos")
    if below is not None:
        photos = {name: line for name, line in photos.items() if os.path.isfile(below / name)}
        rows = [row for row in rows if row[0] in photos]
    table = pd.DataFrame({"image": [r[0] for r in rows], "line": [r[1] for r in rows]})
    corners = np.array([r[2] for r in rows], float).reshape(-1, 4)
    with np.errstate(over="ignore"):  # usable sees it
        table[BOX] = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    table["landmarks"] = [r[3] for r in rows]
    peopled = set(table["image"])
    table = usable(table, WIDER_5)
    table.attrs |= {"source": str(path), "remedy": f"get WIDER_train.zip and WIDER_val.zip from {HOME}"}
    table.attrs["no_faces"] = [(line, name) for name, line in photos.items() if name not in peopled]
    table.attrs["photos"] = list(photos)
    return table


def read_boxes(path: str | Path, below: Path | None = None) -> pd.DataFrame:
    """An official ``wider_face_*_bbx_gt.txt`` as a table, a row per face.

    The file names a photo, then the number of its faces, then a face a line: x y w h in pixels, and perhaps six more numbers. A
    photo of no faces has one line of zeros; ``table.attrs["no_faces"]`` lists such photos as (line, image),
    ``table.attrs["photos"]`` all in order. Columns: image, line (from 1), x1 y1 x2 y2 (pixels), landmarks (unknown: (5, 2)
    NaN). below: keep to the photos that lie in this folder. Raises FileNotFoundError, or ValueError naming file and line."""
    path = Path(path)
    every = read_lines(path, f"WIDER FACE is to be had from {HOME}")
    lines = [(line, text.strip()) for line, text in enumerate(every, 1) if text.strip()]
    rows, photos, unknown, at = [], {}, np.full((WIDER_5.count, 2), np.nan), 0
    try:
        while at < len(lines):
            line, text = lines[at]
            image = safe_relative(text)
            photos.setdefault(image, line)
            line, count = lines[at + 1] if at + 1 < len(lines) else (line + 1, "")
            if not (count.isascii() and count.isdigit() and len(count) < 10):
                hint = "; it looks like RetinaFace's label.txt, which read_labels reads" if text.startswith("#") else ""
                raise ValueError(f"the number of faces of {image[:80]} belongs here, not '{count[:40]}'{hint}")
            faces = max(int(count), 1)  # of none: zeros
            if int(count) == 0 and (at + 2 >= len(lines) or set(lines[at + 2][1].split()) != {"0"}):
                faces = 0
            if at + 2 + faces > len(lines):
                raise ValueError(f"{faces} faces of {image} announced, but the file ends before")
            for line, text in lines[at + 2 : at + 2 + int(count)]:
                rows.append((image, line, _numbers(text, (4, 10))[:4], unknown))
            at += 2 + faces
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from error
    return _table(rows, photos, path, below)


def box_lists(folder: str | Path) -> list[Path]:
    return sorted(Path(folder).glob("wider_face_*_bbx_gt.txt"))


def read_labels(path: str | Path) -> pd.DataFrame:
    """RetinaFace's ``label.txt`` as a table, a row per face, with five landmarks.

    The file names a photo as ``# path``, then a face a line: x y w h, and perhaps x y and a number for each of five points
    (with a negative coordinate: unknown) and a blur score. Columns, attrs and errors as of :func:`read_boxes`."""
    path = Path(path)
    lines = read_lines(path, f"RetinaFace's labels are to be had from {LABELS_HOME}")
    rows, photos, image = [], {}, None
    try:
        for line, text in enumerate(lines, 1):
            if text.lstrip().startswith("#"):
                image = safe_relative(text.strip()[1:].strip())
                photos.setdefault(image, line)
            elif text.strip():
                if image is None:
                    raise ValueError("a photo ('# path') belongs here first; or is it a box list for read_boxes?")
                values = _numbers(text, (4, 4 + 3 * WIDER_5.count, 5 + 3 * WIDER_5.count))
                points = np.full((WIDER_5.count, 2), np.nan)
                if len(values) > 4:
                    points = values[4 : 4 + 3 * WIDER_5.count].reshape(-1, 3)[:, :2].copy()
                    points[(points < 0).any(1)] = np.nan
                rows.append((image, line, values[:4], points))
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from error
    return _table(rows, photos, path)


def load(annotations: str | Path, images_root: str | Path) -> FaceDataset:
    """The photos of a box list or of a ``label.txt`` with five landmarks, told by what is in it, in its order, photos without
    faces among them: a complete data set. Raises what its reader and :class:`FaceDataset` raise."""
    lines = read_lines(Path(annotations), f"WIDER FACE is to be had from {HOME}, five landmarks from {LABELS_HOME}")
    table = (read_labels if any(line.lstrip().startswith("#") for line in lines) else read_boxes)(annotations)
    lines = [*zip(table["line"], table["image"], strict=True), *table.attrs["no_faces"]]
    return FaceDataset(table, images_root, WIDER_5, names=[name for _, name in sorted(lines)])


def load_split(root: str | Path, split: str) -> FaceDataset:
    """The "train" photos below ``root``, or as "test" the official validation's, in the official layout.

    Annotations are RetinaFace's ``label.txt``, else the official box list, with a warning for "train", since no landmarks are
    learned then. Raises FileNotFoundError saying where to get what is missing, and what :func:`load` raises."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got '{split}'")
    root, folder = Path(root), {"train": "train", "test": "val"}[split]
    labels, boxes = root / LABELS.format(split=folder), root / BOXES.format(split=folder)
    if labels.is_file():
        return load(labels, root / IMAGES.format(split=folder))
    if not boxes.is_file():
        said = f"neither {labels} (from {LABELS_HOME}) nor {boxes} (wider_face_split.zip from {HOME}) is there"
        raise FileNotFoundError(f"{said}: data/README.md says where they belong")
    if split == "train":
        warn(f"{labels} is missing: boxes only, no landmarks are trained; see data/README.md")
    return load(boxes, root / IMAGES.format(split=folder))
