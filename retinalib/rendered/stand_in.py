"""A data set of full size for tests of scale: the official archives and lists, with rendered faces and byte copies of them."""

import json
import re
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pandas as pd

from retinalib.datasets import wflw, wider
from retinalib.datasets.archives import ARCHIVES, EXPECTED, STAND_IN
from retinalib.datasets.table import BOX
from retinalib.files import only_process, replacing, write_text
from retinalib.rendered.dataset import make as render

_PHOTOS = {"wflw": {"train": 5700, "test": 1900}, "wider": {"train": 12880, "val": 3226}}  # WFLW's: about
_SIZE = {"wflw": 1024, "wider": 320}
_DRAWN = 200  # pictures at most


def make(
    root: str | Path, dataset: str = "wflw", photos: int | None = None, size: int | None = None, workers: int | None = None
) -> Path:
    """Writes the archives of "wflw" or "wider" into ``root``, and WIDER FACE's box lists beside WFLW's; returns ``root``.

    photos: in all, by default as many as the data set has; size: pixels a side, by default 1,024, of WIDER FACE 320. Some are
    drawn, the others are copies under other names. WFLW's lists have 10,000 faces in 7,600 photos or in proportion, the box
    lists all. ``archives.STAND_IN`` says that this is no official data. Interrupted, it goes on. Raises ValueError if ``root``
    holds other archives, or a stand-in made otherwise."""
    root, full = Path(root), sum(_PHOTOS[dataset].values())
    marker, share = root / STAND_IN, (photos or full) / full
    about = {"dataset": dataset, "share": share, "size": size or _SIZE[dataset]}
    with only_process(root, wait=True):
        ours = json.loads(marker.read_text())["about"] == about if marker.is_file() else None
        if ours is False or (ours is None and any((root / name).exists() for name in ARCHIVES[dataset])):
            raise ValueError(f"{root} holds other archives, or a stand-in made otherwise: take an empty folder")
        source = render(root / "rendered", min(round(share * full), _DRAWN), size=about["size"], workers=workers)
        tables, first = {}, 0
        for split, count in _PHOTOS[dataset].items():
            tables[split] = _copies(source, split, first, round(share * count))
            first += count
        labelled = tables
        if dataset == "wflw":
            labelled = {split: _spread(table, round(share * EXPECTED["wflw"][split])) for split, table in tables.items()}
        faces = {split: len(table) for split, table in labelled.items()}
        write_text(marker, json.dumps({"about": about, "faces": faces}))  # first: what follows is ours
        with tempfile.TemporaryDirectory() as lists:
            for name, members in _members(root, Path(lists), dataset, source, tables, labelled).items():
                _pack(root / name, members)
    return root


def _copies(source: Path, split: str, first: int, photos: int) -> pd.DataFrame:
    """The faces of ``photos`` copies of a split's pictures; column copy: the photo's new name, numbered from ``first`` on."""
    faces = wflw.read_annotations(source / wflw.LISTS.format(split="train" if split == "train" else "test"))
    names = faces["image"].unique()
    images = [names[number % len(names)] for number in range(photos)]
    copies = [re.sub(r"\d+(?=\.jpg$)", f"{first + number:06d}", name) for number, name in enumerate(images)]
    return pd.DataFrame({"image": images, "copy": copies}).merge(faces, on="image")


def _spread(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most ``count`` faces: first one of each photo, then second ones, as WFLW labels some of a photo's faces."""
    turn = table.groupby("copy").cumcount()
    return table.loc[turn.sort_values(kind="stable").index[:count]].sort_index()


def _members(
    root: Path, lists: Path, dataset: str, source: Path, tables: dict[str, pd.DataFrame], labelled: dict[str, pd.DataFrame]
) -> dict[str, list[tuple[str, Path]]]:
    """What goes into each archive: (name, file); writes the lists, those of boxes beside WFLW's archives into ``root``."""
    members: dict[str, list[tuple[str, Path]]] = {name: [] for name in ARCHIVES[dataset]}
    for split, table in tables.items():
        boxes = wider.BOXES.format(split="val" if split == "test" else split)
        if dataset == "wflw":
            archive, images, place = "WFLW_images.tar.gz", wflw.IMAGES, wflw.LISTS.format(split=split)
            write_text(root / Path(boxes).name, _box_list(table))
            wflw.write_annotations(labelled[split].assign(image=labelled[split]["copy"]), lists / place)
            members["WFLW_annotations.tar.gz"].append((place, lists / place))
        else:
            archive, images = f"WIDER_{split}.zip", wider.IMAGES.format(split=split)
            write_text(lists / boxes, _box_list(table))
            members["wider_face_split.zip"].append((boxes, lists / boxes))
        photos = table[["copy", "image"]].drop_duplicates().itertuples(index=False)
        members[archive] += [(f"{images}/{copy}", source / wflw.IMAGES / image) for copy, image in photos]
    return members


def _box_list(table: pd.DataFrame) -> str:
    lines = []
    for name, faces in table.groupby("copy", sort=False):
        corners = faces[BOX].round().astype(int).to_numpy()
        lines += [name, len(corners), *(f"{x} {y} {right - x} {low - y} 0 0 0 0 0 0" for x, y, right, low in corners)]
    return "".join(f"{line}\n" for line in lines)


def _pack(archive: Path, members: list[tuple[str, Path]]) -> None:
    if archive.exists():
        return
    with replacing(archive) as temporary:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(temporary, "w") as packed:
                for name, path in members:
                    packed.write(path, name)
        else:
            with tarfile.open(temporary, "w:gz", compresslevel=1, dereference=True) as packed:
                for name, path in members:
                    packed.add(path, name)
