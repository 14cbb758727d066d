"""How good predictions are: average precision (AP), normalised mean error (NME), failure rate, AUC.

1. *Every labelled face counts*, found or not: else a detector that finds only easy faces would look good.
2. *A prediction belongs to a face if the IoU of their boxes is at least 0.5*. The score threshold is the caller's.
3. *A missed face is a failure.* Its NME is NaN, which failure rate and AUC count as infinite. Median and mean NME are over
   found faces and never stand without recall.
4. *The normaliser is stated*: by default the distance of the outer canthi (WFLW's), which shrinks in profile and inflates those
   faces' NME; "box" (square root of the area) does not. *Failure and AUC are at 10 %*, as WFLW's authors report.
5. *Surplus detections* enter AP only, and only where photos are labelled completely: elsewhere they may be faces.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from retinalib.datasets.wider_protocol import average_precision
from retinalib.datasets.wider_protocol import wider_ap as wider_ap  # the public name
from retinalib.faces import Faces, box_iou
from retinalib.landmarks import WFLW_98, LandmarkSchema

THRESHOLD = 0.10  # NME of a failed face (WFLW)


def match_faces(predicted: Faces, true: Faces, iou: float = 0.5) -> np.ndarray:
    """(F,) the prediction of each true face, or -1: best score first, each takes the *free* face it overlaps most, from an IoU
    of ``iou`` on (COCO's way; VOC and WIDER FACE let it take the best face only)."""
    matched = np.full(len(true), -1)
    if len(predicted) and len(true):
        overlap = box_iou(predicted.boxes, true.boxes)
        for row in np.argsort(-predicted.scores, kind="stable"):
            free = np.where(matched < 0, overlap[row], -1.0)
            if free.max() >= iou:
                matched[free.argmax()] = row
    return matched


def precision_recall(
    predicted: Sequence[Faces], true: Sequence[Faces], names: Sequence[str] | None = None, iou: float = 0.5
) -> pd.DataFrame:
    """The curve of all photos together, a row per detection, best score first; then a row for each face that none found.
    Columns: image, score (NaN for a face that none found), hit (bool: the detection belongs to a face), precision, recall."""
    parts = [pd.DataFrame({"image": pd.Series(dtype=str), "score": np.zeros(0), "hit": np.zeros(0, bool)})]
    for number, (found, faces) in enumerate(zip(predicted, true, strict=True)):
        matched = match_faces(found, faces, iou)
        missed = int((matched < 0).sum())
        hit = np.zeros(len(found) + missed, bool)
        hit[matched[matched >= 0]] = True
        score = np.concatenate([found.scores, np.full(missed, np.nan)])
        parts.append(pd.DataFrame({"image": names[number] if names is not None else str(number), "score": score, "hit": hit}))
    table = pd.concat(parts, ignore_index=True).sort_values("score", ascending=False, kind="stable", ignore_index=True)
    found = table["hit"].cumsum().where(table["score"].notna())
    faces = sum(len(f) for f in true)
    return table.assign(precision=found / np.arange(1, len(table) + 1), recall=found / max(faces, 1))


def detection_ap(predicted: Sequence[Faces], true: Sequence[Faces], iou: float = 0.5) -> float:
    """Average precision over photos in which every face is labelled, at all points (VOC 2010); NaN without faces."""
    table = precision_recall(predicted, true, iou=iou)
    images = pd.Index(table["image"].unique())
    return float(resampled_ap(table, images, np.ones((1, len(images))))[0])


def resampled_ap(table: pd.DataFrame, images: pd.Index, weights: np.ndarray) -> np.ndarray:
    """(R,) AP of a table of :func:`precision_recall`, its P ``images`` counted as often as (R, P) ``weights`` say, or NaN."""
    photo = images.get_indexer(table["image"])
    detected, hit = table["score"].notna().to_numpy(), table["hit"].to_numpy()
    faces = np.bincount(photo[hit | ~detected], minlength=len(images))
    order = np.argsort(-table["score"].to_numpy()[detected], kind="stable")
    photo, hit = photo[detected][order], hit[detected][order]
    result = []
    for part in np.array_split(weights, 1 + weights.shape[0] * len(photo) // 1_000_000):  # so many numbers at once
        counts = part[:, photo]
        found, total = np.cumsum(counts * hit, axis=1), part @ faces
        precision = found / np.maximum(np.cumsum(counts, axis=1), 1)
        result.append(np.where(total > 0, average_precision(found / np.maximum(total, 1)[:, None], precision), np.nan))
    return np.concatenate(result)


def _lengths(true: np.ndarray, normaliser: str | np.ndarray, schema: LandmarkSchema, boxes: np.ndarray | None) -> np.ndarray:
    if not isinstance(normaliser, str):
        lengths = np.asarray(normaliser, float)
        if lengths.shape != (len(true),):
            raise ValueError(f"{len(true)} faces need as many lengths as normaliser, got {lengths.shape}")
        return lengths
    if normaliser == "box" and boxes is not None:
        return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    if normaliser == "inter_ocular":
        ends = [[point] for point in schema.inter_ocular]
    elif normaliser == "inter_pupil" and schema.right_eye is not None:
        ends = [list(eye.middle) for eye in (schema.right_eye, schema.left_eye)]
    else:
        known = "'inter_ocular', 'inter_pupil', 'box' (with boxes) or lengths (N,)"
        raise ValueError(f"normaliser must be {known}, got '{normaliser}'")
    if true.shape[1] != schema.count:
        raise ValueError(f"schema {schema.name} has {schema.count} landmarks, the faces have {true.shape[1]}: say their schema")
    return np.linalg.norm(true[:, ends[0]].mean(1) - true[:, ends[1]].mean(1), axis=-1)


def point_errors(
    predicted: np.ndarray,
    true: np.ndarray,
    *,
    normaliser: str | np.ndarray,
    schema: LandmarkSchema = WFLW_98,
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """(N, L) distances of (N, L, 2) predicted from true landmarks, in fractions of the normaliser; NaN where unknown.

    normaliser: "inter_ocular" (outer canthi), "inter_pupil" (the middles of the lids where a schema has no pupils), "box"
    (square root of the true boxes' area), or (N,) lengths in the landmarks' unit. A face whose normaliser is no positive number
    has NaN errors. A face may be predicted whole or not at all (NaN). Raises ValueError otherwise."""
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    if predicted.shape != true.shape or true.ndim != 3:
        raise ValueError(f"predicted and true landmarks must both be (N, L, 2), got {predicted.shape} and {true.shape}")
    known, given = np.isfinite(true).all(-1), np.isfinite(predicted).all(-1)
    true = np.where(known[..., None], true, np.nan)
    if partly := np.flatnonzero((known & ~given).any(1) & (known & given).any(1)).tolist():
        raise ValueError(f"predictions of faces {partly[:5]} are NaN in part, which would leave the hardest landmarks out")
    length = np.asarray(_lengths(true, normaliser, schema, boxes), float)
    length = np.where(length > 0, length, np.nan)
    return np.linalg.norm(predicted - true, axis=-1) / length[:, None]


def _row_means(errors: np.ndarray) -> np.ndarray:
    return np.ma.masked_invalid(errors).mean(1).filled(np.nan)


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
    """The area under the cumulative error curve up to ``threshold``, divided by it: 1 is perfect. NaN and infinite errors
    (misses) add nothing. NaN without faces."""
    errors = np.asarray(errors, float)
    if not len(errors):
        return float("nan")
    if not threshold > 0 or (errors < 0).any():
        raise ValueError("errors must not be negative, and their threshold be positive")
    return float((threshold - np.nan_to_num(errors, nan=threshold, posinf=threshold).clip(max=threshold)).mean() / threshold)


def evaluate_faces(
    predicted: Sequence[Faces], true: Sequence[Faces], names: Sequence[str] | None = None, *, normaliser: str | None = None
) -> pd.DataFrame:
    """The end-to-end protocol (see the module): a row for each true face with landmarks, found or not.

    normaliser: by default "inter_ocular", and "box" for a schema without eyes; see :func:`point_errors`. Columns: image, face
    (its number in the photo), matched (bool), score, iou, size (square root of the true box, pixels), nme, nme_<region> for
    each region, all fractions of the normaliser and NaN for a miss; then the true face's attributes. A face whose normaliser is
    unknown or zero has no row. Raises ValueError for predictions of another schema."""
    if names is not None and len(names) != len(true):
        raise ValueError(f"{len(true)} photos have {len(names)} names")
    tables = []
    for number, (found, faces, matched, landmarks) in enumerate(_partners(predicted, true)):
        hit = matched >= 0
        unit = normaliser or ("box" if faces.schema.right_eye is None else "inter_ocular")
        length = _lengths(faces.landmarks, unit, faces.schema, faces.boxes)
        labelled = np.isfinite(faces.landmarks).all(-1).any(1) & (length > 0) & np.isfinite(length)
        errors = point_errors(landmarks, faces.landmarks, normaliser=unit, schema=faces.schema, boxes=faces.boxes)
        table = pd.DataFrame(
            {
                "image": names[number] if names else str(number),
                "face": np.arange(len(faces)),
                "matched": hit,
                "score": np.nan,
                "iou": np.nan,
                "size": faces.size,
                "nme": _row_means(errors),
                **{f"nme_{r.replace(' ', '_')}": _row_means(errors[:, list(p)]) for r, p in faces.schema.regions.items()},
            }
        )
        table.loc[hit, "score"] = found.scores[matched[hit]]
        table.loc[hit, "iou"] = np.diag(box_iou(faces.boxes[hit], found.boxes[matched[hit]]))
        extra = faces.attributes.drop(columns=[c for c in table.columns if c in faces.attributes])
        tables.append(pd.concat([table, extra], axis=1)[labelled])
    return pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)


def _partners(predicted: Sequence[Faces], true: Sequence[Faces]) -> Iterator[tuple[Faces, Faces, np.ndarray, np.ndarray]]:
    """The found and the true faces of each photo, how they match, and (F, L, 2) predicted landmarks, NaN for a miss."""
    if not len(predicted) and not len(true):
        predicted = true = [Faces.empty()]
    for found, faces in zip(predicted, true, strict=True):
        if found.schema != faces.schema:
            raise ValueError(f"predictions have the landmarks of {found.schema.name}, the truth those of {faces.schema.name}")
        matched = match_faces(found, faces)
        landmarks = np.full(faces.landmarks.shape, np.nan)
        landmarks[matched >= 0] = found.landmarks[matched[matched >= 0]]
        yield found, faces, matched, landmarks


def matched_landmarks(
    predicted: Sequence[Faces], true: Sequence[Faces]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The true faces with landmarks that were found, of all photos: (N,) numbers of their photos, (N,) their numbers in those,
    (N, L, 2) predicted and (N, L, 2) true landmarks in pixels."""
    parts = []
    for photo, (_, faces, matched, landmarks) in enumerate(_partners(predicted, true)):
        hit = np.flatnonzero((matched >= 0) & np.isfinite(faces.landmarks).all(-1).any(1))
        parts.append((np.full(len(hit), photo), hit, landmarks[hit], faces.landmarks[hit]))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def summary(table: pd.DataFrame, by: str | list[str] | None = None) -> pd.DataFrame:
    """A table of :func:`evaluate_faces` in a row, or a row a group: faces, recall, median_nme, mean_nme and pupil_nme over
    found faces; failure_rate and auc at 10 % over all, with a miss as a failure. Of no faces, everything else is NaN."""
    measures = {
        "faces": ("matched", "size"),
        "recall": ("matched", "mean"),
        "median_nme": ("nme", "median"),
        "mean_nme": ("nme", "mean"),
        "failure_rate": ("nme", failure_rate),
        "auc": ("nme", auc),
    }
    if "nme_pupils" in table:
        measures["pupil_nme"] = ("nme_pupils", "median")
    if by is None:  # a row also where there is no face
        groups = table.groupby(pd.Categorical(["all"] * len(table), ["all"]), observed=False)
        return groups.agg(**measures).set_axis(["all"]).astype(float).astype({"faces": int})
    return table.groupby(by, observed=True).agg(**measures).astype(float).astype({"faces": int})
