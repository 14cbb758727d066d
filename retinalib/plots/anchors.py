"""Figures of anchors: where they lie, what they reach by face size, which of them a face gets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from retinalib.faces import Faces
from retinalib.plots.style import PALETTE, TRUTH, draw_faces

KINDS = {"matched": PALETTE[0], "kept": PALETTE[1], "missed": PALETTE[7]}  # blue, amber, dark grey
"""What can become of a face, and its colour: see :func:`retinalib.studies.anchor_coverage.reach`."""

_LABELS = {"matched": "matched from the threshold on", "kept": "keeps its one best anchor", "missed": "missed: background"}


def size_axis(ax: Axes, low: float, high: float) -> None:
    """A logarithmic axis of face sizes with the powers of two."""
    ax.set_xscale("log", base=2)
    ticks = [2**n for n in range(int(np.ceil(np.log2(low))), int(np.log2(high)) + 1)]
    ax.set_xticks(ticks, ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlim=(low, high), xlabel="face size (√area, pixels of the network's input)")


def size_classes(sizes: pd.Series) -> pd.Series:
    """Sizes in half-octave classes named by their bounds, ordered."""
    low, high = np.floor(2 * np.log2(sizes.min())), np.floor(2 * np.log2(sizes.max())) + 1
    edges = 2 ** (np.arange(low, high + 1) / 2)
    labels = ["–".join(f"{edge:.0f}" if edge >= 4 else f"{edge:.2g}" for edge in pair) for pair in pairwise(edges)]
    return pd.cut(sizes, edges, right=False, labels=labels)


def layout_figure(image: np.ndarray, strides: Sequence[int], sizes: Sequence[Sequence[int]]) -> Figure:
    """The cells of each level over an image, and the anchors of its middle cell.

    image: (S, S, 3) uint8, the network's input; strides in pixels; sizes: the anchors' of each level, pixels.
    """
    side = image.shape[0]
    fig, axes = plt.subplots(1, len(strides), figsize=(3.1 * len(strides), 3.4), layout="constrained", squeeze=False)
    for ax, stride, level, colour in zip(axes[0], strides, sizes, PALETTE, strict=False):
        draw_faces(ax, image)
        at = (np.arange(-(-side // stride)) + 0.5) * stride
        x, y = np.meshgrid(at, at)
        ax.scatter(x, y, s=0.02 * stride**1.6, color="white", lw=0, alpha=0.9)
        middle = at[len(at) // 2]
        for size in level:
            corner = (middle - size / 2, middle - size / 2)
            ax.add_patch(plt.Rectangle(corner, size, size, fill=False, color="black", lw=3))
            ax.add_patch(plt.Rectangle(corner, size, size, fill=False, color=colour, lw=1.8))
        named = " and ".join(str(size) for size in level)
        ax.set_title(f"stride {stride}: {len(at)} × {len(at)} cells, {named} px", fontsize=9)
        unseen = " and ".join(str(size) for size in level if size > 2 * max(middle, side - middle))
        if unseen:
            ax.text(4, side - 6, f"{unseen} px: around all of this", color="white", fontsize=8)
    return fig


def best_iou_figure(curves: dict[str, pd.DataFrame], threshold: float, minimum: float, anchor_sizes: Sequence[int]) -> Figure:
    """The best IoU of a lone face by its size: median over positions, and the span from the 5th to the 95th percentile.

    curves: name -> a table of :func:`retinalib.studies.anchor_coverage.best_iou_by_size`; anchor_sizes are marked on the axis.
    """
    fig, ax = plt.subplots(figsize=(8.4, 3.8), layout="constrained")
    for (name, table), colour in zip(curves.items(), PALETTE, strict=False):
        groups = table.groupby("size")["iou"]
        ax.plot(groups.median().index, groups.median(), color=colour, label=name)
        ax.fill_between(groups.median().index, groups.quantile(0.05), groups.quantile(0.95), color=colour, alpha=0.15, lw=0)
    for value, label in ((threshold, "matched"), (minimum, "keeps its best")):
        ax.axhline(value, color="0.3", lw=1, ls="--")
        ax.annotate(
            f"{label} from {value}", (1, value), (-4, 3), ("axes fraction", "data"), "offset points", ha="right", fontsize=8
        )
    sizes = np.concatenate([table["size"] for table in curves.values()])
    size_axis(ax, sizes.min(), sizes.max())
    ax.plot(anchor_sizes, np.full(len(anchor_sizes), 0.015), ls="", marker="^", color="black", label="anchor sizes")
    ax.set(ylabel="IoU with the best anchor", ylim=(0, 1), title="Between two anchor sizes faces fit less well")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def data_iou_figure(tables: dict[int, pd.DataFrame], threshold: float) -> Figure:
    """Best IoU of each face of the data by its size, a panel for each input size.

    tables: input size in pixels -> a table of :func:`retinalib.studies.anchor_coverage.reach`.
    """
    fig, axes = plt.subplots(
        1, len(tables), figsize=(2 + 2.6 * len(tables), 3.7), layout="constrained", sharey=True, squeeze=False
    )
    low = min(table["size"].min() for table in tables.values())
    high = max(table["size"].max() for table in tables.values())
    for ax, (pixels, table) in zip(axes[0], tables.items(), strict=True):
        for kind, colour in KINDS.items():
            shown = table[table["kind"] == kind]
            ax.scatter(shown["size"], shown["iou"], s=7, color=colour, alpha=0.5, lw=0, rasterized=True)
        ax.axhline(threshold, color="0.3", lw=1, ls="--")
        size_axis(ax, low * 0.9, high * 1.1)
        ax.set(ylim=(0, 1), ylabel="IoU with the best anchor", xlabel="face size (pixels of the input)")
        missed = (table["kind"] == "missed").mean()
        ax.set_title(f"{pixels} px: median {table['iou'].median():.2f}, {missed:.1%} missed", fontsize=9)
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    marks = [plt.Line2D([], [], marker="o", ls="", ms=5, color=colour) for colour in KINDS.values()]
    marks.append(plt.Line2D([], [], color="0.3", lw=1, ls="--"))
    fig.legend(marks, [*_LABELS.values(), f"threshold {threshold}"], loc="outside lower center", ncols=4)
    return fig


def positives_figure(tables: dict[int, pd.DataFrame]) -> Figure:
    """Anchors that answer for a face, by its size: the quartiles, with the range of 5 to 95 %.

    The axis is linear up to one anchor and logarithmic beyond; n counts each face once for each input.
    """
    joined = pd.concat([table.assign(input=f"{pixels} px") for pixels, table in tables.items()], ignore_index=True)
    joined["class"] = size_classes(joined["size"])
    fig, ax = plt.subplots(figsize=(10.5, 4), layout="constrained")
    colours = list(PALETTE[: len(tables)])
    sns.boxplot(joined, x="class", y="positives", hue="input", palette=colours, whis=(5, 95), fliersize=0, linewidth=0.9, ax=ax)
    ax.set(
        xlabel="face size (√area, pixels of the network's input) and number of faces", ylabel="anchors that answer for a face"
    )
    counts = joined["class"].value_counts(sort=False)
    ax.set_xticks(range(len(counts)), [f"{name}\nn={n}" for name, n in counts.items()], fontsize=7.5)
    ax.set_yscale("symlog", linthresh=1, linscale=0.4)
    top = max(1, int(joined["positives"].max()))
    ticks = [n for n in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if n <= 1.2 * top]
    ax.set_yticks(ticks, ticks)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylim(-0.15, 1.3 * top)
    ax.set_title("A face's share of the loss depends on its size")
    ax.legend(title="input", loc="upper left")
    return fig


def draw_coverage(ax: Axes, table: pd.DataFrame) -> None:
    """Stacked bars of what becomes of the faces of each size class. table: of studies.anchor_coverage.reach."""
    classes = size_classes(table["size"])
    shares = pd.crosstab(classes, table["kind"], normalize="index").reindex(columns=list(KINDS), fill_value=0)
    bottom = np.zeros(len(shares))
    for kind, colour in KINDS.items():
        ax.bar(range(len(shares)), shares[kind], bottom=bottom, color=colour, label=_LABELS[kind], width=0.85)
        bottom += shares[kind].to_numpy()
    for x, n in enumerate(classes.value_counts().reindex(shares.index)):
        ax.annotate(str(n), (x, 1.01), ha="center", fontsize=7)
    ax.set_xticks(range(len(shares)), shares.index, rotation=60, fontsize=7)
    ax.set(xlabel="face size (pixels of the input)", ylim=(0, 1.07))
    ax.grid(axis="x", visible=False)


def coverage_figure(tables: dict[int, pd.DataFrame]) -> Figure:
    """What becomes of the faces of each size class, a panel for each input size."""
    fig, axes = plt.subplots(
        1, len(tables), figsize=(2 + 2.6 * len(tables), 3.6), layout="constrained", sharey=True, squeeze=False
    )
    for ax, (pixels, table) in zip(axes[0], tables.items(), strict=True):
        draw_coverage(ax, table)
        ax.set_title(f"{pixels} px input", fontsize=9)
    axes[0, 0].set_ylabel("share of the faces (numbers: faces)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3 if len(tables) > 1 else 1)
    return fig


def alternatives_figure(table: pd.DataFrame) -> Figure:
    """Anchor designs against each other: faces missed, median best IoU, positives per face, and what they cost.

    table: one row per design and input; columns design, input, missed, iou, positives, anchors.
    """
    designs = table["design"].nunique()
    fig, axes = plt.subplots(1, 4, figsize=(12, 1.2 + 0.5 * designs), layout="constrained", sharey=True)
    panels = {
        "missed": "faces missed (%)",
        "iou": "median best IoU",
        "positives": "median anchors per face",
        "anchors": "anchors per image",
    }
    shown = table.assign(missed=100 * table["missed"], input=table["input"].astype(str) + " px")
    shown["design"] = [fill(name, 34) for name in shown["design"]]
    for ax, (column, label) in zip(axes, panels.items(), strict=True):
        options = {"size": 5.5, "jitter": False, "dodge": True, "legend": column == "anchors"}
        sns.stripplot(shown, x=column, y="design", hue="input", ax=ax, **options)
        ax.set(xlabel=label, ylabel="")
        for edge in np.arange(designs - 1) + 0.5:
            ax.axhline(edge, color="0.85", lw=0.8)
        if column == "missed":
            ax.set_xlim(-0.06 * max(10, shown[column].max()), 1.1 * max(10, shown[column].max()))
        ax.tick_params(axis="y", labelsize=8)
        ax.grid(axis="y", visible=False)
    axes[-1].set_xscale("log")
    axes[-1].legend(title="input", loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def size_shift_figure(sizes: dict[str, np.ndarray], anchor_sizes: Sequence[int]) -> Figure:
    """How large faces are when they reach the network, under different ways to bring a photo to its input.

    sizes: name -> (N,) face sizes in pixels; dotted lines are the anchors' sizes.
    """
    fig, ax = plt.subplots(figsize=(8.4, 3.2), layout="constrained")
    low = min(values.min() for values in sizes.values()) * 0.9
    high = max(max(values.max() for values in sizes.values()), max(anchor_sizes)) * 1.1
    bins = np.geomspace(low, high, 36)
    for (name, values), colour in zip(sizes.items(), PALETTE, strict=False):
        weights = np.full(len(values), 1 / len(values))
        ax.hist(
            values,
            bins,
            weights=weights,
            histtype="step",
            color=colour,
            lw=1.6,
            label=f"{name}: median {np.median(values):.0f} px",
        )
    for size in anchor_sizes:
        ax.axvline(size, color="0.4", lw=0.9, ls=":")
    size_axis(ax, low, high)
    ax.set(ylabel="share of the faces", title="Resizing moves faces along the anchors' scale")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def match_figure(image: np.ndarray, face: Faces, anchors: np.ndarray, strides: np.ndarray, title: str) -> Figure:
    """One face with the anchors that answer for it, whole and close by.

    image: (S, S, 3) uint8; anchors: (N, 4) x1 y1 x2 y2 pixels and their (N,) strides.
    """
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 4.3), layout="constrained")
    for ax in axes:
        draw_match(ax, image, face, anchors, strides)
    look_closer(axes[1], face)
    axes[0].set_title(title, fontsize=9)
    if len(anchors):
        axes[1].legend(loc="upper right", frameon=True)
    return fig


def draw_match(ax: Axes, image: np.ndarray, face: Faces, anchors: np.ndarray, strides: np.ndarray) -> None:
    """One face with the anchors that answer for it, a colour for each stride, as in :func:`match_figure`."""
    draw_faces(ax, image, face, landmarks=False)
    for stride, colour in zip(sorted(set(strides.tolist())), ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442"), strict=False):
        own = anchors[strides == stride]
        squares = [plt.Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in own]
        drawn = PatchCollection(squares, facecolors="none", edgecolors=colour, linewidths=1.2, alpha=0.9)
        ax.add_collection(drawn).set_zorder(0.5)  # above the photo, below the face's box
        ax.plot(*((own[:, :2] + own[:, 2:]) / 2).T, "o", ms=2.5, color=colour)
        ax.plot([], [], color=colour, label=f"stride {stride}")
    ax.plot([], [], color=TRUTH, label="the face's box")


def look_closer(ax: Axes, face: Faces, reach: float = 0.75) -> None:
    """Limits the view to ``reach`` times the longer side of one face's box, to each side of its middle."""
    x1, y1, x2, y2 = face.boxes[0]
    half = reach * max(x2 - x1, y2 - y1)
    ax.set(xlim=((x1 + x2) / 2 - half, (x1 + x2) / 2 + half), ylim=((y1 + y2) / 2 + half, (y1 + y2) / 2 - half))
