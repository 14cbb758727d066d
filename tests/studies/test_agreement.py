from types import SimpleNamespace

import numpy as np
import pytest

from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98
from retinalib.model import ModelConfig
from retinalib.pupils import mean_offsets
from retinalib.second_look import eye_look
from retinalib.studies import agreement
from tests.test_pupils import face

PUPILS = list(WFLW_98.pupils)


class Painted:
    """Stands for a detector: reports the face of each image as it is there, mirrored if the image is, and ``wrong`` of it."""

    def __init__(self, points, size, wrong=0.0, second=True):
        self.points, self.size, self.wrong = points, size, wrong
        self.model = SimpleNamespace(config=ModelConfig(looks=(eye_look(WFLW_98),) if second else ()))

    def detect(self, images, score_threshold, second_look=True):
        found = []
        for image in images:
            if image.max() == 0:  # an empty photo
                found.append(Faces.empty())
                continue
            there = Faces([[0, 0, self.size, self.size]], self.points[None], scores=np.ones(1))
            there = there.flipped(self.size) if image[0, 0, 0] == 0 else there  # the bright corner marks the photo's left
            landmarks = there.landmarks.copy()
            landmarks[:, PUPILS, 0] += self.wrong + (0.0 if second_look else 2.0)
            found.append(Faces(there.boxes, landmarks, scores=there.scores))
        return found


@pytest.fixture
def photos():
    image = np.zeros((100, 100, 3), np.uint8)
    image[0, 0] = 255
    truth = Faces([[0, 0, 100, 100]], face()[None])
    return [(image, truth), (np.zeros_like(image), Faces.empty())]


def test_a_mirrored_photo_is_mirrored_back(photos):
    looks = agreement.look(Painted(face(), 100), photos, 0.5)
    assert looks.photo.tolist() == [0] and looks.number.tolist() == [0]
    np.testing.assert_allclose(looks.mirrored, looks.predicted, atol=1e-4)
    np.testing.assert_allclose(looks.first[:, PUPILS] - looks.predicted[:, PUPILS], [[[2, 0], [2, 0]]], atol=1e-4)
    about = looks.about([faces for _, faces in photos], ["a.png", "b.png"])
    assert about[["image", "size"]].to_dict("list") == {"image": ["a.png"], "size": [100.0]}
    signs = agreement.disagreement(looks.predicted, WFLW_98, looks.mirrored, looks.first)
    assert signs["mirrored photo disagrees"][0] == pytest.approx(0, abs=1e-5)
    assert signs["two looks disagree"][0] == pytest.approx(2 / 80)
    # a bias to the image's right shows as twice itself once the photo is mirrored
    biased = agreement.look(Painted(face(), 100, wrong=3.0), photos, 0.5)
    signs = agreement.disagreement(biased.predicted, WFLW_98, biased.mirrored)
    assert signs["mirrored photo disagrees"][0] == pytest.approx(6 / 80, rel=1e-4)


def test_methods_by_name(photos):
    usual = mean_offsets(face()[None], WFLW_98)
    found = agreement.look(Painted(face(), 100), photos, 0.5).methods(WFLW_98, usual)
    first = ["first look alone", "first look's lid centroid"]
    assert list(found) == ["network", *first, "canthus midpoint", "lid centroid", "mean offset"]
    assert {points.shape for points in found.values()} == {(1, 2, 2)}
    np.testing.assert_allclose(found["mean offset"], found["network"], atol=1e-4)
    once = agreement.look(Painted(face(), 100, second=False), photos, 0.5)
    assert once.first is None and not set(first) & set(once.methods(WFLW_98, usual))


def test_eyes_that_disagree():
    points = np.stack([face((0.1, 0.05)), face((0.1, 0.05)), face((0.1, 0.05), 0.05)])
    points[1, WFLW_98.left_eye.pupil] += [6, -3]  # to the person's left, and up
    signs = agreement.disagreement(points, WFLW_98)
    assert signs["eyes disagree horizontally"].tolist() == pytest.approx([0.2, 0.0, np.nan], nan_ok=True, abs=1e-6)
    assert signs["eyes disagree vertically"].tolist() == pytest.approx([0, 0.1, np.nan], nan_ok=True, abs=1e-6)
    assert list(signs) == ["eyes disagree horizontally", "eyes disagree vertically"]


def test_nothing_at_all():
    none = np.zeros((0, 98, 2))
    assert agreement.disagreement(none, WFLW_98, none, none).shape == (0, 4)
    empty = [(np.zeros((50, 50, 3), np.uint8), Faces.empty())]
    looks = agreement.look(Painted(face(), 50), empty, 0.5)
    assert len(looks.photo) == 0 and looks.mirrored.shape == (0, 98, 2)
    usual = {"right": np.zeros(2), "left": np.zeros(2)}
    assert looks.methods(WFLW_98, usual)["mean offset"].shape == (0, 2, 2) and looks.about([empty[0][1]], ["a.png"]).empty


def test_repeatability_of_known_noise():
    """Offsets of known spread, seen with known noise: the intraclass correlation is the share of the first variance."""
    rng = np.random.default_rng(0)
    people = []
    for look in rng.normal(0, 0.06, 150):  # eye widths, of both eyes to the same side
        points = face()
        for eye, noise in zip((WFLW_98.right_eye, WFLW_98.left_eye), rng.normal(0, 0.02, 2), strict=True):
            width = np.linalg.norm(points[eye.outer] - points[eye.inner])
            points[eye.pupil] += np.array([look + noise, look]) * width
        people.append(points)
    widths = [np.linalg.norm(people[0][eye.outer] - people[0][eye.inner]) for eye in (WFLW_98.right_eye, WFLW_98.left_eye)]

    class Noisy:
        def __init__(self):
            self.seen = 0

        def detect_in_boxes(self, image, boxes):
            points = people[self.seen // 6].copy()
            points[PUPILS, 0] += rng.normal(0, 0.03, 2) * widths
            there = Faces(boxes, points[None])
            mirrored, self.seen = self.seen % 2, self.seen + 1
            return Faces(boxes, there.flipped(image.shape[1]).landmarks) if mirrored else there

    image = np.zeros((400, 400, 3), np.uint8)
    table = agreement.repeatability(Noisy(), [(image, Faces([[0, 0, 200, 200]], p[None])) for p in people], looks=6)
    across = table.loc["horizontal"]
    assert across["eyes"] == 300 and across["sd of repeats"] == pytest.approx(0.03, rel=0.1)
    assert across["ICC"] == pytest.approx(0.004 / (0.004 + 0.0009), abs=0.05)
    assert across["label floor"] == pytest.approx(0.02, rel=0.15) and across["r, true"] == pytest.approx(0.9, abs=0.05)
    assert table.loc["vertical", "sd of repeats"] == pytest.approx(0, abs=1e-6)
    assert table.loc["vertical", ["ICC", "r, true"]].tolist() == pytest.approx([1, 1])
