import warnings

import numpy as np
import pytest

from retinalib.faces import Faces
from retinalib.shapes import mean_landmarks_in_box, mean_shape, procrustes_distance, put_in_boxes
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
    assert procrustes_distance(mean, shape) < 1e-6 and np.linalg.norm(mean) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one face"):
        mean_shape(np.full((2, 98, 2), np.nan))


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
