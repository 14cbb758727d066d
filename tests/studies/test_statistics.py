import numpy as np
import pandas as pd
import pytest
from scipy import stats

from retinalib.studies.statistics import (
    cluster_bootstrap,
    crossed_difference,
    holm,
    in_words,
    median_difference,
    paired_difference,
    rank_correlation,
)
from tests.simulation import study


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


@pytest.mark.parametrize(("seeds", "spreads"), [(3, (0.2, 1.0)), (3, (0.1, 0.0)), (5, (0.1, 0.0))])
def test_intervals_hold_the_true_effect_as_often_as_they_say(seeds, spreads):
    """Whatever the largest source of chance is: seeds, photos, or how a photo fares with a seed."""
    rng, effect = np.random.default_rng(seeds), 0.7
    rounds, held = 300, 0
    for _ in range(rounds):
        found = paired_difference(experiment(effect, seeds, 60, rng, *spreads), "value", "a", "b", rounds=200)
        held += found.low <= effect <= found.high
    assert 0.92 <= held / rounds <= 0.98


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_hold_the_true_effect_on_faces_like_the_workbooks(seeds):
    """Skewed errors, faces in photos, better and worse runs: see simulation."""
    rng, held = np.random.default_rng(1), []
    for _ in range(200):
        faces, _, true = study(rng, seeds, 60, gain=0.08)
        found = paired_difference(faces, "nme", "a", "b", rounds=200)
        held.append(found.low <= true <= found.high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_equivalence_is_seldom_claimed_at_the_bound():
    """Chapter 5's rule: no effect if the interval of 95 % lies within ±0.5. Two tests of 2.5 % (Schuirmann 1987), so that a
    true effect of 0.5 passes for none in about 2.5 of 100 studies, and none at all mostly does."""
    rng = np.random.default_rng(7)
    claimed = {}
    for effect in (0.0, 0.5):
        studies = [
            paired_difference(experiment(effect, 5, 60, rng, 0.15, 0.5), "value", "a", "b", rounds=200) for _ in range(120)
        ]
        claimed[effect] = np.mean([-0.5 < found.low and found.high < 0.5 for found in studies])
    assert claimed[0.0] > 0.8 and claimed[0.5] <= 0.06


def test_paired_difference_by_loops():
    faces, _, _ = study(np.random.default_rng(2), seeds=3, photos=8, miss=0.05)
    faces = faces[faces.groupby(["seed", "image", "face"])["matched"].transform("all")]
    found = paired_difference(faces, "nme", "a", "b", rounds=50, seed=4)
    photos = sorted(faces["image"].unique())
    drawn = np.random.default_rng(4).multinomial(len(photos), np.full(len(photos), 1 / len(photos)), size=50)
    changes = []
    for counts in [np.ones(len(photos), int), *drawn]:
        rows = pd.concat([faces[faces["image"] == p] for p, n in zip(photos, counts, strict=True) for _ in range(n)])
        means = rows.groupby(["arm", "seed"])["nme"].mean().unstack("arm")
        changes.append((means["b"] - means["a"]).to_numpy())
    by_seed, again = changes[0], np.array(changes[1:])
    assert found.estimate == pytest.approx(by_seed.mean()) and found.photos == len(photos)
    over_seeds = sum((x - by_seed.mean()) ** 2 for x in by_seed) / 2 / 3
    over_photos = again.mean(1).var(ddof=1)
    twice = (np.mean([again[:, k].var(ddof=1) for k in range(3)]) - over_photos) / 2  # a photo's own way with a seed
    variance = max(over_seeds + over_photos - twice, over_seeds, over_photos)
    share = max(over_seeds - twice / 4, 0) / variance
    quantile = share * stats.t.ppf(0.975, 2) + (1 - share) * stats.t.ppf(0.975, len(photos) - 1)
    np.testing.assert_allclose([found.low, found.high], by_seed.mean() + np.array([-1, 1]) * quantile * np.sqrt(variance))
    p = share * stats.t.isf(found.p_value / 2, 2) + (1 - share) * stats.t.isf(found.p_value / 2, len(photos) - 1)
    assert p == pytest.approx(abs(found.estimate) / np.sqrt(variance))


def test_photos_that_one_arm_lacks_are_left_out():
    table = experiment(0.5, 3, 20, np.random.default_rng(1))
    whole = paired_difference(table[table["image"] != "3.jpg"], "value", "a", "b")
    partly = paired_difference(table[(table["image"] != "3.jpg") | (table["arm"] == "a")], "value", "a", "b")
    assert whole == partly and whole.photos == 19
    table = table[(table["image"] != "3.jpg") | (table["seed"] != 1)]  # one seed alone lacks it: the others still have it
    means = table.groupby(["arm", "seed"])["value"].mean().unstack("arm")
    found = paired_difference(table, "value", "a", "b")
    assert found.estimate == pytest.approx((means["b"] - means["a"]).mean()) and found.photos == 20


def test_too_few_seeds():
    with pytest.raises(ValueError, match="at least two seeds"):
        paired_difference(experiment(0, 1, 5, np.random.default_rng(0)), "value", "a", "b")
    with pytest.raises(ValueError, match="at least two seeds"):
        crossed_difference(np.array([0.1]), np.ones((5, 1)), 5)


def test_photos_that_all_say_the_same_leave_the_t_test_over_seeds():
    values = np.array([0.02, -0.01, 0.03, 0.015])
    found, expected = crossed_difference(values, np.tile(values, (9, 1)), 50), stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval()
    np.testing.assert_allclose([found.p_value, found.low, found.high], [expected.pvalue, interval.low, interval.high])


def test_seeds_that_all_say_the_same_leave_the_photos():
    again = np.random.default_rng(0).normal(0.5, 0.2, 400)
    found = crossed_difference(np.full(3, 0.5), np.tile(again[:, None], 3), 50)
    np.testing.assert_allclose([found.low, found.high], stats.t(49, 0.5, again.std(ddof=1)).interval(0.95))
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.5 / again.std(ddof=1), 49))
    sure = crossed_difference(np.full(3, 1e6), np.tile(again[:, None], 3), 500)
    assert 0 < sure.p_value < 1e-100 and sure.low > 0


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


@pytest.mark.parametrize(("seeds", "comparisons"), [(3, 1), (3, 32), (5, 4)])
def test_detectable_effect_has_its_power_at_few_seeds_and_many_comparisons(seeds, comparisons):
    """Photos say nothing here, so that the test is Student's over seeds."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, seeds)
    found = crossed_difference(values, np.tile(values, (9, 1)), 50, comparisons)
    effect = found.detectable / values.std(ddof=1)  # if the true spread is the one seen
    drawn = rng.normal(effect, 1, (100_000, seeds))
    size = drawn.mean(1) / (drawn.std(1, ddof=1) / np.sqrt(seeds))
    assert (size > stats.t.isf(0.025 / comparisons, seeds - 1)).mean() == pytest.approx(0.8, abs=0.01)


def test_rounds_without_a_value_do_not_count_and_nothing_known_is_said_so():
    again = np.random.default_rng(0).normal(0.5, 0.2, (400, 3))
    holed = np.concatenate([again, np.full((50, 3), np.nan)])
    assert crossed_difference(np.array([0.4, 0.5, 0.6]), holed, 9) == crossed_difference(np.array([0.4, 0.5, 0.6]), again, 9)
    unknown = crossed_difference(np.full(3, np.nan), holed, 9)
    assert np.isnan([unknown.estimate, unknown.low, unknown.high, unknown.p_value, unknown.detectable]).all()
    assert np.isnan(crossed_difference(np.zeros(3), np.zeros((9, 3)), 9).detectable)


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.5])), [0.04, 0.09, 0.09, 0.5])
    assert len(holm(np.zeros(0))) == 0


def test_difference_of_medians_is_paired():
    rng = np.random.default_rng(0)
    base = rng.normal(5, 3, 300)
    table = pd.DataFrame({"image": np.repeat(range(100), 3), "a": base, "b": base + 0.5})
    middle, low, high = median_difference(table, "a", "b")
    assert middle == pytest.approx(-0.5) and low == pytest.approx(-0.5) and high == pytest.approx(-0.5)
    assert middle == pytest.approx(table["a"].median() - table["b"].median())
    assert np.isnan(median_difference(table[:0], "a", "b")).all()


def test_bootstrap_of_photos_by_loops():
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"image": rng.choice(list("fbdace"), 40), "v": rng.normal(0, 1, 40), "w": rng.normal(0, 1, 40)})
    table.loc[5, "v"] = np.nan

    def statistic(values):
        return float(np.median(values[:, 0]) - values[:, 1].mean())

    groups = [part[["v", "w"]].dropna().to_numpy() for _, part in table.groupby("image")]
    draws = np.random.default_rng(7).integers(6, size=(200, 6))
    again = [statistic(np.concatenate([groups[k] for k in drawn])) for drawn in draws]
    found = cluster_bootstrap(table, ["v", "w"], statistic, rounds=200, seed=7)
    np.testing.assert_allclose(found, [statistic(np.concatenate(groups)), *np.quantile(again, [0.025, 0.975])])
    assert np.isnan(cluster_bootstrap(table.assign(v=np.nan), ["v"], lambda values: 1.0)).all()
    assert np.isnan(rank_correlation(np.ones((10, 2)))) and np.isnan(rank_correlation(np.zeros((2, 2))))


def test_words_follow_the_interval():
    said = in_words((-1.0, -1.5, -0.5), 4.0, "%")
    assert said == "**smaller** by 1.00 points (95 % interval 0.50 to 1.50): 3.00 instead of 4.00 %, −25 %"
    said = in_words((1.0, 0.5, 1.5), 4.0, "°")
    assert said == "**larger** by 1.00° (95 % interval 0.50 to 1.50): 5.00 instead of 4.00°, +25 %"
    assert in_words((1.0, 0.5, 1.5), 0.0, "°").endswith("1.00 instead of 0.00°")
    for ends in ((-0.5, 0.3), (np.nan, np.nan)):
        assert in_words((-0.1, *ends), 4.0, "°").startswith("**not clearly different** (-0.10°")
