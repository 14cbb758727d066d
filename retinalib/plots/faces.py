"""Figures of a data set: its faces with their landmarks, counts and sizes, oddities, shapes, pupils."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from retinalib.faces import Faces
from retinalib.landmarks import LandmarkSchema
from retinalib.plots.style import PALETTE, draw_faces, region_colours, region_lines
from retinalib.studies.shapes import aligned_to

Picture = tuple[np.ndarray, Faces]
"""An image (H, W, 3) uint8 and its faces."""


def plate(
    pictures: Sequence[Picture],
    titles: Sequence[str] | None = None,
    columns: int = 6,
    width: float = 1.5,
    *,
    boxes: bool = False,
    regions: bool = True,
    landmarks: bool = True,
) -> Figure:
    """A contact sheet of pictures with their true faces; width: inches per picture."""
    columns = min(columns, max(1, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    height = width + (0.22 if titles is not None else 0.04)
    fig, axes = plt.subplots(rows, columns, figsize=(columns * width, rows * height), layout="constrained", squeeze=False)
    fig.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for number, ax in enumerate(axes.flat):
        if number >= len(pictures):
            ax.axis("off")
            continue
        image, faces = pictures[number]
        draw_faces(ax, image, faces, boxes=boxes, regions=regions, landmarks=landmarks)
        if titles is not None:
            ax.set_title(titles[number], fontsize=7, weight="normal", pad=2)
    return fig


def numbered_face(image: np.ndarray, face: Faces) -> Figure:
    """One face with the number of every landmark, in the colours of its regions: the map of the schema."""
    fig, ax = plt.subplots(figsize=(7.2, 5.8), layout="constrained")
    draw_faces(ax, image, face, boxes=False, regions=True, numbers=True)
    regions = face.schema.regions
    marks = [plt.Line2D([], [], marker="o", ls="", color=colour) for colour in region_colours(face.schema).values()]
    labels = [f"{name} {min(points)}–{max(points)}" for name, points in regions.items()]
    ax.legend(marks, labels, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def attribute_figure(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """How many faces have each attribute, and how often two come together.

    table: one row per face, with the boolean columns ``names``.
    """
    flags = table[list(names)].astype(float)
    counts = flags.sum().sort_values(ascending=False)
    flags = flags[counts.index]
    labels = [name.replace("_", "-") for name in counts.index]
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained", width_ratios=(1, 1.15))
    bars = left.barh(labels, counts, color=PALETTE[0])
    left.bar_label(bars, [f" {int(n)} ({n / max(len(table), 1):.0%})" for n in counts], fontsize=8)
    left.set(xlabel=f"faces (of {len(table)})", xlim=(0, max(counts.max(), 1) * 1.28), title="Faces with each attribute")
    left.invert_yaxis()
    left.grid(axis="y", visible=False)
    together = flags.T @ flags
    share = together.div(np.maximum(np.diag(together), 1), axis=0)
    hidden = np.eye(len(labels), dtype=bool)
    options = {"xticklabels": labels, "yticklabels": labels, "vmin": 0, "vmax": 1, "cmap": "mako_r"}
    sns.heatmap(share, mask=hidden, annot=True, fmt=".0%", ax=right, cbar=False, annot_kws={"fontsize": 9}, **options)
    for text in right.texts:  # black or white, whichever stands out more
        dark = float(text.get_text().rstrip("%")) > 50
        text.set_color("white" if dark else "black")
    right.set(title="Of the faces with the row's attribute,\nthe share that also has the column's", xlabel="", ylabel="")
    right.tick_params(axis="x", rotation=30)
    right.grid(False)
    return fig


def size_figure(described: pd.DataFrame) -> Figure:
    """Sizes of the faces' boxes, in pixels and as a share of the photo, and faces per photo.

    described: a table of :func:`retinalib.datasets.describe.describe_faces`.
    """
    fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
    sns.histplot(described, x="size", log_scale=True, bins=30, ax=axes[0], color=PALETTE[0])
    low, high = np.log2(described["size"].min()), np.log2(described["size"].max())
    ticks = [2**n for n in range(int(np.ceil(low)), int(high) + 1)]
    axes[0].set_xticks(ticks, ticks)
    axes[0].xaxis.set_minor_locator(NullLocator())
    axes[0].axvline(described["size"].median(), color=PALETTE[5], ls="--", lw=1.2)
    axes[0].set(xlabel="size of the box (√area, pixels)", ylabel="faces", title=f"Median {described['size'].median():.0f} px")
    sns.histplot(described, x="share", bins=30, ax=axes[1], color=PALETTE[0])
    title = f"Median {described['share'].median():.0%} of the photo's side"
    axes[1].set(xlabel="box by photo (√ of the areas' ratio)", ylabel="faces", title=title)
    counts = described.groupby("photo")["faces"].first().value_counts().sort_index()
    most = int(counts.index.max())
    axes[2].bar(counts.index, counts, color=PALETTE[0])
    axes[2].set(xlabel="labelled faces in a photo", ylabel="photos", title=f"{counts.get(1, 0) / counts.sum():.0%} have one")
    if most <= 12:
        axes[2].set_xticks(range(1, most + 1))
    for ax in axes:
        ax.grid(axis="x", visible=False)
    return fig


def odd_points_figure(described: pd.DataFrame) -> Figure:
    """How many faces have landmarks outside the photo, outside their box, or one on another; a panel for each that occurs."""
    columns = {
        "outside_photo": "outside the photo",
        "outside_box": "over 1 px outside the box",
        "repeated": "on another landmark",
    }
    marked = described[described["labelled"]]
    found = {column: label for column, label in columns.items() if (marked[column] > 0).any()}
    fig, axes = plt.subplots(
        1, max(len(found), 1), figsize=(3.9 * max(len(found), 1), 2.9), layout="constrained", squeeze=False
    )
    if not found:
        axes[0, 0].text(0.5, 0.5, "none", transform=axes[0, 0].transAxes, ha="center", color="0.4")
        axes[0, 0].set(xticks=[], yticks=[], title="Odd landmarks")
    for ax, (column, label) in zip(axes[0], found.items(), strict=False):
        some = marked.loc[marked[column] > 0, column]
        bins = {"binwidth": max(1, round(some.max() / 20)), "binrange": (0.5, some.max() + 0.5)}
        sns.histplot(x=some, ax=ax, color=PALETTE[1], **bins)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set(
            xlabel="such landmarks of a face", ylabel="faces", title=f"{label.capitalize()}: {len(some)} of {len(marked)} faces"
        )
        ax.grid(axis="x", visible=False)
    return fig


def shape_figure(shapes: np.ndarray, mean: np.ndarray, schema: LandmarkSchema, shown: int = 400) -> Figure:
    """The mean shape over the aligned faces, and how far each landmark strays from it.

    shapes: (N, L, 2) complete landmarks; mean: (L, 2), as of :func:`retinalib.studies.shapes.mean_shape`.
    """
    right, left = schema.inter_ocular
    unit = np.linalg.norm(mean[right] - mean[left])
    mean = (mean - (mean[right] + mean[left]) / 2) / unit
    aligned = aligned_to(shapes.astype(float), mean)
    spread = np.sqrt(((aligned - mean) ** 2).sum(-1).mean(0))
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained", sharex=True, sharey=True)
    colours = region_colours(schema)
    for name, points in schema.regions.items():
        cloud = aligned[:shown, list(points)].reshape(-1, 2)
        axes[0].scatter(*cloud.T, s=2, color=colours[name], alpha=0.15, lw=0, rasterized=True)
    lines = region_lines(mean, schema)
    for ax, colour in ((axes[0], "black"), (axes[1], "0.75")):
        for line in lines.values():
            ax.plot(*line.T, color=colour, lw=1.1)
    axes[0].scatter(*mean[list(schema.pupils)].T, s=14, color="black", zorder=3)
    dots = axes[1].scatter(*mean.T, c=spread, s=24, cmap="flare", zorder=3)
    fig.colorbar(dots, ax=axes[1], label="root mean square distance (inter-ocular)", shrink=0.8)
    axes[0].set(
        title=f"Mean shape over {len(shapes)} aligned faces, {min(len(shapes), shown)} shown", ylabel="inter-ocular distances"
    )
    axes[1].set(title="Where faces differ most")
    low, high = mean.min(0) - 0.35, mean.max(0) + 0.3
    for ax in axes:
        ax.set(aspect="equal", xlim=(low[0], high[0]), ylim=(high[1], low[1]), xlabel="inter-ocular distances")
    return fig


def pupil_figure(pupils: pd.DataFrame) -> Figure:
    """Where the pupils lie within the eyes, and how open the eyes are.

    pupils: a table of :func:`retinalib.pupils.pupil_table`. Foreshortened eyes are in neither panel,
    closed ones not in the left one.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", width_ratios=(1.5, 1))
    turned = pupils[["foreshortened_right", "foreshortened_left"]].to_numpy()
    lids = pupils[["openness_right", "openness_left"]].mask(turned)
    at = np.linspace(-0.5, 0.5, 50)
    lid = 0.6 * np.nanmedian(lids) * (1 - 4 * at**2)  # parabolas whose mean opening at the three lid points is the median
    left.fill_between(at, -lid, lid, color="0.9", lw=0)
    left.plot([-0.5, 0.5], [0, 0], ls="", marker="o", color="black", ms=4)
    dots = []
    for side, colour in (("right", PALETTE[0]), ("left", PALETTE[1])):
        shown = pupils[~pupils[f"closed_{side}"] & ~pupils[f"foreshortened_{side}"]]
        dots.append(shown[[f"offset_x_{side}", f"offset_y_{side}"]].set_axis(["x", "y"], axis=1).assign(colour=colour))
        left.scatter([], [], s=25, color=colour, lw=0, label=f"{side} eye")
        shown = lids[f"openness_{side}"].clip(upper=0.8)
        bins = np.linspace(0, 0.8, 33)
        sns.histplot(x=shown, bins=bins, ax=right, color=colour, element="step", alpha=0.25, label=f"{side} eye")
    left.set(xlabel="from the outer (−0.5) to the inner canthus (0.5), eye widths", ylabel="up (eye widths)")
    left.set(title="Pupils in the frame of their eye", xlim=(-0.65, 0.65), ylim=(-0.45, 0.45), aspect="equal")
    left.legend(loc="upper right")
    mixed = pd.concat(dots).sample(frac=1, random_state=0)  # neither side's dots lie above the other's
    left.scatter(mixed["x"], mixed["y"], s=9, c=mixed["colour"], alpha=0.4, lw=0, rasterized=True)
    right.set(xlabel="opening of the lids (eye widths, at most 0.8)", ylabel="eyes", title="How open the eyes are")
    right.legend()
    return fig


def component_figure(left: pd.DataFrame) -> Figure:
    """How far real shapes remain from their fits by principal components. left: mean distance of a landmark in % of the
    inter-ocular distance; index: number of components, columns: whose they are."""
    fig, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for (name, values), colour in zip(left.items(), PALETTE, strict=False):
        ax.plot(left.index, values, marker="o", ms=4, color=colour, label=f"of {name} shapes")
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xticks=left.index, xticklabels=left.index, xlabel="principal components", ylim=(0, None))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(ylabel="mean distance left (% inter-ocular)", title="How near do they come to real faces?")
    ax.legend()
    return fig


def pose_figure(table: pd.DataFrame) -> Figure:
    """Head pose and gaze of rendered faces: columns yaw, pitch, gaze_yaw_right, gaze_pitch_right, degrees."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    options = {"s": 8, "alpha": 0.5, "linewidth": 0, "color": PALETTE[0], "rasterized": True}
    sns.scatterplot(table, x="yaw", y="pitch", ax=axes[0], **options)
    axes[0].set(xlabel="head yaw (°, to the image's right)", ylabel="head pitch (°, up)", title="Where heads turn")
    sns.scatterplot(table, x="gaze_yaw_right", y="gaze_pitch_right", ax=axes[1], **options)
    axes[1].set(xlabel="gaze yaw (°, to the image's right)", ylabel="gaze pitch (°, up)")
    axes[1].set(title="Where right eyes look (0, 0: along the camera's axis)")
    return fig
