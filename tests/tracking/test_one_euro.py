import numpy as np

from retinalib.tracking.one_euro import OneEuro


def filtered(values, times, filter_, size=100.0):
    """(T, L, 2) values filtered one after the other."""
    before, speed, result = values[0], np.zeros_like(values[0]), [values[0]]
    for value, seconds in zip(values[1:], np.diff(times), strict=True):
        before, speed = filter_(value, before, speed, seconds, size)
        result.append(before)
    return np.stack(result)


def test_agrees_with_the_formulas_of_the_paper():
    """Scalars, written out as in Casiez et al., section "The 1€ filter"; in one coordinate, norm and magnitude are one."""
    rng, times = np.random.default_rng(0), np.arange(50) / 30
    x = rng.normal(0, 1, 50).cumsum()
    own, beta, size = [x[0]], 3.0, 7.0
    slope = 0.0
    for value in x[1:]:
        te = 1 / 30
        alpha = 1 / (1 + 1 / (2 * np.pi * 1.5) / te)
        slope = alpha * (value - own[-1]) / te + (1 - alpha) * slope
        cutoff = 0.8 + beta * abs(slope) / size
        alpha = 1 / (1 + 1 / (2 * np.pi * cutoff) / te)
        own.append(alpha * value + (1 - alpha) * own[-1])
    points = np.stack([x, np.zeros(50)], -1)[:, None]
    np.testing.assert_allclose(filtered(points, times, OneEuro(0.8, beta, 1.5), size)[:, 0, 0], own)


def test_a_point_at_rest_is_smoothed_and_one_that_moves_is_followed():
    rng, times = np.random.default_rng(1), np.arange(240) / 30
    still = rng.normal(0, 0.2, (240, 5, 2))
    assert filtered(still, times, OneEuro())[60:].std() < 0.6 * still[60:].std()
    moving = still + np.array([40, 0]) * times[:, None, None]  # 0.4 face sizes a second
    assert np.abs((filtered(moving, times, OneEuro()) - moving)[60:].mean((0, 1))).max() < 40 * 0.012  # 12 ms late at most


def test_time_counts_not_the_number_of_frames():
    times = np.sort(np.random.default_rng(2).uniform(0, 8, 400))
    for steps in (times, np.linspace(0, 8, 60)):
        line = 30 * steps[:, None, None] * np.ones((1, 1, 2))
        late = (line - filtered(line, steps, OneEuro(1.0, 0.0)))[-20:].mean() / 30
        assert abs(late - 1 / (2 * np.pi)) < 0.03  # a low pass of 1 Hz follows a ramp 1 / 2π s late, whatever the rate
