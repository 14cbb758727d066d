"""Figures of training runs: losses, validation, what the predictions looked like on the way."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_PARTS = {"box": "box", "classification": "face or not", "landmark": "landmarks", "pupil": "pupil", "eye": "second look"}


def loss_figure(history: pd.DataFrame) -> Figure:
    """The parts of the loss over the epochs, a panel per part, a line per run. history: a row per epoch, with a column run."""
    parts = [column for column in _PARTS if (history[column] != 0).any()]  # what the run does not have is 0 throughout
    fig, axes = plt.subplots(1, len(parts), figsize=(2.6 * len(parts) + 1, 2.8), layout="constrained")
    for ax, column in zip(axes, parts, strict=True):
        sns.lineplot(history, x="epoch", y=column, hue="run", style="run", ax=ax, legend=column == parts[-1])
        ax.set(title=_PARTS[column], xlabel="epoch", ylabel="loss" if column == parts[0] else "", ylim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].legend(title="", frameon=False)
    return fig


def validation_figure(history: pd.DataFrame) -> Figure:
    """AP, median NME and AUC on the validation photos, at the epochs that have them; a line per run. What is not known is left
    out, such as AP where photos are labelled in part."""
    panels = {"ap": "AP at IoU 0.5", "nme": "median NME of found faces (%)", "auc": "AUC at 10 %, misses failed"}
    panels = {column: label for column, label in panels.items() if history[column].notna().any()}
    measured = history.dropna(subset=list(panels), how="all")
    fig, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels) + 0.4, 3.2), layout="constrained", squeeze=False)
    axes, scaled = axes[0], measured.assign(nme=100 * measured["nme"])
    for ax, (column, label) in zip(axes, panels.items(), strict=True):
        sns.lineplot(
            scaled, x="epoch", y=column, hue="run", style="run", markers=True, dashes=False, ax=ax, legend=ax is axes[-1]
        )
        ax.set(xlabel="epoch", ylabel=label, xlim=(0, None), ylim=(0, 1.04) if column == "ap" else (0, None))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].legend(title="", frameon=False)
    return fig


def weight_figure(history: pd.DataFrame, weights: dict[str, float]) -> Figure:
    """What each part adds to the loss that is minimised, weighted and stacked over the epochs. weights: part -> weight."""
    fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    parts = [weight * history[part] for part, weight in weights.items()]
    ax.stackplot(history["epoch"], *parts, labels=[f"{_PARTS[p]} × {w:g}" for p, w in weights.items()], alpha=0.85)
    ax.set(xlabel="epoch", ylabel="weighted part of the loss", xlim=(history["epoch"].min(), history["epoch"].max()))
    ax.legend(frameon=False, loc="upper right")
    return fig


def progress_figure(pictures: Sequence[tuple[int, np.ndarray]]) -> Figure:
    """Validation photos at several epochs, one below the other; predictions in blue over truth in green."""
    height, width = pictures[0][1].shape[:2]
    fig, axes = plt.subplots(
        len(pictures),
        1,
        figsize=(9, 9 * height / width * len(pictures) + 0.3 * len(pictures)),
        squeeze=False,
        layout="constrained",
    )
    for ax, (epoch, picture) in zip(axes[:, 0], pictures, strict=True):
        ax.imshow(picture)
        ax.set(title=f"after epoch {epoch}", xticks=[], yticks=[])
        ax.grid(False)
    return fig
