"""Photos that are named one by one or by their folders, and names for the pictures made of them."""

from collections.abc import Sequence
from pathlib import Path

from retinalib.datasets.table import PHOTO_SUFFIXES

PICTURE = ".faces.png"  # ends their names


def find_photos(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the photos below the folders named, each once. Raises ValueError for a folder without any."""
    found: list[Path] = []
    for path in paths:
        files = path.rglob("*") if path.is_dir() else ()
        photos = [p for p in files if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file() and not p.name.endswith(PICTURE)]
        if path.is_dir() and not photos:
            raise ValueError(f"there is no photo in {path}")
        found += sorted(photos) if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def picture_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A file name for the picture of each photo; of several with one name, the later ones get a number."""
    names, taken = {}, set()
    for path in paths:
        name, number = path.stem + PICTURE, 1
        while name.casefold() in taken:  # some file systems take A.png for a.png
            number += 1
            name = f"{path.stem}-{number}{PICTURE}"
        taken.add(name.casefold())
        names[path] = name
    return names
