"""Where the pupil lies within the eye, how open the eye is, and how wrong a prediction is about it.

The eye frame has its origin midway between the canthi, x from the outer to the inner canthus, y perpendicular to it and up the
face, and the distance of the canthi as its unit. An offset in it does not change when the face is shifted, scaled or rotated in
the image plane, but with a turn of the head."""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from retinalib.faces import Faces
from retinalib.landmarks import Eye, LandmarkSchema

CLOSED = 0.12  # an eye of at most this openness
FORESHORTENED = 0.5  # an eye narrower than this share of the other one is turned away too far for an offset
SMALLEST_EYE = 2.0  # pixels between the canthi
JESORSKY = {"pupil": 0.05, "iris": 0.10, "eye": 0.25}  # thresholds of the worst-eye error, and what a hit is then within


def eyes_of(schema: LandmarkSchema) -> dict[str, Eye]:
    """The eyes by side, "right" and "left". Raises ValueError for a schema whose eyes lack canthi, lids or pupils."""
    if not schema.has_pupils:
        raise ValueError(f"schema {schema.name} has no canthi, lids and pupils, which this needs: WFLW's 98 points have them")
    return {"right": schema.right_eye, "left": schema.left_eye}


def eye_frame(landmarks: np.ndarray, eye: Eye) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The frame of one eye in (N, L, 2) landmarks: origin (N, 2), unit x and y axes (N, 2), width (N,); NaN without a width."""
    landmarks = np.asarray(landmarks, float)
    outer, inner = landmarks[:, eye.outer], landmarks[:, eye.inner]
    across = inner - outer
    width = np.linalg.norm(across, axis=1)
    width = np.where(width > 0, width, np.nan)
    x = across / width[:, None]
    y = eye.handedness * np.stack([x[:, 1], -x[:, 0]], 1)
    return (outer + inner) / 2, x, y, width


def pupil_offset(landmarks: np.ndarray, eye: Eye) -> np.ndarray:
    """(N, 2) the pupil in the eye frame of (N, L, 2) landmarks: x towards the inner canthus, y up, in eye widths."""
    return to_eye_frame(np.asarray(landmarks, float)[:, eye.pupil], landmarks, eye)


def to_eye_frame(points: np.ndarray, landmarks: np.ndarray, eye: Eye) -> np.ndarray:
    """(N, 2) image points, one a face, in the eye frame of (N, L, 2) landmarks."""
    origin, x, y, width = eye_frame(landmarks, eye)
    shift = points - origin
    return np.stack([(shift * x).sum(1), (shift * y).sum(1)], 1) / width[:, None]


def openness(landmarks: np.ndarray, eye: Eye) -> np.ndarray:
    """(N,) eye aspect ratio: mean distance of facing lid points by that of the canthi (Soukupová and Čech, CVWW 2016)."""
    landmarks = np.asarray(landmarks, float)
    *_, width = eye_frame(landmarks, eye)
    lids = np.linalg.norm(landmarks[:, list(eye.upper)] - landmarks[:, list(eye.lower)], axis=-1)
    return lids.mean(1) / width


def foreshortened(landmarks: np.ndarray, schema: LandmarkSchema) -> np.ndarray:
    """(N, 2) bool: whether the right and the left eye of (N, L, 2) landmarks are too turned away for offset and openness.

    Both are in units of the eye's width, which goes to zero in profile; half the other eye's (``FORESHORTENED``) is reached at
    a yaw of 35° to 45°. Eyes under ``SMALLEST_EYE`` pixels, or without a width, count too."""
    landmarks = np.asarray(landmarks, float)
    widths = np.stack([eye_frame(landmarks, eye)[3] for eye in eyes_of(schema).values()], 1)
    other = np.nan_to_num(widths[:, ::-1])
    return ~((widths >= FORESHORTENED * other) & (widths >= SMALLEST_EYE))


def readable_eyes(landmarks: np.ndarray, schema: LandmarkSchema, closed: float = CLOSED) -> np.ndarray:
    """(N, 2) bool: whether the right and the left eye are open and not foreshortened, so that an offset means something."""
    lids = np.stack([openness(landmarks, eye) for eye in eyes_of(schema).values()], 1)
    return (lids > closed) & ~foreshortened(landmarks, schema)


def between_lids(landmarks: np.ndarray, schema: LandmarkSchema) -> np.ndarray:
    """(N, 2) bool: whether the right and the left pupil of (N, L, 2) landmarks lie within their lids' outline: can be seen."""
    inside = [
        [cv2.pointPolygonTest(face[list(eye.lids)], face[eye.pupil].tolist(), False) >= 0 for eye in eyes_of(schema).values()]
        for face in np.asarray(landmarks, np.float32)
    ]
    return np.array(inside, bool).reshape(-1, 2)


def mean_offsets(landmarks: np.ndarray, schema: LandmarkSchema, closed: float = CLOSED) -> dict[str, np.ndarray]:
    """The mean pupil offset (2,) of each side over the readable eyes of (N, L, 2) landmarks, in eye widths."""
    readable = readable_eyes(landmarks, schema, closed).T
    return {s: pupil_offset(landmarks[r], eye).mean(0) for (s, eye), r in zip(eyes_of(schema).items(), readable, strict=True)}


def pupil_table(faces: Faces | Sequence[Faces], closed: float = CLOSED) -> pd.DataFrame:
    """One row per face; of a list, as detection gives it for several photos, with their numbers in it as column ``photo``.

    Columns, for each side ("right" and "left" are the person's): ``offset_x_<side>`` and ``offset_y_<side>`` (the pupil in the
    eye frame, eye widths; x towards the nose, y up), ``pupil_x_<side>`` and ``pupil_y_<side>`` (image pixels),
    ``eye_width_<side>`` (pixels), ``openness_<side>``, ``closed_<side>`` and ``foreshortened_<side>``: keep both kinds out of
    offset statistics; then ``look_x`` and ``look_y`` (the mean offset of the eyes that are neither, x to the person's left, y
    up), ``inter_pupil`` (pixels), ``score`` and the faces' attributes. Raises ValueError for a schema without canthi."""
    if not isinstance(faces, Faces):
        tables = [pupil_table(one, closed) for one in faces] or [pupil_table(Faces.empty(), closed)]
        return pd.concat(tables, keys=range(len(tables)), names=["photo", None]).reset_index("photo").reset_index(drop=True)
    table = pd.DataFrame(index=range(len(faces)))
    looks, turned = [], foreshortened(faces.landmarks, faces.schema)
    for number, (side, eye) in enumerate(eyes_of(faces.schema).items()):
        offset, lids = pupil_offset(faces.landmarks, eye), openness(faces.landmarks, eye)
        table[[f"offset_x_{side}", f"offset_y_{side}"]] = offset
        table[[f"pupil_x_{side}", f"pupil_y_{side}"]] = faces.landmarks[:, eye.pupil]
        table[f"eye_width_{side}"] = eye_frame(faces.landmarks, eye)[3]
        table[f"openness_{side}"] = lids
        table[f"closed_{side}"] = lids <= closed
        table[f"foreshortened_{side}"] = turned[:, number]
        common = offset * [1.0 if side == "right" else -1.0, 1.0]  # the right eye's nose side is the person's left
        looks.append(np.where(((lids <= closed) | turned[:, number])[:, None], np.nan, common))
    table[["look_x", "look_y"]] = np.ma.masked_invalid(looks).mean(0).filled(np.nan)
    right, left = faces.schema.pupils
    table["inter_pupil"] = np.linalg.norm(faces.landmarks[:, right] - faces.landmarks[:, left], axis=1)
    table["score"] = faces.scores
    extra = faces.attributes.drop(columns=[c for c in table.columns if c in faces.attributes])
    return pd.concat([table, extra.reset_index(drop=True)], axis=1)


def baselines(landmarks: np.ndarray, schema: LandmarkSchema, mean_offset: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Baselines that ignore the pupil, (N, 2, 2) right and left pupils: "canthus midpoint"; "lid centroid"; "mean offset"."""
    landmarks = np.asarray(landmarks, float)
    result: dict[str, list[np.ndarray]] = {"canthus midpoint": [], "lid centroid": [], "mean offset": []}
    for side, eye in eyes_of(schema).items():
        origin, x, y, width = eye_frame(landmarks, eye)
        result["canthus midpoint"].append(origin)
        result["lid centroid"].append(landmarks[:, list(eye.lids)].mean(1))
        dx, dy = mean_offset[side]
        result["mean offset"].append(origin + width[:, None] * (dx * x + dy * y))
    return {name: np.stack(sides, 1) for name, sides in result.items()}


def pupil_errors(predicted: np.ndarray, true: np.ndarray, schema: LandmarkSchema) -> pd.DataFrame:
    """A row per face of (N, 2, 2) predicted pupils (right, left) against (N, L, 2) true landmarks: ``pupil_nme`` (mean of both
    distances over the outer canthi's), ``worst_eye`` (the larger distance over the true inter-pupil distance: Jesorsky et al.,
    AVBPA 2001), ``error_x_<side>`` and ``error_y_<side>`` (in the true eye frame, eye widths)."""
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    pupils = true[:, list(schema.pupils)]
    distance = np.linalg.norm(predicted - pupils, axis=-1)
    outer = true[:, list(schema.inter_ocular)]
    inter_ocular, inter_pupil = (np.linalg.norm(pair[:, 0] - pair[:, 1], axis=-1) for pair in (outer, pupils))
    with np.errstate(divide="ignore", invalid="ignore"):
        table = pd.DataFrame({"pupil_nme": distance.mean(1) / inter_ocular, "worst_eye": distance.max(1) / inter_pupil})
    for number, (side, eye) in enumerate(eyes_of(schema).items()):
        there = to_eye_frame(predicted[:, number], true, eye)
        table[[f"error_x_{side}", f"error_y_{side}"]] = there - to_eye_frame(pupils[:, number], true, eye)
    return table
