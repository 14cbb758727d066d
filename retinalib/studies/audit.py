"""Labels that a trained network disputes most, and photos that are there twice."""

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

_ALIKE = 6  # of 64 bits differ at most between near-duplicates; of 167,331 pairs of other photographs none under 12
_EXPLAINED = 0.5  # of the disagreement is left at most where a fault is what was wrong


def look(detector: Detector, dataset: FaceDataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads each photo once. Returns a row a face with landmarks, none if the detector has others (columns file, line, image,
    face, size; lists box, labels, predicted in that box; in pixels); and a row a photo: file, image, hash (a list)."""
    faces, hashes, table = [], [], dataset.table
    file, asked = table.attrs.get("source", ""), detector.model.config.schema == dataset.schema
    for number, name in enumerate(tqdm(dataset.names, desc="auditing", unit="photo", disable=None)):
        image, labelled = dataset[number]
        hashes.append({"file": file, "image": name, "hash": imagehash.phash(Image.fromarray(image)).hash.ravel().tolist()})
        known = np.flatnonzero(np.isfinite(labelled.landmarks).all(-1).any(1) & asked)
        lines = table["line"].to_numpy()[dataset.rows[number]]
        for face, points in zip(known, detector.detect_in_boxes(image, labelled.boxes[known]).landmarks, strict=True):
            about = {"file": file, "line": lines[face], "image": name, "face": face, "size": labelled.size[face]}
            values = {"box": labelled.boxes[face], "labels": labelled.landmarks[face], "predicted": points}
            faces.append(about | {name: value.tolist() for name, value in values.items()})  # arrays would fragment memory
    return pd.DataFrame(faces), pd.DataFrame(hashes)


def disputed(faces: pd.DataFrame, schema: LandmarkSchema) -> pd.DataFrame:
    """The faces of :func:`look`, most disputed first, with columns dispute, nme, nme if <kind> (for each kind), kind.

    nme: labels against predictions, over the root of the box's area. nme if …: the same after mending labels that would have
    left and right exchanged, the eyes exchanged, or be shifted by the mean difference; kind: the one that leaves least, at most
    half of nme, else "other". dispute: the largest of the regions' errors, each over its median in all faces, for contours
    always differ more than eyes."""
    labels, predicted, boxes = (np.stack(faces[name].to_list()).astype(float) for name in ("labels", "predicted", "box"))
    unit = {"normaliser": "box", "boxes": boxes, "schema": schema}
    mirrored, swapped = labels[:, list(schema.flip_order)], labels.copy()
    eyes = [point for eye in (schema.right_eye, schema.left_eye) if eye for point in eye.points() if point is not None]
    swapped[:, eyes] = mirrored[:, eyes]
    shifted = labels + np.nanmean(predicted - labels, axis=1, keepdims=True)
    mended = {"mirrored order": mirrored, "swapped eyes": swapped, "shifted": shifted}
    after = pd.DataFrame({kind: nme(predicted, points, **unit) for kind, points in mended.items()})
    table = faces.assign(nme=nme(predicted, labels, **unit)).join(after.add_prefix("nme if "))
    table["kind"] = after.idxmin(axis=1).where(after.min(axis=1) <= _EXPLAINED * table["nme"], "other")
    errors = np.ma.masked_invalid(point_errors(predicted, labels, **unit))
    regions = np.ma.stack([errors[:, list(points)].mean(1) for points in schema.regions.values()], axis=1)
    table["dispute"] = (regions / np.ma.median(regions, axis=0)).max(1).filled(np.nan)
    return table.sort_values("dispute", ascending=False, ignore_index=True)


def duplicates(hashes: pd.DataFrame) -> pd.DataFrame:
    """The photos of :func:`look` that have a near-duplicate, groups in several files first: columns file, image, group, across
    (bool: in several files), differing (bits, from the group's first photo)."""
    bits = np.stack(hashes["hash"].to_list())
    signs, pairs = np.where(bits, 1, -1).astype(np.float32), []
    for start in range(0, len(signs), 1000):  # all distances of 16,000 photos fill a gigabyte
        one, other = np.nonzero(signs[start : start + 1000] @ signs.T >= bits.shape[1] - 2 * _ALIKE)
        pairs.append((one + start, other))
    one, other = np.concatenate(pairs, axis=1)
    table = hashes.drop(columns="hash")
    table["group"] = connected_components(coo_array((np.ones(len(one)), (one, other)), (len(bits),) * 2))[1]
    groups = table.groupby("group")
    table["across"] = groups["file"].transform("nunique") > 1
    table["differing"] = (bits != bits[groups.head(1).index[table["group"]]]).sum(1)
    table = table[groups["image"].transform("size") > 1]
    return table.sort_values(["across", "group", "differing"], ascending=[False, True, True], ignore_index=True)
