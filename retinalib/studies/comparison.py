"""Arms against a baseline: what differs, with intervals, and the sentences that say so."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from retinalib.evaluate import THRESHOLD, resampled_ap
from retinalib.studies.statistics import Difference, crossed_difference, holm, paired_difference, photo_weights


def detections_of(runs: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """What ``ablation.run`` left of detections in the run folders: arm, seed, and the columns of evaluate.precision_recall."""
    tables = [
        pd.read_csv(folder / row.folder / "test_detections.csv", dtype={"image": str}).assign(arm=row.arm, seed=row.seed)
        for row in runs.itertuples()
    ]
    return pd.concat(tables, ignore_index=True)


def compare(faces: pd.DataFrame, detections: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Each further arm against the first, paired by seed and photo; tables of ``ablation.run`` and :func:`detections_of`.

    Columns: arm, measure, unit, better ("lower" or "higher"), estimate, low, high (95 %), p_value, p_holm (corrected for all
    comparisons of the table), detectable (the smallest effect found with a power of 80 % after that correction), seeds, photos.
    Mean NME and mean pupil error are compared over faces that both arms found; the failure rate over all. A measure is left out
    where fewer than two photos have it in both arms for at least two seeds."""
    planned: list[tuple] = []  # arm, measure, unit, better, and how the difference is found
    for arm in arms[1:]:
        pair, both = (table[table["arm"].isin([arms[0], arm])] for table in (faces, detections))
        found = pair[pair.groupby(["seed", "image", "face"])["matched"].transform("all")]
        measures = {
            "mean NME": ("% of the inter-ocular distance", found.assign(value=100 * found["nme"])),
            "mean pupil error": ("% of the inter-ocular distance", found.assign(value=100 * found.get("nme_pupils", np.nan))),
            "failure rate": ("% of faces", pair.assign(value=100.0 * ~(pair["nme"] <= THRESHOLD))),
        }
        for measure, (unit, table) in measures.items():
            if _comparable(table) and (measure != "mean pupil error" or "nme_pupils" in table):
                planned.append((arm, measure, unit, "lower", partial(paired_difference, table, "value", arms[0], arm)))
        if _comparable(both):
            planned.append((arm, "AP", "", "higher", partial(_ap_difference, both, arms[0], arm)))
    rows = [(*said, *difference(comparisons=len(planned))) for *said, difference in planned]
    result = pd.DataFrame(rows, columns=["arm", "measure", "unit", "better", *Difference._fields])
    result.insert(result.columns.get_loc("p_value") + 1, "p_holm", holm(result["p_value"].to_numpy()))
    return result


def _ap_difference(detections: pd.DataFrame, first: str, second: str, comparisons: int) -> Difference:
    images = pd.Index(detections["image"].unique())
    weights = np.vstack([np.ones(len(images), int), photo_weights(len(images))])
    runs = {run: part for run, part in detections.groupby(["arm", "seed"])}
    seeds = [seed for arm, seed in runs if arm == first and (second, seed) in runs]
    aps = {run: resampled_ap(part, images, weights) for run, part in runs.items() if run[1] in seeds}
    changes = np.stack([aps[second, seed] - aps[first, seed] for seed in seeds], axis=1)
    return crossed_difference(changes[0], changes[1:], len(images), comparisons)


def _comparable(pairs: pd.DataFrame) -> bool:
    there = pairs.groupby(["image", "seed", "arm"]).size().unstack(["seed", "arm"])
    return there.columns.get_level_values("seed").nunique() >= 2 and len(there.dropna()) >= 2


def verdict(differences: pd.DataFrame, baseline: str) -> str:
    """What the differences say, in a sentence an arm, made from the intervals and corrected p-values alone."""
    if not len(differences):
        return "Nothing to compare: a difference needs two arms and at least two seeds."
    sentences = []
    for arm, part in differences.groupby("arm", sort=False):
        said = []
        for row in part.itertuples():
            unit = f" {row.unit}" if row.unit else ""
            estimate = row.estimate if abs(row.estimate) > 1e-9 else 0.0  # equal up to rounding
            numbers = f"{estimate:+.3g}{unit}, 95 % interval {row.low:+.3g} to {row.high:+.3g}, {row.photos} photos"
            if np.isnan(row.detectable):
                said.append(f"{row.measure} tells nothing, it does not vary or is not known ({numbers})")
            elif row.p_holm >= 0.05 or row.low <= 0 <= row.high:
                said.append(f"no difference found in {row.measure} ({numbers}; detectable: {row.detectable:.2g})")
            else:
                good = (row.estimate < 0) == (row.better == "lower")
                said.append(f"**{row.measure} {'better' if good else 'worse'}** ({numbers})")
        sentences.append(f"*{arm}* against *{baseline}*, {int(part['seeds'].min())} seeds: " + "; ".join(said) + ".")
    return " ".join(sentences)
