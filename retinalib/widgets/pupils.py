"""The explorer of chapter 6: a rendered face that looks where it is told, and what the detector says of its eyes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from ipywidgets import FloatSlider, IntSlider
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retinalib.detect import Detector
from retinalib.evaluate import match_faces
from retinalib.faces import Faces
from retinalib.gaze import Eyeball, gaze_angles, gaze_error
from retinalib.landmarks import WFLW_98
from retinalib.plots.pupils import draw_level_eye
from retinalib.plots.style import PREDICTION, TRUTH, draw_faces
from retinalib.pupils import pupil_table
from retinalib.rendered.dataset import render_face
from retinalib.widgets.explorer import Explorer, panels

_SCORE = 0.3
_ROWS = {
    "offset x (widths)": ("offset_x_{}", "+.3f"),
    "offset y (widths)": ("offset_y_{}", "+.3f"),
    "openness": ("openness_{}", ".3f"),
    "gaze yaw (°)": ("gaze_yaw_{}", "+.1f"),
    "gaze pitch (°)": ("gaze_pitch_{}", "+.1f"),
}


def pupil_explorer(detector: Detector, eyeball: Eyeball) -> Explorer:
    """Shows a rendered face, both eyes turned level, and what was measured in them beside the truth.

    Truth in green, the detector's landmarks in blue. eyeball: as :func:`retinalib.gaze.calibrate` gives it; the gaze measured
    is what it makes of the predicted landmarks, the true gaze is what was rendered. Raises ValueError for a detector of other
    than 98 points.
    """
    if detector.model.config.schema is not WFLW_98:
        raise ValueError(f"pupils need a detector of 98 landmarks, this one has {detector.model.config.schema.count}")

    def draw(
        yaw: float, pitch: float, roll: float, gaze_yaw: float, gaze_pitch: float, lids: float, person: int, size: int
    ) -> tuple[Figure, str]:
        image, truth = render_face(yaw, pitch, roll, (gaze_yaw, gaze_pitch), lids, size, person)
        found = detector.detect(image, _SCORE, pyramid=True)
        at = int(match_faces(found, truth)[0])
        seen = found[[at]] if at >= 0 else None
        figure, axes = panels([3.2, 2.0, 2.0, 4.3], 3.4)
        draw_faces(axes[0], image, truth, seen, boxes=False)
        for ax, (side, eye) in zip(axes[1:3], _EYES.items(), strict=True):
            looks = [("true", truth, TRUTH, "o")] + ([] if seen is None else [("found", seen, PREDICTION, "+")])
            looks = [(name, faces.landmarks[0], *style) for name, faces, *style in looks]
            draw_level_eye(ax, image, truth.landmarks[0], eye, looks)
            ax.set_title(f"{side} eye", fontsize=9)
        measured = None if seen is None else _measure(seen, eyeball)
        _numbers(axes[3], _measure(truth, eyeball), measured, gaze_yaw, gaze_pitch)
        if measured is None:
            return figure, f"no face found with a score of at least {_SCORE}"
        wrong = {side: gaze_error(measured.to_frame().T, truth.attributes, side)[0] for side in _EYES}
        said = ", ".join(f"{degrees:.1f}° ({side})" for side, degrees in wrong.items())
        return figure, f"found with a score of {seen.scores[0]:.2f}; the measured gaze is off by {said}"

    def angle(name: str, reach: float) -> FloatSlider:
        return FloatSlider(value=0, min=-reach, max=reach, step=1, description=name, readout_format=".0f")

    controls = {
        "yaw": angle("head yaw", 70),
        "pitch": angle("head pitch", 35),
        "roll": angle("head roll", 40),
        "gaze_yaw": angle("gaze yaw", 35),
        "gaze_pitch": angle("gaze pitch", 25),
        "lids": FloatSlider(value=1, min=0, max=1.4, step=0.05, description="lids"),
        "person": IntSlider(value=0, min=0, max=99, description="person"),
        "size": IntSlider(value=256, min=64, max=512, step=16, description="size (px)"),
    }
    return Explorer(controls, draw)


_EYES = {"right": WFLW_98.right_eye, "left": WFLW_98.left_eye}


def _measure(faces: Faces, eyeball: Eyeball) -> pd.Series:
    bare = Faces(faces.boxes, faces.landmarks)  # attributes name the gaze, too, and that is not what was measured
    return pd.concat([pupil_table(bare).iloc[0], gaze_angles(faces.landmarks, eyeball).iloc[0]])


def _numbers(ax: Axes, true: pd.Series, seen: pd.Series | None, gaze_yaw: float, gaze_pitch: float) -> None:
    """A small table: measured beside true, for both eyes."""
    rendered = {"gaze_yaw_{}": gaze_yaw, "gaze_pitch_{}": gaze_pitch}
    lines = [f"{'':18}{'right':>16}{'left':>16}", f"{'':18}" + f"{'true':>8}{'found':>8}" * 2]
    for name, (column, form) in _ROWS.items():
        cells = []
        for side in _EYES:
            known = rendered.get(column, true[column.format(side)])
            values = (known, np.nan if seen is None else seen[column.format(side)])
            cells += [f"{value:{form}}" if np.isfinite(value) else "–" for value in values]
        lines.append(f"{name:18}" + "".join(f"{cell:>8}" for cell in cells))
    ax.text(0, 0.5, "\n".join(lines), family="monospace", fontsize=10, va="center", linespacing=1.6)
    ax.axis("off")
