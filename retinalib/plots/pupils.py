"""Figures of pupils: errors against thresholds, size and baselines; offsets predicted and true; eyes close up."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from retinalib.plots.style import PALETTE, PREDICTION, TRUTH


def worst_eye_figure(errors: dict[str, np.ndarray], thresholds: Sequence[float]) -> Figure:
    """The share of all faces whose worse pupil is at most so wrong, a line a method; a missed face (NaN) never counts."""
    fig, ax = plt.subplots(figsize=(6.2, 3.8), layout="constrained")
    at = np.linspace(0, 0.3, 301)
    for place, (name, values) in enumerate(errors.items()):
        known = np.sort(values[np.isfinite(values)])
        ax.plot(at, np.searchsorted(known, at, side="right") / max(len(values), 1), lw=2 if place == 0 else 1.3, label=name)
    for threshold in thresholds:
        ax.axvline(threshold, color="0.5", lw=0.8, ls="--")
    ax.set(xlabel="worst-eye error (fraction of the inter-pupil distance)", ylabel="share of faces", xlim=(0, 0.3), ylim=(0, 1))
    ax.legend(frameon=False, loc="lower right")
    return fig


def offset_figure(table: pd.DataFrame) -> Figure:
    """Predicted against true offsets in the eye frame, x and y. table: columns axis, true, predicted, size (pixels)."""
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 4), layout="constrained")
    for ax, (axis, part) in zip(axes, table.groupby("axis", sort=True), strict=True):
        dots = ax.scatter(part["true"], part["predicted"], c=np.log2(part["size"]), s=6, cmap="mako_r", linewidths=0)
        reach = float(np.nanquantile(np.abs(part[["true", "predicted"]].to_numpy()), 0.995))
        ax.plot([-reach, reach], [-reach, reach], color="0.4", lw=1)
        ax.set(
            xlim=(-reach, reach),
            ylim=(-reach, reach),
            aspect="equal",
            xlabel="true (eye widths)",
            ylabel="predicted (eye widths)",
        )
        both = part[["true", "predicted"]].dropna()
        ax.set_title(f"{axis}: r = {both.corr().iloc[0, 1]:.2f}, n = {len(both)} eyes", fontsize=9)
    bar = fig.colorbar(dots, ax=axes, label="face size (pixels)", shrink=0.85)
    bar.set_ticks(bar.get_ticks())
    bar.set_ticklabels([f"{2**t:.0f}" for t in bar.get_ticks()])
    return fig


def error_by_size_figure(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Median pupil error by face size with the middle half of the faces, a line a method.

    table: columns size, method, error (% of inter-ocular distance).
    """
    fig, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    quantile = pd.qcut(table["size"], min(8, max(1, len(table) // 40)), duplicates="drop")
    middle = table.groupby(quantile, observed=True)["size"].transform("median")
    sns.lineplot(
        table.assign(middle=middle), x="middle", y="error", hue="method", hue_order=methods, style="method",
        estimator="median", errorbar=("pi", 50), markers=True, dashes=False, ax=ax,
    )  # fmt: skip
    ax.set(xscale="log", xlabel="face size (pixels)", ylabel="pupil error (% of inter-ocular distance)", ylim=(0, None))
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_formatter("{x:.0f}")
    ax.legend(title="", frameon=False)
    return fig


def agreement_figure(table: pd.DataFrame) -> Figure:
    """Bland–Altman (1986): the error of the offset against the mean of both, with bias and 95 % limits of agreement.

    table: columns axis, true, predicted.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for ax, (axis, part) in zip(axes, table.dropna().groupby("axis", sort=True), strict=True):
        error, middle = part["predicted"] - part["true"], (part["predicted"] + part["true"]) / 2
        ax.scatter(middle, error, s=5, alpha=0.35, linewidths=0)
        bias, spread = error.mean(), error.std()
        for level, style in ((bias, "-"), (bias - 1.96 * spread, "--"), (bias + 1.96 * spread, "--")):
            ax.axhline(level, color=PALETTE[5], lw=1.2, ls=style)
        ax.set(xlabel=f"mean of true and predicted {axis} (eye widths)", ylabel="predicted − true (eye widths)")
        ax.set_title(f"{axis}: bias {bias:+.3f}, spread {spread:.3f}")
        reach = float(np.nanquantile(np.abs(error), 0.99)) * 1.3
        ax.set_ylim(-reach, reach)
    return fig


def eye_sheet(crops: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, str]], columns: int = 6) -> Figure:
    """Level eyes with the true (green) and the predicted (blue) pupil. crops: image, true (2,), predicted (2,), title."""
    rows = -(-len(crops) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.25 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for ax, (crop, true, predicted, title) in zip(axes.flat, crops, strict=False):
        ax.imshow(crop, extent=(0, crop.shape[1], crop.shape[0], 0))
        ax.plot(*true, "o", mfc="none", mec=TRUTH, ms=9, mew=1.6)
        ax.plot(*predicted, "+", color=PREDICTION, ms=10, mew=1.8)
        ax.set(xlim=(0, crop.shape[1]), ylim=(crop.shape[0], 0))  # a prediction outside the crop must not shrink it
        ax.set_title(title, fontsize=8, loc="center")
    return fig


def offset_by_yaw_figure(table: pd.DataFrame) -> Figure:
    """The offset across the eye against the head's yaw, as it is and with the head's turn taken out: medians of bands of 10°
    and the middle half of the eyes. table: columns yaw (degrees), offset (eye widths), kind."""
    fig, ax = plt.subplots(figsize=(6.6, 3.8), layout="constrained")
    banded = table.assign(band=(table["yaw"] / 10).round() * 10)
    banded = banded[banded.groupby(["band", "kind"])["offset"].transform("count") >= 5]
    sns.lineplot(
        banded, x="band", y="offset", hue="kind", style="kind", estimator="median", errorbar=("pi", 50), markers=True,
        dashes=False, ax=ax,
    )  # fmt: skip
    ax.axhline(0, color="0.5", lw=0.8)
    ax.set(xlabel="head yaw (°, to the image's right)", ylabel="pupil offset to the image's right (eye widths)")
    ax.legend(title="", frameon=False)
    return fig


def gaze_figure(table: pd.DataFrame) -> Figure:
    """Measured against true gaze. table: columns angle ("yaw", "pitch"), source, true, measured (degrees)."""
    sources = list(table["source"].unique())
    fig, axes = plt.subplots(len(sources), 2, figsize=(7.6, 3.5 * len(sources)), squeeze=False, layout="constrained")
    for row, source in zip(axes, sources, strict=True):
        for ax, angle in zip(row, ("yaw", "pitch"), strict=True):
            part = table[(table["source"] == source) & (table["angle"] == angle)].dropna()
            reach = float(np.nanquantile(part["true"].abs(), 0.995)) * 1.1 if len(part) else 1.0
            ax.scatter(part["true"], part["measured"], s=5, alpha=0.4, linewidths=0)
            ax.plot([-reach, reach], [-reach, reach], color="0.4", lw=1)
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            ax.set(xlabel=f"true gaze {angle} (°)", ylabel=f"measured {angle} (°)")
            error = (part["measured"] - part["true"]).abs().median()
            ax.set_title(f"{source}: median |error| {error:.1f}°", fontsize=9)
    return fig


def gaze_plate(
    crops: Sequence[np.ndarray], eyes: Sequence[np.ndarray], looks: Sequence[dict[str, np.ndarray]], columns: int = 6
) -> Figure:
    """Faces with a line from each pupil to where it looks: true gaze in green, measured in blue.

    crops: (h, w, 3); eyes: (2, 2) pupils in the crop; looks: "true" and "measured", (2, 2) yaw and pitch of both eyes, degrees.
    """
    rows = -(-len(crops) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(1.8 * columns, 1.8 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for ax, crop, starts, directions in zip(axes.flat, crops, eyes, looks, strict=False):
        ax.imshow(crop, extent=(0, crop.shape[1], crop.shape[0], 0))
        for name, colour in (("true", TRUTH), ("measured", PREDICTION)):
            if name in directions:
                yaw, pitch = np.radians(directions[name]).T
                reach = 0.6 * crop.shape[1] * np.column_stack([np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
                for start, arrow in zip(starts, reach, strict=True):
                    ax.plot(*np.stack([start, start + arrow]).T, color=colour, lw=1.8, solid_capstyle="round")
                    ax.plot(*start, "o", color=colour, ms=3)
        ax.set(xlim=(0, crop.shape[1]), ylim=(crop.shape[0], 0))
    return fig
