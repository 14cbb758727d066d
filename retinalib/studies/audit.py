"""Labels that a trained network disputes most, and photos and faces that are there twice."""

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector
from retinalib.evaluate import nme, point_errors
from retinalib.landmarks import LandmarkSchema

_ALIKE = 0.06  # of a hash's bits differ at most between near-duplicates
_EXPLAINED = 0.5  # of the disagreement that is left if a fault of a kind is what was wrong
KINDS = ("mirrored order", "swapped eyes", "shifted")
"""Faults that are told by their name; what none of them explains is "other"."""


def look(detector: Detector | None, dataset: FaceDataset, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads each photo once. Returns the faces with landmarks (columns list, line, image, face, size in pixels, box, labels and
    predicted (L, 2) in the photo's pixels; empty without a detector of the same landmarks) and a perceptual hash of each photo
    (columns list, image, hash: (64,) bool). name: of the list."""
    faces, hashes = [], []
    asked = detector is not None and detector.model.config.schema == dataset.schema
    for number, image_name in enumerate(tqdm(dataset.names, desc=f"auditing {name}", unit="photo", disable=None)):
        image, labelled = dataset[number]
        hashes.append({"list": name, "image": image_name, "hash": imagehash.phash(Image.fromarray(image)).hash.ravel()})
        known = np.flatnonzero(np.isfinite(labelled.landmarks).all(-1).any(1)) if asked else ()
        if len(known):
            found = detector.detect_in_boxes(image, labelled.boxes[known])
            rows = dataset.table.iloc[dataset.rows[number][known]]
            about = {"list": name, "line": rows["line"].to_numpy() if "line" in rows else 0, "image": image_name, "face": known}
            arrays = {"box": labelled.boxes, "labels": labelled.landmarks}
            arrays = {key: list(array[known]) for key, array in arrays.items()} | {"predicted": list(found.landmarks)}
            faces.append(pd.DataFrame({**about, "size": labelled.size[known], **arrays}))
    return pd.concat(faces, ignore_index=True) if faces else pd.DataFrame(), pd.DataFrame(hashes)


def disputed(faces: pd.DataFrame, schema: LandmarkSchema) -> pd.DataFrame:
    """The faces of :func:`look`, most disputed first, with the columns dispute, nme, nme if <kind> and kind.

    nme: the mean distance of labels from predictions over the root of the box's area; nme if …: what it would be had the labels
    this fault and were they mended: left and right exchanged, the eyes exchanged, shifted by their mean difference. kind: the
    one that explains at least half of nme, else "other". dispute: the largest of the regions' errors, each over its median in
    all faces, since contours differ more than eyes."""
    labels, predicted, boxes = (np.stack(faces[name].to_list()).astype(float) for name in ("labels", "predicted", "box"))
    unit = {"normaliser": "box", "boxes": boxes, "schema": schema}
    mirrored, swapped = labels[:, list(schema.flip_order)], labels.copy()
    eyes = [point for eye in (schema.right_eye, schema.left_eye) if eye for point in eye.points() if point is not None]
    swapped[:, eyes] = mirrored[:, eyes]
    shifted = labels + np.nanmean(predicted - labels, axis=1, keepdims=True)
    mended = {f"nme if {k}": nme(predicted, points, **unit) for k, points in zip(KINDS, (mirrored, swapped, shifted), strict=True)}
    table = faces.assign(nme=nme(predicted, labels, **unit), **mended)
    best = table[list(mended)].to_numpy().argmin(1)
    explained = table[list(mended)].min(axis=1) <= _EXPLAINED * table["nme"]
    errors = np.ma.masked_invalid(point_errors(predicted, labels, **unit))
    regions = np.ma.stack([errors[:, list(points)].mean(1) for points in schema.regions.values()], axis=1)
    dispute = (regions / np.ma.median(regions, axis=0)).max(1).filled(np.nan)
    table = table.assign(dispute=dispute, kind=np.where(explained, np.array(KINDS)[best], "other"))
    return table.sort_values("dispute", ascending=False, ignore_index=True)


def duplicates(hashes: pd.DataFrame) -> pd.DataFrame:
    """The photos that have a near-duplicate, groups that lists share first: columns group, across (bool: in several lists), list,
    image, differing (bits of 64, from the group's first photo)."""
    bits = np.stack(hashes["hash"].to_list())
    signs = np.where(bits, 1, -1).astype(np.float32)
    pairs = []
    for start in range(0, len(signs), 1000):  # of 16,000 photos at once, the distances fill a gigabyte
        one, other = np.nonzero((bits.shape[1] - signs[start : start + 1000] @ signs.T) / 2 <= _ALIKE * bits.shape[1])
        pairs.append(np.stack([one + start, other]))
    one, other = np.concatenate(pairs, axis=1)
    group = connected_components(coo_array((np.ones(len(one), bool), (one, other)), (len(bits),) * 2))[1]
    table = hashes.assign(group=group).drop(columns="hash")
    first = table.drop_duplicates("group").index[group]  # groups are numbered in the order of their first photos
    table["differing"] = (bits != bits[first]).sum(1)
    table["across"] = table.groupby("group")["list"].transform("nunique") > 1
    table = table[table.groupby("group")["image"].transform("size") > 1]
    return table.sort_values(["across", "group", "differing"], ascending=[False, True, True], ignore_index=True)
