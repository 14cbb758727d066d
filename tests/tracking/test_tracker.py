import cv2
import numpy as np
import pytest

import retinalib
from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98, WIDER_5
from retinalib.model import ModelConfig, RetinaFace
from retinalib.pupils import pupil_table
from retinalib.rendered import render_face
from retinalib.rendered.clip import make_clip
from retinalib.tracking import Tracker


class Listening:
    """A detector that notes which frames it detects in."""

    def __init__(self, detector):
        self.model, self.detector, self.detected = detector.model, detector, 0

    def detect(self, image, score):
        self.detected += 1
        return self.detector.detect(image, score)

    def look_again(self, image, faces):
        return self.detector.look_again(image, faces)


def still(count, image, rate=30):
    return [(number / rate, image) for number in range(count)]


def put(ground, person, left, top=20, size=160):
    """The picture with one more face, cut out as an ellipse, and its true landmarks."""
    image, truth = render_face(person=person, size=size)
    mask = cv2.ellipse(np.zeros((size, size), np.uint8), (size // 2, size // 2), (size // 3, size // 2), 0, 0, 360, 1, -1) > 0
    ground = ground.copy()
    part = ground[top : top + size, max(left, 0) : left + size]
    cut = np.s_[: part.shape[0], max(-left, 0) : max(-left, 0) + part.shape[1]]
    part[mask[cut]] = image[cut][mask[cut]]
    return ground, truth.landmarks[0] + [left, top]


def test_follows_a_clip_by_second_looks_alone(detector, tmp_path):
    path, truth = make_clip(tmp_path, 5, 3.0, (320, 240))
    true, listening = pupil_table(truth), Listening(detector)
    trace = retinalib.track(path, listening)
    assert trace["face"].eq(0).all() and trace["frame"].tolist() == list(range(90))
    np.testing.assert_allclose(trace["time"], truth.attributes["time"], atol=1e-3)
    assert 9 <= listening.detected == trace["detected"].sum() < 20
    box = trace[["x1", "y1", "x2", "y2"]].to_numpy() - truth.boxes
    assert np.abs(box).mean() < 0.1 * truth.size.mean()
    smooth, raw = trace["offset_x_right_smooth"][15:60].std(), trace["offset_x_right"][15:60].std()
    assert 0 < smooth < raw < 0.02
    assert (trace["look_x"] - true["look_x"]).abs().median() < 0.03
    gap = trace[["yaw", "pitch", "roll"]] - true[["yaw", "pitch", "roll"]]
    assert gap.abs().median().max() < 8


def test_what_no_longer_looks_like_the_face_asks_for_a_detection(detector):
    image, _ = render_face(size=200)
    listening = Listening(detector)
    tracker = Tracker(listening, every=1000)
    for time, frame in still(4, image):
        tracker.update(frame, time)
    assert listening.detected == 1
    gone = np.roll(image, 90, axis=1)  # no head moves like this
    _, detected = tracker.update(gone, 0.2)
    assert detected and listening.detected == 2


def test_faces_that_cross_keep_their_numbers(detector):
    ground, frames, places = np.full((200, 640, 3), 120, np.uint8), [], np.zeros((48, 2))
    for number in range(48):  # the second passes before the first, which is hidden for a while
        image, behind = put(ground, 0, 460 - 10 * number)
        image, before = put(image, 3, 10 * number)
        frames.append((number / 30, image))
        places[number] = [points[list(WFLW_98.pupils), 0].mean() for points in (behind, before)]
    trace = retinalib.track(frames, detector)
    x = trace[["pupil_x_right", "pupil_x_left"]].mean(axis=1)
    others = ~trace["face"].isin([0, 1])  # what the detector sees in two heads that overlap
    assert others.sum() <= 2 and not trace.duplicated(["frame", "face"]).any()
    first = trace["face"][(trace["frame"] == 0) & (x > 300)].item()
    for person, face in enumerate((first, 1 - first)):
        own = trace["face"] == face
        assert np.abs(x[own] - places[trace["frame"][own], person]).max() < 15
        assert own.sum() >= (38, 48)[person]


class Told:
    """A detector that answers what it is told, frame by frame."""

    def __init__(self, detector, answers):
        self.model, self.answers = detector.model, iter(answers)

    def detect(self, image, score):
        return next(self.answers)


def test_ghosts_neither_begin_on_a_face_nor_take_its_number(detector):
    image, truth = render_face(size=200)
    low = truth.transformed()
    small = truth.transformed((0.1, 0.1), tuple(truth.boxes[0, :2] - 20))
    beside = truth.transformed(shift=(40, -30))
    weak = Faces(beside.boxes, beside.landmarks, scores=[0.6])
    both = Faces(*(np.concatenate([getattr(a, n) for a in (low, weak)]) for n in ("boxes", "landmarks", "visible", "scores")))
    tracker = Tracker(Told(detector, [both, both, small, low]), every=1)
    faces = [[t.face for t in tracker.update(image, time)[0]] for time, _ in still(4, image)]
    assert faces == [[0], [0], [1], [0]]  # the small one is somebody else, and nobody's number is taken


def test_gaps_are_bridged_up_to_a_time(detector):
    image, _ = render_face(size=200)
    empty = np.full_like(image, 128)
    for seconds, faces in ((0.5, 1), (1.5, 2)):
        away = round(30 * seconds)
        shown = [image] * 12 + [empty] * away + [image] * 12
        trace = retinalib.track([(n / 30, picture) for n, picture in enumerate(shown)], detector, gap=1.0)
        assert trace["face"].nunique() == faces and trace["frame"].iloc[-1] == len(shown) - 1
        assert not trace["frame"].between(12, 11 + away).any()  # what is not seen is not made up


def test_times_need_not_be_even(detector):
    image, _ = render_face(size=200)
    times = np.random.default_rng(0).uniform(0.01, 0.2, 20).cumsum()
    trace = retinalib.track(zip(times, [image] * 20, strict=True), detector)
    assert trace["time"].tolist() == times.tolist() and trace["face"].nunique() == 1
    assert np.isfinite(trace["offset_x_left_smooth"]).all()


def test_nobody_gives_an_empty_table(detector):
    trace = retinalib.track(still(3, np.full((90, 120, 3), 128, np.uint8)), detector)
    assert not len(trace) and {"frame", "time", "face", "offset_x_right_smooth", "gaze_yaw"} <= set(trace)


def test_what_can_not_be_tracked_is_said(detector):
    with pytest.raises(ValueError, match="wider5 has no canthi"):
        Tracker(retinalib.Detector(RetinaFace(ModelConfig(schema=WIDER_5)), "cpu"))
    for options in ({"every": 0}, {"gap": -1}, {"gap": np.nan}):
        with pytest.raises(ValueError, match="every must be a whole number from 1 on and gap seconds"):
            Tracker(detector, **options)


def test_looking_again_moves_points_onto_the_eyes(detector):
    image, truth = render_face(size=200)
    shifted = Faces(truth.boxes, truth.landmarks + 4)
    again = detector.look_again(image, shifted)
    pupils = list(truth.schema.pupils)
    assert np.abs((again.landmarks - truth.landmarks)[0, pupils]).max() < 2
    with pytest.raises(ValueError, match=r"detect takes RGB arrays"):
        detector.look_again(image[..., 0], shifted)
