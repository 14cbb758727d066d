"""The official archives: downloaded by hand, since their licences ask for it; extracted safely, counted, and plainly missed."""

import gzip
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from retinalib.datasets import wflw, wider
from retinalib.files import only_process

ARCHIVES = {
    "wflw": {"WFLW_images.tar.gz": wflw.IMAGES, "WFLW_annotations.tar.gz": "WFLW_annotations"},
    "wider": {f"{name}.zip": name for name in ("WIDER_train", "WIDER_val", "wider_face_split")},
}
"""The official files, and the folder that is there once each is extracted."""

EXPECTED = {"wflw": {"train": 7500, "test": 2500}, "wider": {"train": 159_424, "val": 39_708}}
"""Faces in the official lists."""

STAND_IN = "stand-in.json"
"""The file that says of a folder that rendered faces stand in for the data set, and how many its lists have."""


def extract(archive: str | Path, folder: str | Path) -> None:
    """Extracts a ``.zip`` or ``.tar.gz`` into ``folder``, all or nothing; nothing lands outside of it, which tarfile's filter
    "data" and zipfile see to. Raises ValueError, naming the archive, for one that is damaged or wants out."""
    archive, folder = Path(archive), Path(folder)
    with only_process(folder, wait=True):
        for left in folder.glob(".extracting-*"):
            shutil.rmtree(left)
        try:
            with tempfile.TemporaryDirectory(prefix=".extracting-", dir=folder, ignore_cleanup_errors=True) as temporary:
                (_unzip if archive.suffix == ".zip" else _untar)(archive, temporary)
                for part in Path(temporary).iterdir():
                    if part.name != "__MACOSX":  # a Mac packed it
                        os.replace(part, folder / part.name)
        except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
            said = " ".join(str(error).split())  # RuntimeError: encrypted, or packed in a way that zipfile does not know
            raise ValueError(f"{archive} is damaged or can't be unpacked ({said}): download it again") from error


def _unzip(archive: Path, folder: str) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in tqdm(file.infolist(), desc=archive.name):
            file.extract(member, folder)


def _untar(archive: Path, folder: str) -> None:
    with tarfile.open(archive) as file:
        for member in tqdm(file.getmembers(), desc=archive.name):
            file.extract(member, folder, filter="data")
        while file.fileobj.read(1 << 20):  # to its end, where the checksum stands: tarfile alone doesn't compare it
            pass


def prepare(dataset: str, root: str | Path) -> dict[str, int]:
    """Extracts the archives of "wflw" or "wider" that lie in ``root``, where that was not done before, and counts the faces of
    each list. Raises FileNotFoundError for missing archives, ValueError for another number of faces than the official one, or
    than a stand-in's own."""
    root, missing = Path(root), []
    for name, gives in ARCHIVES[dataset].items():
        if not (root / gives).exists() and (root / name).is_file():
            extract(root / name, root)
        if not (root / gives).exists():
            missing.append(name)
    if missing:
        names, home = " and ".join(missing), wflw.HOME if dataset == "wflw" else wider.HOME
        raise FileNotFoundError(f"{names} missing in {root}: download from {home} and put there; see data/README.md")
    read, lists = (wflw.read_annotations, wflw.LISTS) if dataset == "wflw" else (wider.read_boxes, wider.BOXES)
    expected, marker = EXPECTED[dataset], root / STAND_IN
    if marker.is_file():
        expected = json.loads(marker.read_text())["faces"]
    tables = {split: read(root / lists.format(split=split)) for split in expected}
    counts = {s: len(table) + len(table.attrs["set_aside"]) for s, table in tables.items()}
    wrong = [f"{s}: {n:,} instead of {expected[s]:,}" for s, n in counts.items() if n != expected[s]]
    if wrong:
        raise ValueError(f"the lists in {root} are not the official ones ({'; '.join(wrong)} faces): extract them again")
    return counts
