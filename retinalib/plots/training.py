"""Figures of training runs: losses, validation, what the predictions looked like on the way."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

_PARTS = {"box": "box", "classification": "face or not", "landmark": "landmarks"}


def loss_figure(history: pd.DataFrame) -> Figure:
    """The parts of the loss over the epochs, a panel a part, a line a run. history: a row an epoch, with a column run."""
    fig, axes = plt.subplots(1, len(_PARTS), figsize=(10, 3.2), layout="constrained")
    for ax, (column, title) in zip(axes, _PARTS.items(), strict=True):
        sns.lineplot(history, x="epoch", y=column, hue="run", style="run", ax=ax, legend=column == "landmark")
        ax.set(title=title, xlabel="epoch", ylabel="loss, per positive anchor", ylim=(0, None))
    axes[-1].legend(title="", frameon=False)
    return fig


def validation_figure(history: pd.DataFrame) -> Figure:
    """AP, median NME and AUC on the validation photos, at the epochs that have them; a line a run."""
    measured = history.dropna(subset=["ap"])
    fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    scaled = measured.assign(nme=100 * measured["nme"])
    panels = (("ap", "AP at IoU 0.5"), ("nme", "median NME of found faces (%)"), ("auc", "AUC at 10 %, misses failed"))
    for ax, (column, label) in zip(axes, panels, strict=True):
        sns.lineplot(
            scaled, x="epoch", y=column, hue="run", style="run", markers=True, dashes=False, ax=ax, legend=column == "auc"
        )
        ax.set(xlabel="epoch", ylabel=label, ylim=(0, None))
    axes[-1].legend(title="", frameon=False)
    return fig


def weight_figure(history: pd.DataFrame, weights: dict[str, float]) -> Figure:
    """What each part adds to the loss that is minimised, weighted and stacked over the epochs. weights: part -> weight."""
    fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    parts = [weight * history[part] for part, weight in weights.items()]
    ax.stackplot(history["epoch"], *parts, labels=[f"{_PARTS[p]} × {w:g}" for p, w in weights.items()], alpha=0.85)
    ax.set(xlabel="epoch", ylabel="share in the total loss", xlim=(history["epoch"].min(), history["epoch"].max()))
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
