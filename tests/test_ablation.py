import multiprocessing
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from retinalib import ablation, cli
from retinalib.config import PROFILES, TrainConfig
from retinalib.evaluate import precision_recall, resampled_ap
from retinalib.runs import Stopped, request_stop
from retinalib.studies import comparison
from retinalib.studies.statistics import paired_difference, photo_weights
from retinalib.train import train
from tests.simulation import study

NO_DETECTIONS = precision_recall([], []).assign(arm="a", seed=0)  # photos labelled in part
BASE = TrainConfig(image_size=96, epochs=1, batch_size=4, validate_every=1)


@pytest.fixture(scope="module")
def finished(sets, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    train_set, test_set = sets
    return runs, ablation.run(("no-se", "se16"), (0, 1), BASE, train_set, test_set, test_set, runs, "cpu")


def test_arms_change_what_they_say():
    assert ablation.arm_config("no-se", BASE, 3) == replace(BASE, seed=3)
    assert ablation.arm_config("se4", BASE, 0).model.se_reduction == 4
    assert ablation.arm_config("five-point-flip", BASE, 0).fault == "five-point-flip"
    with pytest.raises(ValueError, match="unknown arm 'se5': choose from no-se"):
        ablation.arm_config("se5", BASE, 0)
    with pytest.raises(ValueError, match="the arms no-se, second-look are the same training"):
        ablation.run(("no-se", "second-look"), (0,), PROFILES["full"].train_config(), None, None, None, None)
    base = replace(BASE, loss=replace(BASE.loss, pupil_weight=1.0))
    assert len({str(ablation.arm_config(arm, base, 0)) for arm in ablation.ARMS}) == len(ablation.ARMS)


def test_runs_side_by_side_are_those_trained_alone(finished, sets, tmp_path):
    runs, (_, table) = finished
    alone = train(ablation.arm_config("no-se", BASE, 0), *sets, tmp_path / "alone", "cpu", workers=0, progress=False)
    pd.testing.assert_frame_equal(pd.read_csv(runs / table["folder"].iloc[0] / "metrics.csv"), alone)


def test_a_run_that_fails_stops_the_others_and_says_why(sets, tmp_path):
    configs = {tmp_path / "good": replace(BASE, epochs=500), tmp_path / "bad": replace(BASE, batch_size=100)}
    with pytest.raises(ValueError, match="do not make one batch of 100"):
        ablation.train_all(configs, *sets, "cpu")
    assert not multiprocessing.active_children()


UNGUARDED = """
import pathlib
from retinalib import ablation, rendered
from retinalib.config import TrainConfig

faces = rendered.load(pathlib.Path({faces!r}), "test")
ablation.train_all({{pathlib.Path({folder!r}): TrainConfig()}}, faces, faces, "cpu")
"""


def test_a_program_without_a_guard_is_told_why(sets, tmp_path):
    text = UNGUARDED.format(faces=str(sets[0].images_root.parent), folder=str(tmp_path / "run"))
    (tmp_path / "script.py").write_text(text)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=300)
    assert "if __name__ == '__main__':" in done.stderr  # said by the process that imported the program
    assert "ChildProcessError: a run's process ended early; what it said stands above: mend that" in done.stderr


def test_a_stop_ends_the_runs_side_by_side_and_begins_no_other(sets, tmp_path):
    configs = {tmp_path / str(seed): replace(BASE, seed=seed, epochs=500) for seed in range(3)}
    ask = threading.Thread(target=_stop_after_an_epoch, args=(tmp_path / "0", tmp_path / "2"))
    ask.start()
    with pytest.raises(Stopped, match="of 1500 epochs are kept; start again to go on"):
        ablation.train_all(configs, *sets, "cpu", processes=2)
    ask.join()
    assert not (tmp_path / "2" / "config.json").exists() and not multiprocessing.active_children()


def _stop_after_an_epoch(watched, asked):
    """The request may be in the folder of a run that has not begun."""
    while not (watched / "metrics.csv").is_file():
        time.sleep(0.1)
    request_stop(asked)


def test_runs_measure_every_face_and_are_found_again(finished, sets):
    runs, (faces, table) = finished
    per_run = faces.groupby(["arm", "seed"]).size()
    assert len(per_run) == len(table) == 4 and (per_run == len(sets[1].table)).all() and table["ap"].between(0, 1).all()
    stamps = {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()}
    again, table_again = ablation.run(("no-se", "se16"), (0, 1), BASE, *sets, sets[1], runs, "cpu")
    pd.testing.assert_frame_equal(again, faces)
    pd.testing.assert_frame_equal(table_again, table)
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()} == stamps
    detections = ablation.detections_of(table, runs)
    assert set(detections["seed"]) == {0, 1} and set(detections["image"]) <= set(sets[1].names)
    for (arm, seed), part in detections.groupby(["arm", "seed"]):
        ap = resampled_ap(part, pd.Index(sets[1].names), np.ones((1, len(sets[1]))))[0]
        assert ap == pytest.approx(table.set_index(["arm", "seed"]).loc[(arm, seed), "ap"])


def test_a_known_difference_is_found_and_said():
    faces, detections, true = study(np.random.default_rng(0), seeds=3, photos=40, gain=0.5, miss=0.05)
    table = ablation.compare(faces, detections, ("a", "b")).set_index("measure")
    assert 0 < table.loc["mean NME", "low"] < 100 * true < table.loc["mean NME", "high"]
    assert table.loc["AP", "low"] < 0 < table.loc["AP", "high"]
    assert (table["p_holm"] >= table["p_value"]).all()
    said = ablation.verdict(table.reset_index(), "a")
    assert "**mean NME worse**" in said and "no difference found in AP" in said and "3 seeds" in said and "40 photos" in said


def test_a_known_difference_in_ap_is_found():
    """Arm b's detections of half of the faces are lost."""
    faces, detections, _ = study(np.random.default_rng(0), seeds=3, photos=60)
    lost = (detections["arm"] == "b") & detections["hit"] & (np.random.default_rng(1).random(len(detections)) < 0.5)
    detections.loc[lost, ["score", "hit"]] = np.nan, False
    row = ablation.compare(faces, detections, ("a", "b")).set_index("measure").loc["AP"]
    images = pd.Index(detections["image"].unique())
    runs = detections.groupby(["arm", "seed"])
    each = pd.Series({key: resampled_ap(part, images, np.ones((1, len(images))))[0] for key, part in runs})
    assert row["estimate"] == pytest.approx((each["b"] - each["a"]).mean()) and row["estimate"] < -0.3
    assert row["high"] < -0.2 and row["p_holm"] < 0.05 and row["photos"] == 60


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_arms_are_seldom_said_to_differ(seeds, monkeypatch):
    """In at most 5 % of studies without any difference is one claimed, in whichever of the four measures."""
    monkeypatch.setattr(comparison, "photo_weights", partial(photo_weights, rounds=200))
    monkeypatch.setattr(comparison, "paired_difference", partial(paired_difference, rounds=200))
    rng, claims = np.random.default_rng(seeds), 0
    for _ in range(100):
        faces, detections, _ = study(rng, seeds, 50, miss=0.02)
        table = ablation.compare(faces, detections, ("a", "b"))
        assert len(table) == 4
        claims += "**" in ablation.verdict(table, "a")
    assert claims <= 0.05 * 100


def test_one_seed_gives_no_interval_and_says_so():
    table = ablation.compare(*study(np.random.default_rng(0), seeds=1, photos=40)[:2], ("a", "b"))
    assert not len(table) and {"estimate", "p_holm", "photos"} <= set(table)
    assert "two seeds" in ablation.verdict(table, "a")


def test_more_comparisons_ask_for_larger_effects():
    faces = study(np.random.default_rng(0), seeds=3, photos=40)[0]
    faces["nme"] /= 100  # nobody fails, so that the failure rate has no spread
    third = faces[faces["arm"] == "b"].assign(arm="c")
    few = ablation.compare(faces, NO_DETECTIONS, ("a", "b"))
    many = ablation.compare(pd.concat([faces, third]), NO_DETECTIONS, ("a", "b", "c"))
    assert many["arm"].tolist() == ["b"] * 3 + ["c"] * 3
    larger, smaller = many["detectable"][:3].to_numpy(), few["detectable"].to_numpy()
    assert (smaller > 0).sum() == 2
    assert (larger[smaller > 0] > 1.05 * smaller[smaller > 0]).all() and np.isnan(larger[np.isnan(smaller)]).all()
    assert "failure rate tells nothing, it does not vary or is not known" in ablation.verdict(few, "a")


def test_missed_faces_enter_the_failure_rate_only():
    faces = study(np.random.default_rng(0), seeds=3, photos=40)[0]
    faces["nme"] /= 100
    missed = (faces["arm"] == "b") & (faces["face"] == 0)
    faces.loc[missed, ["nme", "nme_pupils"]] = np.nan
    faces.loc[missed, "matched"] = False
    table = ablation.compare(faces, NO_DETECTIONS, ("a", "b")).set_index("measure")
    assert table.loc["failure rate", "estimate"] == pytest.approx(50, abs=1)
    assert table.loc["mean NME", "low"] < 0 < table.loc["mean NME", "high"] and "AP" not in table.index


def test_from_the_command_line(tmp_path, monkeypatch):
    """Two jobs train one seed each; a third finds them and compares."""
    small = replace(PROFILES["quick"], images=30, epochs=1, image_size=96, batch_size=4)
    monkeypatch.setitem(PROFILES, "quick", small)
    place = ["--profile", "quick", "--data-root", str(tmp_path / "faces"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]

    def call(*arguments):
        return CliRunner().invoke(cli.main, ["ablation", *place, *arguments])

    for seed in "01":
        done = call("--seeds", seed, "--processes", "1")
        assert done.exit_code == 0 and "against" not in done.stdout, done.output
    trained = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.pt")}
    assert len(trained) == 8
    said = call("--seeds", "0", "1", "--out", str(tmp_path / "tables")).stdout
    assert "*se16* against *no-se*, 2 seeds" in said
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.pt")} == trained
    table = pd.read_csv(tmp_path / "tables" / "differences.csv")
    assert set(table["arm"]) == {"se16"} and {"low", "high", "p_holm"} <= set(table)
    assert "unknown arm 'nonsense'" in call("--arms", "no-se", "nonsense").stderr


def test_few_photos_with_faces_are_no_stumbling_block():
    """A round of the bootstrap may then draw photos without any."""
    faces, detections, _ = study(np.random.default_rng(0), seeds=3, photos=4)
    wrong = detections[detections["score"].notna() & ~detections["hit"]].groupby(["arm", "seed"]).head(1)
    bare = [wrong.assign(image=f"bare{number}.jpg") for number in range(26)]
    table = ablation.compare(faces, pd.concat([detections, *bare], ignore_index=True), ("a", "b")).set_index("measure")
    assert np.isfinite(table.loc["AP", ["estimate", "low", "high", "p_value"]].astype(float)).all()
