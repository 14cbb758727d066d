"""Whatever ends a process, and whenever: what was finished is kept, and the next start comes to the same result."""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import retinalib.train as training
from retinalib import ablation, rendered
from retinalib.batches import AugmentedPhotos
from retinalib.config import TrainConfig
from retinalib.files import only_process
from retinalib.runs import Stopped, request_stop
from retinalib.train import train
from tests.pictures import rendered_faces

KILLS = int(os.environ.get("RETINALIB_KILLS", 3))  # of each kind, at moments drawn from a seed
CONFIG = TrainConfig(image_size=64, epochs=3, batch_size=4, validate_every=2)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return rendered_faces(tmp_path_factory, 14, seed=1, size=96)


@pytest.fixture(scope="module")
def finished(sets, tmp_path_factory):
    """What a run leaves that nothing interrupted, and how long it took, seconds."""
    begin = time.monotonic()
    return go_on(sets, tmp_path_factory.mktemp("runs") / "run"), time.monotonic() - begin


def go_on(sets, folder):
    """What the run leaves when it is taken up, in this process, to its end."""
    train(CONFIG, *sets, folder, "cpu", workers=0, progress=False)
    return contents(folder)


def contents(folder):
    """What every file below a folder holds, by its name: tensors for checkpoints, bytes for others."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): values(p) if p.suffix == ".pt" else p.read_bytes() for p in files}


def values(path):
    """A checkpoint in a form that can be compared to the bit; the order and layout of tensors in the file do not count."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).numpy().tobytes()
        if isinstance(value, dict):
            return {key: plain(v) for key, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else repr(value)

    return plain(torch.load(path, weights_only=True))


def in_own_group(function, *arguments, **keywords):
    os.setsid()
    sys.stderr = open(os.devnull, "w")
    function(*arguments, **keywords)


@contextlib.contextmanager
def child(function, *arguments, spawned=False, **keywords):
    """A process of its own group that calls a function; killed at the end. spawned: for functions that have a server start
    their processes, which a fork could not: it would take its parent's server for its own."""
    if spawned:
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=in_own_group, args=(function, *arguments), kwargs=keywords)
        process.start()
    pid = process.pid if spawned else os.fork()
    if not pid:
        try:
            multiprocessing.set_start_method("fork", force=True)  # a server of its parent's could start no workers of its own
            in_own_group(function, *arguments, **keywords)
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        ended(pid)


def ended(pid):
    """Waits for a killed child, whoever started it."""
    for process in multiprocessing.active_children():
        if process.pid == pid:
            process.join()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def killed(moment, function, *arguments, **keywords):
    """Calls a function in a process that alone is killed, after ``moment`` seconds or as soon as ``moment()`` is true; the
    processes that it started must end by themselves."""
    prctl = getattr(ctypes.CDLL(None), "prctl", lambda *_: None)
    prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become this process' children, to be waited for, on Linux
    try:
        with child(function, *arguments, **keywords) as pid:
            until = time.monotonic() + (100 if callable(moment) else moment)
            while time.monotonic() < until and not (callable(moment) and moment()):
                time.sleep(0.02)
            os.kill(pid, signal.SIGKILL)
            ended(pid)
            for _ in range(200):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-pid, os.WNOHANG)
                try:
                    os.killpg(pid, 0)
                except ProcessLookupError:
                    return
                time.sleep(0.1)
        raise AssertionError("processes outlive the one that started them")
    finally:
        prctl(36, 0, 0, 0, 0)


def moments(longest, number=KILLS):
    return np.random.default_rng(7).uniform(0, longest, number).tolist()


def test_training_killed_at_any_moment_gives_the_same_files(finished, sets, tmp_path):
    wanted, duration = finished
    for number, moment in enumerate(moments(0.8 * duration)):
        folder = tmp_path / str(number)
        killed(moment, train, CONFIG, *sets, folder, "cpu", 0, False)
        assert go_on(sets, folder) == wanted
        shutil.rmtree(folder)


def test_rendering_killed_gives_the_same_files(tmp_path):
    arguments = {"images": 40, "seed": 3, "size": 96, "workers": 2, "progress": False}
    begin = time.monotonic()
    wanted = contents(rendered.make(tmp_path / "alone", **arguments))
    for number, moment in enumerate(moments(time.monotonic() - begin, max(1, KILLS // 3))):
        killed(moment, rendered.make, tmp_path / str(number), **arguments)
        again = contents(rendered.make(tmp_path / str(number), **arguments))
        assert {n: c for n, c in again.items() if not n.startswith("parts/")} == wanted


def test_an_ablation_killed_gives_the_same_table(sets, tmp_path):
    base = TrainConfig(image_size=64, epochs=2, batch_size=4, validate_every=1)
    arguments = (("no-se", "se16"), (0, 1), base, *sets, sets[1])
    faces, runs = ablation.run(*arguments, tmp_path / "alone", "cpu", 1)
    for number, epochs in enumerate(np.random.default_rng(7).integers(1, 8, max(1, KILLS // 3))):
        folder = tmp_path / str(number)

        def so_far(folder=folder, epochs=epochs):
            return sum(len(pd.read_csv(log)) for log in folder.glob("*/metrics.csv")) >= epochs

        killed(so_far, ablation.run, *arguments, folder, "cpu", 2, spawned=True)
        assert len(list(folder.glob("*/test.json"))) < 4  # it was, before its end
        again, runs_again = ablation.run(*arguments, folder, "cpu", 2)
        pd.testing.assert_frame_equal(again, faces)
        pd.testing.assert_frame_equal(runs_again, runs)
        one, other = (ablation.detections_of(runs, place) for place in (folder, tmp_path / "alone"))
        pd.testing.assert_frame_equal(one, other)


def test_two_processes_do_not_share_a_run(sets, tmp_path):
    folder, longer = tmp_path / "run", replace(CONFIG, epochs=100)
    with child(train, longer, *sets, folder, "cpu", 2, False) as pid:
        while not (folder / "metrics.csv").is_file():
            time.sleep(0.02)
        with pytest.raises(ValueError, match=r"another process is at work in .*run: wait for it, or end it first"):
            train(longer, *sets, folder, "cpu", 0, False)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with only_process(folder):  # at once, although its data workers may still be there
            pass


def test_a_damaged_state_is_named(sets, tmp_path):
    train(replace(CONFIG, epochs=1), *sets, tmp_path, "cpu", 0, False)
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"last\.pt is damaged .*; delete the folder to train anew"):
        go_on(sets, tmp_path)


def test_a_full_disk_leaves_the_last_state(finished, sets, tmp_path, monkeypatch):
    """Files grow to 4 MB and no further: the weights fit, the state to go on from does not."""
    folder, save, before = tmp_path / "run", training.save_epoch, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_epoch(folder, recipe, rows, *more):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, before[1]) if len(rows) == 2 else before)
        save(folder, recipe, rows, *more)

    monkeypatch.setattr(training, "save_epoch", save_epoch)
    try:
        with pytest.raises(OSError, match=r"last\.pt could not be written and is as it was before: File too large"):
            train(CONFIG, *sets, folder, "cpu", 0, False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    monkeypatch.undo()
    assert len(torch.load(folder / "last.pt", weights_only=True)["rows"]) == len(pd.read_csv(folder / "metrics.csv")) == 1
    assert go_on(sets, folder) == finished[0]


@pytest.mark.parametrize("waiting", [False, True])
def test_a_data_worker_that_dies_is_named(sets, tmp_path, monkeypatch, waiting):
    step, crop, count = training.Training.step, AugmentedPhotos.__getitem__, 0

    def killing(*arguments):
        nonlocal count
        count += 1
        if count == 2:  # as where memory runs out: in a step, or while the loop waits for crops
            threading.Timer(1 if waiting else 0, multiprocessing.active_children()[0].kill).start()
        return step(*arguments)

    def slow_crop(*arguments):
        time.sleep(0.5 if waiting else 0)
        return crop(*arguments)

    monkeypatch.setattr(training.Training, "step", killing)
    monkeypatch.setattr(AugmentedPhotos, "__getitem__", slow_crop)
    said = r"a process that makes crops died .*start again to go on .* with fewer workers if memory ran out"
    with pytest.raises(ChildProcessError, match=said) as error:
        train(replace(CONFIG, epochs=10), *sets, tmp_path / "run", "cpu", 2, False)
    assert error.tb is not None and not multiprocessing.active_children()  # as a notebook keeps the traceback


def test_a_data_worker_that_ends_by_itself_is_not_blamed_on_memory(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(AugmentedPhotos, "__getitem__", lambda *_: os._exit(3))
    with pytest.raises(ChildProcessError, match="what it said stands above: mend that, then start again"):
        train(CONFIG, *sets, tmp_path / "run", "cpu", 1, False)


def test_a_stop_leaves_no_data_worker(sets, tmp_path, monkeypatch):
    step = training.Training.step

    def stopping(*arguments):
        request_stop(tmp_path)
        return step(*arguments)

    monkeypatch.setattr(training.Training, "step", stopping)
    files = len(os.listdir("/dev/fd"))
    with pytest.raises(Stopped) as error:
        train(replace(CONFIG, epochs=50), *sets, tmp_path, "cpu", 2, False)
    assert error.tb is not None and not multiprocessing.active_children()  # a notebook keeps the error and its frames, too
    until = time.monotonic() + 5  # the threads of closed queues take a moment to end
    while len(os.listdir("/dev/fd")) > files + 2 and time.monotonic() < until:  # what torch opens once and keeps
        time.sleep(0.1)
    assert len(os.listdir("/dev/fd")) <= files + 2


def test_a_run_goes_on_after_a_loss_that_was_not_finite(finished, sets, tmp_path, monkeypatch):
    step, count = training.Training.step, 0

    def failing(*arguments):
        nonlocal count
        count += 1
        return step(*arguments) * (float("nan") if count == 4 else 1)

    monkeypatch.setattr(training.Training, "step", failing)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 3 of run"):
        train(CONFIG, *sets, tmp_path / "run", "cpu", 0, False)
    monkeypatch.undo()
    assert go_on(sets, tmp_path / "run") == finished[0]
