"""Traces: what the eyes and the head did, over time."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

PANELS = {
    "horizontal offset\n(eye widths)": ("offset_x_right", "offset_x_left"),
    "vertical offset\n(eye widths)": ("offset_y_right", "offset_y_left"),
    "openness": ("openness_right", "openness_left"),
    "head (°)": ("yaw", "pitch", "roll"),
}


def trace_figure(trace: pd.DataFrame, blinks: pd.DataFrame) -> Figure:
    """Offsets and openness of both eyes (smoothed; raw ones pale) and the head's pose of the face seen longest, blinks shaded.
    trace and blinks: as of :func:`retinalib.track` and :func:`retinalib.tracking.blinks`."""
    face = trace["face"].mode()[0]
    part = trace[trace["face"] == face]
    part = part[:: -(-len(part) // 5000)]  # of longer traces, every so many
    fig, axes = plt.subplots(len(PANELS), figsize=(9, 6.4), sharex=True, layout="constrained")
    for ax, (label, names) in zip(axes, PANELS.items(), strict=True):
        for colour, name in zip(sns.color_palette(), names, strict=False):
            smooth = name + "_smooth" if name + "_smooth" in part else name
            if smooth != name:
                ax.plot(part["time"], part[name], color=colour, lw=0.6, alpha=0.4)
            ax.plot(part["time"], part[smooth], color=colour, lw=1.2, label=name.rpartition("_")[2])
        for blink in blinks[blinks["face"] == face].itertuples():
            ax.axvspan(blink.start, blink.end, color="0.85", lw=0)
        ax.set_ylabel(label)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes[0].set_title(f"Face {face}: smoothed, raw in pale; blinks shaded")
    axes[-1].set_xlabel("time (s)")
    return fig
