"""Figures of comparisons: differences with intervals, measures by subset."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from retinalib.plots.style import PALETTE


def difference_figure(differences: pd.DataFrame, title: str) -> Figure:
    """A forest plot of ``comparison.compare``, a panel per measure, a row per arm; filled where p_holm < 0.05."""
    measures, arms = list(differences["measure"].unique()), list(differences["arm"].unique())
    rows = -(-len(measures) // 2)
    size = (8.2, 1.0 + rows * (1.2 + 0.35 * len(arms)))
    fig, axes = plt.subplots(rows, 2, figsize=size, layout="constrained", sharey=True, squeeze=False)
    for ax in axes.flat[len(measures) :]:
        ax.set_axis_off()
    marks = {}  # those that occur
    for ax, measure in zip(axes.flat, measures, strict=False):
        part = differences[differences["measure"] == measure]
        unit = f" in {part['unit'].iloc[0]}" if part["unit"].iloc[0] else " as a fraction"
        for row in part.itertuples():
            place, sure = arms.index(row.arm), row.p_holm < 0.05
            colour = PALETTE[5] if sure else PALETTE[0]
            ax.plot([row.low, row.high], [place, place], color=colour, lw=2, solid_capstyle="butt")
            dot = ax.plot(row.estimate, place, "o", color=colour, mfc=colour if sure else "white", ms=7, mew=1.6)
            marks["p < 0.05 (Holm)" if sure else "p ≥ 0.05 (Holm)"] = dot[0]
        ax.axvline(0, color="0.3", lw=1, zorder=1)
        ax.set(ylim=(len(arms) - 0.5, -0.5), yticks=range(len(arms)), yticklabels=arms)
        ax.set(title=measure, xlabel=f"difference{unit}\n({part['better'].iloc[0]} is better)")
        ax.locator_params(axis="x", nbins=5)
    photos = "–".join(f"{count:.0f}" for count in sorted({differences["photos"].min(), differences["photos"].max()}))
    over = f"95\u00a0% intervals over {differences['seeds'].max()} seeds and {photos} photos"
    fig.legend(marks.values(), marks, title=over, loc="outside lower center", ncols=2)
    fig.suptitle(title, x=0.01, ha="left", weight="bold", fontsize="medium")
    return fig


def subset_figure(table: pd.DataFrame, label: str, title: str) -> Figure:
    """A heat map of one measure, a row per subset, a column per arm. table: the values, subsets as index."""
    column = 0.08 * max(9, *(len(name) for name in table))
    fig, ax = plt.subplots(figsize=(2.2 + column * table.shape[1], 1.2 + 0.36 * len(table)), layout="constrained")
    shades, dark = sns.light_palette(PALETTE[4], as_cmap=True), {"color": "0.15"}  # numbers can be read on all of them
    sns.heatmap(table, vmin=0, annot=True, fmt=".1f", cmap=shades, annot_kws=dark, ax=ax, cbar_kws={"label": label})
    ax.set(xlabel="", ylabel="", title=title)
    ax.tick_params(axis="y", rotation=0)
    return fig
