"""Figures of comparisons: differences with intervals, cumulative errors, subsets, precision and recall, errors by point."""

from __future__ import annotations

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from retinalib.plots.style import PALETTE

LINES = ("-", "--", ":", "-.")  # so that lines can be told apart in grey, too


def difference_figure(differences: pd.DataFrame) -> Figure:
    """Differences to the baseline with their intervals (a forest plot), a panel per measure, a row per arm.

    differences: columns arm, measure, unit, estimate, low, high (in that unit), p_holm (corrected for the number of
    comparisons; orange and filled: under 0.05, else hollow) and better ("lower" or "higher").
    """
    measures, arms = list(differences["measure"].unique()), list(differences["arm"].unique())
    rows = -(-len(measures) // 2)
    size = (7.2, rows * (1.0 + 0.35 * len(arms)))
    fig, axes = plt.subplots(rows, 2, figsize=size, layout="constrained", sharey=True, squeeze=False)
    for ax in axes.flat[len(measures) :]:
        ax.set_axis_off()
    for ax, measure in zip(axes.flat, measures, strict=False):
        part = differences[differences["measure"] == measure]
        better = part["better"].iloc[0]
        unit = f" in {part['unit'].iloc[0]}" if part["unit"].iloc[0] else ""
        for row in part.itertuples():
            place, sure = arms.index(row.arm), row.p_holm < 0.05
            colour = PALETTE[5] if sure else PALETTE[0]
            ax.plot([row.low, row.high], [place, place], color=colour, lw=2, solid_capstyle="butt")
            ax.plot(row.estimate, place, "o", color=colour, mfc=colour if sure else "white", ms=7, mew=1.6)
        ax.axvline(0, color="0.3", lw=1)
        reach = np.nanmax(np.abs(part[["low", "high"]].replace([np.inf, -np.inf], np.nan).to_numpy())) * 1.15
        ax.set(xlim=(-reach, reach), ylim=(len(arms) - 0.5, -0.5), yticks=range(len(arms)), yticklabels=arms)
        ax.set(title=measure, xlabel=f"difference{unit} ({better} is better)")
        ax.locator_params(axis="x", nbins=5)
    return fig


def cumulative_error_figure(curves: pd.DataFrame, baseline: pd.DataFrame | None = None) -> Figure:
    """The share of all faces with at most a given NME; a line per arm with the range of its seeds.

    curves: columns arm, seed, error, share; baseline: columns error, share, the mean shape in the predicted box.
    """
    fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    table = curves.assign(error=100 * curves["error"])
    sns.lineplot(table, x="error", y="share", hue="arm", style="arm", estimator="mean", errorbar=("pi", 100), ax=ax)
    if baseline is not None:
        ax.plot(100 * baseline["error"], baseline["share"], color="0.5", ls=":", label="mean shape in the found box")
    ax.set(xlabel="NME (% of inter-ocular distance)", ylabel="share of all faces, a miss never counts", ylim=(0, 1))
    ax.set_xlim(0, table["error"].max())
    ax.legend(title="", frameon=False, loc="upper left")
    return fig


def precision_recall_figure(curves: pd.DataFrame) -> Figure:
    """Precision against recall, a line per arm and seed. curves: columns arm, seed, recall, precision (NaN: no point)."""
    fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    arms, seeds = list(curves["arm"].unique()), curves["seed"].nunique()
    for (arm, seed), part in curves.dropna(subset=["recall", "precision"]).groupby(["arm", "seed"], sort=False):
        number = arms.index(arm)
        label = f"{arm}, {seeds} seeds" if seed == curves["seed"].iloc[0] else None
        style = {"color": PALETTE[number % len(PALETTE)], "ls": LINES[number % len(LINES)]}
        ax.plot(part["recall"], part["precision"], lw=1.2, alpha=0.8, label=label, **style)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(title="", frameon=False, loc="lower left")
    return fig


def wider_figure(curves: pd.DataFrame, areas: dict[str, float]) -> Figure:
    """Precision against recall as WIDER FACE draws them, a line per subset with its AP.

    curves: columns subset, recall, precision; areas: AP by subset.
    """
    fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    for (subset, part), line in zip(curves.groupby("subset", sort=False), cycle(LINES)):
        ax.plot(part["recall"], part["precision"], line, lw=1.5, label=f"{subset}, AP {areas[subset]:.3f}")
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(title="", frameon=False, loc="lower left")
    return fig


def subset_figure(table: pd.DataFrame, label: str, fmt: str = ".1f") -> Figure:
    """A heat map of one measure, a row per subset, a column per arm. table: the values, subsets as index."""
    column = 0.07 * max(9, *(len(name) for name in table))
    fig, ax = plt.subplots(figsize=(2.2 + column * table.shape[1], 1 + 0.36 * len(table)), layout="constrained")
    sns.heatmap(table, annot=True, fmt=fmt, cmap="mako_r", ax=ax, cbar_kws={"label": label})
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    return fig


def point_error_figure(mean: np.ndarray, errors: np.ndarray) -> Figure:
    """Where on the face the errors are: the mean shape (L, 2), each point sized and coloured by its median error (L,) in %."""
    fig, ax = plt.subplots(figsize=(5, 4.8), layout="constrained")
    dots = ax.scatter(
        *mean.T, s=12 + 90 * errors / np.nanmax(errors), c=errors, cmap="mako_r", edgecolors="0.3", linewidths=0.3
    )
    ax.invert_yaxis()
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.grid(False)
    fig.colorbar(dots, ax=ax, label="median error (% of inter-ocular distance)", shrink=0.85)
    return fig
