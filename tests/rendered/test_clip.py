import numpy as np
import pytest

from retinalib.datasets.video import Video
from retinalib.landmarks import WFLW_98
from retinalib.pupils import pupil_table
from retinalib.rendered.clip import FPS, STILL, make_clip, script


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips"), 3, 3.0, (160, 120))


def test_the_same_seed_gives_the_same_bytes_and_is_drawn_once(clip, tmp_path):
    path, truth = clip
    again, same = make_clip(tmp_path, 3, 3.0, (160, 120))
    assert (
        again.read_bytes() == path.read_bytes()
        and again.with_suffix(".npy").read_bytes() == path.with_suffix(".npy").read_bytes()
    )
    drawn = path.stat().st_mtime_ns
    reused, _ = make_clip(path.parent, 3, 3.0, (160, 120))
    assert reused == path and path.stat().st_mtime_ns == drawn
    assert make_clip(path.parent, 4, 0.2, (160, 120))[0].read_bytes() != path.read_bytes()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".mp4", ".npy"]
    np.testing.assert_array_equal(same.landmarks, truth.landmarks)


def test_a_clip_is_as_long_as_its_truth(clip):
    path, truth = clip
    frames = list(Video(path).read())
    assert len(frames) == len(truth) == 3 * FPS and frames[0][1].shape == (120, 160, 3)
    np.testing.assert_allclose([time for time, _ in frames], truth.attributes["time"], atol=1e-3)
    picture, face = frames[0][1], truth[0]
    x, y = face.landmarks[0, WFLW_98.right_eye.pupil].astype(int)
    around = picture[y - 6 : y + 7, x - 8 : x + 9].mean()
    assert picture[y - 1 : y + 2, x - 1 : x + 2].mean() < around  # dark where the pupil is said to be


def test_what_happens_is_what_is_said():
    for seed in range(5):
        table = script(seed, 12)
        still = table["event"] == "still"
        assert still.sum() == STILL * FPS and (table.loc[still, "lids"] == 1).all()
        assert (table.loc[still, ["yaw", "pitch", "roll", "x", "y", "gaze_yaw", "gaze_pitch"]] == 0).all(axis=None)
        assert (table.loc[still, ["near", "light"]] == 1).all(axis=None)
        lowest = table.groupby("blink")["lids"].min()
        assert lowest[-1] == 1 and len(lowest) > 2 and lowest.drop(-1).max() < 0.4
        gaze = table[["gaze_yaw", "gaze_pitch"]].to_numpy()
        speed = np.linalg.norm(np.diff(gaze, axis=0), axis=1) * FPS
        event, number = table["event"].to_numpy(), table["number"].to_numpy()
        within = (number[1:] == number[:-1]) & (event[1:] == "fixation")
        assert within.sum() > 100 and speed[within].max() < 1e-9
        pursued = (number[1:] == number[:-1]) & (event[1:] == "pursuit")
        assert ((speed[pursued] > 5.9) & (speed[pursued] < 20.1)).all()
    assert {"still", "fixation", "pursuit"} <= set(table["event"])


def test_eyes_move_as_the_script_says(clip):
    truth = clip[1]
    table = pupil_table(truth)
    moved = table["look_x"].diff().abs()[table["event"] == "still"]
    assert moved.max() < 1e-6 and table["look_x"].std() > 0.01
    shut = table["lids"] < 0.1
    assert (
        shut.any() and table.loc[shut, "closed_right"].all() and not table.loc[table["event"] == "still", "closed_left"].any()
    )
