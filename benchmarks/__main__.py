"""What things cost: ``python -m benchmarks --json FILE`` times this library beside the straightforward ways of
:mod:`benchmarks.plain`, and the network beside onnxruntime.

The sides take turns in one process, and their medians are compared. First runs, in which memory is asked for, are not counted.
"""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import click
import cv2
import numpy as np
import onnxruntime
import pandas as pd
import torch
from torch import Tensor

from benchmarks import gpu
from benchmarks.plain import plain_anchors, plain_augment, plain_detect, plain_loss, plain_step
from retinalib import rendered
from retinalib.anchors import anchor_grid
from retinalib.augment import augment
from retinalib.batches import AugmentedPhotos, batch_keys, reading, to_target
from retinalib.config import TrainConfig
from retinalib.detect import decode, for_inference, load_detector
from retinalib.evaluate import detection_ap, evaluate_faces
from retinalib.export import export
from retinalib.files import write_text
from retinalib.landmarks import Eye, LandmarkSchema
from retinalib.loss import Target, multi_task_loss
from retinalib.model import ModelConfig, Outputs, RetinaFace, native_bfloat16
from retinalib.train import Training

UNCOUNTED = 2  # first turns at each thing
REST = 0.02  # seconds between turns, in which the threads of the side before stop waiting for more
LARGER = 1.6  # photos' sides over the crops': 1,024 pixels for crops of 640


class Material:
    """What the sides are given: photos of ``size`` pixels, ``batch`` of them, and a network. folder: an empty one."""

    def __init__(self, size: int, batch: int, repeats: int, folder: Path) -> None:
        self.size, self.batch, self.repeats, self.folder = size, batch, repeats, folder
        self.detector = load_detector("rendered98", "cpu")
        self.model = self.detector.model
        self.config = TrainConfig(image_size=size)
        self.anchors = anchor_grid(size, size)
        root = rendered.make(folder / "faces", batch + 2, size=round(LARGER * size), progress=False)
        self.photos = rendered.load(root, "train")
        self.read = [self.photos[number] for number in range(len(self.photos))]
        drawn = [(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), faces) for image, faces in self.read]
        self.drawn = [(image, faces.transformed((1 / LARGER,) * 2)) for image, faces in drawn]
        self.targets = [to_target(faces, (size, size)) for _, faces in self.drawn]
        self.images = torch.from_numpy(np.stack([image for image, _ in self.drawn])).permute(0, 3, 1, 2)
        self.rows: list[dict] = []

    def take_turns(self, group: str, part: str, **sides: Callable[[], object]) -> None:
        """Adds a row: the median milliseconds of each side, of calls after one of the same side, which warms the caches."""
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(UNCOUNTED + self.repeats):
            for side, call in sides.items():
                time.sleep(REST)
                call()
                begin = time.perf_counter()
                call()
                times[side].append(1e3 * (time.perf_counter() - begin))
        medians = {side: float(np.median(taken[UNCOUNTED:])) for side, taken in times.items()}
        self.rows.append({"group": group, "part": part, **medians})


@torch.inference_mode()
def detection(material: Material) -> None:
    """One photo from an RGB array to its faces, and the stages of it."""
    detector, model, size, image = material.detector, material.model, material.size, material.drawn[0][0]
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    network, normalise = for_inference(model), model.config.normalisation.apply
    given = normalise(pixels).contiguous(memory_format=torch.channels_last)
    planar, outputs = normalise(pixels).contiguous(), network(given)
    turns = material.take_turns
    turns("detection", "all", ours=lambda: detector.detect(image, pyramid=False), plain=lambda: plain_detect(model, image))
    if native_bfloat16(detector.device):
        with torch.autocast("cpu", torch.bfloat16):
            turns("detection", "all, bfloat16", ours=lambda: detector.detect(image, pyramid=False))
    turns("detection", "network", ours=lambda: network(given), plain=lambda: model.dense(planar))
    turns("detection", "anchors", ours=lambda: anchor_grid(size, size), plain=lambda: plain_anchors(size, size))
    turns("detection", "decoding, NMS", ours=lambda: decode(network, outputs, (size, size)))
    export(model, material.folder / "network.onnx", "network")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # on cores that are the other side's then
    session = onnxruntime.InferenceSession(material.folder / "network.onnx", options, providers=["CPUExecutionProvider"])
    other = lambda: session.run(None, {"images": image[None]})  # noqa: E731
    for part, run in (("network as exported, dense", network.dense), ("what detection runs of it", network)):
        turns("onnxruntime", part, ours=lambda run=run: run(normalise(pixels)), onnxruntime=other)


def training(material: Material) -> None:
    """A batch's loss forward and backward, crops of it, and a whole step without and with its data."""
    config, anchors, images, targets, size = material.config, material.anchors, material.images, material.targets, material.size
    torch.manual_seed(0)
    model, plain = (RetinaFace(ModelConfig()).train() for _ in range(2))
    model = model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        given, dense = (call(config.model.normalisation.apply(images)) for call in (model, plain.dense))
    logits, boxes, *features = (t.detach().requires_grad_() for t in (given.logits, given.boxes, *given.features))
    dense = [t.detach().requires_grad_() for t in dense]

    def loss() -> None:
        at = lambda i, a: model.landmarks_at(features, i, a)  # noqa: E731
        multi_task_loss(logits, boxes, at, targets, anchors).total.backward()

    def loss_plainly() -> None:
        plain_loss(*dense, targets, plain_anchors(size, size), config.loss).backward()

    material.take_turns("training", "loss, forward and backward", ours=loss, plain=loss_plainly)
    rng = np.random.default_rng(0)
    crops = lambda: [augment(*photo, size, rng, config.augment) for photo in material.read]  # noqa: E731
    plain_crops = lambda photos: [plain_augment(*photo, size, rng) for photo in photos]  # noqa: E731
    of_read = lambda: plain_crops(material.read)  # noqa: E731
    material.take_turns("training", "crops of a batch, one process", ours=crops, plain=of_read)
    plain_optimiser = torch.optim.AdamW(plain.parameters(), foreach=False)
    planar = images.contiguous()

    def step_plainly(images: Tensor = planar, targets: list[Target] = targets) -> None:
        plain_step(plain, plain_optimiser, images, targets, config.loss, config.clip_norm)

    def step_from_files_plainly() -> None:
        crops = plain_crops(material.photos[number] for number in range(len(material.photos)))
        images = torch.from_numpy(np.stack([image for image, _ in crops])).permute(0, 3, 1, 2).contiguous()
        step_plainly(images, [to_target(faces, (size, size)) for _, faces in crops])

    precisions = ("float32", "bfloat16") if native_bfloat16(anchors.device) else ("float32",)
    with batches(material, 2 * (UNCOUNTED + material.repeats) * len(precisions) + 2, workers=1) as stream:
        for precision in precisions:
            learns = Training(model, replace(config, precision=precision), anchors.device)
            step = partial(learns.step, step=1, steps=20)
            without, from_files = partial(step, images, targets), lambda step=step: step(*next(stream)[:2])
            name = "" if precision == "float32" else f", {precision}"
            material.take_turns("training", "step without data" + name, ours=without, plain=step_plainly)
            material.take_turns("training", "step from files on" + name, ours=from_files, plain=step_from_files_plainly)


def batches(material: Material, count: int, workers: int) -> AbstractContextManager[Iterator]:
    """``count`` batches of all photos, cropped from their JPEG files by ``workers`` processes."""
    photos = AugmentedPhotos(material.photos, material.size, material.config.augment, 0)
    return reading(photos, batch_keys(len(photos.source), len(photos.source), 0, count), workers)


def the_rest(material: Material) -> None:
    """Crops an epoch from JPEG files by two processes (milliseconds a crop); evaluation of a batch; rendering a picture."""
    with batches(material, 2 + 2 * material.repeats, workers=2) as stream:
        next(stream)
        begin = time.perf_counter()
        count = sum(len(images) for images, _, _ in stream)
        taken = 1e3 * (time.perf_counter() - begin)
    material.rows.append({"group": "data", "part": "a crop, 2 workers", "ours": taken / count})
    truth, found = (
        [faces for _, faces in material.drawn],
        material.detector.detect([image for image, _ in material.drawn], pyramid=False),
    )
    material.take_turns("evaluation", "errors of a batch", ours=lambda: evaluate_faces(found, truth))
    material.take_turns("evaluation", "AP of a batch", ours=lambda: detection_ap(found, truth))
    material.take_turns("rendering", "a picture", ours=lambda: rendered.draw_picture(0, 0, material.size, (0, 9)))


@torch.inference_mode()
def cost_of_landmarks(points: Sequence[int], faces: Sequence[int], size: int, repeats: int) -> pd.DataFrame:
    """Detection without a second look, by numbers of landmarks and of faces: columns points, faces, milliseconds (median).

    The networks are untrained; ``faces`` anchors far enough from each other are made to pass for faces.
    """
    spread = torch.arange(0, size // 8, 4)  # a small anchor in every fourth cell of the finest level
    spots = (2 * (spread[:, None] * (size // 8) + spread)).flatten()
    networks = {}
    for count in points:
        eyes = dict.fromkeys(("right_eye", "left_eye"), Eye(0))
        schema = LandmarkSchema(f"any{count}", count, {"all": tuple(range(count))}, tuple(range(count)), **eyes)
        networks[count] = for_inference(RetinaFace(ModelConfig(schema=schema)))
    image = torch.zeros(1, 3, size, size).contiguous(memory_format=torch.channels_last)
    times: dict[tuple[int, int], list[float]] = {key: [] for key in product(points, faces)}
    for _ in range(UNCOUNTED + repeats):
        for (count, many), taken in times.items():
            begin = time.perf_counter()
            outputs = networks[count](image)
            logits = torch.zeros_like(outputs.logits)
            logits[..., 0] = 9.0
            logits[0, spots[:many], 1] = 18.0
            made = Outputs(logits, torch.zeros_like(outputs.boxes), outputs.features)
            found = decode(networks[count], made, (size, size))
            taken.append(1e3 * (time.perf_counter() - begin))
            assert len(found[0]) == many, f"{size} pixels hold no {many} faces apart from each other"
    rows = [(*key, float(np.median(taken[UNCOUNTED:]))) for key, taken in times.items()]
    return pd.DataFrame(rows, columns=["points", "faces", "milliseconds"])


def peak_memory(kind: str, size: int, batch: int) -> float:
    """MB that a process of its own holds at most for one training step, torch and all; kind: "ours" or "plain".

    NaN outside of Linux, where it can't be told."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_one_step, kind, size, batch).result()


def _one_step(kind: str, size: int, batch: int) -> float:
    torch.manual_seed(0)
    config = TrainConfig(image_size=size)
    model = RetinaFace(config.model).train()
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    box = torch.tensor([[0.2, 0.2, 0.4, 0.5]])
    targets = [Target(box, torch.rand(1, 98, 2), torch.ones(1, 98, dtype=torch.bool))] * batch
    if kind == "ours":
        Training(model, config, torch.device("cpu")).step(images, targets, step=1, steps=20)
    else:
        plain_step(model, torch.optim.AdamW(model.parameters(), foreach=False), images, targets, config.loss, config.clip_norm)
    status = Path("/proc/self/status")  # Linux's; getrusage would count what the parent process held
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024 if status.is_file() else float("nan")


def hardware() -> dict:
    """What the numbers belong to: processor, cores, threads, versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy", "opencv-python-headless")}
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # processes that wanted to run, one's own among them
        "python": platform.python_version(),
        **versions,
    }


@click.command()
@click.option("--json", "file", type=click.Path(path_type=Path), help="File for the numbers, with hardware and versions.")
@click.option("--quick", is_flag=True, help="Small pictures, few repeats: whether it runs, not how fast.")
@click.option("--gpu", "on_gpu", is_flag=True, help="Images a second in training and detection on a GPU, and nothing else.")
@click.option("--device", default="cuda", show_default=True, help="For --gpu; cpu: a dry run, small.")
def main(file: Path | None, quick: bool, on_gpu: bool, device: str) -> None:
    """Time detection, training, data, evaluation and rendering on the CPU, beside plain ways of them."""
    if on_gpu:
        _measure_gpu(torch.device(device), file)
        return
    size, repeats, batch = (128, 1, 2) if quick else (640, 9, 8)
    about = hardware()
    with tempfile.TemporaryDirectory() as folder:
        material = Material(size, batch, repeats, Path(folder))
        for part in (detection, training, the_rest):
            part(material)
    memory = {kind: peak_memory(kind, size, batch) for kind in ("ours", "plain")}
    costs = cost_of_landmarks((5, 98, 500), (1, 10) if quick else (1, 10, 100), size, repeats)
    click.echo(json.dumps(about))
    table = pd.DataFrame(material.rows)
    table["ratio"] = table["plain"].fillna(table["onnxruntime"]) / table["ours"]
    click.echo(table.to_markdown(index=False, floatfmt=".2f"))
    click.echo("\nPeak memory of a training step, MB: " + ", ".join(f"{kind} {mb:.0f}" for kind, mb in memory.items()) + "\n")
    click.echo(costs.pivot(index="points", columns="faces", values="milliseconds").to_markdown(floatfmt=".1f"))
    if file:
        report = {"about": about, "size": size, "batch": batch, "memory_mb": memory, "milliseconds": material.rows}
        write_text(file, json.dumps({**report, "cost": costs.to_dict("records")}, indent=1))


def _measure_gpu(device: torch.device, file: Path | None) -> None:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("there is no GPU here: --gpu --device cpu tries the script without one")
    about = hardware() | {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        table, said = gpu.measure(Path(folder), device, quick=device.type == "cpu")
    click.echo(f"{json.dumps(about)}\n{table.to_markdown(index=False, floatfmt='.1f')}\n\n{said}")
    if file:
        write_text(file, json.dumps({"about": about, "measured": table.to_dict("records"), "said": said}, indent=1))


if __name__ == "__main__":
    main()
