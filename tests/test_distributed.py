"""Several processes that share a batch, here with gloo on processors, against one; nothing here needs or measures a GPU."""

import os
import subprocess
import sys
import time
import traceback
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import nn

import retinalib.train as training
from retinalib.anchors import anchor_grid
from retinalib.batches import AugmentedPhotos, Batches, collate
from retinalib.config import TrainConfig
from retinalib.distributed import ALONE, Processes, share_batch_norms
from retinalib.loss import LossConfig, Target
from retinalib.model import RetinaFace
from retinalib.runs import Stopped, request_stop
from retinalib.train import train
from retinalib.workspace import PROJECT
from tests.pictures import rendered_faces

CONFIG = TrainConfig(image_size=96, epochs=3, batch_size=5, validate_every=2, loss=LossConfig(pupil_weight=5.0))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return rendered_faces(tmp_path_factory, 40, seed=1, size=128)


@pytest.fixture(scope="module")
def alone(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "alone"
    begin = time.monotonic()
    history = train(CONFIG, *sets, folder, "cpu", 0, False)
    return folder, history, time.monotonic() - begin


def together(count, folder, function, *arguments):
    """What a function returns in each of ``count`` processes that form a group."""
    folder.mkdir(parents=True, exist_ok=True)
    children = []
    for rank in range(count):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=count)
                torch.save(function(*arguments), folder / f"{rank}.pt")
                dist.barrier()  # one that ends at once would leave the others while they still connect
                dist.destroy_process_group()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * count
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def one_step(train_set, smooth):
    """The parts of the loss, gradients and state of one step on the first batch."""
    processes = Processes.here()
    config = replace(CONFIG, clip_norm=1e9, model=replace(CONFIG.model, eye_head=True))
    if smooth:
        config = replace(config, loss=replace(config.loss, negatives_per_positive=1_000_000))  # all of them
    torch.manual_seed(0)
    model = RetinaFace(config.model)
    for module in [m for m in model.modules() if smooth]:
        for name, kind in module.named_children():
            if isinstance(kind, (nn.ReLU, nn.LeakyReLU)):
                setattr(module, name, nn.Softplus())
    if processes.count > 1:
        share_batch_norms(model, torch.device("cpu"))
    photos = AugmentedPhotos(train_set, config.image_size, config.augment, 0)
    images, targets, _ = collate([photos[key] for key in next(iter(Batches(len(train_set), 5, 0, 1, 0, processes)))])
    if processes.rank == 0:  # the first photo without faces: of three processes, the first has nothing else
        targets[0] = Target(*(values[:0] for values in targets[0][:3]))
    assert processes.count < 3 or processes.rank > 0 or len(targets) == 1
    anchors = anchor_grid(config.image_size, config.image_size, config.model.anchors)
    nothing = torch.optim.SGD(model.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(3)
    values = training.training_step(model, nothing, images, targets, anchors, config, generator, processes)
    return values, {name: p.grad for name, p in model.named_parameters()}, model.state_dict()


def distance(a, b):
    """Of two gradients, relative to the first."""
    assert [n for n in a if a[n] is None] == [n for n in b if b[n] is None]
    names = [n for n in a if a[n] is not None]
    return float(torch.stack([(a[n] - b[n]).norm() for n in names]).norm() / torch.stack([a[n].norm() for n in names]).norm())


@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_unequal_size_give_the_gradient_of_the_whole(sets, tmp_path, count):
    """Loss, running statistics and gradient, with eye head, five images for two or three processes.

    With a smooth activation in place of ReLU: at its kink a last bit decides, and lies there wherever a picture is plain,
    so that even one process gives gradients some per cent apart for the same images in another order. And with all negatives,
    since a last bit also decides which of two equally hard ones is kept.
    """
    values, gradient, state = one_step(sets[0], smooth=True)
    for other_values, other_gradient, other_state in together(count, tmp_path, one_step, sets[0], True):
        torch.testing.assert_close(other_values, values, rtol=2e-5, atol=1e-6)
        assert distance(gradient, other_gradient) < 1e-3
        assert state.keys() == other_state.keys()
        for name, value in state.items():
            torch.testing.assert_close(other_state[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_all_processes_hold_the_same_gradient(sets, tmp_path):
    first, second = together(2, tmp_path, one_step, sets[0], False)
    assert torch.equal(first[0], second[0]) and distance(first[1], second[1]) == 0
    assert all(torch.equal(value, second[2][name]) for name, value in first[2].items())


def test_two_processes_train_to_the_loss_curve_of_one(alone, sets, tmp_path):
    """The total within 1 %, its parts within 20 %, in every epoch: what the order of sums comes to, see the gradient's test."""
    folder, history, duration = alone
    begin = time.monotonic()
    both = together(2, tmp_path, train, CONFIG, *sets, tmp_path / "run", "cpu", 0, False)
    images = CONFIG.epochs * CONFIG.batch_size * (len(sets[0]) // CONFIG.batch_size)
    taken = time.monotonic() - begin
    print(
        f"\nimages a second: {images / duration:.1f} in one process, {images / taken:.1f} in two (validation, start included)"
    )
    for rows in both:
        np.testing.assert_allclose(rows["total"], history["total"], rtol=0.01)
        parts = ["box", "classification", "landmark", "pupil"]
        np.testing.assert_allclose(rows[parts], history[parts], rtol=0.2)
        pd.testing.assert_frame_equal(rows, both[0])
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == sorted(p.name for p in folder.rglob("*"))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run" / "metrics.csv"), both[0])


def stopped_in_the_second_epoch(sets, folder):
    step, count = training.training_step, 0

    def counted(*arguments):
        nonlocal count
        count += 1
        if count == 7 and Processes.here().rank == 0:
            request_stop(folder)
        return step(*arguments)

    training.training_step = counted
    try:
        train(CONFIG, *sets, folder, "cpu", 0, False)
    except Stopped as error:
        return str(error)


def test_a_run_goes_on_with_another_number_of_processes(alone, sets, tmp_path):
    """Two are asked to stop and stop together; three go on, and a finished run is read by any number."""
    said = together(2, tmp_path / "two", stopped_in_the_second_epoch, sets, tmp_path / "run")
    assert said == ["run keeps 1 of 3 epochs; start it again to go on"] * 2
    together(3, tmp_path / "three", train, CONFIG, *sets, tmp_path / "run", "cpu", 0, False)
    history = train(CONFIG, *sets, tmp_path / "run", "cpu", 0, False)
    np.testing.assert_allclose(history["total"], alone[1]["total"], rtol=0.01)


def a_loss_that_is_not_finite(sets, folder):
    try:
        train(replace(CONFIG, learning_rate=1e30, clip_norm=1e30, warmup=0.0), *sets, folder, "cpu", 0, False)
    except FloatingPointError as error:
        return str(error)


def test_a_loss_that_is_not_finite_stops_all_and_names_the_whole_batch(sets, tmp_path):
    first, second = together(2, tmp_path, a_loss_that_is_not_finite, sets, tmp_path / "run")
    kept = torch.load(tmp_path / "run" / "not_finite.pt", weights_only=True)
    assert first == second and all(name in first for name in kept["names"])
    assert len(kept["names"]) == len(kept["images"]) == 5


def refused(sets, folder, config):
    with pytest.raises(ValueError) as error:
        train(config, *sets, folder, "cpu", 0, False)
    return str(error.value)


def test_what_one_process_refuses_all_refuse(alone, sets, tmp_path):
    said = together(2, tmp_path / "a", refused, sets, alone[0], replace(CONFIG, seed=1))
    assert all("another configuration" in sentence for sentence in said)
    said = together(2, tmp_path / "b", refused, sets, alone[0], replace(CONFIG, batch_size=1))
    assert said == ["2 processes can't share a batch of 1: start fewer"] * 2


def test_one_process_is_a_group_of_one():
    assert Processes.here() == ALONE and ALONE.part([1, 2]) == [1, 2] and ALONE.divisor(0) == 1 and ALONE.gather(3) == [3]
    with pytest.raises(ZeroDivisionError):
        ALONE.first(lambda: 1 / 0)
    parts = [Processes(rank, 3).part(list(range(8))) for rank in range(3)]
    assert sum(parts, []) == list(range(8)) and {len(part) for part in parts} == {2, 3}  # noqa: RUF017 (three lists)


def test_torchrun(tmp_path):
    """The command of the README, to one epoch of the quick profile; on a machine, too, whose name no server knows."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    command += ["-m", "retinalib.train"]
    command += [str(tmp_path / "run"), "--profile", "quick", "--epochs", "1", "--device", "cpu", "--workers", "0"]
    command += ["--data-root", str(tmp_path / "faces")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "run" / "metrics.csv")) == 1 and (tmp_path / "run" / "best.pt").is_file()
    assert done.stdout.count("learning_rate") == 1  # the first process alone reports
