"""``Faces``: the faces of one image, the one currency of the workbook."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from retinalib.landmarks import WFLW_98, LandmarkSchema


def box_iou(a: np.ndarray, b: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """(N, 4) and (M, 4) boxes x1 y1 x2 y2 to (N, M); ``pixel`` is added to every side (1: corners are inclusive)."""
    size = (np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2]) + pixel).clip(min=0)
    areas = [(x[:, 2:] - x[:, :2] + pixel).prod(-1) for x in (a, b)]
    shared = size.prod(-1)
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12)


@dataclass
class Faces:
    """F faces of one image, in that image's pixels (x right, y down, the corner of the first pixel at 0, 0).

    boxes: (F, 4) float32, x1 y1 x2 y2. landmarks: (F, L, 2) float32, x y, NaN where unknown. visible: (F, L) bool, landmarks
    that are known and within the image; by default all that are finite. scores: (F,) float32, by default 1. attributes: a table
    of F rows with anything else that is known about the faces. Raises ValueError if the shapes disagree with each other or with
    the schema, or if a box or score is not finite."""

    boxes: np.ndarray
    landmarks: np.ndarray
    visible: np.ndarray | None = None
    scores: np.ndarray | None = None
    attributes: pd.DataFrame | None = None
    schema: LandmarkSchema = WFLW_98

    def __post_init__(self) -> None:
        self.boxes = np.asarray(self.boxes, np.float32)
        self.landmarks = np.asarray(self.landmarks, np.float32)
        n = len(np.atleast_1d(self.boxes))
        known = np.isfinite(self.landmarks).all(-1)
        self.visible = known if self.visible is None else np.asarray(self.visible, bool)
        self.scores = np.ones(n, np.float32) if self.scores is None else np.asarray(self.scores, np.float32)
        given = self.attributes
        self.attributes = pd.DataFrame(index=range(n)) if given is None else pd.DataFrame(given).reset_index(drop=True)
        count = self.schema.count
        expected = {"boxes": (n, 4), "landmarks": (n, count, 2), "visible": (n, count), "scores": (n,)}
        for name, shape in expected.items():
            if (got := getattr(self, name).shape) != shape:
                raise ValueError(f"Faces: {name} of shape {got} where {n} faces of schema {self.schema.name} need {shape}")
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise ValueError("Faces: boxes and scores must be finite numbers; landmarks may be NaN, where they are unknown")
        if len(self.attributes) != n:
            raise ValueError(f"Faces: attributes have {len(self.attributes)} rows for {n} boxes")
        self.visible = self.visible & known

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Faces":
        """The chosen faces; a single number gives a ``Faces`` of one."""
        rows = np.atleast_1d(np.arange(len(self))[list(index) if isinstance(index, tuple) else index])
        arrays = (array[rows] for array in (self.boxes, self.landmarks, self.visible, self.scores, self.attributes.iloc))
        return Faces(*arrays, self.schema)

    @classmethod
    def empty(cls, schema: LandmarkSchema = WFLW_98) -> "Faces":
        """No faces."""
        return cls(np.zeros((0, 4)), np.zeros((0, schema.count, 2)), schema=schema)

    @property
    def size(self) -> np.ndarray:
        """(F,) the square root of each box's area, pixels."""
        return np.sqrt((self.boxes[:, 2:] - self.boxes[:, :2]).clip(min=0).prod(1))

    def transformed(self, scale: tuple[float, float] = (1, 1), shift: tuple[float, float] = (0, 0)) -> "Faces":
        """The faces of the image that was scaled by (sx, sy) and then shifted by (dx, dy) pixels; visibility as it was."""
        scale, shift = np.asarray(scale, np.float32), np.asarray(shift, np.float32)
        return replace(self, boxes=self.boxes * np.tile(scale, 2) + np.tile(shift, 2), landmarks=self.landmarks * scale + shift)

    def flipped(self, width: float) -> "Faces":
        """The faces of the image, ``width`` pixels wide, mirrored left to right; left and right landmarks change places."""
        order = list(self.schema.flip_order)
        boxes, landmarks = self.boxes.copy(), self.landmarks[:, order].copy()
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        landmarks[..., 0] = width - landmarks[..., 0]
        return replace(self, boxes=boxes, landmarks=landmarks, visible=self.visible[:, order])


def mean_landmarks_in_box(faces: Sequence[Faces]) -> np.ndarray:
    """(L, 2) mean position of each landmark in its face's box, fractions of width and height; NaN for a landmark that no face
    has. Boxes of no area, and points over five widths or heights outside, don't count. Raises ValueError without any photo."""
    if not len(faces):
        raise ValueError("mean_landmarks_in_box needs at least one photo")
    boxes = np.concatenate([f.boxes for f in faces])[:, None]
    points = np.concatenate([f.landmarks for f in faces])
    sound = (boxes[..., 2:] > boxes[..., :2]).all((1, 2))
    boxes, points = boxes[sound], points[sound]
    place = (points - boxes[..., :2]) / (boxes[..., 2:] - boxes[..., :2])
    known = (np.abs(place - 0.5) < 5.5).all(-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # 0 / 0 of a landmark that no face has
        return (np.where(known, place, 0).sum(0) / known.sum(0)).astype(place.dtype)


def put_in_boxes(shape: np.ndarray, faces: Faces) -> Faces:
    """The same faces with the landmarks of ``shape`` (see :func:`mean_landmarks_in_box`) put into their boxes."""
    boxes = faces.boxes[:, None]
    points = boxes[..., :2] + shape * (boxes[..., 2:] - boxes[..., :2])
    return replace(faces, landmarks=points, visible=None)
