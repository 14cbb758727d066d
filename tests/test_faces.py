import warnings

import numpy as np
import pandas as pd
import pytest

from retinalib.faces import Faces, mean_landmarks_in_box, put_in_boxes
from retinalib.landmarks import WFLW_98, WIDER_5
from tests.test_evaluate import scene


def some(n=3, schema=WFLW_98, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (n, 2))], 1)
    landmarks = rng.uniform(0, 100, (n, schema.count, 2))
    visible = rng.random((n, schema.count)) > 0.2
    return Faces(boxes, landmarks, visible, rng.random(n), pd.DataFrame({"yaw": np.arange(n)}), schema)


def test_defaults_and_types():
    faces = Faces([[0, 0, 3, 12]], np.full((1, 5, 2), np.nan), schema=WIDER_5)
    assert faces.boxes.dtype == faces.landmarks.dtype == faces.scores.dtype == np.float32
    assert not faces.visible.any() and faces.scores.tolist() == [1] and len(faces.attributes) == 1
    assert faces.size.tolist() == [6]
    assert Faces([[0, 0, 9, 9]], np.zeros((1, 98, 2)), attributes={"yaw": [4]}).attributes["yaw"].tolist() == [4]


def test_unknown_landmarks_are_never_visible():
    landmarks = np.zeros((1, 5, 2))
    landmarks[0, 2] = np.nan
    assert Faces([[0, 0, 1, 1]], landmarks, np.ones((1, 5)), schema=WIDER_5).visible.tolist() == [
        [True, True, False, True, True]
    ]


def test_choosing():
    faces = some()
    assert len(faces[1]) == 1 and faces[1].attributes["yaw"].tolist() == [1]
    assert faces[-1].attributes["yaw"].tolist() == [2]
    assert faces[faces.attributes["yaw"].to_numpy() > 0].attributes["yaw"].tolist() == [1, 2]
    assert faces[(0, 2)].attributes["yaw"].tolist() == faces[[0, 2]].attributes["yaw"].tolist() == [0, 2]
    assert len(faces[[]]) == 0 and len(faces[np.zeros(3, bool)]) == 0
    assert [len(f) for f in faces] == [1, 1, 1]
    with pytest.raises(IndexError):
        faces[3]


def test_empty():
    faces = Faces.empty(WIDER_5)
    assert len(faces) == 0 and faces.size.shape == (0,) and len(faces.flipped(10)) == 0 and len(faces.transformed((2, 2))) == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"boxes": np.zeros((2, 5))}, "boxes of shape"),
        ({"landmarks": np.zeros((2, 5, 2))}, "landmarks of shape"),
        ({"visible": np.zeros((1, 98), bool)}, "visible of shape"),
        ({"scores": np.zeros(3)}, "scores of shape"),
        ({"attributes": pd.DataFrame({"yaw": [1]})}, "attributes have 1 rows"),
        ({"boxes": None}, "boxes of shape"),
        ({"boxes": [[0, 0, np.nan, 9]] * 2}, "must be finite"),
        ({"scores": [1, np.inf]}, "must be finite"),
    ],
)
def test_wrong_shapes_and_what_is_no_number_are_named(change, message):
    arrays = {"boxes": np.zeros((2, 4)), "landmarks": np.zeros((2, 98, 2)), **change}
    with pytest.raises(ValueError, match=message):
        Faces(**arrays)


def test_the_mean_shape_does_not_feel_slips():
    """An infinite point, one 1e30 pixels off, and a box of hardly any width."""
    points = np.random.default_rng(0).uniform(10, 50, (4, 98, 2))
    boxes = np.tile([10.0, 10.0, 50.0, 50.0], (4, 1))
    expected = mean_landmarks_in_box([Faces(boxes[:1], points[:1]), Faces(boxes[1:2], points[1:2])])
    points[2], points[3], boxes[3, 2] = np.inf, 1e30, 10.001
    np.testing.assert_allclose(mean_landmarks_in_box([Faces(boxes, points)]), expected)


def test_mean_shape_in_boxes():
    predicted, true = scene(np.random.default_rng(6))
    shape = mean_landmarks_in_box([true])
    size = true.boxes[:, 2:] - true.boxes[:, :2]
    by_hand = np.mean([(true.landmarks[i] - true.boxes[i, :2]) / size[i] for i in range(3)], axis=0)
    np.testing.assert_allclose(shape, by_hand, rtol=1e-5)
    flat = Faces([[5, 5, 5, 9], [5, 5, 9, 5]], np.full((2, 98, 2), 7.0))
    np.testing.assert_array_equal(mean_landmarks_in_box([true, flat, Faces.empty()]), shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(mean_landmarks_in_box([flat])).all() and mean_landmarks_in_box([flat]).shape == (98, 2)
    with pytest.raises(ValueError, match="at least one photo"):
        mean_landmarks_in_box([])
    put = put_in_boxes(shape, predicted)
    np.testing.assert_allclose(put.landmarks[0], true.boxes[0, :2] + shape * size[0], rtol=1e-4)
