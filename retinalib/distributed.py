"""One batch over several processes, as ``torchrun --nproc-per-node=N -m retinalib.train …`` starts them.

Each takes its part of every batch. So that the parts teach what the whole would, batch norms take the statistics of all
parts, the loss divides by what all parts have, the eye head's draws are cut from those for all, and gradients are averaged.
Sums are then made in another order: results agree with those of one process up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """The processes that share a batch, seen from one of them; by default there is but this one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Processes:
        """Those of torch's process group, or this one alone where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def part(self, batch: list[Value]) -> list[Value]:
        """This process' part of a batch: the parts follow each other and differ by one item at most."""
        return batch[len(batch) * self.rank // self.count : len(batch) * (self.rank + 1) // self.count]

    def numbers(self, own: int) -> list[int]:
        """The number that each process has of something."""
        if self.count == 1:
            return [own]
        numbers = torch.zeros(self.count, dtype=torch.int64)
        numbers[self.rank] = own
        dist.all_reduce(numbers)
        return numbers.tolist()

    def divisor(self, own: int) -> float:
        """What this part's sum is to be divided by, for the mean over processes to be the sum of all over the number of all
        (1, if that is 0)."""
        return max(sum(self.numbers(own)), 1) / self.count

    def normal(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """(rows, columns) standard normal draws: this process' rows of those that one process would draw for all."""
        numbers = self.numbers(rows)
        first = sum(numbers[: self.rank])
        return torch.randn(sum(numbers), columns, generator=generator)[first : first + rows]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes, without gradient."""
        values = values.detach()
        if self.count > 1:
            dist.all_reduce(values)
        return values / self.count

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Makes each gradient its mean over processes; one that no process has stays None.

        In one piece after the backward pass: which parameters are used differs from batch to batch and process to process, and
        batch norms talk during it, so that torch's DistributedDataParallel would have to wait, too.
        """
        if self.count == 1:
            return
        parameters = list(parameters)
        used = [p.grad is not None for p in parameters]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameters[0].new_tensor(used), *(p.grad.flatten() for p in parameters)])
        dist.all_reduce(flat)
        used, means = flat[: len(used)].tolist(), flat[len(used) :] / self.count
        for parameter, processes, mean in zip(parameters, used, means.split([p.numel() for p in parameters]), strict=True):
            if processes:
                parameter.grad.copy_(mean.view(parameter.shape))
            else:
                parameter.grad = None

    def gather(self, value: Value) -> list[Value]:
        """The value of each process, in all of them."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def first(self, make: Callable[[], Value]) -> Value:
        """What the first process makes, in all of them; what it raises is raised in all."""
        result = error = None
        if self.rank == 0:
            try:
                result = make()
            except Exception as raised:
                error = raised
        if self.count > 1:
            both = [result, error]
            dist.broadcast_object_list(both)
            result, error = both
        if error is not None:
            raise error
        return result


ALONE = Processes()


@contextmanager
def process_group(device: str | None = None) -> Iterator[None]:
    """Joins the processes that torchrun started, with gloo between processors and NCCL between GPUs, one for each process.

    device: by default GPUs if there are any. Does nothing in a process that torchrun did not start.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    gpus = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def share_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Lets the batch norms of ``model`` take the statistics of all processes' parts of a batch."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = _SharedBatchNorm


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class _SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes; torch's own does that on GPUs only."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return super().forward(values)
        mean = self.running_mean.clone()  # the same everywhere and near the mean: sums of squares about it lose nothing
        centred = values.float() - mean[:, None, None]
        number = centred.new_full((1,), centred.numel() / centred.shape[1])
        sums = _Sum.apply(torch.cat([centred.sum((0, 2, 3)), centred.square().sum((0, 2, 3)), number]))
        shift, square = (sums[:-1] / sums[-1]).chunk(2)
        variance = square - shift.square()
        with torch.no_grad():
            self.running_mean.lerp_(mean + shift, self.momentum)
            self.running_var.lerp_(variance * sums[-1] / (sums[-1] - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        result = (centred - shift[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return result.to(values.dtype)
