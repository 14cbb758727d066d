"""Training images in order: augmented, batched, and the same for one seed however many processes make them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retinalib.augment import AugmentConfig, augment
from retinalib.datasets.table import BOX, FaceDataset
from retinalib.distributed import ALONE, Processes
from retinalib.faces import Faces
from retinalib.loss import Target


class AugmentedPhotos(Dataset):
    """Training crops of ``size`` × ``size`` pixels, addressed by (epoch, number): each draws from a generator of its own.

    ``photos[epoch, number]`` is (crop (size, size, 3) uint8, its :class:`retinalib.loss.Target`, the photo's name).
    """

    def __init__(self, source: FaceDataset, size: int, config: AugmentConfig, seed: int) -> None:
        table = source.table[["image", "landmarks", *BOX]]  # attributes would be carried along to no use
        self.source = FaceDataset(table, source.images_root, source.schema, source.complete, source.names)
        self.size, self.config, self.seed = size, config, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target, str]:
        epoch, number = key
        image, faces = self.source[number]
        rng = np.random.default_rng([self.seed, epoch, number])
        image, faces = augment(image, faces, self.size, rng, self.config)
        return torch.from_numpy(image), to_target(faces, image.shape[:2], self.source.complete), self.source.names[number]


def to_target(faces: Faces, size: tuple[int, int], complete: bool = True) -> Target:
    """Faces in the pixels of an image of ``size`` (height, width) as what the loss compares with."""
    pixels = np.array([size[1], size[0]], np.float32)
    arrays = (faces.boxes / np.tile(pixels, 2), faces.landmarks / pixels, faces.visible)
    return Target(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays), complete)


class Batches:
    """Batches of (epoch, number) from ``first_epoch`` to ``epochs``, each epoch in an order of its own; what does not fill a
    batch is left out of its epoch. With several processes, this one's part of each batch."""

    def __init__(
        self, images: int, batch_size: int, seed: int, epochs: int, first_epoch: int = 0, processes: Processes = ALONE
    ) -> None:
        self.images, self.batch_size, self.seed, self.epochs, self.first_epoch = images, batch_size, seed, epochs, first_epoch
        self.processes = processes

    @property
    def per_epoch(self) -> int:
        return max(1, self.images // self.batch_size)

    def __len__(self) -> int:
        return self.per_epoch * (self.epochs - self.first_epoch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.first_epoch, self.epochs):
            order = np.random.default_rng([self.seed, epoch]).permutation(self.images).tolist()
            for start in range(0, self.per_epoch * self.batch_size, self.batch_size):
                batch = [(epoch, number) for number in order[start : start + self.batch_size]]
                yield self.processes.part(batch)


def collate(items: list[tuple[Tensor, Target, str]]) -> tuple[Tensor, list[Target], list[str]]:
    """Crops, targets and names of a batch: (B, 3, H, W) uint8, and lists."""
    images, targets, names = zip(*items, strict=True)
    return torch.stack(images).permute(0, 3, 1, 2), list(targets), list(names)


def _start_worker(_: int) -> None:
    """One thread for each process that makes crops."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _as_arrays(items: list[tuple[Tensor, Target, str]]) -> tuple:
    """A batch as a worker sends it: an array travels as its bytes, a tensor as a file to be asked for, which costs 0.5 ms."""
    images, targets, names = collate(items)
    return images, [(*(part.numpy() for part in target[:3]), target.complete) for target in targets], names


def _as_tensors(batch: tuple) -> tuple[Tensor, list[Target], list[str]]:
    images, targets, names = batch
    return images, [Target(*map(torch.from_numpy, target[:3]), target[3]) for target in targets], names


@contextmanager
def reading(
    photos: AugmentedPhotos, batches: Batches, workers: int, pin_memory: bool = False
) -> Iterator[Iterator[tuple[Tensor, list[Target], list[str]]]]:
    """The batches as :func:`collate` gives them, made by ``workers`` processes, or by this one if there are none.

    The processes end with the block, also where an error's traceback, which a notebook keeps, holds on to them; where one of
    them dies, which torch may report at any moment of the block, ChildProcessError says what to do.
    """
    loader = DataLoader(
        photos,
        batch_sampler=batches,
        collate_fn=_as_arrays,
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
    )
    try:
        stream = iter(loader)
        try:
            yield map(_as_tensors, stream)
        finally:
            if workers:
                stream._shutdown_workers()  # torch itself waits until nothing refers to the stream any more
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ChildProcessError(
            f"a process that makes crops died ({str(error).strip()}); start again to go on after the last finished epoch, "
            "with fewer workers if memory ran out"
        ) from error
