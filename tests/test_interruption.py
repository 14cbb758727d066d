"""Whatever ends a process, and whenever: what was finished is kept, and the next start comes to the same result."""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

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
from retinalib.train import run_folder, train
from tests.pictures import rendered_faces

KILLS = int(os.environ.get("RETINALIB_KILLS", 3))  # of each kind, at moments drawn from a seed
CONFIG = TrainConfig(image_size=64, epochs=3, batch_size=4, validate_every=2)
BASE = TrainConfig(image_size=64, epochs=2, batch_size=4, validate_every=1)  # of the ablation


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return rendered_faces(tmp_path_factory, 14, seed=1, size=96)


@pytest.fixture(scope="module")
def finished(sets, tmp_path_factory):
    """What a run leaves that nothing interrupted, and how long it took, seconds."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    begin = time.monotonic()
    train(CONFIG, *sets, folder, "cpu", workers=0, progress=False)
    return contents(folder), time.monotonic() - begin


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


def go_on(sets, folder):
    """The run taken up again, in this process, to its end."""
    train(CONFIG, *sets, folder, "cpu", workers=0, progress=False)
    return contents(folder)


@contextlib.contextmanager
def child(function, *arguments, **keywords):
    """A process of its own group that calls a function; what is left of it is killed at the end."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setsid()
            sys.stderr = open(os.devnull, "w")
            multiprocessing.set_start_method("fork", force=True)  # a server of its parent's could start no workers of its own
            function(*arguments, **keywords)
            code = 0
        finally:
            os._exit(code)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def goes_on(pid):
    if not hasattr(os, "waitid"):
        return True  # macOS before Python 3.13 can't tell
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@contextlib.contextmanager
def adopting():
    """On Linux the orphans of this process's children become its own, to be waited for: the first process of some containers
    leaves them as zombies for ever."""
    prctl = getattr(ctypes.CDLL(None), "prctl", lambda *_: None)
    prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    try:
        yield
    finally:
        prctl(36, 0, 0, 0, 0)


def killed(moment, function, *arguments, **keywords):
    """Calls a function in a process that is killed after ``moment`` seconds, or as soon as ``moment()`` is true, and nothing
    else is; waits until the processes that it started are gone, too. Returns whether it was killed before its end."""
    with child(function, *arguments, **keywords) as pid, adopting():
        if callable(moment):
            while not moment() and goes_on(pid):
                time.sleep(0.02)
        else:
            time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        early = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        for _ in range(200):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-pid, os.WNOHANG)
            try:
                os.killpg(pid, 0)
            except ProcessLookupError:
                return early
            time.sleep(0.1)
    raise AssertionError("processes outlive the one that started them")


def moments(longest, number=KILLS):
    return np.random.default_rng(7).uniform(0, longest, number).round(4).tolist()


def test_training_killed_at_any_moment_gives_the_same_files(finished, sets, tmp_path):
    wanted, duration = finished
    equal, early = [], []
    for number, moment in enumerate(moments(0.8 * duration)):
        folder = tmp_path / str(number)
        early.append(killed(moment, train, CONFIG, *sets, folder, "cpu", 0, False))
        equal.append(go_on(sets, folder) == wanted)
        shutil.rmtree(folder)
    print(f"\n{sum(equal)} of {KILLS} killed runs gave equal files; {sum(early)} were killed before their end")
    assert all(equal)


def test_rendering_killed_gives_the_same_files(tmp_path):
    arguments = {"images": 90, "seed": 3, "size": 96, "workers": 2, "progress": False}
    begin = time.monotonic()
    wanted = contents(rendered.make(tmp_path / "alone", **arguments))
    duration = time.monotonic() - begin
    for number, moment in enumerate(moments(duration, max(1, KILLS // 3))):
        killed(moment, rendered.make, tmp_path / str(number), **arguments)
        again = contents(rendered.make(tmp_path / str(number), **arguments))
        assert {n: c for n, c in again.items() if not n.startswith("drawn/")} == wanted


def test_an_ablation_killed_gives_the_same_table(sets, tmp_path):
    train_set, test_set = sets
    arms, seeds = ("no-se", "se16"), (0, 1)
    arguments = (arms, seeds, BASE, train_set, test_set, test_set)
    alone = tmp_path / "alone"
    for arm, config in ((arm, ablation.arm_config(arm, BASE, seed)) for seed in seeds for arm in arms):
        train(config, *sets, run_folder(alone, arm, config, train_set), "cpu", 0, False)
    faces, runs = ablation.run(*arguments, alone, "cpu")
    table = ablation.compare(faces, ablation.detections_of(runs, alone), arms)
    for number, epochs in enumerate(np.random.default_rng(7).integers(1, 8, max(1, KILLS // 3))):
        folder = tmp_path / str(number)

        def so_far(folder=folder, epochs=epochs):
            return sum(len(pd.read_csv(log)) for log in folder.glob("*/metrics.csv")) >= epochs

        assert killed(so_far, ablation.run, *arguments, folder, "cpu", 2)
        again, runs_again = ablation.run(*arguments, folder, "cpu", 2)
        pd.testing.assert_frame_equal(again, faces)
        pd.testing.assert_frame_equal(runs_again, runs)
        detections = ablation.detections_of(runs_again, folder)
        pd.testing.assert_frame_equal(ablation.compare(again, detections, arms), table)


def test_two_processes_do_not_share_a_run(finished, sets, tmp_path):
    folder = tmp_path / "run"
    with child(train, replace(CONFIG, epochs=100), *sets, folder, "cpu", 2, False) as pid:
        while not (folder / "metrics.csv").is_file():
            assert goes_on(pid), "it ended by itself"
            time.sleep(0.02)
        with pytest.raises(ValueError, match=r"another process is at work in .*run: wait for it, or end it first"):
            train(replace(CONFIG, epochs=100), *sets, folder, "cpu", 0, False)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with only_process(folder):  # at once, although its data workers may still be there
            pass


def test_a_damaged_state_is_named(finished, sets, tmp_path):
    train(replace(CONFIG, epochs=1), *sets, tmp_path, "cpu", 0, False)
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"last\.pt is damaged .*; delete the folder to train anew"):
        go_on(sets, tmp_path)


@pytest.fixture
def no_room():
    """Files grow to 4 MB and no further: the weights fit, the state to go on from does not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(full):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, before[1]) if full else before)

    yield limit
    limit(False)


def test_a_full_disk_leaves_the_last_state(finished, sets, tmp_path, monkeypatch, no_room):
    folder, save = tmp_path / "run", training.save_epoch

    def save_epoch(folder, recipe, rows, *more):
        no_room(len(rows) == 2)
        save(folder, recipe, rows, *more)

    monkeypatch.setattr(training, "save_epoch", save_epoch)
    with pytest.raises(OSError, match=r"last\.pt could not be written and is as it was before: File too large"):
        train(CONFIG, *sets, folder, "cpu", 0, False)
    no_room(False)
    monkeypatch.setattr(training, "save_epoch", save)
    assert len(torch.load(folder / "last.pt", weights_only=True)["rows"]) == len(pd.read_csv(folder / "metrics.csv")) == 1
    assert go_on(sets, folder) == finished[0]


@pytest.mark.parametrize("waiting", [False, True])
def test_a_data_worker_that_dies_is_named(finished, sets, tmp_path, monkeypatch, waiting):
    step, crop, count = training.training_step, AugmentedPhotos.__getitem__, 0

    def killing(*arguments):
        nonlocal count
        count += 1
        if count == 2:  # as where memory runs out: in a step, or while the loop waits for crops
            threading.Timer(1 if waiting else 0, multiprocessing.active_children()[0].kill).start()
        return step(*arguments)

    def slow_crop(*arguments):
        time.sleep(0.5 if waiting else 0)
        return crop(*arguments)

    monkeypatch.setattr(training, "training_step", killing)
    monkeypatch.setattr(AugmentedPhotos, "__getitem__", slow_crop)
    with pytest.raises(ChildProcessError, match=r"a process that makes crops died .*start again to go on") as error:
        train(replace(CONFIG, epochs=10), *sets, tmp_path / "run", "cpu", 2, False)
    assert error.tb is not None and not multiprocessing.active_children()  # as a notebook keeps the traceback
    monkeypatch.undo()
    assert len(train(replace(CONFIG, epochs=10), *sets, tmp_path / "run", "cpu", 0, False)) == 10


def test_a_stop_leaves_no_data_worker(sets, tmp_path, monkeypatch):
    step = training.training_step

    def stopping(*arguments):
        request_stop(tmp_path)
        return step(*arguments)

    monkeypatch.setattr(training, "training_step", stopping)
    try:
        train(replace(CONFIG, epochs=50), *sets, tmp_path, "cpu", 2, False)
    except Stopped as error:  # a notebook, too, keeps the last error and with it the frames that it came through
        assert error.__traceback__ is not None and not multiprocessing.active_children()
    else:
        raise AssertionError("not stopped")


def test_a_run_goes_on_after_a_loss_that_was_not_finite(finished, sets, tmp_path, monkeypatch):
    step, count = training.training_step, 0

    def failing(*arguments):
        nonlocal count
        count += 1
        return step(*arguments) * (float("nan") if count == 4 else 1)

    monkeypatch.setattr(training, "training_step", failing)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 3 of run"):
        train(CONFIG, *sets, tmp_path / "run", "cpu", 0, False)
    monkeypatch.setattr(training, "training_step", step)
    kept = torch.load(tmp_path / "run" / "not_finite.pt", weights_only=True)
    assert len(kept["names"]) == 4
    again = go_on(sets, tmp_path / "run")
    assert {name: held for name, held in again.items() if name != "not_finite.pt"} == finished[0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_nothing_leaks_in_ten_epochs_with_four_workers(sets, tmp_path):
    def held():
        gc.collect()  # what earlier tests left to it
        return len(os.listdir("/dev/fd")), threading.active_count(), len(multiprocessing.active_children())

    train(replace(CONFIG, epochs=1), *sets, tmp_path / "first", "cpu", 4, False)  # what torch opens once and keeps
    before = held()
    train(replace(CONFIG, epochs=10), *sets, tmp_path / "ten", "cpu", 4, False)
    until = time.monotonic() + 5  # the threads of closed queues take a moment to end
    while held() != before and time.monotonic() < until:
        time.sleep(0.1)
    print(f"\nopen files, threads, children: {before} before, {held()} after")
    assert held() == before


def test_a_folder_whose_owner_was_killed_is_tidied(tmp_path):
    leftover, kept = tmp_path / "pictures" / ".001.jpg.4711", tmp_path / ".hidden"
    for path in (leftover, kept):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with only_process(tmp_path):
        assert not leftover.exists() and kept.exists()
    assert sorted(p.name for p in Path(tmp_path).iterdir()) == [".hidden", ".lock", "pictures"]
