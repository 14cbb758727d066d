"""Figures of the network: cost by part, receptive fields, what an SE block does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from retinalib.faces import Faces
from retinalib.landmarks import Eye
from retinalib.plots.pupils import draw_level_eye
from retinalib.plots.results import LINES
from retinalib.plots.style import PALETTE, PREDICTION, TRUTH


def cost_figure(costs: pd.DataFrame) -> Figure:
    """Parameters and GFLOP by part, side by side for each variant.

    costs: columns part, parameters, gflop, variant.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for ax, column, label, scale in (
        (axes[0], "parameters", "parameters (thousands)", 1e-3),
        (axes[1], "gflop", "GFLOP per image", 1),
    ):
        table = costs.assign(**{column: costs[column] * scale})
        sns.barplot(table, y="part", x=column, hue="variant", ax=ax, legend=column == "gflop")
        ax.set(xlabel=label, ylabel="")
    axes[1].legend(title="", frameon=False, loc="lower right")
    return fig


def receptive_field_figure(
    fields: dict[int, np.ndarray], widths: dict[int, int], anchors: dict[int, tuple[int, ...]]
) -> Figure:
    """How much each pixel matters to the central cell of each level, with that level's anchors drawn in.

    fields: stride -> (S, S), the cell in the middle, the largest 1; widths: stride -> pixels; anchors: stride -> their sizes in
    pixels.
    """
    fig, axes = plt.subplots(1, len(fields), figsize=(3.4 * len(fields), 3.6), layout="constrained", sharey=True)
    reach = min(field.shape[0] for field in fields.values()) / 2
    for ax, (stride, field) in zip(axes, fields.items(), strict=True):
        half = field.shape[0] / 2
        extent = (-half, half, half, -half)
        shown = ax.imshow(np.sqrt(field), cmap="mako", extent=extent, vmin=0, vmax=1)
        for size in anchors[stride]:
            ax.add_patch(plt.Rectangle((-size / 2, -size / 2), size, size, fill=False, color="#E69F00", lw=1.2))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        ax.set(xlim=(-reach, reach), ylim=(reach, -reach), xlabel="right of the cell's middle (pixels)")
        ax.set_title(f"stride {stride}: 95 % in a square of {widths[stride]} px", fontsize=9)
        ax.grid(False)
    axes[0].set_ylabel("below it (pixels)")
    fig.colorbar(shown, ax=axes, label="influence (square root, relative)", shrink=0.8)
    return fig


def excitation_figure(image: np.ndarray, levels: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """For each level: the mean activation before and after SE over the image's outline, and the gate of every channel.

    image: (H, W, 3) uint8; levels: stride -> (before (C, h, w), gate (C,), after (C, h, w)). Before and after share a scale.
    """
    fig, axes = plt.subplots(
        len(levels), 4, figsize=(11.6, 2.5 * len(levels)), layout="constrained", width_ratios=(1, 1, 1.25, 1.6), squeeze=False
    )
    for row, (stride, (before, gate, after)) in zip(axes, levels.items(), strict=True):
        highest = max(before.mean(0).max(), after.mean(0).max())
        row[0].imshow(image)
        row[0].set_title(f"stride {stride}")
        for ax, values, title in ((row[1], before, "before SE"), (row[2], after, "after SE")):
            shown = ax.imshow(values.mean(0), cmap="mako", vmin=0, vmax=highest)
            ax.set_title(f"{title}, mean {values.mean():.2f}")
        for ax in row[:3]:
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        fig.colorbar(shown, ax=row[2], label="mean activation", shrink=0.9)
        row[3].bar(np.arange(len(gate)), np.sort(gate)[::-1], width=1.0)
        row[3].axhline(0.5, color=PALETTE[5], lw=1.4, ls="--", label="fresh weights")
        row[3].set(ylim=(0, 1), xlabel="channel, by excitation", ylabel="excitation")
        row[3].set_title(f"gate: {gate.min():.2f}–{gate.max():.2f}")
    fig.legend(*axes[0, 3].get_legend_handles_labels(), loc="outside upper right")
    return fig


def excitation_spread_figure(table: pd.DataFrame) -> Figure:
    """Whether the gates listen to the image: each channel's mean excitation and its spread over images.

    table: columns level, channel, mean, spread (standard deviation over images).
    """
    fig, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    sns.scatterplot(table, x="mean", y="spread", hue="level", style="level", ax=ax, s=30)
    ax.set(xlabel="mean excitation of a channel", ylabel="standard deviation over images", xlim=(0, 1), ylim=(0, None))
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1))
    return fig


def gate_figure(found: Mapping[int, Mapping[int, np.ndarray]]) -> Figure:
    """The gates of a level's channels, by their mean: a panel per level, a line per seed, with the range of 95 % of the images.

    found: seed -> stride -> (N, C) gates of N images.
    """
    levels = list(dict.fromkeys(stride for gates in found.values() for stride in gates))
    fig, axes = plt.subplots(
        1, len(levels), figsize=(1.2 + 2.4 * len(levels), 2.8), layout="constrained", sharey=True, squeeze=False
    )
    for ax, stride in zip(axes[0], levels, strict=True):
        for (seed, gates), line in zip(found.items(), cycle(LINES)):
            gate = gates[stride][:, np.argsort(-gates[stride].mean(0))]
            places = np.arange(1, gate.shape[1] + 1)
            low, high = np.quantile(gate, [0.025, 0.975], axis=0)
            (drawn,) = ax.plot(places, gate.mean(0), line, lw=1.5, label=f"seed {seed}")
            ax.fill_between(places, low, high, color=drawn.get_color(), alpha=0.3, lw=0)
        ax.set(title=f"stride {stride}", xlabel="channel, by mean gate", ylim=(0, 1))
    axes[0, 0].set_ylabel("gate")
    axes[0, -1].legend(loc="lower left")
    return fig


def second_look_figure(image: np.ndarray, eyes: Sequence[Eye], truth: Faces, first: Faces, second: Faces) -> Figure:
    """Both eyes of a face, level and close up: the first look (amber) and the second (blue) over the truth (green).

    image: (H, W, 3) uint8; truth, first, second: one face each, in its pixels.
    """
    fig, axes = plt.subplots(1, len(eyes), figsize=(4.6 * len(eyes), 2.9), layout="constrained", squeeze=False)
    looks = [("true", truth, TRUTH, "o"), ("first look", first, PALETTE[1], "x"), ("second look", second, PREDICTION, "+")]
    looks = [(name, faces.landmarks[0], colour, marker) for name, faces, colour, marker in looks]
    for ax, eye, side in zip(axes[0], eyes, ("right eye", "left eye"), strict=True):
        draw_level_eye(ax, image, truth.landmarks[0], eye, looks, (180, 108))
        ax.set_title(side)
    marks = [plt.Line2D([], [], color=c, marker=m, ls="-", mfc="none", ms=9, mew=1.8) for _, _, c, m in looks]
    title = "line: lids, mark: pupil"
    axes[0, -1].legend(
        marks, [name for name, *_ in looks], title=title, loc="upper left", bbox_to_anchor=(1, 1), handlelength=3.5
    )
    return fig


def scaling_figure(costs: pd.DataFrame) -> Figure:
    """Time of detection against the number of faces, a line for each number of landmarks.

    costs: columns points, faces, milliseconds, as from :func:`retinalib.studies.network_cost.cost_of_landmarks`.
    """
    fig, ax = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    table = costs.assign(landmarks=costs["points"].astype(str))
    sns.lineplot(table, x="faces", y="milliseconds", hue="landmarks", style="landmarks", markers=True, ax=ax)
    ax.set(xscale="log", xlabel="faces in the photo", ylabel="milliseconds per photo")
    ax.set_ylim(0, 1.1 * table["milliseconds"].max())
    counts = sorted(set(table["faces"]))
    ax.set_xticks(counts, counts)
    ax.xaxis.set_minor_locator(NullLocator())
    return fig
