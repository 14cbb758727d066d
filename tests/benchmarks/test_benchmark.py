"""That the benchmark itself runs."""

import json

import pytest
import torch
from click.testing import CliRunner

from retinalib.config import PROFILES


def test_without_a_gpu_there_is_a_sentence_and_a_dry_run(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    from benchmarks.__main__ import main

    if not torch.cuda.is_available():
        refused = CliRunner().invoke(main, ["--gpu"])
        assert refused.exit_code == 2 and "there is no GPU here" in refused.output
    done = CliRunner().invoke(main, ["--gpu", "--device", "cpu", "--json", str(tmp_path / "g.json")], catch_exceptions=False)
    report = json.loads((tmp_path / "g.json").read_text())
    assert len(report["measured"]) == 8 and all(row["images_per_second"] > 0 for row in report["measured"])
    assert f"A run of {PROFILES['quick'].epochs} epochs on 5,130 photos" in done.output


def test_benchmark_runs_and_writes(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    from benchmarks.__main__ import main

    done = CliRunner().invoke(main, ["--quick", "--json", str(tmp_path / "b.json")], catch_exceptions=False)
    report = json.loads((tmp_path / "b.json").read_text())
    rows = {(row["group"], row["part"]): row for row in report["milliseconds"]}
    assert {group for group, _ in rows} == {"detection", "onnxruntime", "training", "data", "evaluation", "rendering"}
    assert all(row["ours"] > 0 for row in rows.values())
    assert rows["training", "step from files on"]["plain"] > 0
    assert report["about"]["torch"] == torch.__version__.split("+")[0] and report["memory_mb"]["plain"] > 0
    assert {(row["points"], row["faces"]) for row in report["cost"]} == {(p, f) for p in (5, 98, 500) for f in (1, 10)}
    assert "step without data" in done.output
