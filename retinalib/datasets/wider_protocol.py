"""WIDER FACE's own evaluation (Yang et al., CVPR 2016): its truth and its AP.

Detections are ``{"event/name": (N, 5) x y w h score}`` in pixels. Names may have a suffix, backslashes and folders before the
event; a name without event is the one photo that is called so."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from scipy.io import loadmat

from retinalib.datasets.table import BOX, PHOTO_SUFFIXES, warn
from retinalib.faces import box_iou

SUBSETS = ("easy", "medium", "hard")
_STEPS = 1000  # thresholds of the reference


def average_precision(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """The area under the interpolated precision–recall curve along the last axis, at all points (VOC 2010)."""
    highest = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    return (np.diff(recall, axis=-1, prepend=0.0) * highest).sum(-1)


def wider_ap(predictions: dict[str, np.ndarray], truth: str | Path | pd.DataFrame) -> dict[str, float]:
    """AP of WIDER FACE validation as its official evaluation computes it, at 1,000 thresholds: ``{"easy": …, "medium": …,
    "hard": …}``.

    predictions: see the module; a photo that is not in it has no detections. truth: the folder of the official
    ``wider_{easy,medium,hard,face}_val.mat``, or a table as of :func:`read_truth`; each of a table's columns of bool is a
    subset. Scores are rescaled to 0–1 over all photos, IoU is at least 0.5 with inclusive corners, each detection belongs to
    the face it overlaps most, detections on faces outside a subset are ignored, and so are photos without any face. Raises
    FileNotFoundError without the files; ValueError for predictions of a wrong shape or that are not finite, if no name fits a
    photo or one fits several, and for a table without subsets."""
    faces = truth if isinstance(truth, pd.DataFrame) else read_truth(truth)
    subsets = list(faces.select_dtypes(bool))
    if not subsets:
        raise ValueError("the table of faces has no column of bool that says which faces count, such as table.assign(all=True)")
    score, hit, face = _matches(predictions, faces)
    thresholds = 1 - np.arange(1, _STEPS + 1) / _STEPS
    result = {}
    for subset in subsets:
        counted = faces[subset].to_numpy()
        on_counted = hit & counted[face] if len(faces) else hit
        first = np.unique(face[on_counted], return_index=True)[1]  # a face is found by its first detection
        found = np.searchsorted(-score[on_counted][np.sort(first)], -thresholds, side="right")
        proposed = np.searchsorted(-score[on_counted | ~hit], -thresholds, side="right")
        precision = np.divide(found, proposed, out=np.zeros(_STEPS), where=proposed > 0)
        result[subset] = float(average_precision(found / max(counted.sum(), 1), precision))
    return result


def _endings(name: str) -> list[str]:
    """A photo's path, without suffix; the same without its first folder; without its first two; and so on."""
    path = PurePosixPath(name.replace("\\", "/").strip())
    parts = [part for part in (path.with_suffix("") if path.suffix.lower() in PHOTO_SUFFIXES else path).parts if part != "/"]
    return ["/".join(parts[first:]) for first in range(len(parts))] or [""]


def _names_of(photos: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    whole, ends, chosen, lost = {_endings(photo)[0]: photo for photo in photos}, {}, {}, []
    for photo in whole.values():
        for ending in _endings(photo):
            ends.setdefault(ending, []).append(photo)
    for name in names:
        endings = _endings(name)
        found = [whole[ending] for ending in endings if ending in whole][:1] or ends.get(endings[0], [])
        if len(found) > 1:
            raise ValueError(f"the prediction '{name}' may be of {found[0]} or of {found[1]}: its name needs the event")
        if not found:
            lost.append(name)
        elif chosen.setdefault(found[0], name) != name:
            raise ValueError(f"two predictions are of one photo: '{chosen[found[0]]}' and '{name}'")
    if lost and whole:
        said = f"{len(lost)} of {len(lost) + len(chosen)} predictions, such as '{lost[0]}', are of no photo of the truth"
        if not chosen:
            raise ValueError(f"{said}: names should look like '{next(iter(whole))}'")
        warn(f"{said} that has a face, and don't count")
    return chosen


def _matches(predictions: dict[str, np.ndarray], faces: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All detections of photos that have faces, best first: score (0 to 1), whether on a face, the number of that face."""
    found = {}
    for name, rows in predictions.items():
        rows = np.asarray(rows, float)
        if rows.ndim != 2 or rows.shape[1] != 5 or not np.isfinite(rows).all():
            raise ValueError(f"predictions of {name} must be (N, 5) x y w h score, finite numbers, got {rows.shape}")
        found[name] = rows[np.argsort(-rows[:, 4], kind="stable")]
    scores = np.concatenate([rows[:, 4] for rows in found.values()] or [np.zeros(0)])
    low, span = (scores.min(), np.ptp(scores) or 1.0) if len(scores) else (0.0, 1.0)
    boxes, photos = faces[BOX].to_numpy(float), faces.groupby("image", sort=False).indices
    name_of = _names_of(photos, found)
    score, overlap, face = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, int)]
    for photo, places in photos.items():
        if photo in name_of and len(rows := found[name_of[photo]]):
            shared = box_iou(np.column_stack([rows[:, :2], rows[:, :2] + rows[:, 2:4]]), boxes[places], pixel=1.0)
            best = shared.argmax(1)
            score.append((rows[:, 4] - low) / span)
            overlap.append(shared[np.arange(len(rows)), best])
            face.append(places[best])
    order = np.argsort(-np.concatenate(score), kind="stable")
    return np.concatenate(score)[order], np.concatenate(overlap)[order] >= 0.5, np.concatenate(face)[order]


def read_truth(folder: str | Path) -> pd.DataFrame:
    """The official truth, a row per face: image ("event/name"), x1 y1 x2 y2 (pixels), easy, medium, hard (bool: whether it
    counts there). Raises FileNotFoundError."""
    folder = Path(folder)
    missing = [p for s in (*SUBSETS, "face") if not (p := folder / f"wider_{s}_val.mat").is_file()]
    if missing:
        raise FileNotFoundError(f"no {missing[0].name} in {folder}: it is part of WIDER FACE's evaluation tools")
    truth = loadmat(folder / "wider_face_val.mat")
    chosen = [loadmat(folder / f"wider_{subset}_val.mat")["gt_list"] for subset in SUBSETS]
    names, boxes, counted = [], [np.zeros((0, 4))], [np.zeros((0, len(SUBSETS)), bool)]
    for e, event in enumerate(truth["event_list"][:, 0]):
        for p, name in enumerate(truth["file_list"][e, 0][:, 0]):
            corners = truth["face_bbx_list"][e, 0][p, 0].astype(float)
            counts = np.zeros((len(corners), len(SUBSETS)), bool)
            for column, lists in enumerate(chosen):
                counts[lists[e, 0][p, 0].ravel().astype(int) - 1, column] = True
            names += [f"{event[0]}/{name[0]}"] * len(corners)
            boxes.append(np.column_stack([corners[:, :2], corners[:, :2] + corners[:, 2:4]]))
            counted.append(counts)
    table = pd.DataFrame(np.concatenate(boxes), columns=BOX)
    table.insert(0, "image", names)
    return table.join(pd.DataFrame(np.concatenate(counted), columns=SUBSETS))
