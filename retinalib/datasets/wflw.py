"""WFLW (Wu et al., "Look at Boundary", CVPR 2018): 98 landmarks, six attributes, 7,500 training and 2,500 test faces.

A line with another number of columns than 207, with letters where numbers belong, or with an attribute other than 0 and 1 stops
the reading with file and line, since such a file is damaged; for all else that is bad, see ``table.FaceDataset``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from retinalib.datasets import wider
from retinalib.datasets.table import ATTRIBUTES, BOX, FaceDataset, numbers, read_lines, safe_relative, set_aside, usable, warn
from retinalib.faces import box_iou
from retinalib.files import write_text
from retinalib.landmarks import WFLW_98

_COUNT = WFLW_98.count
_COLUMNS = 2 * _COUNT + len(BOX) + len(ATTRIBUTES) + 1
LISTS = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{split}.txt"
IMAGES = "WFLW_images"
HOME = "https://wywu.github.io/projects/LAB/WFLW.html"


def read_annotations(path: str | Path) -> pd.DataFrame:
    """An official list of 207 columns as a table, a row per face: image, line (from 1), x1 y1 x2 y2 (pixels), the six
    attributes (bool), landmarks ((98, 2) float32 each, pixels). Rows are set aside as :func:`retinalib.datasets.table.usable`
    says. Raises FileNotFoundError, or ValueError naming file and line."""
    return usable(_parse(Path(path)), WFLW_98)


def _parse(path: Path) -> pd.DataFrame:
    values, images, where = [], [], []
    for line, text in enumerate(read_lines(path, f"WFLW is to be had from {HOME}"), 1):
        columns = text.split(maxsplit=_COLUMNS - 1)  # a name may hold blanks
        if not columns:
            continue
        if len(columns) != _COLUMNS or pd.notna(pd.to_numeric(columns[-1].split()[0], errors="coerce")):
            rule = "the last is the photo's name, whose first word is no number"  # else a line too long would pass for one
            raise ValueError(f"{path}, line {line}: {len(text.split())} columns, where WFLW has {_COLUMNS}; {rule}")
        try:
            values.append(numbers(columns[:-1]))
            images.append(safe_relative(columns[-1].strip()))
            if not set(values[-1][-len(ATTRIBUTES) :]) <= {0, 1}:
                raise ValueError(f"the six attributes must be 0 or 1, not {' '.join(columns[-1 - len(ATTRIBUTES) : -1])}")
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
        where.append(line)
    if not values:
        raise ValueError(f"{path} lists no faces")
    values = np.stack(values)
    table = pd.DataFrame({"image": images, "line": where})
    table[BOX] = values[:, 2 * _COUNT : 2 * _COUNT + 4]
    table[list(ATTRIBUTES)] = values[:, 2 * _COUNT + 4 :] != 0
    table["landmarks"] = list(values[:, : 2 * _COUNT].reshape(-1, _COUNT, 2))
    table.attrs |= {"source": str(path), "remedy": f"get WFLW_images.tar.gz from {HOME}"}
    return table


def write_annotations(table: pd.DataFrame, path: str | Path) -> None:
    """Writes a table in the official layout: landmarks with six decimals, boxes as whole pixels, unknown attributes as 0.
    Raises ValueError for a photo whose name begins with a number, or leads elsewhere."""
    lines = []
    for row in table.itertuples():
        if safe_relative(row.image) != row.image or pd.notna(pd.to_numeric(row.image.split()[0], errors="coerce")):
            raise ValueError(f"the photo '{row.image}' can't be in such a list: its name's first word must not be a number")
        points = " ".join(f"{v:.6f}" for v in np.asarray(row.landmarks).ravel())
        box = " ".join(str(round(getattr(row, name))) for name in BOX)
        flags = " ".join(str(int(getattr(row, name, 0) == 1)) for name in ATTRIBUTES)
        lines.append(f"{points} {box} {flags} {row.image}\n")
    write_text(path, "".join(lines))


def load(root: str | Path, split: str, wider_boxes: str | Path | Sequence[str | Path] | None = None) -> FaceDataset:
    """The "train" or "test" photos below ``root``, in the official layout.

    Training photos that the test list also names are set aside. wider_boxes: the official WIDER FACE box lists with the same
    photos; every box is then a face, those that WFLW labels with their landmarks (and WIDER's box), and the data set is
    complete if the lists know all its photos. Without them it is not: WFLW labels only some faces of a photo. Raises
    FileNotFoundError saying what is missing, and ValueError if no face is left."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got '{split}'")
    root = Path(root)
    table, test_list = read_annotations(root / LISTS.format(split=split)), root / LISTS.format(split="test")
    if split == "train" and test_list.is_file():
        table = set_aside(table, table["image"].isin(_parse(test_list)["image"]), "its photo is in the test list")
    if wider_boxes is None:
        return FaceDataset(table, root / IMAGES, WFLW_98, complete=False)
    read = [wider.read_boxes(path) for path in ([wider_boxes] if isinstance(wider_boxes, (str, Path)) else wider_boxes)]
    boxes = pd.concat(read, ignore_index=True).drop_duplicates(["image", *BOX], ignore_index=True)
    dataset = FaceDataset(join_wider(table, boxes), root / IMAGES, WFLW_98)
    if unknown := set(dataset.names) - {name for part in read for name in part.attrs["photos"]}:
        dataset.complete = False
        warn(
            f"{len(unknown)} of {len(dataset)} photos are not in the WIDER FACE lists (the first: {min(unknown)}): the data "
            "set counts as labelled in part"
        )
    return dataset


def join_wider(table: pd.DataFrame, boxes: pd.DataFrame, iou: float = 0.3) -> pd.DataFrame:
    """WFLW's faces with WIDER FACE's boxes, and WIDER's other faces of the same photos with NaN landmarks and False attributes.
    Within a photo, faces and boxes are paired one to one so that the sum of IoU is largest; a pair under ``iou`` is none."""
    table, added = table.copy(), [np.zeros(0, int)]
    by_image = boxes.groupby("image").indices
    corners, theirs = table[BOX].to_numpy(float, copy=True), boxes[BOX].to_numpy(float)
    for image, rows in table.groupby("image", sort=False).indices.items():
        there = by_image.get(image, added[0])
        overlap = box_iou(corners[rows], theirs[there])
        pairs = [(a, b) for a, b in zip(*linear_sum_assignment(-overlap), strict=True) if overlap[a, b] >= iou]
        for a, b in pairs:
            corners[rows[a]] = theirs[there[b]]
        added.append(np.delete(there, [b for _, b in pairs]))
    table[BOX] = corners
    rest = boxes.iloc[np.concatenate(added)].reset_index(drop=True)
    if len(rest):
        rest = rest[["image", "line", *BOX]].assign(**dict.fromkeys(ATTRIBUTES, False))
        rest["landmarks"] = [np.full((_COUNT, 2), np.nan, np.float32)] * len(rest)
        table, attrs = pd.concat([table, rest], ignore_index=True), table.attrs
        table.attrs = attrs
    return table
