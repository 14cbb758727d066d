"""How far a detector agrees with itself, and each way of looking at a photo beside the truth and beside baselines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retinalib.detect import Detector
from retinalib.evaluate import match_faces, matched_landmarks
from retinalib.faces import Faces
from retinalib.landmarks import LandmarkSchema
from retinalib.pupils import CLOSED, baselines, pupil_offset, readable_eyes


@dataclass(frozen=True)
class Looks:
    """The N true faces with landmarks that were found in some photos; all landmarks (N, L, 2) in pixels of their photo."""

    found: list[Faces]  # all, in each photo
    photo: np.ndarray  # (N,) the number of the photo
    number: np.ndarray  # (N,) of the face in it
    scores: np.ndarray  # (N,) of the detections
    predicted: np.ndarray
    true: np.ndarray
    mirrored: np.ndarray  # from the mirrored photo, mirrored back; NaN where the face was not found again
    first: np.ndarray | None  # without the second look; None for a network that takes none

    def about(self, truth: Sequence[Faces], names: Sequence[str]) -> pd.DataFrame:
        """A row a face: its attributes, image (the photo's name) and size (pixels); truth, names: of each photo."""
        faces = [truth[p][int(n)] for p, n in zip(self.photo, self.number, strict=True)]
        table = pd.concat([face.attributes for face in faces] or [pd.DataFrame()], ignore_index=True)
        return table.assign(image=[names[p] for p in self.photo], size=[face.size[0] for face in faces])

    def methods(self, schema: LandmarkSchema, mean_offset: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Pupils (N, 2, 2) by name: "network", "first look alone" where there are two looks, and ``pupils.baselines``."""
        pupils = list(schema.pupils)
        first = {} if self.first is None else {"first look alone": self.first[:, pupils]}
        return {"network": self.predicted[:, pupils], **first, **baselines(self.predicted, schema, mean_offset)}


def look(detector: Detector, photos: Sequence[tuple[np.ndarray, Faces]], score_threshold: float) -> Looks:
    """Detects in photos (image, true faces), pairs with the truth, and looks again: mirrored, and without the second look."""
    images, truth = [image for image, _ in photos], [faces for _, faces in photos]
    found = detector.detect(images, score_threshold, pyramid=True)
    photo, number, predicted, true = matched_landmarks(found, truth)
    partners = [match_faces(ours, theirs) for ours, theirs in zip(found, truth, strict=True)]
    scores = np.array([found[p].scores[partners[p][n]] for p, n in zip(photo, number, strict=True)])
    again = detector.detect([np.ascontiguousarray(image[:, ::-1]) for image in images], score_threshold, pyramid=True)
    back = [faces.flipped(image.shape[1]) for image, faces in zip(images, again, strict=True)]
    pairs = [match_faces(theirs, ours) for theirs, ours in zip(back, found, strict=True)]
    mirrored = np.full(predicted.shape, np.nan)
    for row, (p, n) in enumerate(zip(photo, number, strict=True)):
        if (other := pairs[p][partners[p][n]]) >= 0:
            mirrored[row] = back[p].landmarks[other]
    config, first = detector.model.config, None
    if config.looks:
        once = detector.detect(images, score_threshold, pyramid=True, second_look=False)  # the same faces
        first = matched_landmarks(once, truth)[2]
    return Looks(found, photo, number, scores, predicted, true, mirrored, first)


def disagreement(
    landmarks: np.ndarray,
    schema: LandmarkSchema,
    mirrored: np.ndarray | None = None,
    first: np.ndarray | None = None,
    closed: float = CLOSED,
) -> pd.DataFrame:
    """A row per face of (N, L, 2) predicted landmarks; the larger a number, the less one may trust the pupils.

    Columns: "eyes disagree across" and "eyes disagree in height" (difference of the eyes' offsets, eye widths; NaN unless both
    eyes are readable), and for other landmarks of the same faces "mirrored photo disagrees" and "two looks disagree" (mean
    distance of the pupils, fractions of the distance of the outer canthi; NaN where unknown)."""
    right, left = (pupil_offset(landmarks, eye) for eye in (schema.right_eye, schema.left_eye))
    both = np.where(readable_eyes(landmarks, schema, closed).all(1), 1.0, np.nan)
    table = pd.DataFrame(
        {
            "eyes disagree across": both * np.abs(right[:, 0] + left[:, 0]),  # x is towards the nose in each
            "eyes disagree in height": both * np.abs(right[:, 1] - left[:, 1]),
        }
    )
    ends = landmarks[:, list(schema.inter_ocular)]
    span = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    span = np.where(span > 0, span, np.nan)
    pupils = list(schema.pupils)
    for name, other in (("mirrored photo disagrees", mirrored), ("two looks disagree", first)):
        if other is not None:
            table[name] = np.linalg.norm(other[:, pupils] - landmarks[:, pupils], axis=-1).mean(1) / span
    return table
