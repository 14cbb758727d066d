"""What cells of the chapters define, by hand and by what must hold."""

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from retinalib import WFLW_98, Faces, ModelConfig, RetinaFace
from retinalib.anchors import AnchorConfig
from retinalib.gaze import Eyeball, gaze_vector
from retinalib.pupils import pupil_offset
from retinalib.rendered.head import Pose
from retinalib.workspace import PROJECT
from tests.test_gaze import ANGLES, POSES, seen


def defined(chapter, cell, **known):
    """What a cell defines, with the chapter's imports and what the cell takes as known."""
    (path,) = (PROJECT / "notebooks").glob(f"{chapter}_*.ipynb")
    cells = {c["id"]: c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"}
    names = known
    exec(next(iter(cells.values())), names)
    exec(cells[cell].split("\n\n\nsquare = ")[0], names)
    return names


def test_mean_shape_ignores_shift_scale_and_rotation():
    names, rng = defined("01", "shapes"), np.random.default_rng(5)
    mean_shape, aligned_to = names["mean_shape"], names["aligned_to"]
    shape = rng.normal(0, 1, (98, 2))
    turned = []
    for _ in range(20):
        angle = rng.uniform(-0.5, 0.5)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned.append(shape @ turn * rng.uniform(0.5, 50) + rng.uniform(-99, 99, 2))
    mean = mean_shape(np.stack(turned))
    np.testing.assert_allclose(aligned_to(shape[None], mean)[0], mean, atol=1e-6)
    assert np.linalg.norm(mean) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one face"):
        mean_shape(np.full((2, 98, 2), np.nan))


def test_alignment_undoes_similarities():
    aligned_to, rng = defined("01", "shapes")["aligned_to"], np.random.default_rng(0)
    base, angle = rng.normal(size=(98, 2)), 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = np.stack([base @ turn * 30 + [5, -80], base @ turn.T * 0.2])
    assert np.allclose(aligned_to(moved, base), base, atol=1e-8)
    assert not np.allclose(aligned_to(moved * [-1, 1], base), base, atol=0.1)  # a mirrored face is another face


def test_rendered_beside_real():
    names, rng = defined("01", "side-by-side"), np.random.default_rng(0)
    one, other = (pd.DataFrame({"a": rng.normal(size=400), "b": rng.normal(size=400) + shift}) for shift in (0, 3))
    one.loc[0, "a"] = np.nan
    labels = {"a": "first (px)", "b": "second (px)"}
    table = names["side_by_side"]({"one": one, "other": other}, labels)
    assert table.loc["first (px)", "one: n"] == 399 and table.loc["first (px)", "other: n"] == 400
    assert table.loc["second (px)", "other: median"] == pytest.approx(other["b"].median())
    assert table["KS"].iloc[0] < table["by chance (95 %)"].iloc[0] < 0.15 < 0.8 < table["KS"].iloc[1]
    both = pd.concat([one.assign(source="one"), other.assign(source="other")], ignore_index=True)
    fig = defined("01", "distributions")["distributions_figure"](both, labels, table)
    assert [(ax.get_title("left") or ax.get_title())[:3] for ax in fig.axes[:3]] == ["KS ", "KS ", ""]
    assert [text.get_text() for text in fig.axes[5].get_legend().get_texts()] == ["one", "other"]


def test_plates():
    image = np.zeros((50, 50, 3), np.uint8)
    one = Faces([[5, 5, 45, 45]], np.random.default_rng(0).uniform(5, 45, (1, 98, 2)))
    plate = defined("01", "plates")["plate"]
    fig = plate("heading", [(image, one)] * 5, list("abcde"), columns=3, width=1.5, landmarks=False)
    assert [ax.get_title(loc="left") or ax.get_title() for ax in fig.axes] == ["a", "b", "c", "d", "e", ""]
    plate("heading", [(image, Faces.empty())], [""], columns=6, width=1.5)


def test_proportions_of_a_drawn_mouth():
    points = np.zeros((1, 98, 2))
    lips = list(WFLW_98.regions["inner lips"])
    points[0, lips] = [[0, 0], [1, -1], [2, -1], [3, -1], [4, 0], [3, 1], [2, 1], [1, 1]]
    points[0, 0], points[0, 1] = [-10, -30], [10, 30]
    proportions = defined("01", "proportions", schema=WFLW_98)["proportions"]
    measured = proportions(points)
    assert measured["mouth_opening"].item() == pytest.approx(0.5) and measured["aspect"].item() == pytest.approx(3)
    assert proportions(points[:0]).empty


def test_best_iou_of_a_face_like_an_anchor_is_high_and_of_a_tiny_one_bounded_by_its_area():
    table = defined("02", "best-iou")["best_iou_by_size"](np.array([4.0, 128.0, 900.0]), 320, AnchorConfig())
    assert sorted(table["size"].unique()) == [4, 128]  # 900 does not fit
    assert table[table["size"] == 4]["iou"].max() == pytest.approx((4 / 16) ** 2, rel=1e-3)
    # the nearest of the anchors with stride 16 is at most 8 px off each way
    worst = (128 - 8) ** 2 / (2 * 128**2 - (128 - 8) ** 2)
    assert table[table["size"] == 128]["iou"].min() >= worst - 1e-6


def test_the_size_from_which_faces_are_reached():
    curve = defined("02", "best-iou")["best_iou_by_size"](np.geomspace(4, 64, 60), 320, AnchorConfig())
    size_from_iou = defined("02", "best-iou-words")["size_from_iou"]
    # a square within the smallest anchor, as each of up to 8 px is somewhere: its IoU is the ratio of the areas
    assert size_from_iou(curve, 0.2, 0.5) == pytest.approx(16 * 0.2**0.5, rel=0.01)
    assert size_from_iou(curve, 0.2, 1) == pytest.approx(16 * 0.2**0.5, rel=0.01)
    lucky, typical, unlucky = (size_from_iou(curve, 0.6, quantile) for quantile in (1, 0.5, 0))
    assert 16 * 0.6**0.5 <= lucky + 0.05 < typical < unlucky
    assert size_from_iou(curve, 0.01, 0.5) == 4 and np.isnan(size_from_iou(curve, 1.1, 0.5))


def test_shapes_follow_the_strides():
    variants = {"with SE": RetinaFace(ModelConfig(se_reduction=16)).eval()}
    shapes = defined("03", "cell-06", variants=variants, IMAGE_SIZE=320)["shapes"]
    assert shapes.loc["SSH"].to_dict() == {"1/8": "64×40×40", "1/16": "64×20×20", "1/32": "64×10×10"}
    assert set(shapes.loc["landmark head"]) == {"392×40×40", "392×20×20", "392×10×10"}


def test_receptive_fields_grow_with_the_stride():
    names = defined("03", "receptive-field")
    torch.manual_seed(0)
    fields = names["receptive_field"](RetinaFace(), 256)
    widths = [names["field_width"](fields[s]) for s in (8, 16, 32)]
    assert widths[0] < widths[1] < widths[2] <= 257
    assert all(f.max() == 1 for f in fields.values())


def test_field_width_by_hand():
    field_width, field = defined("03", "receptive-field")["field_width"], np.zeros((21, 21), np.float32)
    field[10, 10] = 1
    assert field_width(field) == 1
    field[8:13, 8:13] = 1
    assert field_width(field) == 5


@pytest.mark.parametrize("turn", [(0.0, 0.0), (12.0, -5.0), (-30.0, 20.0)])
def test_gaze_in_the_head_undoes_the_pose(turn):
    gaze_in_head, rows = defined("07", "gaze-compensated")["gaze_in_head"], []
    for pose in POSES:
        x, y, z = Pose(*pose).matrix() @ gaze_vector(*turn)
        rows.append((*pose, np.degrees(np.arctan2(x, z)), np.degrees(np.arctan2(-y, np.hypot(x, z)))))
    table = pd.DataFrame(rows, columns=[*ANGLES, "gaze_yaw_left", "gaze_pitch_left"])
    np.testing.assert_allclose(gaze_in_head(table, "left"), np.tile(turn, (len(POSES), 1)), atol=1e-6)


def test_a_turn_of_the_head_alone_leaves_the_compensated_offset():
    """The eyes look where the head points: the plain offset moves with the yaw, the compensated one hardly."""
    compensated_offset, eyeball = defined("07", "gaze-compensated")["compensated_offset"], Eyeball()
    points = np.stack([seen((yaw, 0, 0), (yaw, 0)) for yaw in (-40.0, -20, 0, 20, 40)])
    for eye in (WFLW_98.right_eye, WFLW_98.left_eye):
        assert np.abs(compensated_offset(points, eyeball, eye)).max() < 0.035
    gazing = np.stack([seen((0, 0, 0), (g, 0)) for g in (-15.0, 0, 15)])
    moved = compensated_offset(gazing, eyeball, WFLW_98.right_eye)[:, 0]
    np.testing.assert_allclose(np.diff(moved), np.diff(pupil_offset(gazing, WFLW_98.right_eye)[:, 0]), atol=1e-3)
    assert np.ptp(pupil_offset(points, WFLW_98.right_eye)[:, 0]) > 0.1
