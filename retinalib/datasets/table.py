"""Tables of faces, a row per face; the one policy for what is bad in them; and images with their ``Faces`` made of them."""

import copy
import hashlib
import inspect
import io
import json
import os
import warnings
from collections import Counter
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

PHOTO_SUFFIXES = frozenset(".apng .bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
"""How names of photos that :func:`read_image` reads end, in lower case: Pillow's extensions of ``_FORMATS``."""

BOX = ["x1", "y1", "x2", "y2"]
_MISSING = "its photo is missing"
FARTHEST = 100_000.0  # pixels; beyond it is a slip
_FAR = 5.0  # longer sides of the box, outside of it
_UNKNOWN = -1.0  # both coordinates of a point that WIDER FACE's labels, and many own ones, do not know
_MOST_PIXELS = 89_000_000  # a larger photo is refused before it is decoded, as Pillow warns of: its float copy takes 1 GB
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_NO_COLOURS = ("F", "LAB", "HSV")  # Pillow's names of values that are neither grey levels nor RGB; OpenCV takes them for such
_ORIENTATION = 0x0112  # the EXIF tag
_PACKAGE = str(Path(__file__).resolve().parents[1])


class Header(NamedTuple):
    """What a photo says of itself before it is decoded."""

    width: int
    height: int
    turned: bool  # by its EXIF orientation, in viewers
    format: str


def read_header(file: Path | io.BytesIO, name: str) -> Header:
    """Raises ValueError, with ``name`` for the file, if it is no image, too large, or has values that are no colours."""
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
    honour_exif: turn the picture as its EXIF orientation says; data sets are annotated in the stored pixels. Raises
    FileNotFoundError, IsADirectoryError or ValueError, naming the file."""
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
            if photo.mode == "I":  # 16 bits
                return np.repeat((np.asarray(photo) // 257).astype(np.uint8)[..., None], 3, axis=2)
            return np.array(photo.convert("RGB"))
    except Exception as error:  # as above
        raise ValueError(f"{name} is not an image that can be read ({type(error).__name__})") from error


def safe_relative(text: str) -> str:
    """A path below a folder, with ``/``. Raises ValueError if it is empty, leads elsewhere, or holds control characters."""
    text = text.replace("\\", "/")
    path = PurePosixPath(text)
    shown = ascii(text[:80]) if not text.isprintable() else f"'{text[:80]}'"
    if not path.name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError(f"the image path {shown} leads out of the images' folder, or names nothing in it")
    if not all(ord(c) >= 32 and c != "\x7f" for c in text):
        raise ValueError(f"the image path {shown} holds control characters")
    return str(path)


def read_lines(path: Path, remedy: str) -> list[str]:
    """The lines of an annotation file. Raises FileNotFoundError, ending in ``remedy``, or ValueError if it is no UTF-8."""
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}: {remedy}; see data/README.md for its place")
    try:
        return path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")  # splitlines takes other characters for ends too
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from error


def numbers(columns: Sequence[str]) -> np.ndarray:
    """Words as float64. Raises ValueError for one that is no plain number, as 1_000 or other scripts' digits."""
    text = "".join(columns)
    if "_" in text or not text.isascii():
        raise ValueError("digits 0 to 9 belong here, without '_' or other characters")
    return np.array(columns, float)


def known_points(points: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """(N, L, 2) points of the faces in (N, 4) boxes as float32, NaN where they are no place; and why, by the face's number, but
    for NaN and (-1, -1). No place either: over ``FARTHEST`` pixels away, or more than five longer sides outside of the box; and
    all points of a face that lie in one place."""
    points, boxes = np.asarray(points, float), np.asarray(boxes, float)[:, None]
    unknown = np.isnan(points).all(-1) | (points == _UNKNOWN).all(-1)
    outside = np.maximum(boxes[..., :2] - points, points - boxes[..., 2:]).max(-1)
    near = outside <= _FAR * (boxes[..., 2:] - boxes[..., :2]).max(-1)
    known = (np.abs(points) <= FARTHEST).all(-1) & near & ~unknown
    why = {int(n): f"{k} landmarks that are no place are unknown" for n, k in enumerate((~known & ~unknown).sum(1)) if k}
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


def usable(table: pd.DataFrame, schema: LandmarkSchema) -> pd.DataFrame:
    """The rows that can be learned and measured, as far as a table tells without its photos.

    Set aside, see :func:`set_aside`: a box that is not finite, out of reach or of no area, and the same face again. Landmarks
    that are no place become NaN, see :func:`known_points`; ``attrs["repaired"]`` lists (line, reason). Raises ValueError for
    missing columns or landmarks of another shape."""
    if lacking := [name for name in ("image", *BOX, "landmarks") if name not in table]:
        raise ValueError(f"a table of faces needs the columns image, {', '.join(BOX)} and landmarks; {lacking} are missing")
    wrong = {np.shape(points) for points in table["landmarks"]} - {(schema.count, 2)}
    if wrong:
        raise ValueError(f"landmarks of shape {wrong.pop()}, where schema {schema.name} has {(schema.count, 2)}")
    if "line" not in table:
        table = table.assign(line=np.arange(len(table)))
    table = set_aside(table, ~np.isfinite(table[BOX].to_numpy(float)).all(1), "box that is not finite")
    table = set_aside(table, (table[BOX].abs() > FARTHEST).any(axis=1), f"box over {FARTHEST:,.0f} pixels away")
    corners = table[BOX].to_numpy(np.float32)
    table = set_aside(table, (corners[:, 2:] <= corners[:, :2]).any(1), "box of no area")
    points = np.array(table["landmarks"].to_list(), float).reshape(-1, schema.count, 2)
    points, why = known_points(points, table[BOX].to_numpy(float))
    table = table.assign(landmarks=list(points))
    repaired = [(int(table["line"].iloc[row]), reason) for row, reason in sorted(why.items())]
    table.attrs["repaired"] = [*table.attrs.get("repaired", []), *repaired]
    again = table.assign(points=[p.tobytes() for p in points]).duplicated(["image", *BOX, "points"])
    return set_aside(table, again, "the same face again")


def _headers(names: Iterable[str], images_root: Path, remedy: str) -> tuple[dict[str, Header], dict[str, str]]:
    """The photos' headers; and of those that are missing or no images, why. Raises FileNotFoundError if all are missing."""
    headers, gone = {}, {}
    for name in names:
        try:
            headers[name] = read_header(images_root / name, name)
        except FileNotFoundError:
            gone[name] = _MISSING
        except ValueError:
            gone[name] = _MISSING if not os.path.isfile(images_root / name) else "its photo is no image that can be read"
    if set(gone.values()) == {_MISSING} and not headers:
        raise FileNotFoundError(f"none of the {len(gone)} photos is below {images_root}: {remedy}")
    return headers, gone


def warn(text: str) -> None:
    """A warning of the first caller outside of this package."""
    files = [frame.filename for frame in inspect.stack(0)]
    warnings.warn(text, stacklevel=next((n for n, file in enumerate(files, 1) if not file.startswith(_PACKAGE)), 1))


class FaceDataset(Sequence):
    """The photos of a table: ``dataset[i]`` is (image RGB uint8 (H, W, 3), its ``Faces``).

    table: a row a face, with image (the photo's path below ``images_root``), x1 y1 x2 y2 and landmarks ((L, 2), x y, NaN where
    unknown), all in pixels; further columns become attributes of the faces. complete: False if the photos hold faces that
    nobody labelled. names: the photos in order, those without any face among them; by default those of the table, in order.

    Every table meets the same checks: :func:`usable`, and a face is set aside whose photo is missing, no image, or does not
    show the middle of its box; a photo all of whose faces are set aside goes with them. Warnings count them, and photos that
    viewers would turn; ``dataset.table.attrs["set_aside"]`` lists (line, reason). Landmarks are visible where they are known
    and within the image. ``names[i]`` is a photo's path, ``sizes[i]`` its (height, width), ``rows[i]`` its rows in ``table``.
    Raises ValueError if no face is left, or names lack a photo of the table; FileNotFoundError if no photo is there; and what
    :func:`usable` raises. Reading a photo raises what :func:`read_image` raises."""

    def __init__(
        self,
        table: pd.DataFrame,
        images_root: str | Path,
        schema: LandmarkSchema = WFLW_98,
        complete: bool = True,
        names: Iterable[str] | None = None,
    ) -> None:
        self.images_root, self.schema, self.complete = Path(images_root), schema, complete
        sound, peopled = usable(table, schema), set(table["image"])
        names = list(dict.fromkeys(table["image"] if names is None else names))
        if lacking := peopled - set(names):
            raise ValueError(f"names lack {len(lacking)} photos of the table, such as {min(lacking)}")
        headers, gone = _headers(names, self.images_root, table.attrs.get("remedy", "names are paths below that folder"))
        for reason in sorted(set(gone.values()), reverse=True):
            sound = set_aside(sound, sound["image"].map(gone.get) == reason, reason)
        bare = {name: line for line, name in table.attrs.get("no_faces", [])}
        sound.attrs["set_aside"] += [(bare.get(name, 0), gone[name]) for name in names if name in gone and name not in peopled]
        corners, extent = sound[BOX].to_numpy(float), np.array([headers[name][:2] for name in sound["image"]]).reshape(-1, 2)
        middle = (corners[:, :2] + corners[:, 2:]) / 2
        sound = set_aside(sound, ((middle < 0) | (middle > extent)).any(1), "its box lies outside its photo")
        left = set(sound["image"]) | (headers.keys() - peopled)
        self._fill(sound, {name: (header.height, header.width) for name, header in headers.items() if name in left})
        self._tell([name for name, header in headers.items() if header.turned])

    def _tell(self, turned: list[str]) -> None:
        source = f"{self.table.attrs['source']}: " if "source" in self.table.attrs else ""
        reasons, repaired = Counter(reason for _, reason in self.table.attrs["set_aside"]), self.table.attrs["repaired"]
        said = ", ".join(f"{count} ({reason})" for reason, count in reasons.items())
        if said and not self.names:
            raise ValueError(f"{source}no face is left, for all are set aside: {said}")
        said = [f"set aside {said}"] if said else []
        if repaired:
            first = repaired[0][0]
            said.append(f"faces with landmarks that are no place and count as unknown: {len(repaired)} (line {first} …)")
        if said:
            warn(f"{source}{'; '.join(said)}; table.attrs['set_aside'] and ['repaired'] of the data set list them")
        if turned:
            warn(
                f"viewers turn {len(turned)} photos as their EXIF orientation says, such as {min(turned)}: boxes and landmarks "
                "are taken to be of the pixels as they are stored"
            )

    def _fill(self, table: pd.DataFrame, sizes: dict[str, tuple[int, int]]) -> None:
        self.table, self._sizes, self.names = table, sizes, list(sizes)
        rows = table.groupby("image", sort=False).indices
        self.rows = [rows.get(name, np.zeros(0, int)) for name in self.names]
        landmarks = np.array(table["landmarks"].to_list(), np.float32).reshape(-1, self.schema.count, 2)
        attributes = table.drop(columns=["image", "landmarks", *BOX]).copy()  # in one block a type: rows are taken faster
        attributes.attrs = {}  # not with every photo
        self._faces = Faces(table[BOX].to_numpy(np.float32), landmarks, attributes=attributes, schema=self.schema)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[np.ndarray, Faces]:
        image, faces = read_image(self.images_root / self.names[number]), self.faces(number)
        inside = ((faces.landmarks >= 0) & (faces.landmarks <= [image.shape[1], image.shape[0]])).all(-1)
        return image, Faces(faces.boxes, faces.landmarks, inside, faces.scores, faces.attributes, self.schema)

    @property
    def sizes(self) -> np.ndarray:
        """(N, 2) int height and width of each photo."""
        return np.array(list(self._sizes.values()), int).reshape(-1, 2)

    def faces(self, number: int) -> Faces:
        """The faces of a photo without reading it; landmarks out of the image count as visible."""
        return self._faces[self.rows[number]]

    def subset(self, names: Iterable[str]) -> "FaceDataset":
        """The same with these photos only, in the order of the data set. Raises ValueError for an unknown name."""
        wanted = set(names)
        if unknown := wanted - self._sizes.keys():
            raise ValueError(f"{len(unknown)} of {len(wanted)} names are no photos of the data set, such as {min(unknown)}")
        part = copy.copy(self)
        table = self.table[self.table["image"].isin(wanted)].reset_index(drop=True)
        part._fill(table, {name: size for name, size in self._sizes.items() if name in wanted})
        return part

    def fingerprint(self) -> str:
        """A digest of the photos' names, boxes and landmarks, and of whether the data set is complete."""
        digest = hashlib.sha256(json.dumps([self.names, self.table["image"].tolist(), self.complete]).encode())
        for part in (self.table[BOX].to_numpy(), *self.table["landmarks"]):
            digest.update(np.asarray(part, np.float32).tobytes())
        return digest.hexdigest()[:16]
