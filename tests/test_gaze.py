import numpy as np
import pandas as pd
import pytest

from retinalib import rendered
from retinalib.faces import Faces
from retinalib.gaze import Eyeball, calibrate, gaze_angles, gaze_error, head_pose
from retinalib.landmarks import WFLW_98
from retinalib.pupils import pupil_table
from retinalib.rendered.head import EYE_RADIUS, Expression, Pose, average_landmarks, build, gaze_vector

POSES = [(0, 0, 0), (25, 0, 0), (-40, 10, 0), (10, -20, 30), (55, 15, -40)]
ANGLES = ["yaw", "pitch", "roll"]


def seen(pose, gaze=(0.0, 0.0), scale=40.0, shift=(300.0, 200.0)):
    """(98, 2) the average head under weak perspective, both eyes looking in parallel."""
    look = gaze_vector(*gaze)
    head = build((), Expression(), Pose(*pose), (look, look))
    return (head.landmarks @ head.rotation.T)[:, :2] * scale + shift


@pytest.fixture(scope="module")
def eyeball():
    rng = np.random.default_rng(0)
    poses, gazes = rng.uniform(-30, 30, (60, 3)), rng.uniform(-15, 15, (60, 2))
    points = np.stack([seen(pose, gaze) for pose, gaze in zip(poses, gazes, strict=True)])
    return calibrate(points, {"right": gazes, "left": gazes}, closed=0.05)


def test_pose_of_the_average_head_is_exact():
    model = average_landmarks()
    points = np.stack([(model @ Pose(*pose).matrix().T)[:, :2] * 37 + [5, -80] for pose in POSES])
    pose = head_pose(points)
    np.testing.assert_allclose(pose.angles()[ANGLES], POSES, atol=0.01)
    np.testing.assert_allclose(pose.scale, 37, rtol=1e-4)
    assert (pose.residual < 1e-4).all()


def test_a_mirrored_face_turns_the_other_way():
    faces = Faces(np.tile([0, 0, 600, 600], (len(POSES), 1)), np.stack([seen(pose) for pose in POSES]))
    mirrored = head_pose(faces.flipped(600).landmarks).angles()
    np.testing.assert_allclose(mirrored[ANGLES], head_pose(faces.landmarks).angles()[ANGLES] * [-1, 1, -1], atol=0.05)


def test_calibration_finds_the_renderers_eyeball(eyeball):
    assert eyeball.radius == pytest.approx(EYE_RADIUS, rel=0.03)
    assert eyeball.centre[0] == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize("pose", POSES[:4])
@pytest.mark.parametrize("gaze", [(0, 0), (12, 5), (-15, -8)])
def test_gaze_is_the_cameras_whatever_the_head_does(eyeball, pose, gaze):
    found = gaze_angles(seen(pose, gaze)[None], eyeball)
    true = pd.DataFrame([{f"gaze_{a}_{s}": v for s in ("right", "left") for a, v in zip(("yaw", "pitch"), gaze, strict=True)}])
    assert gaze_error(found, true, "right")[0] < 2 and gaze_error(found, true, "left")[0] < 2
    assert found["gaze_yaw"][0] == pytest.approx(gaze[0], abs=2) and abs(found["vergence"][0]) < 2


def test_gaze_on_rendered_faces_of_others(tmp_path):
    """Calibrated on some people, tested on others, with the perspective that the calibration knows nothing of."""
    root = rendered.make(tmp_path, 120, seed=5, size=96, progress=False)
    train, test = (rendered.load(root, split).table for split in ("train", "test"))
    known = {s: train[[f"gaze_yaw_{s}", f"gaze_pitch_{s}"]].to_numpy() for s in ("right", "left")}
    model = calibrate(np.stack(train["landmarks"]), known)
    average = Eyeball()  # for faces of unknown gaze: as many more such faces gave it
    np.testing.assert_allclose([*model.centre, model.radius], [*average.centre, average.radius], atol=0.006)
    use = test["yaw"].abs() < 45
    use &= test[["eye_openness_right", "eye_openness_left"]].min(axis=1) > 0.4
    points = np.stack(test["landmarks"][use])
    found = gaze_angles(points, model)
    errors = np.concatenate([gaze_error(found, test[use], side) for side in ("right", "left")])
    pose = head_pose(points).angles()[ANGLES] - test[use][ANGLES].to_numpy()
    assert np.mean(errors) < 4 and pose.abs().mean().max() < 3.5


def test_error_is_the_angle_between_directions():
    tables = [
        pd.DataFrame({"gaze_yaw_right": [yaw], "gaze_pitch_right": [pitch]}) for yaw, pitch in ((0, 0), (30, 0), (0, -20))
    ]
    assert gaze_error(tables[0], tables[1], "right")[0] == pytest.approx(30)
    assert gaze_error(tables[0], tables[2], "right")[0] == pytest.approx(20)
    assert gaze_error(tables[1], tables[1], "right")[0] == pytest.approx(0, abs=1e-6)


def test_closed_eyes_have_no_gaze_and_one_eye_is_enough(eyeball):
    """The same rule as for offsets; an unknown pupil is no other case."""
    points = np.stack([seen((10, 0, 0), (12, 5))] * 4)
    lower, upper = (list(numbers) for numbers in (WFLW_98.right_eye.lower, WFLW_98.right_eye.upper))
    points[1, upper] = points[1, lower]
    points[2, WFLW_98.right_eye.pupil] = np.nan
    points[3, list(WFLW_98.pupils)] = np.nan
    found, table = gaze_angles(points, eyeball), pupil_table(Faces(np.zeros((4, 4)), points))
    assert found["gaze_yaw_right"].isna().tolist() == [False, True, True, True]
    assert table["closed_right"].tolist() == [False, True, False, False]
    assert found["gaze_yaw_left"].isna().tolist() == found["gaze_pitch"].isna().tolist() == [False, False, False, True]
    assert (found["gaze_yaw"] - found["gaze_yaw_left"]).abs()[1:3].max() < 1e-9 and found["vergence"].isna()[1]
    assert gaze_angles(points, eyeball, closed=0.9)["gaze_yaw"].isna().all()


def test_unknown_points_and_nothing_at_all(eyeball):
    points = np.stack([seen(POSES[0]), seen(POSES[1])])
    points[0, WFLW_98.rigid[0]] = np.nan
    angles = head_pose(points).angles()
    assert angles["yaw"].isna().tolist() == [True, False]
    none = np.zeros((0, 98, 2))
    assert len(head_pose(none).angles()) == len(gaze_angles(none, eyeball)) == 0
    with pytest.raises(ValueError, match="need WFLW's 98 landmarks"):
        head_pose(np.zeros((1, 5, 2)))
    with pytest.raises(ValueError, match="open eyes with known gaze"):
        calibrate(none, {"right": np.zeros((0, 2)), "left": np.zeros((0, 2))}, closed=0.1)
