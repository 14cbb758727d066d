"""Photos looked at in several ways, so that a network's pupils can be compared with the truth, with simpler guesses, and with
themselves: how far a detector agrees with itself is all that can be measured where nobody knows the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retinalib.detect import Detector
from retinalib.evaluate import match_faces, matched_landmarks
from retinalib.faces import Faces
from retinalib.landmarks import LandmarkSchema
from retinalib.pupils import CLOSED, baselines, pupil_offset, readable_eyes, refine_pupils


@dataclass(frozen=True)
class Looks:
    """The N true faces with landmarks that were found in some photos; all landmarks (N, L, 2) in pixels of their photo."""

    found: list[Faces]  # everything that was found in each photo
    photo: np.ndarray  # (N,) the number of the photo
    number: np.ndarray  # (N,) the true face's number in it
    scores: np.ndarray  # (N,) of the detections
    predicted: np.ndarray
    true: np.ndarray
    mirrored: np.ndarray  # from the mirrored photo, mirrored back; NaN where the face was not found again
    first: np.ndarray | None  # without the second look at the eyes; None for a network that takes none

    def methods(
        self, images: Sequence[np.ndarray], schema: LandmarkSchema, mean_offset: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Pupils (N, 2, 2), right and left, by name: "network", "first look alone" where there are two looks, the three of
        :func:`retinalib.pupils.baselines` (from the network's other landmarks) and "network, refined" in the images."""
        pupils = list(schema.pupils)
        result = {"network": self.predicted[:, pupils]}
        if self.first is not None:
            result["first look alone"] = self.first[:, pupils]
        result |= baselines(self.predicted, schema, mean_offset)
        refined = [refine_pupils(images[p], self.predicted[self.photo == p], schema) for p in np.unique(self.photo)]
        result["network, refined"] = np.concatenate(refined) if refined else np.zeros((0, 2, 2))
        return result


def look(detector: Detector, photos: Sequence[tuple[np.ndarray, Faces]], score_threshold: float) -> Looks:
    """Detects in photos (image, true faces), pairs with the truth, and looks again: mirrored, and without the second look."""
    images, truth = [image for image, _ in photos], [faces for _, faces in photos]
    found = detector.detect(images, score_threshold, pyramid=True)
    photo, number, predicted, true = matched_landmarks(found, truth)
    partners = [match_faces(ours, theirs) for ours, theirs in zip(found, truth, strict=True)]
    scores = np.array([found[p].scores[partners[p][n]] for p, n in zip(photo, number, strict=True)])
    back = mirrored_look(detector, images, found, score_threshold)
    mirrored = np.array([back[p][partners[p][n]] for p, n in zip(photo, number, strict=True)]).reshape(predicted.shape)
    first = first_look(detector, images, score_threshold)
    once = None if first is None else matched_landmarks(first, truth)[2]
    return Looks(found, photo, number, scores, predicted, true, mirrored, once)


def first_look(
    detector: Detector, images: Sequence[np.ndarray], score_threshold: float, pyramid: bool = True
) -> list[Faces] | None:
    """The same faces in the same order as :func:`look` finds, without the second look at each eye;
    None for a network that takes none. pyramid: as of :meth:`Detector.detect <retinalib.detect.Detector.detect>`, of whose own
    faces with the same setting these are the first look."""
    head = detector.model.eye_head
    if head is None:
        return None
    detector.model.eye_head = None
    try:
        return detector.detect(list(images), score_threshold, pyramid=pyramid)
    finally:
        detector.model.eye_head = head


def mirrored_look(
    detector: Detector, images: Sequence[np.ndarray], found: Sequence[Faces], score_threshold: float
) -> list[np.ndarray]:
    """For each image's faces, the (F, L, 2) landmarks that the detector gives them in the mirrored photo, mirrored back.

    In pixels of the photo as it is; NaN for a face that is not found again (IoU of the boxes at least 0.5).
    """
    result = []
    again = detector.detect([np.ascontiguousarray(image[:, ::-1]) for image in images], score_threshold, pyramid=True)
    for image, faces, back in zip(images, found, again, strict=True):
        back = back.flipped(image.shape[1])
        partner = match_faces(back, faces)
        landmarks = np.full(faces.landmarks.shape, np.nan)
        landmarks[partner >= 0] = back.landmarks[partner[partner >= 0]]
        result.append(landmarks)
    return result


def disagreement(
    landmarks: np.ndarray,
    schema: LandmarkSchema,
    mirrored: np.ndarray | None = None,
    first: np.ndarray | None = None,
    closed: float = CLOSED,
) -> pd.DataFrame:
    """A row per face of (N, L, 2) predicted landmarks; the larger a number, the less one may trust the pupils.

    Columns: "eyes disagree across" and "eyes disagree in height" (difference of the eyes' offsets, on one axis to the person's
    left and up, eye widths; NaN unless both eyes are readable by the prediction itself), and, for the landmarks given of the
    same faces, "mirrored photo disagrees" and "two looks disagree" (mean distance of the pupils, fractions of the
    distance of the outer canthi; NaN where unknown).
    """
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
