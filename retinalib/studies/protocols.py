"""A detector measured on a data set: from the photos alone, and in given boxes, as WFLW's published figures are."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from retinalib.datasets.table import ATTRIBUTES, FaceDataset
from retinalib.detect import Detector
from retinalib.evaluate import THRESHOLD, evaluate_faces, resampled_ap, summary
from retinalib.studies.statistics import cluster_bootstrap, photo_weights


def end_to_end(faces: pd.DataFrame, detections: pd.DataFrame, images: Sequence[str]) -> pd.DataFrame:
    """What is found in ``images`` alone, from the tables of :func:`retinalib.ablation.measure`; a row per measure: value, low
    and high of its 95 % interval (photos drawn again).

    AP at IoU 0.5, where there are detections; at a score of at least 0.5 the share of labelled faces found, the medians of NME
    and pupil error (fractions) over those, and the share of failures over 10 %, with a miss as one."""
    rows = {}
    if len(detections):
        weights = np.vstack([np.ones(len(images), int), photo_weights(len(images))])
        value, *again = resampled_ap(detections, pd.Index(images), weights)
        rows["AP"] = (value, *np.nanquantile(again, [0.025, 0.975]))
    faces = faces.assign(failed=~(faces["nme"] <= THRESHOLD))
    columns = {"found": ("matched", np.mean), "median NME": ("nme", np.median), "failure rate": ("failed", np.mean)}
    columns |= {"median pupil error": ("nme_pupils", np.median)} if "nme_pupils" in faces else {}
    rows |= {name: cluster_bootstrap(faces, [column], statistic) for name, (column, statistic) in columns.items()}
    return pd.DataFrame(rows, index=["value", "low", "high"]).T


def in_given_boxes(detector: Detector, dataset: FaceDataset, second_look: bool = True) -> pd.DataFrame:
    """The landmarks in every labelled box of a data set, as a table of :func:`retinalib.evaluate.evaluate_faces`."""
    photos = tqdm(dataset, desc="given boxes", unit="photo", leave=False, disable=None)
    found = [detector.detect_in_boxes(image, faces.boxes, second_look) for image, faces in photos]
    return evaluate_faces(found, [dataset.faces(number) for number in range(len(dataset))], dataset.names)


def by_subset(table: pd.DataFrame) -> pd.DataFrame:
    """A table of :func:`in_given_boxes`, the whole and a row per subset that has faces: faces, mean_nme, failure_rate and auc
    at 10 %, fractions."""
    parts = {"test": table} | {name: table[table[name].astype(bool)] for name in ATTRIBUTES if name in table}
    rows = pd.concat({name: summary(part) for name, part in parts.items() if name == "test" or len(part)}).droplevel(1)
    return rows[["faces", "mean_nme", "failure_rate", "auc"]]
