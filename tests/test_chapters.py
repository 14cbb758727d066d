"""What cells of the chapters define, by hand and by what must hold."""

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from scipy import stats

from retinalib import WFLW_98, Faces, ModelConfig, RetinaFace
from retinalib.anchors import AnchorConfig, anchor_grid
from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector, for_inference
from retinalib.gaze import Eyeball, gaze_vector
from retinalib.plots.style import PALETTE
from retinalib.pupils import pupil_offset
from retinalib.rendered import render_face
from retinalib.rendered.head import Pose
from retinalib.second_look import eye_look
from retinalib.studies.gates import gates
from retinalib.studies.network_cost import cost_by_part
from retinalib.studies.statistics import cluster_bootstrap, rank_correlation
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


def test_orange_means_significant_after_correction():
    row = {"arm": "b", "unit": "%", "better": "lower", "estimate": 1.0, "low": 0.2, "high": 1.8, "seeds": 3, "photos": 9}
    table = pd.DataFrame([{**row, "measure": "m", "p_holm": 0.2}, {**row, "measure": "n", "p_holm": 0.01}])
    difference_figure = defined("05", "difference-figure")["difference_figure"]
    fig = difference_figure(table, "n differs")
    assert [to_hex(ax.lines[0].get_color()).upper() for ax in fig.axes] == [PALETTE[0], PALETTE[5]]
    assert fig.axes[0].get_xlabel() == "difference in %\n(lower is better)"
    assert [ax.lines[1].get_markerfacecolor() for ax in fig.axes] == ["white", PALETTE[5]]  # told apart in grey, too
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["p ≥ 0.05 (Holm)", "p < 0.05 (Holm)"]
    third = difference_figure(pd.concat([table, table[:1].assign(measure="o", arm="c")]), "n differs")
    assert [ax.axison for ax in third.axes] == [True, True, True, False]
    assert third.axes[2].lines[1].get_ydata()[0] == 1  # the second arm's row, though it is alone there


def test_a_heat_map_of_subsets():
    table = pd.DataFrame({"a": [1.0, np.nan], "b": [2.0, 3.0]}, ["pose", "blur"])
    ax = defined("05", "heat-map")["heat_map"](table, "error (%)", "title").axes[0]
    assert [text.get_text() for text in ax.texts] == ["1.0", "2.0", "3.0"] and "title" in (ax.get_title("left"), ax.get_title())


def test_explained_is_the_share_of_an_analysis_of_variance():
    explained, rng = defined("05", "gate-table")["explained"], np.random.default_rng(0)
    groups = rng.random(80) < 0.3
    values = rng.normal(0, 1, (80, 3)) + np.outer(groups, [0.5, 0.0, 2.0])
    within = sum(((part - part.mean(0)) ** 2).sum() for part in (values[groups], values[~groups]))
    assert explained(values, groups) == pytest.approx(1 - within / ((values - values.mean(0)) ** 2).sum())
    assert np.isnan(explained(values, np.ones(80, bool))) and np.isnan(explained(np.ones((80, 2)), groups))
    chance = [explained(rng.normal(0, 1, (80, 3)), groups) for _ in range(400)]
    assert np.mean(chance) == pytest.approx(1 / 79, rel=0.1)


def test_crops_of_faces_and_of_none(sets):
    photos, face_and_background = sets[0], defined("05", "crops-code")["face_and_background"]
    crops, about = face_and_background(photos, 64)
    assert crops.shape[1:] == (64, 64, 3) and crops.dtype == np.uint8 and 2 <= len(crops) <= 2 * len(photos)
    assert about["face"].tolist() == [True, False] * (len(crops) // 2)
    assert about["image"][::2].tolist() == about["image"][1::2].tolist() and {"pose", "blur"} <= set(about)
    np.testing.assert_array_equal(crops, face_and_background(photos, 64)[0])


def test_backgrounds_hold_no_face_and_faces_do(tmp_path):
    """A photo that is white where its face is and black elsewhere."""
    table = pd.DataFrame({"image": ["a.png"], "x1": [10.0], "y1": [60.0], "x2": [40.0], "y2": [90.0]})
    table["landmarks"] = [np.full((98, 2), np.nan)]
    image = np.zeros((200, 150, 3), np.uint8)
    image[60:90, 10:40] = 255
    assert cv2.imwrite(str(tmp_path / "a.png"), image)
    face_and_background = defined("05", "crops-code")["face_and_background"]
    crops, about = face_and_background(FaceDataset(table, tmp_path), 48)
    assert about["face"].tolist() == [True, False] and crops[1].max() == 0
    assert crops[0].mean() / 255 == pytest.approx((30 / 48) ** 2, abs=0.02)
    full = table.assign(x1=0.0, y1=0.0, x2=150.0, y2=200.0)
    assert len(face_and_background(FaceDataset(full, tmp_path), 48)[0]) == 0  # no room for a background
    with pytest.raises(ValueError, match="only in part"):
        face_and_background(FaceDataset(table, tmp_path, complete=False), 48)


def test_what_the_gates_depend_on():
    rng = np.random.default_rng(0)
    about = pd.DataFrame({"image": "a", "face": np.arange(400) % 2 == 0, "blur": np.arange(400) % 4 == 0})
    channel = np.r_[0.01, 0.01, rng.uniform(0.3, 0.9, 62)]
    constant, listening = np.tile(channel, (400, 1)), channel + 0.1 * about["face"].to_numpy()[:, None]
    table = defined("05", "gate-table")["gate_table"](
        {0: {8: constant, 16: listening, 32: np.full((400, 64), 0.5)}}, about
    ).set_index("level")
    assert table["silenced"].tolist() == [2, 0, 0] and table["mean"].iloc[2] == 0.5
    assert table["between_images"].iloc[0] == pytest.approx(0) and np.isnan(table["between_images"].iloc[2])
    image, channels = 0.05**2, channel.var()
    assert table.loc["1/16", "between_images"] == pytest.approx(image / (image + channels))
    assert table.loc["1/16", "face_or_background"] == pytest.approx(1) and table.loc["1/16", "spread"] == pytest.approx(0.05)
    assert np.isnan(table.loc["1/16", "blur"]) and np.isnan(table.loc["1/32", "face_or_background"])


def test_constant_gates_no_longer_listen(sets):
    photos = sets[0]
    torch.manual_seed(0)
    one = Detector(RetinaFace(ModelConfig(se_reduction=4)), "cpu")
    pixels = one.model.config.normalisation.apply(torch.from_numpy(photos[0][0]).permute(2, 0, 1)[None])
    with torch.no_grad():
        for _ in range(50):
            one.model.train()(pixels)  # batch norms learn what is usual
        one.model.eval()
        for block in one.model.excitation:
            block.squeeze.weight.mul_(5)  # so that gates differ between images
    fixed = defined("05", "constant-gates")["with_constant_gates"](one, photos)
    means = {s: np.mean([gates(one, photos[n][0][None])[s][0] for n in range(len(photos))], 0) for s in (8, 16, 32)}
    assert all(np.ptp(gate) > 0.05 for gate in means.values())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        pyramid = one.model.fpn(one.model.backbone(images).values())
        found = fixed.model.features(images)
        for ssh, level, mean, features in zip(one.model.ssh, pyramid, means.values(), found, strict=True):
            torch.testing.assert_close(features, ssh(level) * torch.from_numpy(mean)[:, None, None])
        assert (one.model.features(images)[0] - found[0]).abs().max() > 1e-3


def test_costs_side_by_side():
    costs_side_by_side = defined("05", "costs-side-by-side")["costs_side_by_side"]
    models = {"plain": RetinaFace(), "se": RetinaFace(ModelConfig(se_reduction=16))}
    table = costs_side_by_side(models, "cpu", 96, rounds=7)
    assert table["parameters"].tolist() == [sum(p.numel() for p in m.parameters()) for m in models.values()]
    cells = len(anchor_grid(96, 96)) // 2
    assert table.loc["se", "gflop"] - table.loc["plain", "gflop"] == pytest.approx((2 * 1536 + 2 * 64 * cells) / 1e9)
    assert table.loc["plain", ["slower_ms", "its low", "its high"]].tolist() == [0, 0, 0]
    dense = cost_by_part(models["plain"], 96, 96).set_index("part")["gflop"]
    assert table.loc["plain", "gflop"] == pytest.approx(dense.sum() - dense["landmark head"])
    assert (table["latency_ms"] > 0).all() and (table["latency_iqr_ms"] >= 0).all() and costs_side_by_side({}, "cpu", 96).empty


def test_costs_are_those_of_detections_copies():
    """A second look, which looks at faces alone, costs parameters and nothing else."""
    names, made = defined("05", "costs-side-by-side"), []
    names["for_inference"] = lambda model: made.append(for_inference(model)) or made[-1]
    models = {"plain": RetinaFace(), "eyes": RetinaFace(ModelConfig(looks=(eye_look(WFLW_98),)))}
    table = names["costs_side_by_side"](models, "cpu", 64, rounds=1)
    assert len(made) == 2 and table["gflop"].nunique() == 1 and table["latency_iqr_ms"].tolist() == [0, 0]
    assert table["parameters"].tolist() == [sum(p.numel() for p in m.parameters()) for m in models.values()]


def test_pupils_outside_of_the_level_eye():
    image, truth = render_face(size=160)
    true, eye = truth.landmarks, WFLW_98.right_eye
    eye_sheet = defined("06", "eye-sheet")["eye_sheet"]
    lost = true.copy()
    lost[0, eye.pupil] += [300, 0]
    fig = eye_sheet([image] * 2, np.concatenate([true] * 2), np.concatenate([true, lost]), eye, ["2%", "250%"], "two eyes")
    assert [ax.get_title() for ax in fig.axes[:2]] == ["2%", "250%, outside"]
    mark = fig.axes[1].lines[-1]
    assert mark.get_xydata()[0][0] == 120 and mark.get_marker() == ">"
    eye_sheet([], true[:0], true[:0], eye, [], "none")


def test_saying_the_same_of_everybody_explains_nothing():
    explained_share = defined("06", "explained-share")["explained_share"]
    true = np.random.default_rng(0).normal(0.3, 2.0, 4000)
    assert explained_share(np.column_stack([np.full(4000, 7.0), true])) == pytest.approx(0, abs=1e-12)
    assert explained_share(np.column_stack([true + 0.5, true])) == pytest.approx(1)
    noisy = np.column_stack([true + np.random.default_rng(1).normal(0, 1.0, 4000), true])
    assert explained_share(noisy) == pytest.approx(0.75, abs=0.03)
    lost = noisy.copy()
    lost[:40, 0] += 1000  # a few lost faces
    assert explained_share(lost) < -1000
    assert explained_share(np.column_stack([-true, true])) == pytest.approx(-3)
    assert np.isnan(explained_share(np.zeros((0, 2))))


@pytest.mark.parametrize(("slope", "noise"), [(1.0, 0.0), (0.5, 0.4)])
def test_as_many_faces_as_needed_give_the_power(slope, noise):
    """Two groups whose true means differ, measured too flat and with errors: four fifths of such studies see it."""
    faces_needed, rng, difference = defined("06", "faces-needed")["faces_needed"], np.random.default_rng(0), 0.05
    true = rng.normal(0, 0.1, 20_000)
    known = np.column_stack([slope * true + noise * rng.normal(0, 0.1, len(true)), true])
    faces = round(faces_needed(known, difference))
    drawn = rng.normal(0, 0.1, (2, 4000, faces)) + np.array([0, difference])[:, None, None]
    measured = slope * drawn + noise * rng.normal(0, 0.1, drawn.shape)
    assert (stats.ttest_ind(*measured, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.025)
    assert faces_needed(known, difference, power=0.9) > faces


def test_partial_rank_correlation():
    partial_rank_correlation = defined("06", "partial-rank-correlation")["partial_rank_correlation"]
    rng = np.random.default_rng(0)
    size = rng.normal(size=5000)
    apart = np.column_stack([size + rng.normal(size=5000), np.exp(size + rng.normal(size=5000)), size])
    assert rank_correlation(apart[:, :2]) > 0.4 and partial_rank_correlation(apart) == pytest.approx(0, abs=0.03)
    own = rng.normal(size=5000)
    assert partial_rank_correlation(np.column_stack([own, own + rng.normal(size=5000), size])) > 0.6
    assert np.isnan(partial_rank_correlation(np.ones((9, 3)))) and np.isnan(partial_rank_correlation(apart[:3]))


@pytest.mark.parametrize(("cell", "more"), [("explained-share", ()), ("faces-needed", (0.5,))])
def test_intervals_over_photos_hold_what_offsets_truly_have(cell, more):
    """Photos of three eyes, whose errors share a part and are now and then those of a lost face."""
    function = defined("06", cell)[cell.replace("-", "_")]

    def statistic(values):
        return function(values, *more)

    def offsets(photos):
        true = rng.normal(0, 1, (photos, 1)) * 0.7 + rng.normal(0, 0.7, (photos, 3))
        lost = np.where(rng.random((photos, 1)) < 0.05, 2.0, 0.5)
        return 0.7 * true + lost * (rng.normal(0, 0.5, (photos, 1)) + rng.normal(0, 0.8, (photos, 3))), true

    def table(photos):
        predicted, true = offsets(photos)
        return pd.DataFrame({"image": np.repeat(range(photos), 3), "p": predicted.ravel(), "t": true.ravel()})

    rng = np.random.default_rng(3)
    expected = statistic(table(1_000_000)[["p", "t"]].to_numpy())
    intervals = [cluster_bootstrap(table(500), ["p", "t"], statistic, rounds=200)[1:] for _ in range(300)]
    assert 0.92 <= np.mean([low <= expected <= high for low, high in intervals]) <= 0.98


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
