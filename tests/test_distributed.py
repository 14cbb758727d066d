"""Two processes that share a batch, here with gloo on processors, against one; nothing here needs or measures a GPU."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch.distributed as dist
from click.testing import CliRunner

from retinalib import cli
from retinalib.config import TrainConfig
from retinalib.train import train
from retinalib.workspace import PROJECT
from tests.pictures import rendered_faces


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return rendered_faces(tmp_path_factory, 60, seed=1, size=128)


def test_torchrun_completes_goes_on_and_learns_what_one_process_does(sets, tmp_path):
    """The README's command, also on a machine whose name no server knows; then one process takes over."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    place = ["--dataset", "wflw", "--data-root", str(sets[0].images_root.parent), "--profile", "quick", "--device", "cpu"]
    for epochs in ("1", "2"):
        command = [*torchrun, "-m", "retinalib.train", str(tmp_path / "two"), *place, "--epochs", epochs, "--workers", "0"]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("learning_rate") == 1  # the first process alone reports
        command = ["train", str(tmp_path / "one"), *place, "--epochs", epochs, "--workers", "0"]
        assert CliRunner().invoke(cli.main, command).exit_code == 0
    two, one = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("two", "one"))
    assert two.columns.equals(one.columns) and two["nme"].notna().all() and len(two) == 2
    np.testing.assert_allclose(two["total"], one["total"], rtol=0.05)
    np.testing.assert_allclose(two[["box", "landmark"]], one[["box", "landmark"]], rtol=0.1)
    assert {p.name for p in (tmp_path / "two").rglob("*")} == {p.name for p in (tmp_path / "one").rglob("*")}
    assert (
        CliRunner().invoke(cli.main, ["train", str(tmp_path / "two"), *place, "--epochs", "3", "--workers", "0"]).exit_code == 0
    )
    assert len(pd.read_csv(tmp_path / "two" / "metrics.csv")) == 3


def test_a_batch_must_be_divisible(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="2 processes can't share a batch of 5 equally"):
        train(TrainConfig(batch_size=5), *sets, tmp_path / "run", "cpu", 0, False)
