"""The explorer of chapters 6 and 7: a rendered face that looks where it is told, and what the detector says of its eyes."""

import numpy as np
import pandas as pd
from ipywidgets import FloatSlider, IntSlider
from matplotlib.figure import Figure

from retinalib.detect import Detector
from retinalib.evaluate import match_faces
from retinalib.faces import Faces
from retinalib.gaze import Eyeball, gaze_angles, gaze_error
from retinalib.landmarks import WFLW_98
from retinalib.plots.eyes import draw_level_eye
from retinalib.plots.style import PREDICTION, TRUTH, draw_faces
from retinalib.pupils import eyes_of, pupil_table
from retinalib.rendered import render_face
from retinalib.widgets.explorer import Explorer, panels

_SCORE = 0.3
_EYES = eyes_of(WFLW_98)
_ROWS = {
    "offset x (widths)": "offset_x_{}",
    "offset y (widths)": "offset_y_{}",
    "openness": "openness_{}",
    "gaze yaw (°)": "gaze_yaw_{}",
    "gaze pitch (°)": "gaze_pitch_{}",
}


def pupil_explorer(detector: Detector, eyeball: Eyeball | None = None) -> Explorer:
    """Shows a rendered face, both eyes turned level, and what was measured in them (blue) beside the truth (green);
    ``eyeball``: for the gaze, by default the average one. ValueError for a detector of other than 98 points."""
    if detector.model.config.schema != WFLW_98:
        raise ValueError(f"pupils need a detector of 98 landmarks, this one has {detector.model.config.schema.count}")
    eyeball = eyeball or Eyeball()

    def draw(
        yaw: float, pitch: float, roll: float, gaze_yaw: float, gaze_pitch: float, lids: float, person: int, size: int
    ) -> tuple[Figure, str]:
        image, truth = render_face(yaw, pitch, roll, (gaze_yaw, gaze_pitch), lids, size, person)
        found = detector.detect(image, _SCORE, pyramid=True)
        at = int(match_faces(found, truth)[0])
        seen = found[[at]] if at >= 0 else Faces.empty()
        figure, axes = panels([3.2, 2.0, 2.0, 4.3], 3.4)
        draw_faces(axes[0], image, truth, seen, boxes=False)
        looks = [("true", truth, TRUTH, "o"), ("found", seen, PREDICTION, "+")][: 1 + len(seen)]
        looks = [(name, faces.landmarks[0], *style) for name, faces, *style in looks]
        for ax, (side, eye) in zip(axes[1:3], _EYES.items(), strict=True):
            draw_level_eye(ax, image, truth.landmarks[0], eye, looks)
            ax.set_title(f"{side} eye", fontsize=9)
        true, measured = _measure(truth, eyeball), _measure(seen, eyeball)
        true = true.assign(**truth.attributes[[c for c in truth.attributes if c in true]])  # the gaze that was rendered
        cells = {
            (side, name): [table[column.format(side)].iloc[0] for column in _ROWS.values()]
            for side in _EYES
            for name, table in (("true", true), ("found", measured))
            if len(table)
        }
        numbers = pd.DataFrame(cells, index=list(_ROWS)).to_string(na_rep="–", float_format="{:+.3g}".format)
        axes[3].text(0, 0.5, numbers, family="monospace", fontsize=10, va="center", linespacing=1.6)
        axes[3].axis("off")
        if not len(seen):
            return figure, f"no face found with a score of at least {_SCORE}"
        wrong = {side: gaze_error(measured, truth.attributes, side)[0] for side in _EYES}
        said = " and ".join(f"{d:.1f}° ({s})" if np.isfinite(d) else f"unknown ({s}, closed)" for s, d in wrong.items())
        return figure, f"found with a score of {seen.scores[0]:.2f}; the error of the measured gaze is {said}"

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


def _measure(faces: Faces, eyeball: Eyeball) -> pd.DataFrame:
    bare = Faces(faces.boxes, faces.landmarks)  # attributes name the gaze, too, and that is not what was measured
    return pd.concat([pupil_table(bare), gaze_angles(faces.landmarks, eyeball)], axis=1)
