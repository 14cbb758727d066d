import warnings

import numpy as np
import pytest

from retinalib.faces import Faces, mean_landmarks_in_box, put_in_boxes
from retinalib.landmarks import WFLW_98
from retinalib.studies.shapes import aligned_to, mean_shape, proportions
from tests.test_evaluate import scene


def test_mean_shape_ignores_shift_scale_and_rotation():
    rng = np.random.default_rng(5)
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
    rng = np.random.default_rng(0)
    base, angle = rng.normal(size=(98, 2)), 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = np.stack([base @ turn * 30 + [5, -80], base @ turn.T * 0.2])
    assert np.allclose(aligned_to(moved, base), base, atol=1e-8)
    assert not np.allclose(aligned_to(moved * [-1, 1], base), base, atol=0.1)  # a mirrored face is another face


def test_proportions_of_a_drawn_mouth():
    points = np.zeros((1, 98, 2))
    lips = list(WFLW_98.regions["inner lips"])
    points[0, lips] = [[0, 0], [1, -1], [2, -1], [3, -1], [4, 0], [3, 1], [2, 1], [1, 1]]
    points[0, 0], points[0, 1] = [-10, -30], [10, 30]
    measured = proportions(points)
    assert measured["mouth_opening"].item() == pytest.approx(0.5) and measured["aspect"].item() == pytest.approx(3)
    assert proportions(points[:0]).empty


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
