"""Tables of faces (a row a face) and what they become: images with their ``Faces``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pandas as pd

from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98, LandmarkSchema

ATTRIBUTES = ("pose", "expression", "illumination", "make_up", "occlusion", "blur")
"""WFLW's six attributes, boolean columns of its tables."""

BOX = ["x1", "y1", "x2", "y2"]
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


def usable(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The rows whose box has an area and finite corners.

    The others are set aside: ``table.attrs["set_aside"]`` lists them as (line, reason).
    """
    boxes = table[BOX].to_numpy(float)
    good = np.isfinite(boxes).all(1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    kept = table[good].reset_index(drop=True)
    kept.attrs = {"source": source, "set_aside": [(int(n), "box of no area") for n in table["line"][~good]]}
    return kept


def to_faces(rows: pd.DataFrame, schema: LandmarkSchema = WFLW_98) -> Faces:
    """The faces of one image; columns other than image, box and landmarks become attributes."""
    landmarks = np.stack(rows["landmarks"].to_list()) if len(rows) else np.zeros((0, schema.count, 2))
    attributes = rows.drop(columns=["image", "landmarks", *BOX])
    return Faces(rows[BOX].to_numpy(np.float32), landmarks, attributes=attributes, schema=schema)


class FaceDataset(Sequence):
    """The photos of a table: ``dataset[i]`` is (image RGB uint8 (H, W, 3), its ``Faces``), in order of first appearance.

    Landmarks are visible where they are known and within the image. complete: False if the photos hold faces that nobody
    labelled. Reading a photo raises what :func:`read_image` raises.
    """

    def __init__(
        self, table: pd.DataFrame, images_root: str | Path, schema: LandmarkSchema = WFLW_98, complete: bool = True
    ) -> None:
        self.table, self.images_root, self.schema, self.complete = table, Path(images_root), schema, complete
        groups = table.groupby("image", sort=False).indices
        self.names = list(groups)
        self._faces = [to_faces(table.iloc[rows], schema) for rows in groups.values()]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[np.ndarray, Faces]:
        image, faces = read_image(self.images_root / self.names[number]), self._faces[number]
        inside = ((faces.landmarks >= 0) & (faces.landmarks <= [image.shape[1], image.shape[0]])).all(-1)
        return image, Faces(faces.boxes, faces.landmarks, inside, faces.scores, faces.attributes, self.schema)

    def faces(self, number: int) -> Faces:
        """The faces of a photo without reading it; landmarks out of the image count as visible."""
        return self._faces[number]
