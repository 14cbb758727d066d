"""Intervals for differences between arms that were trained with several seeds and measured on the same photos."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


class Difference(NamedTuple):
    """An estimated difference with its interval; ``detectable``: the smallest true effect found with a power of 80 %."""

    estimate: float
    low: float
    high: float
    p_value: float
    detectable: float
    seeds: int
    photos: int


def paired_difference(
    table: pd.DataFrame, value: str, first: str, second: str, level: float = 0.95, rounds: int = 2000, seed: int = 0
) -> Difference:
    """How much ``second`` differs from ``first`` in the mean of ``value``, paired by seed and photo.

    table: a row a face, with the columns arm, seed, image and ``value``; photos are clusters (a photo's faces share its light
    and its blur). Two sources of chance are kept apart: which photos were measured (a bootstrap over photos of the difference
    averaged over seeds) and which seeds were drawn (the spread of the seeds' differences). Their variances are added, and the
    interval takes Student's t with Satterthwaite's degrees of freedom, because a bootstrap over three or five seeds alone is
    far too narrow. The photo variance within each seed's difference is counted in both, which errs on the wide side.
    Raises ValueError for fewer than two common seeds.
    """
    pairs = table[table["arm"].isin([first, second])]
    cells = pairs.groupby(["seed", "image", "arm"])[value].agg(["sum", "count"]).unstack("arm")
    cells = cells.dropna()
    sums = (cells["sum"][second] - cells["sum"][first]).unstack("seed")
    counts = cells["count"][first].unstack("seed")
    complete = sums.notna().all(axis=1)
    sums, counts = sums[complete].to_numpy(), counts[complete].to_numpy(float)
    photos, seeds = sums.shape
    if seeds < 2:
        raise ValueError(f"an interval over seeds needs at least two seeds that both {first} and {second} have, got {seeds}")
    by_seed = sums.sum(0) / counts.sum(0)
    estimate = float(by_seed.mean())
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(photos, np.full(photos, 1 / photos), size=rounds)
    resampled = ((weights @ sums) / (weights @ counts)).mean(1)
    photo_variance, seed_variance = float(resampled.var(ddof=1)), float(by_seed.var(ddof=1) / seeds)
    variance = photo_variance + seed_variance
    if variance == 0:
        return Difference(estimate, estimate, estimate, float(estimate == 0), 0.0, seeds, photos)
    freedom = variance**2 / (photo_variance**2 / max(photos - 1, 1) + seed_variance**2 / (seeds - 1) + 1e-300)
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(estimate) / error, freedom))
    detectable = float(stats.t.ppf(0.5 + level / 2, freedom) + stats.t.ppf(0.8, freedom)) * error
    return Difference(estimate, estimate - half, estimate + half, p_value, detectable, seeds, photos)


def seed_difference(differences: np.ndarray, level: float = 0.95) -> Difference:
    """One difference a seed, such as of AP: mean and Student's interval over seeds. Raises ValueError for fewer than two."""
    differences = np.asarray(differences, float)
    if len(differences) < 2:
        raise ValueError(f"an interval over seeds needs at least two seeds, got {len(differences)}")
    mean, error, freedom = float(differences.mean()), float(stats.sem(differences)), len(differences) - 1
    quantile = float(stats.t.ppf(0.5 + level / 2, freedom))
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    detectable = (quantile + float(stats.t.ppf(0.8, freedom))) * error
    return Difference(mean, mean - quantile * error, mean + quantile * error, p_value, detectable, len(differences), 0)


def cluster_interval(
    table: pd.DataFrame, value: str, cluster: str = "image", level: float = 0.95, rounds: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Median of ``value`` with a percentile interval, resampling whole clusters (photos)."""
    known = table.dropna(subset=[value])
    groups = [group.to_numpy() for _, group in known.groupby(cluster)[value]]
    if not groups:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    medians = [
        np.median(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])) for _ in range(rounds)
    ]
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return float(known[value].median()), float(low), float(high)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values for several comparisons (Holm 1979)."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    steps = (len(p_values) - np.arange(len(p_values))) * p_values[order]
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
