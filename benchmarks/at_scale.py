"""What WFLW's size costs: opening it, crops of its photos, and training steps; ``python -m benchmarks.at_scale data/wflw``."""

import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from retinalib.batches import AugmentedPhotos, batch_keys, reading
from retinalib.config import PROFILES
from retinalib.datasets.table import FaceDataset
from retinalib.model import RetinaFace, pick_device
from retinalib.train import Training
from retinalib.workspace import open_dataset

PASSES = 3


def memory(process: str | int = "self", what: str = "VmRSS") -> float:
    """MB that a process holds now, or at most so far ("VmHWM"); Linux only."""
    return int(Path(f"/proc/{process}/status").read_text().split(f"{what}:")[1].split()[0]) / 1024


def crops(photos: FaceDataset, workers: int, profile: str) -> tuple[float, list[list[float]]]:
    """Crops a second, and the memory of each worker (MB) after each of ``PASSES`` passes over the photos."""
    config = PROFILES[profile].train_config()
    source = AugmentedPhotos(photos, config.image_size, config.augment, 0)
    steps, held = len(photos) // config.batch_size, []
    with reading(source, batch_keys(len(photos), config.batch_size, 0, PASSES), workers) as stream:
        next(stream)
        begin = time.perf_counter()
        for number, _ in enumerate(stream, 2):
            if number % steps == 0:
                held.append([memory(child.pid) for child in multiprocessing.active_children()])
    return (PASSES * steps - 1) * config.batch_size / (time.perf_counter() - begin), held


def steps(photos: FaceDataset, profile: str, count: int) -> tuple[float, float]:
    """Seconds a training step from JPEG files on, and the processor's seconds in it but for the crops; of ``count`` steps after
    the first."""
    config, device = PROFILES[profile].train_config(), pick_device()
    learns = Training(RetinaFace(config.model).train(), replace(config, epochs=1), device)
    source = AugmentedPhotos(photos, config.image_size, config.augment, 0)
    with reading(source, batch_keys(len(photos), config.batch_size, 0, 1), 1, device.type == "cuda") as stream:
        for number in range(count + 1):
            learns.step(*next(stream)[:2], number, 100)
            if number == 0:
                begin = np.array([time.perf_counter(), time.process_time()])
    return tuple((np.array([time.perf_counter(), time.process_time()]) - begin) / count)


@click.command()
@click.argument("root", type=click.Path(path_type=Path, exists=True))
@click.option("--photos", default=1280, help="So many are cropped, in three passes.")
@click.option("--step-count", default=20, help="Training steps of each profile that are timed.")
def main(root: Path, photos: int, step_count: int) -> None:
    """Time and memory of opening WFLW in ROOT, of crops by 1, 2 and 4 workers, and of training steps."""
    for turn in ("first", "again"):
        before, begin = memory(), time.perf_counter()
        dataset = open_dataset("wflw", root, "full", 0, "train")
        taken = time.perf_counter() - begin
        click.echo(f"opened {turn}: {taken:.1f} s, {len(dataset)} photos, {memory() - before:.0f} MB more", nl=True)
    some = dataset.subset(dataset.names[:photos])
    for workers in (1, 2, 4):
        speed, held = crops(some, workers, "full")
        passes = "; ".join(", ".join(f"{mb:.0f}" for mb in one) for one in held)
        click.echo(f"crops of 320 px, {workers} workers: {speed:.0f} a second; MB of each worker after each pass: {passes}")
    for profile in ("standard", "full"):
        (taken, computed), config = steps(dataset, profile, step_count), PROFILES[profile].train_config()
        epoch = len(dataset) // config.batch_size
        run = epoch * config.epochs * taken / 3600
        said = f"{taken:.2f} s a step, {computed:.2f} s of a processor, {torch.get_num_threads()} threads, mean of {step_count}"
        said += f"; {epoch} × {config.epochs} steps = {run:.1f} hours a run"
        click.echo(f"{profile}: {said}; peak memory so far {memory(what='VmHWM'):.0f} MB")


if __name__ == "__main__":
    main()
