"""Tables of faces (a row per face) and what they become: images with their ``Faces``."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98, LandmarkSchema

ATTRIBUTES = ("pose", "expression", "illumination", "make_up", "occlusion", "blur")
"""WFLW's six attributes, boolean columns of its tables."""

BOX = ["x1", "y1", "x2", "y2"]
MISSING = "its photo is missing"
FARTHEST = 100_000.0  # pixels: wider photos are refused, so a coordinate beyond is a slip
_MOST_PIXELS = 89_000_000  # a larger photo is refused before it is decoded, as Pillow warns of: its float copy takes 1 GB
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_NO_COLOURS = ("F", "LAB", "HSV")  # Pillow's names of values that are neither grey levels nor RGB; OpenCV takes them for such
_ORIENTATION = 0x0112  # the EXIF tag


class Header(NamedTuple):
    """What a photo says of itself before it is decoded."""

    width: int
    height: int
    turned: bool  # its EXIF orientation asks viewers to turn it
    format: str


def read_header(file: Path | io.BytesIO, name: str) -> Header:
    """Size and orientation of an image file. Raises ValueError, with ``name`` for the file, if it is none of ``_FORMATS``, has
    more pixels than memory bears, or values that are no colours."""
    try:
        with Image.open(file, formats=_FORMATS) as photo:
            size, mode, kind = photo.size, photo.mode, photo.format
            turned = Image.Image.getexif(photo).get(_ORIENTATION, 1) in range(2, 9)  # PNG's own method decodes the photo
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has more than {_MOST_PIXELS:,} pixels: scale it down") from error
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow lets through whatever a damaged header makes its readers raise
        raise ValueError(f"{name} is not an image that can be read ({type(error).__name__})") from error
    if size[0] * size[1] > _MOST_PIXELS or max(size) > FARTHEST:
        raise ValueError(f"{name} has {size[0]} × {size[1]} pixels, more than {_MOST_PIXELS:,} or too long: scale it down")
    if mode in _NO_COLOURS:
        raise ValueError(f"{name} holds {mode} values, not grey levels or RGB: convert it to 8 bit RGB")
    return Header(*size, turned, kind)


def read_image(path: str | Path, honour_exif: bool = False) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, whatever it was: grey, palette, CMYK, 16 bit, with alpha (which is dropped).

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
    if not data:
        raise ValueError(f"{name} is not an image that can be read (0 bytes)")
    header = read_header(io.BytesIO(data), name)
    if header.turned and header.format == "TIFF" and not honour_exif:
        raise ValueError(f"{name} is a TIFF with an orientation, which can't be read as it is stored: save it upright")
    if header.format == "PPM":
        return _decode_ppm(data, name)
    flags = cv2.IMREAD_COLOR_RGB if honour_exif else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"{name} can't be decoded: {error.err}") from error
    if image is None:
        raise ValueError(f"{name} is not an image that can be read ({len(data)} bytes)")
    return image


def _decode_ppm(data: bytes, name: str) -> np.ndarray:
    """A PBM, PGM or PPM, whose brightest value may be any: OpenCV takes it for 255 or 65,535."""
    try:
        with Image.open(io.BytesIO(data)) as photo:
            if photo.mode == "I":  # of 16 bits, scaled to all of them
                return np.repeat((np.asarray(photo) // 257).astype(np.uint8)[..., None], 3, axis=2)
            return np.array(photo.convert("RGB"))
    except Exception as error:  # as above
        raise ValueError(f"{name} is not an image that can be read ({type(error).__name__})") from error


def safe_relative(text: str) -> str:
    """A path below a folder, with ``/``. Raises ValueError if it is absolute, empty or leaves the folder, or holds control
    characters."""
    text = text.replace("\\", "/")
    path = PurePosixPath(text)
    if not path.name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError(f"the image path {_quoted(text)} leads out of the images' folder, or names nothing in it")
    if not all(ord(c) >= 32 and c != "\x7f" for c in text):
        raise ValueError(f"the image path {_quoted(text)} holds control characters")
    return str(path)


def _quoted(text: str) -> str:
    """The beginning of a text as it may be shown."""
    return ascii(text[:80]) if not text.isprintable() else f"'{text[:80]}'"


def read_lines(path: Path, remedy: str) -> list[str]:
    """The lines of an annotation file; Windows line ends and a byte order mark do not matter.

    Raises FileNotFoundError, ending in ``remedy``, if there is none, or ValueError if it is not UTF-8 text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}: {remedy}; see data/README.md for its place")
    try:
        return path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")  # splitlines takes other characters for ends too
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from error


def numbers(columns: Sequence[str]) -> np.ndarray:
    """Words as float64. Raises ValueError for one that is no plain number; 1_000 and other scripts' digits, which Python
    takes, are none."""
    text = "".join(columns)
    if "_" in text or not text.isascii():
        raise ValueError("digits 0 to 9 belong here, without '_' or other characters")
    return np.array(columns, float)


def known_points(points: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """(N, L, 2) points as float32 with NaN for what is no place; and of the faces that lost points by that, why.

    Points that are not finite or over ``FARTHEST`` pixels away are unknown, and so are all points of a face that lie in one
    place. Points that are NaN already were unknown before, and are no reason.
    """
    points = np.asarray(points, float)
    known = (np.abs(points) <= FARTHEST).all(-1)
    lost = ~known & ~np.isnan(points).all(-1)
    why = {int(n): f"{count} landmarks that are no place are unknown" for n, count in enumerate(lost.sum(1)) if count}
    low, high = (np.where(known[..., None], points, fill) for fill in (np.inf, -np.inf))
    alike = (known.sum(1) > 1) & (high.max(1, initial=-np.inf) <= low.min(1, initial=np.inf)).all(1)
    why |= {int(n): "its landmarks all lie in one place and are unknown" for n in np.flatnonzero(alike)}
    known &= ~alike[:, None]
    return np.where(known[..., None], points, np.nan).astype(np.float32), why


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
    """The rows whose box has corners in reach and an area, each face once; the others are set aside, see :func:`set_aside`."""
    table = set_aside(table, ~np.isfinite(table[BOX].to_numpy(float)).all(1), "box that is not finite")
    table = set_aside(table, (table[BOX].abs() > FARTHEST).any(axis=1), f"box over {FARTHEST:,.0f} pixels away")
    corners = table[BOX].to_numpy(np.float32)
    table = set_aside(table, (corners[:, 2:] <= corners[:, :2]).any(1), "box of no area")
    again = table.assign(points=[np.asarray(p).tobytes() for p in table["landmarks"]]).duplicated(["image", *BOX, "points"])
    return set_aside(table, again, "the same face again")


def with_photos(
    table: pd.DataFrame, images_root: str | Path, remedy: str, bare: Iterable[str] = ()
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The faces whose photos are there and show them, judged by the photos' headers; the others are set aside.

    bare: photos without faces that belong to the data set. Also returns the photos that are missing or no images, and why.
    Photos that viewers would turn are warned of, since boxes are taken to be of the stored pixels. Raises FileNotFoundError,
    ending in ``remedy``, if no photo is there.
    """
    headers, gone = {}, {}
    for name in dict.fromkeys([*table["image"], *bare]):
        try:
            headers[name] = read_header(Path(images_root) / name, name)
        except FileNotFoundError:
            gone[name] = MISSING
        except ValueError:
            gone[name] = MISSING if not os.path.isfile(Path(images_root) / name) else "its photo is no image that can be read"
    if gone and set(gone.values()) == {MISSING} and not headers:
        raise FileNotFoundError(f"none of the {len(gone)} photos is below {images_root}: {remedy}")
    for reason in sorted(set(gone.values()), reverse=True):
        table = set_aside(table, table["image"].map(gone.get) == reason, reason)
    sizes = np.array([headers[name][:2] for name in table["image"]], float).reshape(-1, 2)
    corners = table[BOX].to_numpy(float)
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    table = set_aside(table, ((middle < 0) | (middle > sizes)).any(1), "its box lies outside its photo")
    if turned := [name for name, header in headers.items() if header.turned]:
        warnings.warn(
            f"viewers turn {len(turned)} photos as their EXIF orientation says, such as {min(turned)}: boxes and landmarks are "
            "taken to be of the pixels as they are stored",
            stacklevel=3,
        )
    return table, gone


def to_faces(rows: pd.DataFrame, schema: LandmarkSchema = WFLW_98) -> Faces:
    """The faces of the rows, of one image as a rule; columns other than image, box and landmarks become attributes."""
    landmarks = np.stack(rows["landmarks"].to_list()) if len(rows) else np.zeros((0, schema.count, 2))
    attributes = rows.drop(columns=["image", "landmarks", *BOX]).copy()  # in one block a type, of which rows are taken faster
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
