import multiprocessing
import threading
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from retinalib import ablation
from retinalib.datasets import synthetic
from retinalib.runs import Stopped, request_stop
from retinalib.train import TrainConfig, train
from retinalib.workspace import PROFILES

BASE = TrainConfig(image_size=96, epochs=1, batch_size=4, validate_every=1)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = synthetic.make(tmp_path_factory.mktemp("faces"), 14, seed=2, size=160, progress=False)
    return synthetic.load(root, "train"), synthetic.load(root, "test")


@pytest.fixture(scope="module")
def finished(sets, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    train_set, test_set = sets
    return runs, ablation.run(("no-se", "se16"), (0, 1), BASE, train_set, test_set, test_set, runs, "cpu")


def simulated(effect, seeds=3, photos=40, rng=None):
    """Faces of two arms with a photo effect, a seed effect and a true difference."""
    rng = rng or np.random.default_rng(0)
    photo, rows = rng.normal(0, 1.0, photos), []
    for seed in range(seeds):
        for arm, shift in (("a", 0.0), ("b", effect)):
            run = rng.normal(0, 0.1)
            for i in range(photos):
                for face in range(2):
                    nme = 0.05 + 0.01 * (photo[i] + run + shift + rng.normal(0, 0.3))
                    rows.append((arm, seed, f"{i}.jpg", face, True, nme, nme))
    return pd.DataFrame(rows, columns=["arm", "seed", "image", "face", "matched", "nme", "nme_pupils"])


def test_arms_change_what_they_say():
    assert ablation.arm_config("no-se", BASE, 3) == replace(BASE, seed=3)
    assert ablation.arm_config("se4", BASE, 0).model.se_reduction == 4
    assert ablation.arm_config("five-point-flip", BASE, 0).augment.flip_order == "five-point"
    with pytest.raises(ValueError, match="unknown arm 'se5': choose from no-se"):
        ablation.arm_config("se5", BASE, 0)
    base = replace(BASE, loss=replace(BASE.loss, pupil_weight=1.0))
    assert len({str(ablation.arm_config(arm, base, 0)) for arm in ablation.ARMS}) == len(ablation.ARMS)


def test_runs_give_every_face_for_every_arm_and_seed(finished, sets):
    faces, runs = finished[1]
    per_run = faces.groupby(["arm", "seed"]).size()
    assert len(per_run) == len(runs) == 4 and (per_run == len(sets[1].table)).all()
    assert runs["ap"].between(0, 1).all() and len(set(runs["folder"])) == 4


def test_runs_side_by_side_are_those_trained_alone(finished, sets, tmp_path):
    runs, (_, table) = finished
    folder = runs / table["folder"].iloc[0]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = train(ablation.arm_config("no-se", BASE, 0), *sets, tmp_path / "alone", "cpu", workers=0, progress=False)
    finally:
        torch.set_num_threads(threads)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), alone)


def test_a_run_that_fails_stops_the_others_and_says_why(sets, tmp_path):
    configs = {tmp_path / "good": BASE, tmp_path / "bad": replace(BASE, batch_size=100)}
    with pytest.raises(ValueError, match="do not make one batch of 100"):
        ablation.train_all(configs, *sets, "cpu")


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


def test_finished_runs_are_found_again(finished, sets):
    runs, (faces, table) = finished
    stamps = {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()}
    again, table_again = ablation.run(("no-se", "se16"), (0, 1), BASE, *sets, sets[1], runs, "cpu")
    pd.testing.assert_frame_equal(again, faces)
    pd.testing.assert_frame_equal(table_again, table)
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()} == stamps
    curves = ablation.precision_recall_of(table, runs)
    assert set(curves["seed"]) == {0, 1} and curves["precision"].between(0, 1).all()


def test_a_known_difference_is_found_and_said():
    faces = simulated(effect=1.0)  # one percent of NME
    runs = pd.DataFrame(
        {"arm": ["a", "b"] * 3, "seed": [0, 0, 1, 1, 2, 2], "ap": [0.5, 0.5, 0.6, 0.61, 0.4, 0.39], "photos": 40}
    )
    table = ablation.compare(faces, runs, ("a", "b")).set_index("measure")
    assert abs(table.loc["mean NME", "estimate"] - 1.0) < 0.3 and table.loc["mean NME", "low"] > 0.3
    assert table.loc["AP", "low"] < 0 < table.loc["AP", "high"]
    assert (table["p_holm"] >= table["p_value"]).all()
    said = ablation.verdict(table.reset_index(), "a")
    assert "**mean NME worse**" in said and "no difference found in AP" in said and "3 seeds" in said and "40 photos" in said


def test_one_seed_gives_no_interval_and_says_so():
    faces = simulated(effect=0.0)
    runs = pd.DataFrame({"arm": ["a", "b"], "seed": [0, 0], "ap": [0.5, 0.6], "photos": 40})
    table = ablation.compare(faces[faces["seed"] == 0], runs, ("a", "b"))
    assert not len(table) and {"estimate", "p_holm", "photos"} <= set(table)
    assert "two seeds" in ablation.verdict(table, "a")


def test_more_comparisons_ask_for_larger_effects():
    runs = pd.DataFrame({"arm": list("abc") * 3, "seed": np.repeat([0, 1, 2], 3), "ap": np.nan, "photos": 40})
    faces = simulated(effect=0.0)
    third = faces[faces["arm"] == "b"].assign(arm="c")
    few = ablation.compare(faces, runs, ("a", "b"))
    many = ablation.compare(pd.concat([faces, third]), runs, ("a", "b", "c"))
    assert many["arm"].tolist() == ["b"] * 3 + ["c"] * 3
    larger, smaller = many["detectable"][:3].to_numpy(), few["detectable"].to_numpy()
    assert (smaller > 0).sum() == 2  # nobody fails here, so the failure rate has no spread
    assert (larger[smaller > 0] > 1.05 * smaller[smaller > 0]).all() and (larger[smaller == 0] == 0).all()


def test_missed_faces_enter_the_failure_rate_only():
    faces = simulated(effect=0.0)
    missed = (faces["arm"] == "b") & (faces["face"] == 0)
    faces.loc[missed, ["nme", "nme_pupils"]] = np.nan
    faces.loc[missed, "matched"] = False
    runs = pd.DataFrame({"arm": ["a", "b"] * 3, "seed": [0, 0, 1, 1, 2, 2], "ap": np.nan, "photos": 40})
    table = ablation.compare(faces, runs, ("a", "b")).set_index("measure")
    assert table.loc["failure rate", "estimate"] == pytest.approx(50, abs=1)
    assert abs(table.loc["mean NME", "estimate"]) < 0.3 and "AP" not in table.index


def test_tables_are_written_for_paper_page_and_machine(tmp_path):
    table = pd.DataFrame({"median_nme": [0.0512345]}, index=pd.Index(["no_se"], name="arm"))
    ablation.write_table(table, tmp_path / "tables" / "t", "50 % of 3 photos, IoU ≥ 0.5")
    assert pd.read_csv(tmp_path / "tables/t.csv")["median_nme"].tolist() == [0.0512345]
    assert "50 % of 3 photos" in (tmp_path / "tables/t.md").read_text()
    latex = (tmp_path / "tables/t.tex").read_text()
    assert r"\toprule" in latex and r"50 \% of 3 photos, IoU $\ge$ 0.5" in latex and "median nme" in latex


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    """Two jobs train one seed each; a third finds them and compares."""
    small = replace(PROFILES["quick"], images=30, epochs=1, image_size=96, batch_size=4)
    monkeypatch.setitem(PROFILES, "quick", small)
    place = ["--profile", "quick", "--data-root", str(tmp_path / "faces"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["ablation", *place, *arguments])
        ablation.main()
        return capsys.readouterr().out

    for seed in "01":
        assert "against" not in call("--seeds", seed, "--processes", "1")
    trained = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.pt")}
    assert len(trained) == 8
    said = call("--seeds", "0", "1", "--out", str(tmp_path / "tables"))
    assert "*se16* against *no-se*, 2 seeds" in said
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.pt")} == trained
    table = pd.read_csv(tmp_path / "tables" / "differences.csv")
    assert set(table["arm"]) == {"se16"} and {"low", "high", "p_holm"} <= set(table)
    with pytest.raises(SystemExit):
        call("--arms", "no-se", "nonsense")
