"""The explorer of chapter 8: a video's frames under a slider, and the trace with a cursor."""

from pathlib import Path

import numpy as np
import pandas as pd
from ipywidgets import IntSlider
from matplotlib.figure import Figure

from retinalib.datasets.table import BOX
from retinalib.datasets.video import Video
from retinalib.plots.style import PREDICTION
from retinalib.widgets.explorer import Explorer, panels

_PANELS = {"horizontal offset (eye widths)": "offset_x_{}_smooth", "openness": "openness_{}"}


def trace_explorer(video: str | Path, trace: pd.DataFrame) -> Explorer:
    """Shows a frame with the face seen longest, its pupils close up, and the trace (of retinalib.track). ValueError without."""
    if not len(trace):
        raise ValueError("there is no face in the trace to look at")
    part = trace[trace["face"] == trace["face"].mode()[0]].set_index("frame")

    def draw(frame: int) -> tuple[Figure, str]:
        time, image = next(Video(video).read(frame))
        figure, axes = panels([3.6, 2.6, 3.4, 3.4], 2.9)
        seen = part.loc[[frame]].iloc[0] if frame in part.index else None
        for ax in axes[:2]:
            ax.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
            ax.axis("off")
        for (label, name), ax in zip(_PANELS.items(), axes[2:], strict=True):
            for side in ("right", "left"):
                ax.plot(part["time"], part[name.format(side)], lw=1.2, label=side)
            ax.axvline(time, color="0.3", lw=1)
            ax.set(xlabel="time (s)", title=label)
        axes[2].legend(fontsize=8)
        if seen is None:
            return figure, f"frame {frame}, {time:.2f} s: the face is not seen"
        pupils = np.array([[seen[f"pupil_{axis}_{side}"] for axis in "xy"] for side in ("right", "left")])
        x1, y1, x2, y2 = seen[BOX].astype(float)
        axes[0].plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=PREDICTION, lw=1.2)
        axes[1].plot(*pupils.T, "+", color=PREDICTION, ms=9)
        (x, y), reach = pupils.mean(0), 0.6 * max(x2 - x1, 1)
        axes[1].set(xlim=(x - reach, x + reach), ylim=(y + 0.6 * reach, y - 0.6 * reach))
        how = "detected" if seen["detected"] else "followed by the second looks"
        return figure, f"frame {frame}, {time:.2f} s, {how}: gaze {seen['gaze_yaw']:+.0f}°, {seen['gaze_pitch']:+.0f}°"

    return Explorer({"frame": IntSlider(value=0, min=0, max=int(trace["frame"].max()), description="frame")}, draw)
