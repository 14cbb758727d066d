"""That the benchmark itself runs."""

import json
import time

import pytest
import torch

import benchmarks.__main__ as benchmark


def test_cost_counts_what_it_was_asked(monkeypatch):
    table = benchmark.cost((5, 40), (1, 9), size=128, repeats=1)
    assert table[["points", "faces"]].to_numpy().tolist() == [[5, 1], [5, 9], [40, 1], [40, 9]]
    assert (table["milliseconds"] > 0).all()
    with pytest.raises(ValueError, match="128 pixels hold no 100 faces"):
        benchmark.cost((5,), (100,), size=128, repeats=1)


def test_benchmark_runs_and_writes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    monkeypatch.setattr("sys.argv", ["benchmark", "--quick", "--json", str(tmp_path / "b.json")])
    benchmark.main()
    report = json.loads((tmp_path / "b.json").read_text())
    rows = {(row["group"], row["part"]): row for row in report["milliseconds"]}
    assert {group for group, _ in rows} == {"detection", "onnxruntime", "training", "data", "evaluation", "rendering"}
    assert all(row["ours"] > 0 for row in rows.values())
    assert rows["training", "step from files on"]["other"] > 0
    assert report["about"]["torch"] == torch.__version__.split("+")[0] and report["memory_mb"]["plain"] > 0
    assert "| loss, forward and backward" in capsys.readouterr().out.replace("training   ", "")


def test_the_other_process_ends_and_is_missed(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    with benchmark.Bench(64, 1, 2, time.perf_counter, tmp_path) as bench:
        bench.take_turns("any", "anchors", lambda: None, "anchors")
        with pytest.raises(ChildProcessError, match="ended in 'unheard'"):
            bench.take_turns("any", "unheard", lambda: None, "unheard")
    assert not bench.process.is_alive()
    assert [row["part"] for row in bench.rows] == ["anchors"] and bench.rows[0]["other"] > 0
