"""The figures that two places share say what their tables say, also of little and of nothing."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98
from retinalib.plots import anchors, eyes
from retinalib.plots.style import use_style
from retinalib.rendered import render_face


@pytest.fixture(autouse=True)
def drawn():
    """Draws every figure that the test left open, in the house style."""
    use_style()
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


def test_level_eyes_and_pupils_outside_of_them():
    image, truth = render_face(size=160)
    true, eye = truth.landmarks, WFLW_98.right_eye
    _, ax = plt.subplots()
    eyes.draw_level_eye(ax, image, true[0], eye, [("true", true[0], "green", "o")])
    pupil = ax.lines[1].get_xydata()[0]
    assert abs(pupil[0] - 60) < 25 and abs(pupil[1] - 36) < 15  # near the middle of what is shown


def test_size_classes_hold_every_size():
    classes = anchors.size_classes(pd.Series([8.0, 11.3, 11.4, 16.0, 500.0]))
    assert classes.notna().all() and classes.tolist()[:4] == ["8–11", "8–11", "11–16", "16–23"]


def test_coverage_counts_every_face():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.uniform(8, 300, 30), "kind": ["matched", "kept", "missed"] * 10})
    _, ax = plt.subplots()
    anchors.draw_coverage(ax, table)
    assert sum(int(text.get_text()) for text in ax.texts) == 30
    kinds = [to_hex(bars[0].get_facecolor()).upper() for bars in ax.containers]
    assert kinds == list(anchors.KINDS.values()) and ax.get_ylim()[1] == 1.07
    assert ax.containers[2][0].get_hatch() == "///"  # told apart in grey, too
    top = sum(bars[0].get_height() for bars in ax.containers)
    assert top == pytest.approx(1)
    anchors.draw_coverage(plt.subplots()[1], table[:1])


def test_one_face_and_its_anchors():
    face = Faces([[20, 20, 60, 60]], np.full((1, 98, 2), np.nan))
    matched, image = np.array([[18, 18, 50, 50], [10, 10, 74, 74]]), np.zeros((96, 96, 3), np.uint8)
    _, ax = plt.subplots()
    anchors.draw_match(ax, image, face, matched, np.array([8, 16]), closer=0.75)
    named = ["stride 8, with centres", "stride 16, with centres", "the face's box"]
    assert ax.get_legend_handles_labels()[1] == named and ax.get_xlim() == (10, 70)
    anchors.draw_match(ax, image, face, np.zeros((0, 4)), np.zeros(0, int))
