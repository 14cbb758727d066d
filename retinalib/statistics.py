"""Intervals for differences between arms that were trained with several seeds and measured on the same photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


class Difference(NamedTuple):
    """An estimated difference with its interval; ``detectable``: the smallest true effect that would be found with a power of
    80 % after correction for the number of comparisons (Bonferroni, which is Holm's first step)."""

    estimate: float
    low: float
    high: float
    p_value: float
    detectable: float
    seeds: int
    photos: int


def paired_difference(
    table: pd.DataFrame,
    value: str,
    first: str,
    second: str,
    comparisons: int = 1,
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> Difference:
    """How much ``second`` differs from ``first`` in the mean of ``value``, paired by seed and photo.

    table: a row a face, with the columns arm, seed, image and ``value``; photos are clusters (a photo's faces share its light
    and its blur). Two sources of chance are kept apart: which photos were measured (a bootstrap over photos of the difference
    averaged over seeds) and which seeds were drawn (the spread of the seeds' differences). Their variances are added, and the
    interval takes Student's t with Satterthwaite's degrees of freedom, because a bootstrap over three or five seeds alone is
    far too narrow. The photo variance within each seed's difference is counted in both, which errs on the wide side.
    comparisons: how many differences are looked at together, for ``detectable``.
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
    detectable = _detectable(error, freedom, level, comparisons)
    return Difference(estimate, estimate - half, estimate + half, p_value, detectable, seeds, photos)


def _detectable(error: float, freedom: float, level: float, comparisons: int) -> float:
    """The effect whose t statistic passes the corrected threshold in 80 % of studies; ``error``: the standard error."""
    threshold = stats.t.isf((1 - level) / 2 / comparisons, freedom)
    return float(threshold + stats.t.ppf(0.8, freedom)) * error


def seed_difference(differences: np.ndarray, photos: int = 0, comparisons: int = 1, level: float = 0.95) -> Difference:
    """One difference a seed, such as of AP over ``photos``: mean and Student's interval over seeds.

    Raises ValueError for fewer than two seeds.
    """
    differences = np.asarray(differences, float)
    if len(differences) < 2:
        raise ValueError(f"an interval over seeds needs at least two seeds, got {len(differences)}")
    mean, error, freedom = float(differences.mean()), float(stats.sem(differences)), len(differences) - 1
    quantile = float(stats.t.ppf(0.5 + level / 2, freedom))
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    detectable = _detectable(error, freedom, level, comparisons)
    return Difference(mean, mean - quantile * error, mean + quantile * error, p_value, detectable, len(differences), photos)


def cluster_interval(
    table: pd.DataFrame, value: str, cluster: str = "image", level: float = 0.95, rounds: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Median of ``value`` with a percentile interval, resampling whole clusters (photos)."""
    return cluster_bootstrap(table, [value], np.median, cluster, level, rounds, seed)


def median_difference(
    table: pd.DataFrame, first: str, second: str, cluster: str = "image", level: float = 0.95, rounds: int = 1000
) -> tuple[float, float, float]:
    """Median of ``first`` minus median of ``second`` with its interval; both medians are of the same resampled photos."""

    def gap(values: np.ndarray) -> float:
        one, other = np.median(values, axis=0)
        return one - other

    return cluster_bootstrap(table, [first, second], gap, cluster, level, rounds)


def medians_against(table: pd.DataFrame, first: str, others: Sequence[str]) -> pd.DataFrame:
    """Medians of the columns ``first`` and ``others`` with their intervals over photos (median, low, high), and by how much the
    median of ``first`` is more than each (difference, its low, its high; NaN for itself); a row a column."""
    rows = {name: (*cluster_interval(table, name), *median_difference(table, first, name)) for name in others}
    rows = {first: (*cluster_interval(table, first), np.nan, np.nan, np.nan)} | rows
    return pd.DataFrame(rows, index=["median", "low", "high", "difference", "its low", "its high"]).T


def cluster_bootstrap(
    table: pd.DataFrame,
    columns: list[str],
    statistic: Callable[[np.ndarray], float],
    cluster: str = "image",
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Any ``statistic`` of (N, K) values of ``columns`` with a percentile interval, resampling whole clusters (photos).

    Rows without all values are left out; NaN three times without any row.
    """
    known = table.dropna(subset=columns)
    if not len(known):
        return float("nan"), float("nan"), float("nan")
    values = known[columns].to_numpy(float)
    codes = pd.factorize(known[cluster], sort=True)[0]
    grouped, sizes = values[np.argsort(codes, kind="stable")], np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    repeated = []
    for photos in np.random.default_rng(seed).integers(len(sizes), size=(rounds, len(sizes))):
        size = sizes[photos]
        rows = np.repeat(starts[photos] - (np.cumsum(size) - size), size) + np.arange(size.sum())
        repeated.append(statistic(grouped[rows]))
    low, high = (
        np.nanquantile(repeated, [(1 - level) / 2, (1 + level) / 2]) if np.isfinite(repeated).any() else (np.nan, np.nan)
    )
    return float(statistic(values)), float(low), float(high)


def in_words(difference: tuple[float, float, float], reference: float, unit: str) -> str:
    """A difference with its interval in words, also as a share of the error it is held against: the sentence of a result."""
    estimate, low, high = difference
    word = "smaller" if high < 0 else "larger" if low > 0 else "not clearly different"
    unit = unit if unit == "°" else f" {unit}"
    share = f"; {100 * abs(estimate) / reference:.0f} % of the other's {reference:.2f}{unit}" if reference > 0 else ""
    return f"**{word}** (by {estimate:+.2f}{unit}, 95 % interval {low:+.2f} to {high:+.2f}{share})"


def spread(values: np.ndarray) -> float:
    """Interquartile range over 1.349, which is the standard deviation of a normal distribution; outliers don't move it."""
    low, high = np.quantile(values, [0.25, 0.75]) if len(values) else (np.nan, np.nan)
    return float(high - low) / 1.349


def explained_share(values: np.ndarray) -> float:
    """1 − (spread of the errors / spread of the truth)² of (N, 2) predicted and true values, with the robust :func:`spread`.

    1 is perfect. 0 is what the mean of the truth, said of everybody, reaches; under 0 is worse than that. Bias does not count.
    """
    signal = spread(values[:, 1])
    return float(1 - (spread(values[:, 0] - values[:, 1]) / signal) ** 2) if signal > 0 else float("nan")


def rank_correlation(values: np.ndarray) -> float:
    """Spearman's ρ of (N, 2) values; NaN under three rows or for constants."""
    if len(values) < 3 or (np.ptp(values, axis=0) == 0).any():
        return float("nan")
    return float(stats.spearmanr(values).statistic)


def side_by_side(tables: dict[str, pd.DataFrame], labels: dict[str, str]) -> pd.DataFrame:
    """Whether two tables' columns are distributed alike; a row a label: for each table n, median and robust :func:`spread`,
    then KS, the Kolmogorov–Smirnov statistic (0: the same, 1: no overlap), and what it would exceed by chance in 5 %.

    tables: two, name -> columns of ``labels`` (column -> label with unit); unknown values don't count.
    """
    rows = {}
    for column, label in labels.items():
        pair = [table[column].dropna().to_numpy() for table in tables.values()]
        numbers = [number for values in pair for number in (len(values), np.median(values), spread(values))]
        chance = stats.kstwobign.isf(0.05) * np.sqrt(sum(1 / len(values) for values in pair))
        rows[label] = (*numbers, stats.ks_2samp(*pair).statistic, chance)
    columns = [f"{name}: {what}" for name in tables for what in ("n", "median", "spread")]
    return pd.DataFrame(rows, index=[*columns, "KS", "by chance (95 %)"]).T


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values for several comparisons (Holm 1979)."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    steps = (len(p_values) - np.arange(len(p_values))) * p_values[order]
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
