"""The figures of chapters 3 to 5 show what their tables say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from retinalib.landmarks import WFLW_98
from retinalib.plots import model, results, training
from retinalib.plots.style import PALETTE, PREDICTION, TRUTH
from retinalib.rendered.dataset import render_face


@pytest.fixture(autouse=True)
def drawn():
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


def history(**more):
    columns = {"total": 3.0, "box": 1.0, "classification": 1.0, "landmark": 2.0, "pupil": 0.5, "eye": 0.0}
    table = pd.DataFrame({"epoch": [1, 2, 3], **columns, "ap": [np.nan, 0.5, 0.6], "nme": [np.nan, 0.2, 0.1]})
    return table.assign(auc=[np.nan, 0.1, 0.2], run="a", **more)


def test_a_loss_that_the_run_does_not_have_has_no_panel():
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in training.loss_figure(history()).axes]
    assert titles == [
        "box",
        "face or not",
        "landmarks",
        "pupil",
    ]
    assert len(training.loss_figure(history(eye=1.0)).axes) == 5


def test_validation_without_ap():
    assert len(training.validation_figure(history()).axes) == 3
    assert len(training.validation_figure(history(ap=np.nan)).axes) == 2


def test_the_weighted_parts_add_up():
    fig = training.weight_figure(history(), {"box": 2.0, "landmark": 0.5})
    top = max(path.vertices[:, 1].max() for part in fig.axes[0].collections for path in part.get_paths())
    assert top == pytest.approx(2 * 1 + 0.5 * 2)


def test_orange_means_significant_after_correction():
    row = {"arm": "b", "unit": "%", "better": "lower", "estimate": 1.0, "low": 0.2, "high": 1.8}
    table = pd.DataFrame([{**row, "measure": "m", "p_holm": 0.2}, {**row, "measure": "n", "p_holm": 0.01}])
    fig = results.difference_figure(table)
    colours = [to_hex(ax.lines[0].get_color()).upper() for ax in fig.axes]
    assert colours == [PALETTE[0], PALETTE[5]]
    assert fig.axes[0].get_xlabel() == "difference in % (lower is better)"
    assert [ax.lines[1].get_markerfacecolor() for ax in fig.axes] == ["white", PALETTE[5]]  # told apart in grey, too
    third = results.difference_figure(pd.concat([table, table[:1].assign(measure="o", arm="c")]))
    assert [ax.axison for ax in third.axes] == [True, True, True, False]
    assert third.axes[2].lines[1].get_ydata()[0] == 1  # the second arm's row, though it is alone there


def test_precision_and_recall():
    curves = pd.DataFrame({"recall": [0.1, 0.5, np.nan], "precision": [1.0, 0.8, np.nan]})
    ours = pd.concat([curves.assign(arm=arm, seed=seed) for arm in "ab" for seed in (0, 1)])
    ax = results.precision_recall_figure(ours).axes[0]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "-", "--", "--"] and len(ax.lines[0].get_xdata()) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a, 2 seeds", "b, 2 seeds"]
    ax = results.wider_figure(pd.concat([curves.assign(subset=s) for s in ("easy", "hard")]), {"easy": 0.9, "hard": 0.5}).axes[
        0
    ]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["easy, AP 0.900", "hard, AP 0.500"]


def test_gates_are_sorted_by_their_means():
    gate = np.random.default_rng(0).random((20, 6)) * np.arange(1, 7) / 6
    fig = model.gate_figure({0: {8: gate, 32: gate}, 3: {8: gate, 32: 0 * gate}})
    assert [ax.get_title(loc="left") or ax.get_title() for ax in fig.axes] == ["stride 8", "stride 32"]
    np.testing.assert_allclose(fig.axes[0].lines[0].get_ydata(), np.sort(gate.mean(0))[::-1])
    assert [text.get_text() for text in fig.axes[1].get_legend().get_texts()] == ["seed 0", "seed 3"]


def test_both_looks_are_drawn_over_the_truth():
    image, truth = render_face(size=160)
    fig = model.second_look_figure(image, (WFLW_98.right_eye, WFLW_98.left_eye), truth, truth, truth)
    assert [text.get_text() for text in fig.axes[1].get_legend().get_texts()] == ["true", "first look", "second look"]
    colours = [line.get_color() for line in fig.axes[0].lines]
    assert colours[::2] == [TRUTH, PALETTE[1], PREDICTION]
    pupil = fig.axes[0].lines[1].get_xydata()[0]
    assert abs(pupil[0] - 90) < 30 and abs(pupil[1] - 54) < 20  # near the middle of the level eye
