"""What a data set is made of: a row of numbers for each face, and what looks odd about it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist, squareform
from tqdm import tqdm

from retinalib.datasets import wflw, wider
from retinalib.datasets.table import ATTRIBUTES, BOX, FaceDataset, read_header, read_image

_SAME_POINT = 0.01  # pixels between two landmarks
_SAME_FACE = 0.05  # mean distance of the landmarks, in box sizes: closer than that, one face is labelled twice


def faults(table: pd.DataFrame, images_root: Path) -> list[str]:
    """What is wrong with the table of a list and with its photos, which are decoded: sentences that begin with the line."""
    found = [*table.attrs["set_aside"], *table.attrs["repaired"]]
    bare = {name: (np.array([line]), np.zeros((0, 4))) for line, name in table.attrs.get("no_faces", [])}
    faces = {name: (rows["line"].to_numpy(), rows[BOX].to_numpy(float)) for name, rows in table.groupby("image", sort=False)}
    for name, (lines, boxes) in tqdm({**bare, **faces}.items(), desc="checking", unit="photo", disable=None):
        try:
            height, width = read_image(images_root / name).shape[:2]
            middle = (boxes[:, :2] + boxes[:, 2:]) / 2
            outside = ((middle < 0) | (middle > [width, height])).any(1)
            said = f"the box lies outside {name}, {width} × {height} pixels"
            found += [(line, said) for line in lines[: len(boxes)][outside]]
            if read_header(images_root / name, name).turned:
                found.append((lines[0], f"viewers turn {name} (EXIF): boxes are taken to be of the pixels as they are stored"))
        except (OSError, ValueError) as error:
            found.append((lines[0], str(error)))
    return [f"line {line}: {reason}" for line, reason in sorted((int(line), reason) for line, reason in found)]


def describe_faces(dataset: FaceDataset) -> pd.DataFrame:
    """A row for each face, in the order of ``dataset.table``.

    Columns: photo and face (numbers in the data set and in the photo), faces (in that photo), width, height and size of the box
    (pixels; size: square root of the area), share (square root of box by photo), labelled (bool), outside_photo, outside_box
    and repeated (numbers of landmarks outside the photo, the box, or on another one), twin (bool, labelled twice)."""
    rows = []
    for photo, ((height, width), where) in enumerate(zip(dataset.sizes, dataset.rows, strict=True)):
        faces = dataset.faces(photo)
        points, boxes = faces.landmarks.astype(float), faces.boxes.astype(float)
        known = np.isfinite(points).all(-1)
        inside = (points >= 0).all(-1) & (points <= [width, height]).all(-1)
        boxed = (points >= boxes[:, None, :2] - 1).all(-1) & (points <= boxes[:, None, 2:] + 1).all(-1)
        extent = boxes[:, 2:] - boxes[:, :2]
        table = pd.DataFrame(
            {
                "photo": photo,
                "face": np.arange(len(faces)),
                "faces": len(faces),
                "width": extent[:, 0],
                "height": extent[:, 1],
                "size": faces.size.astype(float),
                "share": faces.size / np.sqrt(height * width),
                "labelled": known.any(1),
                "outside_photo": (known & ~inside).sum(1),
                "outside_box": (known & ~boxed).sum(1),
                "repeated": [squareform(pdist(p[k]) < _SAME_POINT).any(1).sum() for p, k in zip(points, known, strict=True)],
                "twin": _twins(points, faces.size),
            },
            index=where,
        )
        rows.append(table)
    return pd.concat([t for t in rows if len(t)] or rows).sort_index()


def _twins(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(F,) bool: faces that have the landmarks of another one; (F, L, 2) landmarks, (F,) sizes in pixels."""
    twin = np.zeros(len(points), bool)
    for face, own in enumerate(points):  # one by one: thousands of faces with all others at once fill the memory
        distance = np.linalg.norm(points - own, axis=-1)
        mean = np.ma.masked_invalid(distance).mean(-1).filled(np.inf)
        near = mean < _SAME_FACE * np.minimum(size[face], size)
        near[face] = False
        twin[face] = near.any()
    return twin


def official_lists(root: Path) -> list[tuple[Path, Callable[[Path], pd.DataFrame], Path]]:
    """The lists below ``root`` in WFLW's or WIDER FACE's layout, or WFLW's first: file, reader, folder of its photos."""
    photos = root / wflw.IMAGES
    known = [(root / wflw.LISTS.format(split=s), wflw.read_annotations, photos) for s in ("train", "test")]
    for split in ("train", "val"):
        images = root / wider.IMAGES.format(split=split)
        known.append((root / wider.BOXES.format(split=split), wider.read_boxes, images))
        known.append((root / wider.LABELS.format(split=split), wider.read_labels, images))
    there = [entry for entry in known if entry[0].is_file()]
    if any(images == photos for _, _, images in there):  # further photos of WIDER FACE's lists are no fault
        there += [(path, partial(wider.read_boxes, below=photos), photos) for path in wider.box_lists(root)]
    return there or known[:1]


def load_listed(root: Path, split: str) -> FaceDataset:
    """The "train" or "test" photos below ``root``, in the layout of the lists that are there."""
    load = wflw.load if official_lists(root)[0][1] is wflw.read_annotations else wider.load_split
    return load(root, split)


def description(dataset: FaceDataset) -> pd.Series:
    """A data set in some numbers, name -> text."""
    table = describe_faces(dataset)
    small, middle, large = table["size"].quantile([0.05, 0.5, 0.95])
    rows = {
        "photos": f"{len(dataset):,}",
        "faces": f"{len(table):,}",
        "most faces in a photo": f"{table['faces'].max()}",
        "face size (px), 5 %, median, 95 %": f"{small:.0f}, {middle:.0f}, {large:.0f}",
    }
    flags = {name.replace("_", "-"): dataset.table[name].astype(bool) for name in ATTRIBUTES if name in dataset.table}
    odd = {
        "with landmarks outside the photo": table["outside_photo"] > 0,
        "with landmarks outside the box": table["outside_box"] > 0,
        "with landmarks on another one": table["repeated"] > 0,
        "labelled twice": table["twin"],
    }
    return pd.Series(rows | {name: f"{flag.sum():,} ({flag.mean():.1%})" for name, flag in {**flags, **odd}.items()})
