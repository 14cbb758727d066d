"""Tables of faces (a row a face) and what they become: images with their ``Faces``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pandas as pd

from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98, LandmarkSchema

ATTRIBUTES = ("pose", "expression", "illumination", "make_up", "occlusion", "blur")
"""WFLW's six attributes, boolean columns of its tables."""

BOX = ["x1", "y1", "x2", "y2"]
MISSING = "its photo is missing"
_MOST_PIXELS = 200_000_000  # a larger image is refused: its float copy alone would not fit in memory


def read_image(path: str | Path, honour_exif: bool = False) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, whatever it was: grey, palette, 16 bit, with alpha (which is dropped).

    honour_exif: turn the picture as its EXIF orientation says, as viewers do. Data sets are annotated in the stored pixels,
    so their readers leave it False. Raises FileNotFoundError, IsADirectoryError or ValueError, naming the file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not an image")
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    return decode_image(path.read_bytes(), str(path), honour_exif)


def decode_image(data: bytes, name: str, honour_exif: bool = False) -> np.ndarray:
    """The bytes of an image file as :func:`read_image` gives them. Raises ValueError, with ``name`` for the file."""
    flags = cv2.IMREAD_COLOR if honour_exif else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise ValueError(f"{name} can't be decoded: {error.err}") from error
    if image is None:
        raise ValueError(f"{name} is not an image that can be read ({len(data)} bytes)")
    if image.shape[0] * image.shape[1] > _MOST_PIXELS:
        raise ValueError(f"{name} has {image.shape[1]} × {image.shape[0]} pixels, more than {_MOST_PIXELS:,}: scale it down")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def safe_relative(text: str) -> str:
    """A path below a folder, with ``/``. Raises ValueError if it is absolute, empty or leaves the folder."""
    text = text.replace("\\", "/")
    path = PurePosixPath(text)
    if not path.name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError(f"the image path '{text}' leads out of the images' folder")
    return str(path)


def read_lines(path: Path, remedy: str) -> list[str]:
    """The lines of an annotation file; Windows line ends and a byte order mark do not matter.

    Raises FileNotFoundError, ending in ``remedy``, if there is none, or ValueError if it is not UTF-8 text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}: {remedy}; see data/README.md for its place")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from error


def set_aside(table: pd.DataFrame, gone: np.ndarray | pd.Series, reason: str) -> pd.DataFrame:
    """The rows that are not ``gone`` ((F,) bool); the others are added to ``table.attrs["set_aside"]`` as (line, reason)."""
    kept = table[~gone].reset_index(drop=True)
    kept.attrs["set_aside"] = [*table.attrs.get("set_aside", []), *((int(line), reason) for line in table["line"][gone])]
    return kept


def set_aside_counts(table: pd.DataFrame) -> str:
    """What was set aside, by reason, such as "2 (box of no area), 1 (its photo is missing)"; empty if nothing was."""
    reasons = pd.Series([reason for _, reason in table.attrs.get("set_aside", [])], dtype=object).value_counts(sort=False)
    return ", ".join(f"{count} ({reason})" for reason, count in reasons.items())


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose box has finite corners and an area; the others are set aside, see :func:`set_aside`."""
    finite = np.isfinite(table[BOX].to_numpy(float)).all(1)
    table = set_aside(table, ~finite, "box that is not finite")
    return set_aside(table, (table["x2"] <= table["x1"]) | (table["y2"] <= table["y1"]), "box of no area")


def missing_photos(names: Iterable[str], images_root: str | Path, remedy: str) -> set[str]:
    """The photos that are no file below ``images_root``. Raises FileNotFoundError, ending in ``remedy``, if none is there."""
    names = set(names)
    missing = {name for name in names if not (Path(images_root) / name).is_file()}
    if names and len(missing) == len(names):
        raise FileNotFoundError(f"none of the {len(missing)} photos is below {images_root}: {remedy}")
    return missing


def to_faces(rows: pd.DataFrame, schema: LandmarkSchema = WFLW_98) -> Faces:
    """The faces of the rows, of one image as a rule; columns other than image, box and landmarks become attributes."""
    landmarks = np.stack(rows["landmarks"].to_list()) if len(rows) else np.zeros((0, schema.count, 2))
    attributes = rows.drop(columns=["image", "landmarks", *BOX])
    return Faces(rows[BOX].to_numpy(np.float32), landmarks, attributes=attributes, schema=schema)


class FaceDataset(Sequence):
    """The photos of a table: ``dataset[i]`` is (image RGB uint8 (H, W, 3), its ``Faces``).

    complete: False if the photos hold faces that nobody labelled. names: the photos in order, those without any face among
    them; by default those of the table, in order of first appearance. ``names[i]`` is a photo's path below ``images_root``,
    ``rows[i]`` its rows in the table. Landmarks are visible where they are known and within the image. Raises ValueError if
    names lack a photo of the table; reading a photo raises what :func:`read_image` raises.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        images_root: str | Path,
        schema: LandmarkSchema = WFLW_98,
        complete: bool = True,
        names: Iterable[str] | None = None,
    ) -> None:
        self.table, self.images_root, self.schema, self.complete = table, Path(images_root), schema, complete
        rows = table.groupby("image", sort=False).indices
        self.names = list(rows if names is None else names)
        if lacking := rows.keys() - set(self.names):
            raise ValueError(f"names lack {len(lacking)} photos of the table, such as {min(lacking)}")
        self.rows = [rows.get(name, np.zeros(0, int)) for name in self.names]
        bare = table.copy(deep=False)
        bare.attrs = {}  # pandas would copy them with every photo
        self._faces = to_faces(bare, schema)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[np.ndarray, Faces]:
        image, faces = read_image(self.images_root / self.names[number]), self.faces(number)
        inside = ((faces.landmarks >= 0) & (faces.landmarks <= [image.shape[1], image.shape[0]])).all(-1)
        return image, Faces(faces.boxes, faces.landmarks, inside, faces.scores, faces.attributes, self.schema)

    def faces(self, number: int) -> Faces:
        """The faces of a photo without reading it; landmarks out of the image count as visible."""
        return self._faces[self.rows[number]]

    def subset(self, names: Iterable[str]) -> FaceDataset:
        """The same with these photos only, in the order of the data set."""
        wanted = set(names)
        table = self.table[self.table["image"].isin(wanted)].reset_index(drop=True)
        kept = [name for name in self.names if name in wanted]
        return FaceDataset(table, self.images_root, self.schema, self.complete, kept)
