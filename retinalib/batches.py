"""Training images in order: augmented, batched, and the same for one seed however many processes make them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retinalib.augment import AugmentConfig, augment
from retinalib.datasets.table import FaceDataset
from retinalib.faces import Faces
from retinalib.landmarks import LandmarkSchema
from retinalib.loss import Target

Batch = tuple[Tensor, list[Target], list[str]]  # (B, 3, H, W) uint8 crops, their targets, the photos' names


def five_point_flip(count: int) -> LandmarkSchema:
    """A fault of the predecessor: however many the landmarks, a mirrored face exchanges 0↔1 and 3↔4 only."""
    return LandmarkSchema("five-point-flip", count, {"all": tuple(range(count))}, (1, 0, 2, 4, 3, *range(5, count)))


class AugmentedPhotos(Dataset):
    """``photos[epoch, number]``: (crop (size, size, 3) uint8, its ``Target``, the photo's name), each drawn by its own seed."""

    def __init__(self, source: FaceDataset, size: int, config: AugmentConfig, seed: int, fault: str | None = None) -> None:
        self.source, self.size, self.config, self.seed, self.fault = source, size, config, seed, fault

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target, str]:
        epoch, number = key
        image, faces = self.source[number]
        schema = five_point_flip(faces.schema.count) if self.fault == "five-point-flip" else faces.schema
        faces = Faces(faces.boxes, faces.landmarks, faces.visible, schema=schema)  # attributes would be carried to no use
        if self.fault == "clamped-crops":
            faces.landmarks[~faces.visible] = np.nan
        rng = np.random.default_rng([self.seed, epoch, number])
        image, faces = augment(image, faces, self.size, rng, self.config)
        if self.fault == "clamped-crops":  # landmarks outside the crop are moved to its border and learned there
            faces = Faces(faces.boxes, faces.landmarks.clip(0, self.size), schema=faces.schema)
        return torch.from_numpy(image), to_target(faces, image.shape[:2], self.source.complete), self.source.names[number]


def to_target(faces: Faces, size: tuple[int, int], complete: bool = True) -> Target:
    """Faces in the pixels of an image of ``size`` (height, width) as what the loss compares with."""
    pixels = np.array([size[1], size[0]], np.float32)
    arrays = (faces.boxes / np.tile(pixels, 2), faces.landmarks / pixels, faces.visible)
    return Target(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays), complete)


def batch_keys(
    images: int, batch_size: int, seed: int, epochs: int, first_epoch: int = 0, part: tuple[int, int] = (0, 1)
) -> Iterator[list[tuple[int, int]]]:
    """Batches of (epoch, number), each epoch in its own order, but what fills no batch; part (n, of): the n-th part of each."""
    for epoch in range(first_epoch, epochs):
        order = np.random.default_rng([seed, epoch]).permutation(images).tolist()
        for start in range(0, images - batch_size + 1, batch_size):
            batch = [(epoch, number) for number in order[start : start + batch_size]]
            yield batch[part[0] :: part[1]]


def one_thread(_: int = 0) -> None:
    """Lets a process of several compute with one thread."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _collate(items: list[tuple[Tensor, Target, str]]) -> tuple:
    """A batch as a worker sends it: an array travels as its bytes, a tensor as a file to be asked for, which costs 0.5 ms."""
    images, targets, names = zip(*items, strict=True)
    arrays = [(*(part.numpy() for part in target[:3]), target.complete) for target in targets]
    return torch.stack(images).permute(0, 3, 1, 2), arrays, list(names)


def _stream(loader: DataLoader) -> Iterator[Batch]:
    """What a loader gives. An error comes out without the loader's frames: whoever kept it would keep the processes."""
    try:
        for images, targets, names in loader:
            yield images, [Target(*map(torch.from_numpy, target[:3]), target[3]) for target in targets], names
        return
    except BaseException as raised:
        error = raised.with_traceback(None)
        error.__cause__ = error.__context__ = None
    raise error


@contextmanager
def reading(
    photos: AugmentedPhotos, batches: Iterable[list[tuple[int, int]]], workers: int, pin_memory: bool = False
) -> Iterator[Iterator[Batch]]:
    """The batches of :func:`batch_keys` in order, made by ``workers`` processes, which end with the block, or by this one if
    there are none. Raises ChildProcessError where one ends early, at any moment of the block."""
    processes = {"num_workers": workers, "worker_init_fn": one_thread}
    stream = _stream(DataLoader(photos, batch_sampler=batches, collate_fn=_collate, pin_memory=pin_memory, **processes))
    try:
        yield stream
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        said = "mend that, then start again to go on after the last epoch, with fewer workers if memory ran out"
        died = f"a process that makes crops died ({str(error).strip()}); what it said stands above"
        raise ChildProcessError(f"{died}: {said}") from None
    finally:
        stream.close()
