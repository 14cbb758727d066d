"""What a GPU does: images a second in training, at the profile ``full``, and in detection; ``python -m benchmarks --gpu``."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pandas as pd
import torch

from retinalib import rendered
from retinalib.batches import AugmentedPhotos, batch_keys, reading
from retinalib.config import PROFILES
from retinalib.detect import load_detector
from retinalib.model import RetinaFace
from retinalib.train import Training

UNCOUNTED = 3  # first calls, in which kernels are chosen
WFLW_PHOTOS = 5130  # that training takes of WFLW's list, validation left out


def per_second(call: Callable[[], object], images: int, repeats: int, device: torch.device) -> float:
    """Images a second of a call that handles ``images``, the device's work waited for."""
    for number in range(UNCOUNTED + repeats):
        if number == UNCOUNTED:
            _wait(device)
            begin = time.perf_counter()
        call()
    _wait(device)
    return images * repeats / (time.perf_counter() - begin)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(folder: Path, device: torch.device, quick: bool) -> tuple[pd.DataFrame, str]:
    """A row for each way (columns part, images_per_second), and how long a run takes on WFLW. quick: small, as on a CPU."""
    profile, size, repeats = PROFILES["quick" if quick else "full"], 128 if quick else 1024, 2 if quick else 30
    faces = rendered.load(rendered.make(folder / "faces", 10 if quick else 60, size=size, progress=False), "train")
    rows, base = [], profile.train_config()
    workers, batch = min(8, os.cpu_count() or 1), base.batch_size
    photos = AugmentedPhotos(faces, base.image_size, base.augment, 0)
    for precision in ("float32", "bfloat16"):
        keys = batch_keys(len(faces), batch, 0, 2 + UNCOUNTED + repeats)  # a batch an epoch or more
        learns = Training(RetinaFace(base.model).train(), replace(base, precision=precision), device)
        with reading(photos, keys, workers, pin_memory=device.type == "cuda") as stream:
            few = cycle([next(stream)[:2] for _ in range(2)])
            for part, batches in (("batches at hand", few), (f"from JPEG files of {size} px, {workers} workers", stream)):
                step = lambda batches=batches, learns=learns: learns.step(*next(batches)[:2], 1, 20)  # noqa: E731
                speed = per_second(step, batch, repeats, device)
                rows.append((f"training, {precision}, crops of {base.image_size} px, {part}", speed))
    speed = rows[-1][1]
    hours = WFLW_PHOTOS * base.epochs / speed / 3600
    said = f"A run of {base.epochs} epochs on {WFLW_PHOTOS:,} photos at {speed:.0f} a second takes {hours:.1f} hours"
    images = [faces[number][0][:640, :640] for number in range(4)]
    detector = load_detector(device=device)
    for bfloat16 in (False, True):
        name = "detection, photos98" + ", bfloat16" * bfloat16
        for part, call, count in (
            ("one photo", lambda: detector.detect(images[0]), 1),
            ("four photos", lambda: detector.detect(images), 4),
        ):
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                rows.append((f"{name}, {part} of {images[0].shape[0]} px", per_second(call, count, repeats, device)))
    return pd.DataFrame(rows, columns=["part", "images_per_second"]), said
