"""How good predictions are: WIDER AP, AP on tables, NME with failures and AUC, and the end-to-end protocol.

End to end, for one network that detects and gives landmarks
------------------------------------------------------------
1. *Every labelled face counts.* A row of :func:`evaluate_faces` is a true face with landmarks, found or not. Published landmark
   errors are measured in given boxes; a detector that finds only easy faces would look good on the rest.
2. *A prediction belongs to a face if their boxes' IoU is at least 0.5*, WIDER FACE's threshold, one to one, best score first,
   as in AP; the score threshold is the caller's and has to be stated.
3. *A missed face is a failure.* Its NME is NaN in the table; failure rate and AUC count it as infinite. Median and mean NME are
   over found faces and never stand without recall.
4. *The normaliser is stated*: the distance of the outer canthi (WFLW's) by default. It shrinks in profile, which inflates those
   faces' NME; "box" (square root of the area) does not.
5. *Failure and AUC at 10 %*, as WFLW's authors report.
6. *Surplus detections* enter AP only, and only where photos are labelled completely: elsewhere nobody knows whether a surplus
   detection is a mistake, and AP is not given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import loadmat

from retinalib.faces import Faces, box_iou
from retinalib.landmarks import WFLW_98, LandmarkSchema

THRESHOLD = 0.10  # NME from which on a face counts as failed (WFLW)
_WIDER_STEPS = 1000  # score thresholds of the reference's curve


# ---------------------------------------------------------------------------------------------------------------- WIDER FACE


def wider_ap(predictions: dict[str, np.ndarray], ground_truth_dir: str | Path) -> dict[str, float]:
    """AP of WIDER FACE validation as its official evaluation computes it.

    predictions: ``{"event/name": (N, 5) x y w h score}`` in pixels, names with or without ``.jpg``; a photo that is not in it
    has no detections. ground_truth_dir: holds the official ``wider_{easy,medium,hard,face}_val.mat``. Scores are rescaled to
    0–1 over all photos, IoU is at least 0.5 with inclusive corners, detections on faces outside a subset are ignored.
    Returns ``{"easy": …, "medium": …, "hard": …}``. Raises FileNotFoundError, or ValueError for a wrong shape.
    """
    folder = Path(ground_truth_dir)
    photos = _wider_truth(folder)
    found = {name.removesuffix(".jpg"): np.asarray(rows, float) for name, rows in predictions.items()}
    for name, rows in found.items():
        if rows.ndim != 2 or rows.shape[1] != 5:
            raise ValueError(f"predictions of {name} must be (N, 5) x y w h score, got {rows.shape}")
        if not np.isfinite(rows).all():
            raise ValueError(f"predictions of {name} hold numbers that are not finite")
    scores = np.concatenate([rows[:, 4] for rows in found.values()] or [np.zeros(0)])
    low, span = (scores.min(), np.ptp(scores) or 1.0) if len(scores) else (0.0, 1.0)
    totals = {subset: np.zeros((_WIDER_STEPS, 2)) for subset in ("easy", "medium", "hard")}
    faces = dict.fromkeys(totals, 0)
    for name, boxes, subsets in photos:
        rows = found.get(name, np.zeros((0, 5)))
        rows = np.column_stack([rows[:, :4], (rows[:, 4] - low) / span])
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        best, overlap = _best_truth(rows, boxes)
        for subset, counted in subsets.items():
            faces[subset] += int(counted.sum())
            if len(rows) and len(boxes):
                totals[subset] += _wider_curve(rows[:, 4], best, overlap, counted)
    result = {}
    for subset, curve in totals.items():
        precision = np.divide(curve[:, 1], curve[:, 0], out=np.zeros(_WIDER_STEPS), where=curve[:, 0] > 0)
        result[subset] = _voc_ap(curve[:, 1] / max(faces[subset], 1), precision)
    return result


def _wider_truth(folder: Path) -> list[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """Photos as (event/name, (F, 4) x y w h, subset -> (F,) bool)."""
    missing = [p for s in ("easy", "medium", "hard", "face") if not (p := folder / f"wider_{s}_val.mat").is_file()]
    if missing:
        raise FileNotFoundError(f"no {missing[0].name} in {folder}: it is part of WIDER FACE's evaluation tools")
    truth = loadmat(folder / "wider_face_val.mat")
    chosen = {s: loadmat(folder / f"wider_{s}_val.mat")["gt_list"] for s in ("easy", "medium", "hard")}
    photos = []
    for e, event in enumerate(truth["event_list"][:, 0]):
        for p, name in enumerate(truth["file_list"][e, 0][:, 0]):
            boxes = truth["face_bbx_list"][e, 0][p, 0].astype(float)
            subsets = {}
            for subset, lists in chosen.items():
                counted = np.zeros(len(boxes), bool)
                counted[lists[e, 0][p, 0].ravel().astype(int) - 1] = True
                subsets[subset] = counted
            photos.append((f"{event[0]}/{name[0]}", boxes, subsets))
    return photos


def _best_truth(rows: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face that each detection overlaps most, and by how much."""
    if not len(rows) or not len(boxes):
        return np.zeros(len(rows), int), np.zeros(len(rows))
    corners = [np.column_stack([b[:, :2], b[:, :2] + b[:, 2:4]]) for b in (rows, boxes)]
    overlap = box_iou(*corners, pixel=1.0)
    return overlap.argmax(1), overlap.max(1)


def _wider_curve(scores: np.ndarray, best: np.ndarray, overlap: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(1000, 2): detections that count and faces found, at or over each threshold of one photo."""
    hit = overlap >= 0.5
    on_counted = hit & counted[best]
    proposals = np.cumsum(~(hit & ~counted[best]))
    first = np.zeros(len(best), bool)
    where = np.flatnonzero(on_counted)
    first[where[np.unique(best[where], return_index=True)[1]]] = True  # a face is found by its first detection
    recalled = np.cumsum(first)
    thresholds = 1 - np.arange(1, _WIDER_STEPS + 1) / _WIDER_STEPS
    last = np.searchsorted(-scores, -thresholds, side="right")  # detections with a score of at least the threshold
    curve = np.zeros((_WIDER_STEPS, 2))
    some = last > 0
    curve[some, 0], curve[some, 1] = proposals[last[some] - 1], recalled[last[some] - 1]
    return curve


def _voc_ap(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the interpolated precision–recall curve (VOC 2010: all points)."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    return float((np.diff(recall) * precision[1:]).sum())


# ------------------------------------------------------------------------------------------------------------ our own tables


def match_faces(predicted: Faces, true: Faces, iou: float = 0.5) -> np.ndarray:
    """(F,) the number of the prediction that belongs to each true face, -1 for none.

    Best score first, each prediction takes the free face it overlaps most, from ``iou`` on, as in AP.
    """
    matched = np.full(len(true), -1)
    if len(predicted) and len(true):
        overlap = box_iou(predicted.boxes, true.boxes)
        for row in np.argsort(-predicted.scores, kind="stable"):
            free = np.where(matched < 0, overlap[row], -1.0)
            if free.max() >= iou:
                matched[free.argmax()] = row
    return matched


def precision_recall(predicted: Sequence[Faces], true: Sequence[Faces], iou: float = 0.5) -> pd.DataFrame:
    """The curve of all photos together, a row a detection, best score first: score, precision, recall."""
    scores, hits = [np.zeros(0)], [np.zeros(0, bool)]
    for found, faces in zip(predicted, true, strict=True):
        matched = match_faces(found, faces, iou)
        hit = np.zeros(len(found), bool)
        hit[matched[matched >= 0]] = True
        scores.append(found.scores)
        hits.append(hit)
    score, hit = np.concatenate(scores), np.concatenate(hits)
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(hit[order])
    faces = sum(len(f) for f in true)
    precision = found / np.arange(1, len(found) + 1)
    return pd.DataFrame({"score": score[order], "precision": precision, "recall": found / max(faces, 1)})


def detection_ap(predicted: Sequence[Faces], true: Sequence[Faces], iou: float = 0.5) -> float:
    """Average precision over photos in which every face is labelled; interpolated at all points (VOC 2010).

    NaN where there are no true faces.
    """
    if not sum(len(f) for f in true):
        return float("nan")
    curve = precision_recall(predicted, true, iou)
    return _voc_ap(curve["recall"].to_numpy(), curve["precision"].to_numpy())


def _lengths(true: np.ndarray, normaliser: str | np.ndarray, schema: LandmarkSchema, boxes: np.ndarray | None) -> np.ndarray:
    if not isinstance(normaliser, str):
        lengths = np.asarray(normaliser, float)
        if lengths.shape != (len(true),):
            raise ValueError(f"{len(true)} faces need as many lengths as normaliser, got {lengths.shape}")
        return lengths
    pairs = {"inter_ocular": schema.inter_ocular, "inter_pupil": schema.pupils}
    if normaliser in pairs:
        a, b = pairs[normaliser]
        return np.linalg.norm(true[:, a] - true[:, b], axis=-1)
    if normaliser == "box" and boxes is not None:
        return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    raise ValueError(
        f"normaliser must be 'inter_ocular', 'inter_pupil', 'box' (with boxes) or lengths (N,), got '{normaliser}'"
    )


def point_errors(
    predicted: np.ndarray,
    true: np.ndarray,
    *,
    normaliser: str | np.ndarray,
    schema: LandmarkSchema = WFLW_98,
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """(N, L) distances of (N, L, 2) predicted from true landmarks, in fractions of the normaliser; NaN where unknown.

    normaliser: "inter_ocular" (outer canthi), "inter_pupil", "box" (square root of the true boxes' area), or (N,) lengths in
    the landmarks' unit. A face whose normaliser is no positive number has NaN errors. A face may be predicted whole or not at
    all (NaN). Raises ValueError otherwise.
    """
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    if predicted.shape != true.shape or true.ndim != 3:
        raise ValueError(f"predicted and true landmarks must both be (N, L, 2), got {predicted.shape} and {true.shape}")
    known, given = np.isfinite(true).all(-1), np.isfinite(predicted).all(-1)
    if partly := np.flatnonzero((known & ~given).any(1) & (known & given).any(1)).tolist():
        raise ValueError(f"predictions of faces {partly[:5]} are NaN in part, which would leave the hardest landmarks out")
    length = np.asarray(_lengths(true, normaliser, schema, boxes), float)
    length = np.where(length > 0, length, np.nan)
    return np.linalg.norm(predicted - true, axis=-1) / length[:, None]


def _row_means(errors: np.ndarray) -> np.ndarray:
    """The mean of the known values of each row, NaN where there is none."""
    known = np.isfinite(errors)
    count = known.sum(1)
    return np.where(count, np.where(known, errors, 0).sum(1) / np.maximum(count, 1), np.nan)


def nme(
    predicted: np.ndarray,
    true: np.ndarray,
    *,
    normaliser: str | np.ndarray,
    schema: LandmarkSchema = WFLW_98,
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """(N,) normalised mean error: the mean of :func:`point_errors` over a face's known landmarks, a fraction (0.05 = 5 %)."""
    return _row_means(point_errors(predicted, true, normaliser=normaliser, schema=schema, boxes=boxes))


def failure_rate(errors: np.ndarray, threshold: float = THRESHOLD) -> float:
    """The share of faces whose error is over ``threshold``; NaN (a miss) is over it. NaN without faces."""
    errors = np.asarray(errors, float)
    return float(np.mean(~(errors <= threshold))) if len(errors) else float("nan")


def cumulative_error(errors: np.ndarray, threshold: float = THRESHOLD, steps: int = 201) -> pd.DataFrame:
    """The share of faces with at most a given error, up to ``threshold``: columns error, share. A miss (NaN) never counts."""
    errors = np.asarray(errors, float)
    at = np.linspace(0, threshold, steps)
    share = np.searchsorted(np.sort(errors[np.isfinite(errors)]), at, side="right") / max(len(errors), 1)
    return pd.DataFrame({"error": at, "share": share})


def auc(errors: np.ndarray, threshold: float = THRESHOLD) -> float:
    """The area under the cumulative error curve up to ``threshold``, divided by it: 1 is perfect; exact, not sampled.

    NaN and infinite errors (misses) add nothing. NaN without faces.
    """
    errors = np.asarray(errors, float)
    if not len(errors):
        return float("nan")
    if not threshold > 0 or (errors < 0).any():
        raise ValueError("errors must not be negative, and their threshold be positive")
    return float((threshold - np.nan_to_num(errors, nan=threshold, posinf=threshold).clip(max=threshold)).mean() / threshold)


def evaluate_faces(
    predicted: Sequence[Faces],
    true: Sequence[Faces],
    names: Sequence[str] | None = None,
    *,
    normaliser: str = "inter_ocular",
    iou: float = 0.5,
) -> pd.DataFrame:
    """The end-to-end protocol (see the module): a row for each true face with landmarks, found or not.

    Columns: image, face (its number in the photo), matched (bool), score, iou, size (square root of the true box, pixels),
    nme, nme_<region> for each region, all fractions of the normaliser and NaN for a miss; then the true face's attributes.
    A face whose normaliser is unknown or zero can't be measured and has no row. No photos at all give the empty table of
    WFLW_98. Raises ValueError for predictions of another schema.
    """
    if not len(predicted) and not len(true):
        predicted, true, names = [Faces.empty()], [Faces.empty()], None
    if names is not None and len(names) != len(true):
        raise ValueError(f"{len(true)} photos have {len(names)} names")
    tables = []
    for number, (found, faces) in enumerate(zip(predicted, true, strict=True)):
        schema = faces.schema
        _same_schema(found, faces)
        measured = _lengths(faces.landmarks, normaliser, schema, faces.boxes) > 0
        labelled = np.isfinite(faces.landmarks).all(-1).any(1) & measured
        matched = match_faces(found, faces, iou)
        hit = matched >= 0
        landmarks = np.full(faces.landmarks.shape, np.nan)
        landmarks[hit] = found.landmarks[matched[hit]]
        errors = point_errors(landmarks, faces.landmarks, normaliser=normaliser, schema=schema, boxes=faces.boxes)
        overlap = np.full(len(faces), np.nan)
        overlap[hit] = np.diag(box_iou(faces.boxes[hit], found.boxes[matched[hit]]))
        score = np.full(len(faces), np.nan)
        score[hit] = found.scores[matched[hit]]
        table = pd.DataFrame(
            {
                "image": names[number] if names is not None else str(number),
                "face": np.arange(len(faces)),
                "matched": hit,
                "score": score,
                "iou": overlap,
                "size": faces.size,
                "nme": _row_means(errors),
                **{f"nme_{r.replace(' ', '_')}": _row_means(errors[:, list(points)]) for r, points in schema.regions.items()},
            }
        )
        extra = faces.attributes.drop(columns=[c for c in table.columns if c in faces.attributes])
        tables.append(pd.concat([table, extra], axis=1)[labelled])
    return pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)


def _same_schema(predicted: Faces, true: Faces) -> None:
    if predicted.schema != true.schema:
        raise ValueError(f"predictions have the landmarks of {predicted.schema.name}, the truth those of {true.schema.name}")


def matched_landmarks(
    predicted: Sequence[Faces], true: Sequence[Faces], iou: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The true faces with landmarks that were found, of all photos: (N,) numbers of their photos, (N,) their numbers in those,
    (N, L, 2) predicted and (N, L, 2) true landmarks in pixels. No photos at all give those of WFLW_98, none of each."""
    if not len(predicted) and not len(true):
        predicted, true = [Faces.empty()], [Faces.empty()]
    photos, numbers, ours, theirs = [], [], [], []
    for photo, (found, faces) in enumerate(zip(predicted, true, strict=True)):
        _same_schema(found, faces)
        matched = match_faces(found, faces, iou)
        hit = np.flatnonzero((matched >= 0) & np.isfinite(faces.landmarks).all(-1).any(1))
        photos.append(np.full(len(hit), photo))
        numbers.append(hit)
        ours.append(found.landmarks[matched[hit]])
        theirs.append(faces.landmarks[hit])
    return tuple(np.concatenate(parts) for parts in (photos, numbers, ours, theirs))


def summary(table: pd.DataFrame, by: str | list[str] | None = None) -> pd.DataFrame:
    """A table of :func:`evaluate_faces` in a row, or a row a group: faces, recall, median_nme, mean_nme and pupil_nme over
    found faces; failure_rate and auc at 10 % over all, with a miss as a failure. Of no faces, everything else is NaN."""

    def row(group: pd.DataFrame) -> pd.Series:
        values = {
            "faces": len(group),
            "recall": group["matched"].mean(),
            "median_nme": group["nme"].median(),
            "mean_nme": group["nme"].mean(),
            "failure_rate": failure_rate(group["nme"].to_numpy()),
            "auc": auc(group["nme"].to_numpy()),
        }
        if "nme_pupils" in group:
            values["pupil_nme"] = group["nme_pupils"].median()
        return pd.Series(values)

    if by is None:
        return row(table).to_frame("all").T.astype({"faces": int})
    rows = {key: row(group) for key, group in table.groupby(by, observed=True, sort=True)}
    if not rows:
        index = pd.Index([], name=by) if isinstance(by, str) else pd.MultiIndex.from_arrays([[] for _ in by], names=by)
        return row(table).to_frame().T.iloc[:0].astype({"faces": int}).set_axis(index)
    result = pd.DataFrame(rows).T
    result.index.names = [by] if isinstance(by, str) else by
    return result.astype({"faces": int})
