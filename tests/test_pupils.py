import numpy as np
import pandas as pd
import pytest

from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98, WIDER_5
from retinalib.plots.eyes import level_eye
from retinalib.pupils import (
    JESORSKY,
    baselines,
    between_lids,
    foreshortened,
    mean_offsets,
    openness,
    pupil_errors,
    pupil_offset,
    pupil_table,
    readable_eyes,
)
from tests.shared import IBUG_68, SHARED, needs_shared


def face(offset=(0.1, 0.05), opening=0.3):
    """An upright face whose eyes are 30 pixels wide and 20 apart, with known offsets and openness, in (98, 2) points."""
    points = np.random.default_rng(0).uniform(0, 100, (98, 2))
    for eye, outer, inner in ((WFLW_98.right_eye, 10.0, 40.0), (WFLW_98.left_eye, 90.0, 60.0)):
        across = inner - outer
        points[eye.outer], points[eye.inner] = (outer, 50), (inner, 50)
        for step, (up, low) in enumerate(zip(eye.upper, eye.lower, strict=True), 1):
            points[up] = outer + across * step / 4, 50 - 15 * opening
            points[low] = outer + across * step / 4, 50 + 15 * opening
        points[eye.pupil] = (outer + inner) / 2 + across * offset[0], 50 - 30 * offset[1]
    return points


def turned(points, angle, scale=1.0, shift=(0.0, 0.0)):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + shift


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.5, np.pi])
def test_offsets_and_openness_are_exact_and_invariant(angle):
    points = turned(face((0.1, 0.05), 0.3), angle, 3.3, (-70, 900))[None]
    for eye in (WFLW_98.right_eye, WFLW_98.left_eye):
        np.testing.assert_allclose(pupil_offset(points, eye), [[0.1, 0.05]], atol=1e-6)
        np.testing.assert_allclose(openness(points, eye), [0.3], atol=1e-6)


def test_a_pupil_is_between_its_lids_or_not():
    points = np.stack([face((0.1, 0.0)), face((0.1, 0.3)), face((0.0, 0.0), 0.02)])
    points[2, WFLW_98.left_eye.pupil] = np.nan
    assert between_lids(points, WFLW_98).tolist() == [[True, True], [False, False], [True, False]]
    assert between_lids(points[:0], WFLW_98).shape == (0, 2)


def test_looking_to_one_side_adds_up_and_vergence_cancels():
    points = face((0.1, 0.0))  # both towards the nose
    assert pupil_table(Faces([[0, 0, 9, 9]], points[None]))["look_x"][0] == pytest.approx(0, abs=1e-6)
    points[WFLW_98.left_eye.pupil, 0] += 6  # the left one to the person's left instead
    assert pupil_table(Faces([[0, 0, 9, 9]], points[None]))["look_x"][0] == pytest.approx(0.1, abs=1e-6)


def test_closed_eyes_are_flagged_and_kept_out():
    faces = Faces(np.zeros((2, 4)), np.stack([face(opening=0.05), face(opening=0.3)]), attributes=pd.DataFrame({"yaw": [1, 2]}))
    table = pupil_table(faces)
    assert table["closed_right"].tolist() == [True, False] and table["look_x"].isna().tolist() == [True, False]
    assert not pupil_table(faces, closed=0.01)["closed_left"].any() and table["yaw"].tolist() == [1, 2]
    assert table["eye_width_right"].tolist() == pytest.approx([30, 30])
    assert "index" not in table and list(table)[-2:] == ["score", "yaw"]


def narrowed(share):
    """The face with its left eye's width brought to ``share`` of the right one's, lids and pupil with it."""
    points, eye = face((0.1, 0.05)), WFLW_98.left_eye
    own = [*eye.lids, eye.pupil]
    middle = (points[eye.outer, 0] + points[eye.inner, 0]) / 2
    points[own, 0] = middle + share * (points[own, 0] - middle)
    return points


def test_foreshortened_eyes_are_flagged_and_kept_out():
    points = np.stack([narrowed(share) for share in (1.0, 0.51, 0.49, 0.01)])
    assert foreshortened(points, WFLW_98).tolist() == [[False, False], [False, False], [False, True], [False, True]]
    assert foreshortened(0.06 * points[:1], WFLW_98).tolist() == [[True, True]]  # under two pixels
    assert not foreshortened(2.2 / 30 * points[:1], WFLW_98).any()
    table = pupil_table(Faces(np.zeros((4, 4)), points))
    assert table["foreshortened_left"].tolist() == [False, False, True, True]
    assert table["look_x"].tolist() == pytest.approx([0, 0, 0.1, 0.1], abs=1e-6)  # the right eye alone, of the turned ones
    assert abs(table["offset_y_left"][3]) > 4  # what an eye of no width does to an offset


def test_readable_eyes_are_open_and_not_foreshortened():
    points = np.stack([face(opening=0.3), face(opening=0.05), narrowed(0.3), np.full((98, 2), np.nan)])
    assert readable_eyes(points, WFLW_98).tolist() == [[True, True], [False, False], [True, False], [False, False]]
    assert readable_eyes(points, WFLW_98, closed=0.31).sum() == 0
    assert readable_eyes(points[:0], WFLW_98).shape == (0, 2)
    usual = mean_offsets(np.stack([face((0.1, 0.0)), face((0.3, 0.2)), face((9, 9), 0.05)]), WFLW_98)
    assert usual["right"] == pytest.approx([0.2, 0.1]) and usual["left"] == pytest.approx([0.2, 0.1])


def test_of_several_photos_a_row_a_face_with_its_photo():
    some = Faces([[0, 0, 9, 9]] * 2, np.stack([face(), face((0.2, 0.0))]))
    table = pupil_table([some, Faces.empty(), some[[1]]])
    assert table["photo"].tolist() == [0, 0, 2] and table.index.tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(table.drop(columns="photo")[:2], pupil_table(some))
    assert list(pupil_table([])) == ["photo", *pupil_table(Faces.empty())] and len(pupil_table([Faces.empty()])) == 0


def test_degenerate_and_empty():
    points = face()
    points[WFLW_98.right_eye.outer] = points[WFLW_98.right_eye.inner]
    table = pupil_table(Faces([[0, 0, 9, 9]], points[None]))
    assert np.isnan(table["offset_x_right"][0]) and np.isfinite(table["offset_x_left"][0])
    assert len(pupil_table(Faces.empty())) == 0
    with pytest.raises(ValueError, match="wider5 has no canthi, lids and pupils"):
        pupil_table(Faces.empty(WIDER_5))
    with pytest.raises(ValueError, match="ibug68 has no canthi, lids and pupils"):
        readable_eyes(points[None, :68], IBUG_68)


def test_baselines_by_hand():
    points = face((0.2, 0.1))[None]
    found = baselines(points, WFLW_98, {"right": np.array([0.2, 0.1]), "left": np.array([0.0, 0.0])})
    np.testing.assert_allclose(found["canthus midpoint"][0], [[25, 50], [75, 50]])
    np.testing.assert_allclose(found["lid centroid"][0], [[25, 50], [75, 50]], atol=1e-9)
    np.testing.assert_allclose(found["mean offset"][0], [points[0, 96], [75, 50]], atol=1e-9)


def test_errors_by_hand():
    true = face((0.0, 0.0))[None]  # pupils at (25, 50) and (75, 50), outer canthi 80 apart
    predicted = np.array([[[28.0, 50.0], [75.0, 46.0]]])
    table = pupil_errors(predicted, true, WFLW_98)
    assert table["pupil_nme"][0] == pytest.approx((3 + 4) / 2 / 80) and table["worst_eye"][0] == pytest.approx(4 / 50)
    assert table["error_x_right"][0] == pytest.approx(0.1) and table["error_y_left"][0] == pytest.approx(4 / 30)
    assert len(pupil_errors(np.zeros((0, 2, 2)), np.zeros((0, 98, 2)), WFLW_98)) == 0
    aside = face((0.2, 0.1))[None]
    assert np.abs(pupil_errors(aside[:, [96, 97]], aside, WFLW_98).to_numpy()).max() < 1e-9
    assert JESORSKY == {"pupil": 0.05, "iris": 0.10, "eye": 0.25}


@pytest.mark.parametrize("angle", [-0.5, 0.5])
@pytest.mark.parametrize("eye", [WFLW_98.right_eye, WFLW_98.left_eye])
def test_a_level_eye_stands_upright(angle, eye):
    """Whichever canthus is lower: they come to lie on the middle line, 72 pixels apart, in the photo's order."""
    points = turned(face(), angle)
    _, matrix = level_eye(np.zeros((100, 100, 3), np.uint8), points, eye)
    ends = points[[eye.outer, eye.inner]] @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(np.sort(ends[:, 0]), [24, 96])
    np.testing.assert_allclose(ends[:, 1], 36)
    assert matrix[0, 0] > 0


@needs_shared
def test_real_pupils_lie_within_their_eyes():
    path = SHARED / "real_faces/WFLW_annotations/list_98pt_test_attributed_faces.txt"
    points = np.array([line.split()[:196] for line in path.read_text().splitlines()], float).reshape(-1, 98, 2)
    for eye in (WFLW_98.right_eye, WFLW_98.left_eye):
        opened = openness(points, eye) > 0.15
        offset = pupil_offset(points, eye)[opened]
        assert opened.mean() > 0.7 and (np.abs(offset[:, 0]) < 0.5).mean() > 0.97
        assert abs(np.median(offset[:, 0])) < 0.1 and abs(np.median(offset[:, 1])) < 0.08
