"""Intervals for differences between arms that were trained with several seeds and measured on the same photos."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq

_TAIL = (1 - 0.95) / 2  # of an interval of 95 %


class Difference(NamedTuple):
    """``detectable``: the smallest true effect found with a power of 80 % after Bonferroni's correction, or NaN."""

    estimate: float
    low: float
    high: float
    p_value: float
    detectable: float
    seeds: int
    photos: int


def photo_weights(photos: int, rounds: int = 2000, seed: int = 0) -> np.ndarray:
    """(rounds, photos) int: how often each photo counts in each round of a bootstrap over photos."""
    return np.random.default_rng(seed).multinomial(photos, np.full(photos, 1 / photos), size=rounds)


def paired_difference(
    table: pd.DataFrame, value: str, first: str, second: str, comparisons: int = 1, rounds: int = 2000, seed: int = 0
) -> Difference:
    """How much ``second`` differs from ``first`` in the mean of ``value``, paired by seed and photo.

    table: a row per face, with the columns arm, seed, image and ``value``, as far as both arms have them. The interval is that
    of :func:`crossed_difference`, with a bootstrap over photos. ValueError for fewer than two seeds."""
    pairs = table[table["arm"].isin([first, second])]
    cells = pairs.groupby(["seed", "image", "arm"])[value].agg(["sum", "count"]).unstack("arm").dropna()
    sums = (cells["sum"][second] - cells["sum"][first]).unstack("seed").fillna(0.0).to_numpy()
    counts = cells["count"][first].unstack("seed").fillna(0.0).to_numpy()
    photos, seeds = sums.shape
    if seeds < 2:
        raise ValueError(f"an interval over seeds needs at least two seeds that both {first} and {second} have, got {seeds}")
    weights = photo_weights(photos, rounds, seed)
    with np.errstate(invalid="ignore"):  # a round may draw no photo that a seed has
        resampled = (weights @ sums) / (weights @ counts)
    return crossed_difference(sums.sum(0) / counts.sum(0), resampled, photos, comparisons)


def crossed_difference(by_seed: np.ndarray, resampled: np.ndarray, photos: int, comparisons: int = 1) -> Difference:
    """The mean of one difference a seed, with an interval for other seeds *and* other photos.

    by_seed: (S,) the difference that each seed shows; resampled: (rounds, S) the same with photos drawn again, the same ones
    for all seeds of a round; rounds with NaN don't count. The variances of the mean between seeds and between rounds are added,
    less the part that both hold (two-way clusters: Cameron, Gelbach and Miller 2011). Student's quantiles, with S - 1 degrees
    of freedom for the share of the seeds, less a quarter of the common part, and photos - 1 for the rest, are averaged by those
    shares (Cochran and Cox 1957). In simulations of three and five seeds intervals of 95 % hold the true effect in 94 to 98 of
    100. No width: nothing varies; NaN: not known. Raises ValueError for fewer than two seeds."""
    seeds = len(by_seed)
    if seeds < 2:
        raise ValueError(f"an interval over seeds needs at least two seeds, got {seeds}")
    estimate, between_seeds = float(by_seed.mean()), float(by_seed.var(ddof=1) / seeds)
    resampled = resampled[np.isfinite(resampled).all(1)]
    if len(resampled) < 2 or not np.isfinite(estimate):
        return Difference(estimate, *[float("nan")] * 4, seeds, photos)
    covariance = np.cov(resampled, rowvar=False)
    between_photos, own = float(covariance.mean()), float(covariance.trace() / seeds)
    interaction = (own - between_photos) / (seeds - 1)
    variance = max(between_seeds + between_photos - interaction, between_seeds, between_photos)
    if variance == 0:
        return Difference(estimate, estimate, estimate, float(estimate == 0), float("nan"), seeds, photos)
    error, share = float(np.sqrt(variance)), max(between_seeds - interaction / 4, 0.0) / variance

    def quantile(tail: float) -> float:
        return share * stats.t.isf(tail, seeds - 1) + (1 - share) * stats.t.isf(tail, max(photos - 1, 1))

    half = float(quantile(_TAIL)) * error
    size, least = abs(estimate) / error, -300.0  # log p
    beyond = quantile(np.exp(least) / 2) <= size
    p_value = float(np.exp(least if beyond else brentq(lambda log: quantile(np.exp(log) / 2) - size, least, 0.0)))
    needed, quantiles = quantile(_TAIL / comparisons), (np.arange(2000) + 0.5) / 2000
    # how often a non-central t is over that is the mean over quantiles of the error: scipy's own fails far out
    errors = [np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom) for freedom in (seeds - 1, max(photos - 1, 1))]

    def power(shift: float) -> float:
        beyond = [stats.norm.cdf(shift - needed * error).mean() for error in errors]
        return share * beyond[0] + (1 - share) * beyond[1]

    detectable = float(brentq(lambda shift: power(shift) - 0.8, 0.0, 10 + 10 * needed)) * error
    return Difference(estimate, estimate - half, estimate + half, p_value, detectable, seeds, photos)


def cluster_interval(table: pd.DataFrame, value: str) -> tuple[float, float, float]:
    """Median of ``value`` with its interval, see :func:`cluster_bootstrap`."""
    return cluster_bootstrap(table, [value], np.median, rounds=2000)


def median_difference(table: pd.DataFrame, first: str, second: str) -> tuple[float, float, float]:
    """Median of ``first`` minus median of ``second`` with its interval; both medians are of the same resampled photos."""
    return cluster_bootstrap(table, [first, second], lambda values: np.subtract(*np.median(values, axis=0)))


def medians_against(table: pd.DataFrame, first: str, others: Sequence[str]) -> pd.DataFrame:
    """Medians of columns with their intervals over photos, and by how much that of ``first`` is more; a row a column."""
    rows = {name: (*cluster_interval(table, name), *median_difference(table, first, name)) for name in others}
    rows = {first: (*cluster_interval(table, first), np.nan, np.nan, np.nan)} | rows
    return pd.DataFrame(rows, index=["median", "low", "high", "difference", "its low", "its high"]).T


def cluster_bootstrap(
    table: pd.DataFrame, columns: list[str], statistic: Callable[[np.ndarray], float], rounds: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Any ``statistic`` of (N, K) values of ``columns`` with a 95 % percentile interval, resampling whole photos (column
    image). Rows without all values are left out; NaN three times without any."""
    known = table.dropna(subset=columns)
    if not len(known):
        return float("nan"), float("nan"), float("nan")
    values = known[columns].to_numpy(float)
    codes = pd.factorize(known["image"], sort=True)[0]
    grouped, sizes = values[np.argsort(codes, kind="stable")], np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    repeated = []
    for photos in np.random.default_rng(seed).integers(len(sizes), size=(rounds, len(sizes))):
        size = sizes[photos]
        rows = np.repeat(starts[photos] - (np.cumsum(size) - size), size) + np.arange(size.sum())
        repeated.append(statistic(grouped[rows]))
    low, high = np.nanquantile(repeated, [_TAIL, 1 - _TAIL]) if np.isfinite(repeated).any() else (np.nan, np.nan)
    return float(statistic(values)), float(low), float(high)


def in_words(difference: tuple[float, float, float], reference: float, unit: str) -> str:
    """A difference of a median from another, ``reference``, with its interval in words; of percentages, in points."""
    estimate, low, high = difference
    points = "°" if unit == "°" else " points"
    unit = unit if unit == "°" else f" {unit}"
    if not (high < 0 or low > 0):
        return f"**not clearly different** ({estimate:+.2f}{points}, 95 % interval {low:+.2f} to {high:+.2f})"
    word, ends = ("smaller", (-high, -low)) if high < 0 else ("larger", (low, high))
    change = f", {100 * estimate / reference:+.0f} %".replace("-", "−") if reference > 0 else ""
    interval = f"95 % interval {ends[0]:.2f} to {ends[1]:.2f}"
    values = f"{reference + estimate:.2f} instead of {reference:.2f}{unit}"
    return f"**{word}** by {abs(estimate):.2f}{points} ({interval}): {values}{change}"


def rank_correlation(values: np.ndarray) -> float:
    """Spearman's ρ of (N, 2) values; NaN under three rows or for constants."""
    if len(values) < 3 or (np.ptp(values, axis=0) == 0).any():
        return float("nan")
    return float(stats.spearmanr(values).statistic)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values for several comparisons (Holm 1979)."""
    ordered = pd.Series(np.asarray(p_values, float)).sort_values()
    steps = ordered * np.arange(len(ordered), 0, -1)
    return steps.cummax().clip(upper=1.0).sort_index().to_numpy()
