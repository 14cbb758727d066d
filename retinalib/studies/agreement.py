"""How far a detector agrees with itself, and each way of looking at a photo beside the truth and beside baselines."""

from collections.abc import Iterable, Sequence
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
        """Pupils (N, 2, 2) by name: "network"; with two looks, "first look alone" and its own baseline,
        "first look's lid centroid"; and ``pupils.baselines`` of the network's lids and canthi."""
        pupils, first = list(schema.pupils), {}
        if self.first is not None:
            lids = baselines(self.first, schema, mean_offset)["lid centroid"]
            first = {"first look alone": self.first[:, pupils], "first look's lid centroid": lids}
        return {"network": self.predicted[:, pupils], **first, **baselines(self.predicted, schema, mean_offset)}


def look(detector: Detector, photos: Sequence[tuple[np.ndarray, Faces]], score_threshold: float) -> Looks:
    """Detects in photos (image, true faces), pairs with the truth, and looks again: mirrored, and without the second look. Each
    photo is asked for when it is due, so that a data set of thousands needs no more memory than one of ten."""
    known = [(image.shape[1], faces) for image, faces in photos]
    truth = [faces for _, faces in known]
    found = detector.detect((image for image, _ in photos), score_threshold)
    photo, number, predicted, true = matched_landmarks(found, truth)
    partners = [match_faces(ours, theirs) for ours, theirs in zip(found, truth, strict=True)]
    scores = np.array([found[p].scores[partners[p][n]] for p, n in zip(photo, number, strict=True)])
    again = detector.detect((np.ascontiguousarray(image[:, ::-1]) for image, _ in photos), score_threshold)
    back = [faces.flipped(width) for (width, _), faces in zip(known, again, strict=True)]
    pairs = [match_faces(theirs, ours) for theirs, ours in zip(back, found, strict=True)]
    mirrored = np.full(predicted.shape, np.nan)
    for row, (p, n) in enumerate(zip(photo, number, strict=True)):
        if (other := pairs[p][partners[p][n]]) >= 0:
            mirrored[row] = back[p].landmarks[other]
    config, first = detector.model.config, None
    if config.looks:
        once = detector.detect((image for image, _ in photos), score_threshold, second_look=False)  # the same faces
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

    Columns: "eyes disagree horizontally" and "eyes disagree vertically" (difference of the eyes' offsets, eye widths; NaN
    unless both eyes are readable), and for other landmarks of the same faces "mirrored photo disagrees" and "two looks
    disagree" (mean distance of the pupils, fractions of the distance of the outer canthi; NaN where unknown)."""
    apart = np.abs(np.diff(_offsets(landmarks, schema), axis=1)[:, 0])
    both = np.where(readable_eyes(landmarks, schema, closed).all(1), 1.0, np.nan)
    names = ("eyes disagree horizontally", "eyes disagree vertically")
    table = pd.DataFrame({name: both * apart[:, axis] for axis, name in enumerate(names)})
    ends = landmarks[:, list(schema.inter_ocular)]
    span = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    span = np.where(span > 0, span, np.nan)
    pupils = list(schema.pupils)
    for name, other in (("mirrored photo disagrees", mirrored), ("two looks disagree", first)):
        if other is not None:
            table[name] = np.linalg.norm(other[:, pupils] - landmarks[:, pupils], axis=-1).mean(1) / span
    return table


def repeatability(
    detector: Detector, photos: Iterable[tuple[np.ndarray, Faces]], closed: float = CLOSED, looks: int = 4, seed: int = 0
) -> pd.DataFrame:
    """How much of the pupils' offsets (eye widths) stays when a face is looked at again, and how far both eyes agree.

    Each face of photos (image, true faces) is looked at in its box with every side moved by up to 5 % of the box, every second
    time in the mirrored photo. A row per direction, over the eyes that are readable by the truth: eyes; "sd between eyes" and
    "sd of repeats"; "ICC" (1,1) (Shrout and Fleiss 1979), the share of the variance that is between eyes. Over faces with two
    such eyes: "r, true" and "r, network", of the right with the left eye; "label floor", the standard deviation of the true
    difference of the eyes over √2: so noisy are the labels at most, for eyes that look the same way."""
    rng, seen, true, readable = np.random.default_rng(seed), [], [], []
    for image, faces in photos:
        sides, again = np.tile(faces.boxes[:, 2:] - faces.boxes[:, :2], 2), []
        for look in range(looks):
            boxes = faces.boxes + rng.uniform(-0.05, 0.05, sides.shape) * sides
            if look % 2:
                mirrored = Faces(boxes, faces.landmarks, schema=faces.schema).flipped(image.shape[1]).boxes
                found = detector.detect_in_boxes(np.ascontiguousarray(image[:, ::-1]), mirrored).flipped(image.shape[1])
            else:
                found = detector.detect_in_boxes(image, boxes)
            again.append(_offsets(found.landmarks, faces.schema))
        seen.append(np.stack(again, 1))
        true.append(_offsets(faces.landmarks, faces.schema))
        readable.append(readable_eyes(faces.landmarks, faces.schema, closed))
    seen, true, readable = np.concatenate(seen), np.concatenate(true), np.concatenate(readable)
    readable &= np.isfinite(true).all(-1) & np.isfinite(seen).all((1, 3))
    seen = seen - np.nanmean(np.where(readable[:, None, :, None], seen, np.nan), axis=(0, 1))  # sides differ: not by person
    table, both = {}, readable.all(1)
    for axis, name in enumerate(("horizontal", "vertical")):
        repeats = seen[..., axis].swapaxes(1, 2)[readable]  # (eyes, looks)
        between, within = looks * repeats.mean(1).var(ddof=1), repeats.var(1, ddof=1).mean()
        icc = (between - within) / (between + (looks - 1) * within)
        pairs = [offset[both][..., axis] for offset in (true, seen.mean(1))]
        alike = [np.corrcoef(pair.T)[0, 1] for pair in pairs]
        floor = np.diff(pairs[0], axis=1).std() / np.sqrt(2)
        table[name] = [len(repeats), repeats.mean(1).std(ddof=1), np.sqrt(within), icc, *alike, floor]
    columns = ["eyes", "sd between eyes", "sd of repeats", "ICC", "r, true", "r, network", "label floor"]
    return pd.DataFrame(table, index=columns).T


def _offsets(landmarks: np.ndarray, schema: LandmarkSchema) -> np.ndarray:
    """(F, 2, 2) offsets of the right and the left eye, x to the left of the photographed person in both."""
    right, left = (pupil_offset(landmarks, eye) for eye in (schema.right_eye, schema.left_eye))
    return np.stack([right, left * [-1, 1]], 1)
