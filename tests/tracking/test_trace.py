import json
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from retinalib.cli import main
from retinalib.datasets.video import Video, write_video
from retinalib.pupils import pupil_table
from retinalib.rendered.clip import make_clip
from retinalib.tracking import Tracker, blinks, track, write_trace


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips"), 7, 3.4, (240, 180))


def call(*arguments):
    return CliRunner().invoke(main, ["track", *map(str, arguments)])


def lids(openness, rate=30.0, face=0):
    """A trace of two equal eyes."""
    columns = {f"openness_{side}": openness for side in ("right", "left")}
    turned = {f"foreshortened_{side}": False for side in ("right", "left")}
    return pd.DataFrame({"time": np.arange(len(openness)) / rate, "face": face, **columns, **turned})


def blinking(starts, seconds=10.0, depth=1.0):
    time = np.arange(round(30 * seconds)) / 30
    closed = sum(np.interp(time - start, [0, 0.1, 0.15, 0.3], [0, 1, 1, 0]) for start in starts)
    return 0.3 * (1 - depth * closed) + 0.004 * np.sin(40 * time)


def test_blinks_have_start_end_and_depth():
    found = blinks(pd.concat([lids(blinking([2, 5, 5.6]), face=4), lids(blinking([7], depth=0.8), face=9)]))
    assert found["face"].tolist() == [4, 4, 4, 9]
    np.testing.assert_allclose(found["start"], [2.05, 5.05, 5.65, 7.05], atol=0.02)
    np.testing.assert_allclose(found["end"], [2.225, 5.225, 5.825, 7.225], atol=0.02)
    np.testing.assert_allclose(found["depth"], [1, 1, 1, 0.8], atol=0.05)


def test_narrow_eyes_and_turned_ones_do_not_blink():
    assert not len(blinks(lids(blinking([3], depth=0.3)))) and not len(blinks(lids(np.full(50, 0.3))))
    one = lids(blinking([]))
    one["openness_left"] = blinking([3])
    one["foreshortened_left"] = True
    assert (
        not len(blinks(one)) and not len(blinks(one[:0])) and blinks(one[:0]).columns.tolist() == blinks(one).columns.tolist()
    )


def test_the_truth_of_a_clip_has_its_own_blinks(clip):
    truth = pupil_table(clip[1]).assign(face=0)
    spans = truth[truth["blink"] >= 0].groupby("blink")["time"].agg(["min", "max"])
    found = blinks(truth)
    assert len(found) == len(spans) >= 1
    assert (found["start"].to_numpy() >= spans["min"] - 0.05).all() and (found["end"].to_numpy() <= spans["max"] + 0.05).all()


def test_the_command_writes_what_track_gives(clip, detector, tmp_path):
    result = call(clip[0], "--out", tmp_path / "out", "--checkpoint", "rendered98", "--annotated", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "frames: 102, faces: " in result.output and "min_cutoff 0.5, beta 64" in result.output
    names = {"trace.csv", "blinks.csv", "trace.png", "trace.json", "annotated.mp4"}
    assert {p.name for p in (tmp_path / "out").iterdir()} - {".lock"} == names
    trace = pd.read_csv(tmp_path / "out" / "trace.csv")
    pd.testing.assert_frame_equal(trace, track(clip[0], detector).round(5), check_dtype=False, rtol=1e-4)
    assert len(pd.read_csv(tmp_path / "out" / "blinks.csv").query("face == 0")) == 1
    known = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert known["detector"] == "rendered98" and (known["frames"], known["faces"]) == (102, trace["face"].nunique())
    assert known["parameters"] == {"every": 10, "gap": 1.0, "min_cutoff": 0.5, "beta": 64.0, "speed_cutoff": 1.0}
    drawn = list(Video(tmp_path / "out" / "annotated.mp4").read())
    assert len(drawn) == 102
    row, (_, plain) = trace.iloc[0], next(Video(clip[0]).read())
    x, y, radius = (row[name] for name in ("pupil_x_right", "pupil_y_right", "eye_width_right"))
    at = round(y - 0.15 * radius - 0.5), round(x - 0.5)
    ring = drawn[0][1][at].astype(int) - plain[at]
    assert ring[:2].min() > 20 and ring[:2].mean() > ring[2]  # yellow
    assert cv2.imread(str(tmp_path / "out" / "trace.png")).shape[1] > 500


def interrupted(clip, detector, frame, folder):
    """Writes a trace that is stopped at a frame."""

    class Interrupted(Tracker):
        def update(self, image, time):
            if self.frames == frame:
                raise KeyboardInterrupt
            return super().update(image, time)

    with pytest.raises(KeyboardInterrupt):
        write_trace(Video(clip[0]), Interrupted(detector), folder)


def test_goes_on_where_it_was_interrupted(clip, detector, tmp_path, monkeypatch):
    monkeypatch.setattr("retinalib.tracking.tracker._TABLED", 30)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("retinalib.tracking.trace.write_video", Mock(side_effect=KeyboardInterrupt))
        write_trace(Video(clip[0]), Tracker(detector), tmp_path / "whole", annotated=True)
    interrupted(clip, detector, 70, tmp_path / "a")
    with open(tmp_path / "a" / "trace.csv.part", "a") as file:
        file.write("60,2.0,0,half a ro")  # as a power cut leaves it
    seen = []

    class Noting(Tracker):
        def update(self, image, time):
            seen.append(self.frames)
            return super().update(image, time)

    write_trace(Video(clip[0]), Noting(detector), tmp_path / "whole")
    assert seen == []  # all but the picture was there
    write_trace(Video(clip[0]), Noting(detector), tmp_path / "a")
    assert seen == list(range(60, 102))
    for name in ("trace.csv", "blinks.csv", "trace.png", "trace.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "a" / "state.json").exists()


def test_another_video_or_other_parameters_begin_anew(clip, detector, tmp_path, monkeypatch):
    monkeypatch.setattr("retinalib.tracking.tracker._TABLED", 30)

    interrupted(clip, detector, 40, tmp_path)
    write_trace(Video(clip[0]), Tracker(detector, every=5), tmp_path)
    assert pd.read_csv(tmp_path / "trace.csv")["frame"].unique().tolist() == list(range(102))


def test_one_sentence_for_what_does_not_work(tmp_path):
    write_video(tmp_path / "nobody.mp4", [np.full((90, 120, 3), 128, np.uint8)] * 5, 30)
    (tmp_path / "text.mp4").write_text("no video")
    said = {"nobody.mp4": "no face was found in the 5 frames of", "text.mp4": "is no video that OpenCV can read"}
    said["none.mp4"] = "there is no video"
    for name, sentence in said.items():
        result = call(tmp_path / name, "--out", tmp_path / "out", "--checkpoint", "rendered98", "--device", "cpu")
        assert result.exit_code == 2 and sentence in result.output and "Traceback" not in result.output
    assert {p.name for p in (tmp_path / "out").iterdir()} <= {".lock"}
    with pytest.raises(ValueError, match="an annotated video is made of a file"):
        write_trace(SimpleNamespace(file=False), None, tmp_path, annotated=True)
