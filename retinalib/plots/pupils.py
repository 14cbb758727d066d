"""Figures of pupils: errors against thresholds, size and baselines; offsets predicted and true; eyes close up."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import ks_2samp

from retinalib.evaluate import cumulative_error
from retinalib.landmarks import Eye
from retinalib.plots.style import PALETTE, PREDICTION, TRUTH
from retinalib.pupils import closed_rates, level_eye

STRAIGHT = 8.0  # degrees from where the head points within which an eye counts as looking there
_LOOKS = {"true": TRUTH, "measured": PREDICTION}


def worst_eye_figure(errors: dict[str, np.ndarray], thresholds: dict[str, float], solid: Sequence[str] = ()) -> Figure:
    """The share of all faces whose worse pupil is at most so wrong, a line per method; a missed face (NaN) never counts.

    thresholds: what a hit is within, and the error up to which it is; methods other than ``solid`` are dashed.
    """
    fig, ax = plt.subplots(figsize=(6.8, 4), layout="constrained")
    for name, values in errors.items():
        style = {"lw": 2} if name in solid else {"lw": 1.2, "ls": "--"}
        ax.plot(*cumulative_error(values, 0.3, 301).to_numpy().T, label=name, **style)
    for name, threshold in thresholds.items():
        ax.axvline(threshold, color="0.5", lw=0.8, ls=":")
        ax.text(threshold, 1.01, f"{name} {threshold:g}", ha="center", va="bottom", fontsize=8, color="0.3")
    ax.set(xlabel="worst-eye error (fraction of the inter-pupil distance)", ylabel="share of all faces")
    ax.set(xlim=(0, 0.3), ylim=(0, 1))
    ax.legend(frameon=False, loc="lower right")
    return fig


def offset_figure(table: pd.DataFrame) -> Figure:
    """Predicted against true offsets in the eye frame, x and y, with Spearman's ρ. table: columns axis, true, predicted, size
    (pixels)."""
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 4), layout="constrained")
    sizes = np.log2(table["size"])
    norm = plt.Normalize(sizes.min(), sizes.max()) if len(table) else None
    for ax, (axis, part) in zip(axes, table.groupby("axis", sort=True), strict=False):
        both = part[["true", "predicted"]]
        ax.scatter(part["true"], part["predicted"], c=sizes[part.index], norm=norm, s=6, cmap="mako_r", linewidths=0)
        reach = 1.15 * float(np.nanquantile(np.abs(both.to_numpy()), 0.995))
        ax.plot([-reach, reach], [-reach, reach], color="0.4", lw=1)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        ax.set(xlabel="true (eye widths)", ylabel="predicted (eye widths)")
        ax.set_title(f"{axis}: ρ = {both.corr('spearman').iloc[0, 1]:.2f}, {len(both)} eyes", fontsize=9)
        _count_outside(ax, both, (reach, reach), "eyes")
    if len(table):
        bar = fig.colorbar(plt.cm.ScalarMappable(norm, "mako_r"), ax=axes, label="face size (pixels)", shrink=0.85)
        ticks = np.linspace(sizes.min(), sizes.max(), 5)
        bar.set_ticks(ticks, labels=[f"{2**t:.0f}" for t in ticks])
    return fig


def left_right_figure(tables: dict[str, pd.DataFrame]) -> Figure:
    """The left eye's offset against the right one's, both on one axis: x to the person's left, y up.

    tables: source -> a table of :func:`retinalib.pupils.pupil_table` with the faces whose eyes are both readable. All have the
    scale of the first.
    """
    first = next(iter(tables.values()))
    reaches = {axis: first.filter(like=f"offset_{axis}").abs().stack().quantile(0.99) for axis in "xy"}
    fig, axes = plt.subplots(len(tables), 2, figsize=(7.2, 3.5 * len(tables)), squeeze=False, layout="constrained")
    for row, (source, table) in zip(axes, tables.items(), strict=True):
        for ax, axis, sign in zip(row, "xy", (-1, 1), strict=True):
            pair = pd.DataFrame({"right": table[f"offset_{axis}_right"], "left": sign * table[f"offset_{axis}_left"]})
            reach = 1.15 * reaches[axis] if reaches[axis] > 0 else 1.0
            ax.scatter(pair["right"], pair["left"], s=5, alpha=0.4, linewidths=0)
            ax.plot([-reach, reach], [-reach, reach], color="0.4", lw=1)
            where = "to the person's left" if axis == "x" else "up"
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            ax.set(xlabel=f"right eye, {where} (eye widths)", ylabel=f"left eye, {where}")
            ax.set_title(f"{source}, {axis}: ρ = {pair.corr('spearman').iloc[0, 1]:.2f}", fontsize=9)
            _count_outside(ax, pair, (reach, reach), "faces")
    return fig


def error_by_size_figure(table: pd.DataFrame, differences: pd.DataFrame, best: str) -> Figure:
    """Median pupil error by face size, and how far it is from that of the baseline ``best``, with intervals.

    Both tables: columns band (labels in order), method, estimate, low, high (% of the inter-ocular distance).
    """
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.7), layout="constrained")
    bands = list(dict.fromkeys(table["band"]))
    methods = list(dict.fromkeys(table["method"]))
    for ax, part in zip(axes, (table, differences), strict=True):
        for place, name in enumerate(methods):
            rows = part[part["method"] == name]
            at = [bands.index(b) + 0.12 * (place - len(methods) / 2 + 0.5) for b in rows["band"]]
            reach = np.stack([rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]])
            if len(rows):
                ax.errorbar(at, rows["estimate"], reach, fmt="o", ms=5, lw=1.6, capsize=2, color=PALETTE[place], label=name)
        ax.set_xticks(range(len(bands)), bands)
        ax.grid(axis="x", visible=False)
        ax.set(xlabel="face size")
    axes[0].set(ylim=(0, None), ylabel="median error (% of inter-ocular distance)", title="Error")
    axes[1].axhline(0, color="0.4", lw=1)
    axes[1].set(ylabel="difference (% of inter-ocular distance)", title=f"Against {best}: below 0 is better")
    if methods:
        axes[0].legend()
    return fig


def agreement_figure(table: pd.DataFrame) -> Figure:
    """The error of the offset against the mean of both (Bland and Altman 1986), with its median, and the 2.5 % and 97.5 %
    quantiles as limits of agreement (their 1999 paper, for errors that are not normal).

    table: columns axis, true, predicted.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    limit = 2 * float(np.quantile((table["predicted"] - table["true"]).abs(), 0.95)) if len(table) else 1.0
    for ax, (axis, part) in zip(axes, table.dropna().groupby("axis", sort=True), strict=False):
        error, middle = part["predicted"] - part["true"], (part["predicted"] + part["true"]) / 2
        ax.scatter(middle, error, s=5, alpha=0.35, linewidths=0)
        low, bias, high = error.quantile([0.025, 0.5, 0.975])
        for level, style in ((bias, "-"), (low, "--"), (high, "--")):
            ax.axhline(level, color=PALETTE[5], lw=1.2, ls=style)
        ax.set(xlabel=f"mean of true and predicted {axis} (eye widths)", ylabel="predicted − true (eye widths)")
        ax.set_title(f"{axis}: bias {bias:+.3f}, 95 % from {low:+.2f} to {high:+.2f}", fontsize=9)
        reach = 1.2 * float(np.quantile(middle.abs(), 0.995))
        ax.set(xlim=(-reach, reach), ylim=(-limit, limit))
        _count_outside(ax, pd.DataFrame({"middle": middle, "error": error}), (reach, limit), "eyes")
    return fig


def _count_outside(ax: Axes, points: pd.DataFrame, reach: tuple[float, float], what: str) -> None:
    """Says how many points, columns x and y, lie beyond the axes, which reach so far to either side."""
    known = points.dropna()
    outside = int((known.abs().to_numpy() > reach).any(axis=1).sum())
    ax.text(0.99, 0.02, f"{outside} of {len(known)} {what} outside", transform=ax.transAxes, ha="right", fontsize=7.5)


def draw_level_eye(
    ax: Axes,
    image: np.ndarray,
    at: np.ndarray,
    eye: Eye,
    looks: Sequence[tuple[str, np.ndarray, str, str]],
    size: tuple[int, int] = (120, 72),
) -> None:
    """One eye turned level, with the lids and the pupil of several landmarks over it.

    image: (H, W, 3) uint8; at: (L, 2) landmarks that say where the eye is; looks: name, (L, 2) landmarks, colour and marker of
    the pupil, the first one lowest; all in pixels of the image. size: width and height of what is shown.
    """
    crop, matrix = level_eye(image, at, eye, size)
    ax.imshow(crop, extent=(0, crop.shape[1], crop.shape[0], 0))
    for name, landmarks, colour, marker in looks:
        points = landmarks @ matrix[:, :2].T + matrix[:, 2]
        ax.plot(*points[[*eye.lids, eye.lids[0]]].T, color=colour, lw=1.2)
        ax.plot(*points[eye.pupil], marker, color=colour, mfc="none", ms=10, mew=1.8, ls="none", label=name)
    ax.set(xlim=(0, crop.shape[1]), ylim=(crop.shape[0], 0), xticks=[], yticks=[])
    ax.grid(False)


def eye_sheet(crops: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, str]], columns: int = 6) -> Figure:
    """Level eyes with the true (green) and the predicted (blue) pupil. crops: image, true (2,), predicted (2,), title.

    A predicted pupil outside the crop is a blue triangle at the border nearest to it.
    """
    rows = max(1, -(-len(crops) // columns))
    fig, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.25 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for ax, (crop, true, predicted, title) in zip(axes.flat, crops, strict=False):
        size = np.array([crop.shape[1], crop.shape[0]], float)
        ax.imshow(crop, extent=(0, size[0], size[1], 0))
        ax.plot(*true, "o", mfc="none", mec=TRUTH, ms=9, mew=1.6)
        beyond = predicted - np.clip(predicted, 0, size)
        inside, axis = not beyond.any(), int(np.abs(beyond).argmax())
        mark = (
            {"marker": "+", "ms": 10, "mew": 1.8} if inside else {"marker": ("<>", "^v")[axis][int(beyond[axis] > 0)], "ms": 7}
        )
        ax.plot(*np.clip(predicted, 0, size), mec=PREDICTION, mfc=PREDICTION, clip_on=False, **mark)
        ax.set(xlim=(0, size[0]), ylim=(size[1], 0))
        ax.set_title(title if inside else f"{title}, outside", fontsize=8, loc="center")
    return fig


def compensation_figure(table: pd.DataFrame) -> Figure:
    """The offset across the eye as it is and with the head's turn taken out: against the gaze seen from the head, and, for eyes
    that look where the head points, against the head's yaw.

    table: columns offset (eye widths, to the image's right), kind, yaw (degrees), in_head (yaw of the gaze seen from the
    head, degrees; NaN where unknown: then the right panel shows all eyes).
    """
    fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    known = table["in_head"].notna().any()
    straight = table[table["in_head"].abs() < STRAIGHT] if known else table
    for place, (kind, part) in enumerate(table.groupby("kind", sort=False)):
        rho = part[["in_head", "offset"]].corr("spearman").iloc[0, 1]
        options = {"s": 6, "alpha": 0.45, "linewidths": 0, "rasterized": True, "color": PALETTE[place]}
        axes[0].scatter(part["in_head"], part["offset"], label=f"{kind}: ρ = {rho:.2f}", **options)
        own = straight[straight["kind"] == kind]
        axes[1].scatter(own["yaw"], own["offset"], **options)
        bands = own.groupby((own["yaw"] / 10).round() * 10)["offset"].agg(["median", "size"])
        bands = bands[bands["size"] >= 10]
        label = f"{kind}: standard deviation {own['offset'].std():.3f}"
        axes[1].plot(bands.index, bands["median"], "o-", color=PALETTE[place], ms=5, mec="white", label=label)
    reach = 1.2 * float(table["offset"].abs().quantile(0.99)) if len(table) else 1.0
    axes[0].set(xlabel="true gaze seen from the head (°, to the image's right)", ylim=(-reach, reach))
    axes[0].set(ylabel="offset to the image's right (eye widths)", title="Does the offset follow the eye?")
    who = f"Eyes within {STRAIGHT:.0f}° of straight ahead" if known else "All readable eyes"
    axes[1].set(xlabel="head yaw (°, to the image's right)", title=f"{who}; lines: medians")
    for ax in axes:
        ax.axhline(0, color="0.5", lw=0.8)
        ax.legend(markerscale=1.5, loc="upper left")
    if not known:
        axes[0].set(xticks=[], title="The gaze is not known here")
    return fig


def openness_figure(true: np.ndarray, predicted: np.ndarray, closed: float) -> Figure:
    """How many eyes count as closed at each threshold, and how well a threshold on predicted openness finds the eyes whose true
    openness is at most ``closed``. true, predicted: (N,)."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    levels = np.linspace(0.02, 0.3, 57)
    for name, values in (("true lids", true), ("predicted lids", predicted)):
        left.plot(levels, [(values <= level).mean() if len(values) else np.nan for level in levels], label=name)
    left.set(ylabel="share of eyes at or under it", ylim=(0, None), title="Eyes that count as closed")
    rates = pd.DataFrame([closed_rates(true, predicted, closed, level) for level in levels])
    for column, style in (("sensitivity", "-"), ("specificity", "-"), ("balanced accuracy", "--")):
        right.plot(levels, rates[column], style, label=column)
    right.axhline(0.5, color="0.6", lw=0.8, ls=":")
    right.set(ylabel="rate", ylim=(0, 1.02), title=f"Finding the {(true <= closed).sum()} closed eyes of {len(true)}")
    for ax in (left, right):
        ax.axvline(closed, color="0.4", ls="--", lw=1)
        ax.set(xlabel="threshold (eye aspect ratio)")
        ax.legend()
    return fig


def trust_figure(signs: pd.DataFrame, error: np.ndarray) -> Figure:
    """The median error of the faces that are left when the most suspicious ones are dropped, a line per measure.

    signs: a column per measure, larger is more suspicious, unknown the most; error: (N,) % of the inter-ocular distance. The
    grey line drops by the error itself: no measure can do better.
    """
    fig, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    kept = np.linspace(0.2, 1, 33)
    for name, values in {**signs, "the error itself": pd.Series(error)}.items():
        order = np.argsort(np.nan_to_num(values.to_numpy(float), nan=np.inf), kind="stable")
        medians = [np.median(error[order[: max(1, round(share * len(error)))]]) if len(error) else np.nan for share in kept]
        style = {"color": "0.6", "ls": "--"} if name == "the error itself" else {}
        ax.plot(100 * kept, medians, label=name, **style)
    ax.set(xlabel="faces kept (%), the least suspicious first", ylabel="their median error (% of inter-ocular distance)")
    ax.set(ylim=(0, None))
    ax.legend()
    return fig


def lifelike_figure(tables: dict[str, pd.DataFrame], labels: dict[str, str]) -> Figure:
    """Distributions of the same columns in two tables side by side, with the Kolmogorov–Smirnov statistic of each.

    tables: two, name -> columns of ``labels`` (column -> label with unit).
    """
    fig, axes = plt.subplots(2, -(-len(labels) // 2), figsize=(10.5, 5.4), squeeze=False, layout="constrained")
    for ax in axes.flat[len(labels) :]:
        ax.axis("off")
    for ax, (column, label) in zip(axes.flat, labels.items(), strict=False):
        values = {name: table[column].dropna().to_numpy() for name, table in tables.items()}
        everything = np.concatenate(list(values.values()))
        low, high = np.quantile(everything, [0.005, 0.995]) if len(everything) else (0, 1)
        for place, (name, own) in enumerate(values.items()):
            options = {"binrange": (low, high), "bins": 24, "stat": "density", "element": "step", "alpha": 0.25}
            sns.histplot(x=own, ax=ax, color=PALETTE[place], label=name, **options)
        counts = ", ".join(str(len(own)) for own in values.values())
        ax.set(xlabel=label, ylabel="density")
        if all(len(own) for own in values.values()):
            ax.set_title(f"KS {ks_2samp(*values.values()).statistic:.2f} (n = {counts})", fontsize=9)
    handles, names = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=2)
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
            _count_outside(ax, part[["true", "measured"]], (reach, reach), "eyes")
    return fig


def gaze_plate(
    crops: Sequence[np.ndarray],
    eyes: Sequence[np.ndarray],
    looks: Sequence[dict[str, np.ndarray]],
    titles: Sequence[str],
    columns: int = 6,
) -> Figure:
    """Faces with a line from each pupil to where it looks: true gaze in green, measured in blue.

    crops: (h, w, 3); eyes: (2, 2) pupils in the crop; looks: "true" and "measured", (2, 2) yaw and pitch of both eyes, degrees.
    """
    rows = max(1, -(-len(crops) // columns))
    fig, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.7 * rows + 0.3), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for ax, crop, starts, directions, title in zip(axes.flat, crops, eyes, looks, titles, strict=False):
        ax.imshow(crop, extent=(0, crop.shape[1], crop.shape[0], 0))
        for name, colour in _LOOKS.items():
            if name in directions:
                yaw, pitch = np.radians(directions[name]).T
                reach = 0.6 * crop.shape[1] * np.column_stack([np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
                for start, arrow in zip(starts, reach, strict=True):
                    ax.plot(*np.stack([start, start + arrow]).T, color=colour, lw=1.8, solid_capstyle="round")
                    ax.plot(*start, "o", color=colour, ms=3)
        ax.set(xlim=(0, crop.shape[1]), ylim=(crop.shape[0], 0))
        ax.set_title(title, fontsize=8, loc="center", weight="normal")
    lines = [plt.Line2D([], [], color=colour, lw=1.8) for colour in _LOOKS.values()]
    fig.legend(lines, [f"{name} gaze" for name in _LOOKS], loc="outside lower center", ncols=2)
    return fig
