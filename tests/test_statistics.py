import numpy as np
import pandas as pd
import pytest
from scipy import stats

from retinalib.statistics import (
    cluster_bootstrap,
    cluster_interval,
    explained_share,
    holm,
    in_words,
    median_difference,
    paired_difference,
    rank_correlation,
    seed_difference,
    side_by_side,
    spread,
)


def experiment(effect, seeds, photos, rng, seed_spread=0.2, photo_spread=1.0):
    """Two arms on the same photos with the same seeds: a table with a true difference of ``effect``."""
    difference = effect + rng.normal(0, seed_spread, seeds)[:, None] + rng.normal(0, photo_spread, photos)
    difference = difference + rng.normal(0, 1.0, (seeds, photos))
    level = rng.normal(5, 3, (seeds, photos))
    values = np.stack([level, level + difference])
    index = pd.MultiIndex.from_product(
        [["a", "b"], range(seeds), [f"{i}.jpg" for i in range(photos)]], names=["arm", "seed", "image"]
    )
    return pd.DataFrame({"value": values.ravel()}, index=index).reset_index()


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("effect", [0.0, 0.7])
def test_intervals_hold_the_true_effect_as_often_as_they_say(seeds, effect):
    rng = np.random.default_rng(seeds)
    rounds, held, claimed = 300, 0, 0
    for _ in range(rounds):
        found = paired_difference(experiment(effect, seeds, 60, rng), "value", "a", "b", rounds=200)
        held += found.low <= effect <= found.high
        claimed += found.p_value < 0.05
    assert 0.92 <= held / rounds <= 0.98
    if effect == 0:
        assert claimed / rounds <= 0.08


def test_difference_by_hand_without_chance():
    table = experiment(0, 2, 3, np.random.default_rng(0))
    table["value"] = np.where(table["arm"] == "b", 3.0, 1.0)
    found = paired_difference(table, "value", "a", "b")
    assert (found.estimate, found.low, found.high) == (2.0, 2.0, 2.0) and (found.seeds, found.photos) == (2, 3)


def test_photos_that_one_arm_lacks_are_left_out():
    table = experiment(0.5, 3, 20, np.random.default_rng(1))
    whole = paired_difference(table[table["image"] != "3.jpg"], "value", "a", "b")
    partly = paired_difference(table[(table["image"] != "3.jpg") | (table["arm"] == "a")], "value", "a", "b")
    assert whole == partly and whole.photos == 19


def test_too_few_seeds():
    with pytest.raises(ValueError, match="at least two seeds"):
        paired_difference(experiment(0, 1, 5, np.random.default_rng(0)), "value", "a", "b")
    with pytest.raises(ValueError, match="at least two seeds"):
        seed_difference(np.array([0.1]))


def test_seed_difference_is_the_t_test():
    values = np.array([0.02, -0.01, 0.03, 0.015])
    found, expected = seed_difference(values), stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval()
    np.testing.assert_allclose([found.p_value, found.low, found.high], [expected.pvalue, interval.low, interval.high])


def test_detectable_effect_has_its_power():
    """In four fifths of simulated experiments an effect as large as the detectable one is claimed."""
    rng = np.random.default_rng(5)
    typical = np.median(
        [paired_difference(experiment(0, 5, 60, rng), "value", "a", "b", rounds=200).detectable for _ in range(40)]
    )
    claimed = [
        paired_difference(experiment(typical, 5, 60, rng), "value", "a", "b", rounds=200).p_value < 0.05 for _ in range(200)
    ]
    assert 0.7 <= np.mean(claimed) <= 0.9


def test_cluster_interval():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"image": np.repeat(np.arange(80), 3), "value": np.repeat(rng.normal(0, 1, 80), 3)})
    middle, low, high = cluster_interval(table, "value")
    assert middle == table["value"].median() and low < middle < high
    _, narrow_low, narrow_high = cluster_interval(table.assign(image=range(240)), "value")
    assert high - low > 1.3 * (narrow_high - narrow_low)  # three copies of a photo are no three photos
    assert np.isnan(cluster_interval(table[:0], "value")).all()


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.5])), [0.04, 0.09, 0.09, 0.5])
    assert len(holm(np.zeros(0))) == 0


def test_saying_the_same_of_everybody_explains_nothing():
    true = np.random.default_rng(0).normal(0.3, 2.0, 4000)
    assert spread(true) == pytest.approx(2.0, rel=0.05) and np.isnan(spread(true[:0]))
    assert explained_share(np.column_stack([np.full(4000, 7.0), true])) == pytest.approx(0, abs=1e-12)
    assert explained_share(np.column_stack([true + 0.5, true])) == pytest.approx(1)
    noisy = np.column_stack([true + np.random.default_rng(1).normal(0, 1.0, 4000), true])
    assert explained_share(noisy) == pytest.approx(0.75, abs=0.03)
    lost = noisy.copy()
    lost[:40, 0] += 1000  # a few lost faces
    assert explained_share(lost) == pytest.approx(0.75, abs=0.04)
    assert explained_share(np.column_stack([-true, true])) == pytest.approx(-3)
    assert np.isnan(explained_share(np.zeros((0, 2))))


def test_rank_correlation():
    values = np.random.default_rng(0).normal(size=(50, 2))
    assert rank_correlation(values) == pytest.approx(pd.DataFrame(values).corr("spearman").iloc[0, 1])
    assert np.isnan(rank_correlation(np.ones((10, 2)))) and np.isnan(rank_correlation(values[:2]))


def test_difference_of_medians_is_paired():
    rng = np.random.default_rng(0)
    base = rng.normal(5, 3, 300)
    table = pd.DataFrame({"image": np.repeat(range(100), 3), "a": base, "b": base + 0.5})
    middle, low, high = median_difference(table, "a", "b")
    assert middle == pytest.approx(-0.5) and low == pytest.approx(-0.5) and high == pytest.approx(-0.5)
    assert middle == pytest.approx(table["a"].median() - table["b"].median())
    assert np.isnan(median_difference(table[:0], "a", "b")).all()


def test_bootstrap_resamples_whole_photos():
    table = pd.DataFrame({"image": np.repeat(list("abcdefgh"), 5), "v": np.repeat(np.arange(8.0), 5)})
    mean, low, high = cluster_bootstrap(table, ["v"], lambda values: float(values.mean()))
    assert mean == 3.5 and low < 2.2 and high > 4.8  # eight photos, not forty faces
    assert cluster_bootstrap(table, ["v"], lambda values: float("nan"))[0] is not None
    assert np.isnan(cluster_bootstrap(table.assign(v=np.nan), ["v"], lambda values: 1.0)).all()


def test_side_by_side():
    rng = np.random.default_rng(0)
    one, other = (pd.DataFrame({"a": rng.normal(size=400), "b": rng.normal(size=400) + shift}) for shift in (0, 3))
    one.loc[0, "a"] = np.nan
    table = side_by_side({"one": one, "other": other}, {"a": "first (px)", "b": "second (px)"})
    assert table.loc["first (px)", "one: n"] == 399 and table.loc["first (px)", "other: n"] == 400
    assert table.loc["second (px)", "other: median"] == pytest.approx(other["b"].median())
    assert table["KS"].iloc[0] < table["by chance (95 %)"].iloc[0] < 0.15 < 0.8 < table["KS"].iloc[1]


def test_words_follow_the_interval():
    said = in_words((-1.0, -1.5, -0.5), 4.0, "%")
    assert said == "**smaller** (by -1.00 %, 95 % interval -1.50 to -0.50; 25 % of the other's 4.00 %)"
    assert in_words((1.0, 0.5, 1.5), 4.0, "°").startswith("**larger** (by +1.00°,")
    assert in_words((1.0, 0.5, 1.5), 0.0, "°").endswith("+0.50 to +1.50)")
    assert in_words((-0.1, -0.5, 0.3), 4.0, "°").startswith("**not clearly different**")
