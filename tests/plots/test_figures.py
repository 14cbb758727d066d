"""The figures of chapters 1 and 2 are drawn from tables small and empty, and say what the tables say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98
from retinalib.plots import anchors, faces
from retinalib.plots.style import use_style
from retinalib.pupils import pupil_table


@pytest.fixture(autouse=True)
def drawn():
    """Draws every figure that the test left open, in the house style."""
    use_style()
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


def shapes(n=30, seed=0):
    """A fixed cloud of 98 points under random similarities, with a little noise."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(98, 2))
    angle, scale = rng.uniform(-0.6, 0.6, n), rng.uniform(20, 80, n)
    turn = np.stack([np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2)
    moved = scale[:, None, None] * np.einsum("nij,lj->nli", turn, base) + rng.uniform(0, 200, (n, 1, 2))
    return base, moved


def described(n=40, seed=0):
    rng = np.random.default_rng(seed)
    columns = {name: rng.integers(0, 3, n) for name in ("outside_photo", "outside_box", "repeated")}
    size = rng.uniform(10, 200, n)
    return pd.DataFrame({"photo": np.arange(n), "faces": 1, "size": size, "share": size / 320, "labelled": True, **columns})


def test_alignment_undoes_similarities():
    base, moved = shapes()
    assert np.allclose(faces.aligned_to(moved, base), base, atol=1e-8)
    mirrored = moved * [-1, 1]
    assert not np.allclose(faces.aligned_to(mirrored, base), base, atol=0.1)  # a mirrored face is another face


def test_shapes_and_pupils():
    base, moved = shapes()
    faces.shape_figure(moved, base, WFLW_98)
    faces.pupil_figure(pupil_table(Faces(np.zeros((30, 4)), moved)))


def test_attribute_shares():
    table = pd.DataFrame({"pose": [True, True, False, False], "blur": [True, False, False, False], "make_up": [False] * 4})
    fig = faces.attribute_figure(table, list(table))
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert texts == [" 2 (50%)", " 1 (25%)", " 0 (0%)"]
    assert {t.get_text() for t in fig.axes[1].texts} == {"50%", "100%", "0%"}


def test_sizes_and_oddities():
    table = described()
    faces.size_figure(table)
    fig = faces.odd_points_figure(table.assign(repeated=0))
    assert fig.axes[2].texts[0].get_text() == "none"
    assert fig.axes[0].get_title(loc="left") == f"{(table['outside_photo'] > 0).sum()} of 40 faces have some"


def test_plates():
    image = np.zeros((50, 50, 3), np.uint8)
    one = Faces([[5, 5, 45, 45]], np.random.default_rng(0).uniform(5, 45, (1, 98, 2)))
    fig = faces.plate([(image, one)] * 5, list("abcde"), columns=3)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["a", "b", "c", "d", "e", ""]
    faces.plate([(image, Faces.empty())])
    faces.numbered_face(image, one)


def reached(kinds, seed=0):
    rng = np.random.default_rng(seed)
    n = len(kinds)
    columns = {"size": rng.uniform(8, 300, n), "iou": rng.random(n), "positives": rng.integers(0, 40, n), "kind": kinds}
    return pd.DataFrame(columns)


def test_size_classes_hold_every_size():
    sizes = pd.Series([8.0, 11.3, 11.4, 16.0, 500.0])
    classes = anchors.size_classes(sizes)
    assert classes.notna().all()
    assert classes.tolist()[:4] == ["8–11", "8–11", "11–16", "16–23"]


def test_anchor_figures():
    tables = {160: reached(["matched", "kept", "missed"] * 10), 640: reached(["matched"] * 12)}
    anchors.data_iou_figure(tables, 0.35)
    anchors.positives_figure(tables)
    fig = anchors.coverage_figure(tables)
    counts = [int(t.get_text()) for t in fig.axes[1].texts]
    assert sum(counts) == 12
    anchors.size_shift_figure({"a": np.array([10.0, 20.0]), "b": np.array([300.0])}, [16, 32])
    anchors.layout_figure(np.zeros((96, 96, 3), np.uint8), (8, 16, 32), ((16, 32), (64, 128), (256, 512)))
    curve = pd.DataFrame({"size": np.repeat([8.0, 16.0, 32.0], 4), "iou": np.linspace(0, 1, 12)})
    anchors.best_iou_figure({"square": curve}, 0.35, 0.2, [16, 32])
    face = Faces([[20, 20, 60, 60]], np.full((1, 98, 2), np.nan))
    matched = np.array([[18, 18, 50, 50], [10, 10, 74, 74]])
    anchors.match_figure(np.zeros((96, 96, 3), np.uint8), face, matched, np.array([8, 16]), "title")
    anchors.match_figure(np.zeros((96, 96, 3), np.uint8), face, np.zeros((0, 4)), np.zeros(0, int), "no anchors")
    table = pd.DataFrame({"design": ["a", "b"], "input": 320, "missed": 0.0, "iou": 0.5, "positives": 3, "anchors": 4200})
    anchors.alternatives_figure(table)
