"""The figures of chapters 1, 2 and 6 are drawn from tables small and empty, and say what the tables say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98
from retinalib.plots import anchors, faces, pupils
from retinalib.plots.style import PALETTE, use_style
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


def test_shapes_and_pupils():
    base, moved = shapes()
    fig = faces.shape_figure(moved, base, WFLW_98)
    right, left = WFLW_98.inter_ocular
    unit = np.linalg.norm(base[right] - base[left])
    drawn = fig.axes[1].collections[0].get_offsets()  # the mean, in inter-ocular distances, whatever its origin
    np.testing.assert_allclose(drawn - drawn[0], (base - base[0]) / unit, atol=1e-8)
    table = pupil_table(Faces(np.zeros((30, 4)), moved))
    fig = faces.pupil_figure(table)
    shown = sum(len(dots.get_offsets()) for dots in fig.axes[0].collections if len(dots.get_offsets()) > 1)
    sides = ("right", "left")
    assert shown == sum((~(table[f"closed_{s}"] | table[f"foreshortened_{s}"])).sum() for s in sides) > 0


def test_components():
    left = pd.DataFrame({"real": [9.0, 4.0], "rendered": [9.5, 6.0]}, index=[0, 5])
    (ax,) = faces.component_figure(left).axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[9.0, 4.0], [9.5, 6.0]]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "5"]


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
    said = [f"{(table[column] > 0).sum()} of 40 faces" for column in ("outside_photo", "outside_box")]
    assert [ax.get_title(loc="left").partition(": ")[2] for ax in fig.axes] == said  # no panel for what never occurs
    fig = faces.odd_points_figure(table.assign(outside_photo=0, outside_box=0, repeated=0))
    assert fig.axes[0].texts[0].get_text() == "none"


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
    fig = anchors.layout_figure(np.zeros((96, 96, 3), np.uint8), (8, 16, 32), ((16, 32), (64, 128), (256, 512)))
    said = [[text.get_text() for text in ax.texts] for ax in fig.axes]
    assert said == [[], ["128 px: around all of this"], ["256 and 512 px: around all of this"]]
    curve = pd.DataFrame({"size": np.repeat([8.0, 16.0, 32.0], 4), "iou": np.linspace(0, 1, 12)})
    anchors.best_iou_figure({"square": curve}, 0.35, 0.2, [16, 32])
    face = Faces([[20, 20, 60, 60]], np.full((1, 98, 2), np.nan))
    matched = np.array([[18, 18, 50, 50], [10, 10, 74, 74]])
    anchors.match_figure(np.zeros((96, 96, 3), np.uint8), face, matched, np.array([8, 16]), "title")
    anchors.match_figure(np.zeros((96, 96, 3), np.uint8), face, np.zeros((0, 4)), np.zeros(0, int), "no anchors")
    table = pd.DataFrame({"design": ["a", "b"], "input": 320, "missed": 0.0, "iou": 0.5, "positives": 3, "anchors": 4200})
    anchors.alternatives_figure(table)


def test_foreshortened_and_closed_eyes_are_not_among_the_pupils():
    points = np.random.default_rng(0).uniform(0, 100, (20, 98, 2))
    table = pupil_table(Faces(np.zeros((20, 4)), points))
    fig = faces.pupil_figure(table)
    shown = [~table[f"closed_{side}"] & ~table[f"foreshortened_{side}"] for side in ("right", "left")]
    colours = pd.Series([to_hex(colour).upper() for colour in fig.axes[0].collections[-1].get_facecolors()])
    assert colours.value_counts()[list(PALETTE[:2])].tolist() == [of_side.sum() for of_side in shown] and shown[0].sum() < 20


def offsets(n=60, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 0.1, n)
    axis = np.where(np.arange(n) % 2, "x (towards the nose)", "y (up)")
    return pd.DataFrame(
        {"axis": axis, "true": true, "predicted": true + rng.normal(0, 0.02, n), "size": rng.uniform(30, 200, n)}
    )


def test_offsets_and_agreement():
    table = offsets(600)
    fig = pupils.offset_figure(table)
    ticks = fig.axes[-1].get_yticks()
    assert np.allclose([ticks.min(), ticks.max()], np.log2([table["size"].min(), table["size"].max()]))  # no white ends
    assert "ρ = 0.9" in fig.axes[0].get_title(loc="left") and "300 eyes" in fig.axes[0].get_title(loc="left")
    reach = fig.axes[0].get_xlim()[1]
    beyond = (table.loc[table["axis"] == table["axis"].min(), ["true", "predicted"]].abs() > reach).any(axis=1).sum()
    assert fig.axes[0].texts[0].get_text() == f"{beyond} of 300 eyes outside"
    table.loc[1, "predicted"] = 50.0  # a lost face must not blow up the axes
    fig = pupils.agreement_figure(table)
    assert all(max(np.abs(ax.get_xlim())) < 1 and max(np.abs(ax.get_ylim())) < 1 for ax in fig.axes)
    assert [ax.texts[0].get_text().partition(" of ")[2] for ax in fig.axes] == ["300 eyes outside"] * 2
    assert int(fig.axes[0].texts[0].get_text().split()[0]) >= 1
    pupils.offset_figure(table[:0])
    pupils.agreement_figure(table[:0])


def test_worst_eye_names_its_thresholds():
    fig = pupils.worst_eye_figure({"network": np.array([0.01, 0.2, np.nan]), "guess": np.full(3, np.nan)}, {"pupil": 0.05})
    ax = fig.axes[0]
    assert ax.get_ylabel() == "share of all faces" and [t.get_text() for t in ax.texts] == ["pupil 0.05"]
    assert ax.lines[0].get_ydata()[-1] == pytest.approx(2 / 3)  # the miss counts
    pupils.worst_eye_figure({"network": np.zeros(0)}, {})


def test_errors_by_size():
    columns = ["band", "method", "estimate", "low", "high"]
    levels = pd.DataFrame([("small", "network", 4.0, 3.0, 5.0), ("small", "guess", 5.0, 4.5, 6.0)], columns=columns)
    gaps = pd.DataFrame([("small", "network", -1.0, -2.0, -0.5)], columns=columns)
    fig = pupils.error_by_size_figure(levels, gaps, "guess")
    assert [t.get_text() for t in fig.axes[0].get_legend().get_texts()] == ["network", "guess"]
    assert "guess" in fig.axes[1].get_title(loc="left")
    pupils.error_by_size_figure(levels[:0].assign(band=[]), gaps[:0], "guess")


def test_eyes_outside_the_tile_are_marked():
    crop = np.zeros((72, 120, 3), np.uint8)
    fig = pupils.eye_sheet([(crop, np.array([60.0, 36]), np.array([300.0, -5]), "250%")] * 2, columns=3)
    mark = fig.axes[0].lines[-1]
    assert mark.get_xydata().tolist() == [[120, 0]] and mark.get_marker() == ">"
    assert fig.axes[0].get_title() == "250%, outside"
    pupils.eye_sheet([])


def test_compensation_with_and_without_gaze():
    rng = np.random.default_rng(0)
    yaw, turn = rng.uniform(-40, 40, 50), rng.uniform(-20, 20, 50)
    table = pd.DataFrame({"yaw": yaw, "in_head": turn, "offset": turn / 100, "kind": "as it is"})
    fig = pupils.compensation_figure(table)
    assert [t.get_text() for t in fig.axes[0].get_legend().get_texts()] == ["as it is: ρ = 1.00"]
    assert len(fig.axes[1].collections[0].get_offsets()) == (np.abs(turn) < pupils.STRAIGHT).sum()
    fig = pupils.compensation_figure(table.assign(in_head=np.nan))
    assert len(fig.axes[1].collections[0].get_offsets()) == 50


def test_openness_left_right_trust_and_gaze():
    fig = pupils.openness_figure(np.array([0.05, 0.2, 0.3]), np.array([0.3, 0.2, 0.3]), 0.12)
    assert fig.axes[1].get_title(loc="left") == "Finding the 1 closed eyes of 3"
    pupils.openness_figure(np.zeros(0), np.zeros(0), 0.12)
    table = pupil_table(Faces(np.zeros((30, 4)), shapes()[1]))
    fig = pupils.left_right_figure({"true": table, "none": table[:0]})
    assert fig.axes[0].get_xlim() == fig.axes[2].get_xlim()  # so that the two can be compared
    error = np.arange(10.0)
    fig = pupils.trust_figure(pd.DataFrame({"perfect": error, "unknown": np.nan}), error)
    perfect, unknown, itself = (line.get_ydata() for line in fig.axes[0].lines)
    assert np.array_equal(perfect, itself) and perfect[0] < perfect[-1] == unknown[-1]
    pupils.trust_figure(pd.DataFrame({"perfect": error[:0]}), error[:0])
    looks = {"true": np.zeros((2, 2)), "measured": np.full((2, 2), 20.0)}
    fig = pupils.gaze_plate([np.zeros((40, 40, 3), np.uint8)], [np.full((2, 2), 20.0)], [looks], ["off by 3°"])
    assert fig.axes[0].get_title() == "off by 3°"
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["true gaze", "measured gaze"]
    pupils.gaze_plate([], [], [], [])


def test_lifelike():
    tables = {"real": pd.DataFrame({"a": [0.0, 1, 2]}), "rendered": pd.DataFrame({"a": [10.0, 11, 12]})}
    fig = pupils.lifelike_figure(tables, {"a": "something (°)"})
    assert fig.axes[0].get_title(loc="left") == "KS 1.00 (n = 3, 3)"
    pupils.lifelike_figure({name: table[:0] for name, table in tables.items()}, {"a": "nothing"})
