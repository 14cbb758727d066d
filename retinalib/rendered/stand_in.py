"""A data set of full size for tests of scale: the official archives and lists, with rendered faces and byte copies of them."""

import json
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from retinalib.datasets import wflw, wider
from retinalib.datasets.archives import ARCHIVES, EXPECTED, STAND_IN
from retinalib.datasets.table import BOX
from retinalib.files import only_process, replacing, write_text
from retinalib.rendered.dataset import make as render

SIZES = {"wflw": {"train": 5700, "test": 1900}, "wider": {"train": 12880, "val": 3226}}
"""Photos of the lists at full size; WFLW's split of its 7,600 is about this."""


def make(
    root: str | Path,
    dataset: str = "wflw",
    photos: int | None = None,
    size: int | None = None,
    rendered: int = 200,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Writes the archives of "wflw" or "wider" into ``root``, and WIDER FACE's box lists beside WFLW's; returns ``root``.

    photos: in all, by default as many as there are; size: pixels a side, by default 1,024 (WFLW) or 320 (WIDER FACE); rendered:
    pictures that are drawn, of which the photos are copies under other names, training and test photos of pictures of their own.
    WFLW's lists have 10,000 faces in 7,600 photos or in proportion, the box lists every face. A file with the numbers of faces
    says that this is a stand-in, see :func:`retinalib.datasets.archives.prepare`. Interrupted, it goes on. Raises ValueError if
    ``root`` holds other archives or another stand-in."""
    root, full = Path(root), sum(SIZES[dataset].values())
    photos = full if photos is None else photos
    size = size or {"wflw": 1024, "wider": 320}[dataset]
    about = {"dataset": dataset, "photos": photos, "size": size, "rendered": min(rendered, photos), "seed": seed}
    with only_process(root, wait=True):
        marker = root / STAND_IN
        there = [name for name in ARCHIVES[dataset] if (root / name).exists()]
        if marker.is_file() and json.loads(marker.read_text())["about"] != about or there and not marker.is_file():
            raise ValueError(f"{root} holds other archives, or another stand-in: take an empty folder")
        source = render(root / "rendered", about["rendered"], seed, size, workers)
        tables, first = {}, 0
        for split, count in SIZES[dataset].items():
            tables[split] = _copies(source, "train" if split == "train" else "test", first, round(count * photos / full))
            first += tables[split]["copy"].nunique()
        labelled = tables
        if dataset == "wflw":
            labelled = {s: _spread(table, round(EXPECTED["wflw"][s] * photos / full)) for s, table in tables.items()}
        faces = {split: len(table) for split, table in labelled.items()}
        write_text(marker, json.dumps({"about": about, "faces": faces}, indent=1))  # first: what follows is ours
        _write(root, dataset, source, tables, labelled)
    return root


def _copies(source: Path, split: str, first: int, photos: int) -> pd.DataFrame:
    """The faces of ``photos`` copies of a split's pictures; column copy: the photo's new name, its numbers from ``first`` on."""
    faces = wflw.read_annotations(source / wflw.LISTS.format(split=split))
    names = faces["image"].unique()
    images = [names[number % len(names)] for number in range(photos)]
    copies = [re.sub(r"\d+(?=\.jpg$)", f"{first + number:06d}", name) for number, name in enumerate(images)]
    return pd.DataFrame({"image": images, "copy": copies}).merge(faces, on="image")


def _spread(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most ``count`` faces: first one of each photo, then second ones, as WFLW labels some of a photo's faces."""
    turn = table.groupby("copy").cumcount()
    return table.loc[turn.sort_values(kind="stable").index[:count]].sort_index()


def _write(
    root: Path, dataset: str, source: Path, tables: dict[str, pd.DataFrame], labelled: dict[str, pd.DataFrame]
) -> None:
    members: dict[str, list[tuple[str, Path]]] = {name: [] for name in ARCHIVES[dataset]}
    with tempfile.TemporaryDirectory() as temporary:
        for split, table in tables.items():
            boxes = wider.BOXES.format(split="val" if split == "test" else split)
            write_text(Path(temporary) / boxes, _box_list(table))
            archive, folder = "WFLW_images.tar.gz", wflw.IMAGES
            if dataset == "wflw":
                write_text(root / Path(boxes).name, _box_list(table))
                place = wflw.LISTS.format(split=split)
                wflw.write_annotations(labelled[split].assign(image=labelled[split]["copy"]), Path(temporary) / place)
                members["WFLW_annotations.tar.gz"].append((place, Path(temporary) / place))
            else:
                archive, folder = f"WIDER_{split}.zip", wider.IMAGES.format(split=split)
                members["wider_face_split.zip"].append((boxes, Path(temporary) / boxes))
            photos = table[["copy", "image"]].drop_duplicates().itertuples(index=False)
            members[archive] += [(f"{folder}/{copy}", source / wflw.IMAGES / image) for copy, image in photos]
        for name, files in members.items():
            _pack(root / name, files)


def _box_list(table: pd.DataFrame) -> str:
    lines = []
    for name, faces in table.groupby("copy", sort=False):
        corners = faces[BOX].round().astype(int).to_numpy()
        lines += [name, len(corners), *(f"{x} {y} {right - x} {low - y} 0 0 0 0 0 0" for x, y, right, low in corners)]
    return "".join(f"{line}\n" for line in lines)


def _pack(archive: Path, members: Iterable[tuple[str, Path]]) -> None:
    if archive.exists():
        return
    with replacing(archive) as temporary:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(temporary, "w") as file:
                for name, path in members:
                    file.write(path, name)
        else:
            with tarfile.open(temporary, "w:gz", compresslevel=1) as file:
                for name, path in members:
                    file.add(path, name)
