"""What things cost: ``python -m benchmarks.__main__ --json FILE`` times this library beside the plain ways of
:mod:`benchmarks.plain`, and the network beside onnxruntime.

The others run in a process of their own, as they would be run: what this library sets in its process does not help them. Both
sides take turns, and the medians are compared. First runs, in which memory is asked for, are not counted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import cached_property, partial
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.plain import plain_anchors, plain_augment, plain_detect, plain_loss, plain_step
from retinalib import rendered
from retinalib.anchors import anchor_grid
from retinalib.augment import augment
from retinalib.batches import AugmentedPhotos, Batches, reading, to_target
from retinalib.config import TrainConfig
from retinalib.detect import Detector, decode, for_inference, load_detector
from retinalib.distributed import ALONE
from retinalib.evaluate import detection_ap, evaluate_faces
from retinalib.export import export
from retinalib.files import end_with_parent, write_text
from retinalib.landmarks import Eye, LandmarkSchema
from retinalib.loss import Target, multi_task_loss
from retinalib.memory import keep_freed_memory
from retinalib.model import ModelConfig, Outputs, RetinaFace
from retinalib.precision import native_bfloat16
from retinalib.train import for_training, make_optimiser, training_step

_UNCOUNTED = 2  # first turns at each thing
_REST = 0.02  # seconds between turns, in which the threads of the side before stop waiting for more


class Material:
    """What both sides are given: photos of ``size`` pixels and a network, the same in every process that asks for them."""

    def __init__(self, size: int, batch: int, folder: Path) -> None:
        self.size, self.batch = size, batch
        self.detector = load_detector("rendered98", "cpu")
        self.model = self.detector.model
        self.config = TrainConfig(image_size=size)
        self.anchors = anchor_grid(size, size)
        root = rendered.make(folder, batch + 2, size=round(1.6 * size), progress=False)  # 1,024 for crops of 640
        self.photos = rendered.load(root, "train")
        self.read = [self.photos[number] for number in range(len(self.photos))]
        drawn = [(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), faces) for image, faces in self.read]
        self.drawn = [(image, faces.transformed((1 / 1.6,) * 2)) for image, faces in drawn]
        self.targets = [to_target(faces, (size, size)) for _, faces in self.drawn]
        self.images = torch.from_numpy(np.stack([image for image, _ in self.drawn])).permute(0, 3, 1, 2)


class Others:
    """The plain ways, and onnxruntime: each is called by its name, in a process of its own."""

    def __init__(self, material: Material, network_file: Path) -> None:
        self.material, self.network_file = material, network_file
        self.image = material.drawn[0][0]
        self.planar = torch.from_numpy(self.image).permute(2, 0, 1)[None].contiguous()
        self.images = material.images.contiguous()
        torch.manual_seed(0)
        self.network = RetinaFace(ModelConfig()).train()
        self.optimiser = torch.optim.AdamW(self.network.parameters(), foreach=False)
        self.rng = np.random.default_rng(0)

    def detect(self) -> None:
        plain_detect(self.material.model, self.image)

    def normalise(self) -> None:
        self.material.model.config.normalisation.apply(self.planar)

    @torch.no_grad()
    def dense_network(self) -> None:
        self.material.model.dense(self.material.model.config.normalisation.apply(self.planar))

    def anchors(self) -> None:
        plain_anchors(self.material.size, self.material.size, self.material.model.config.anchors)

    @cached_property
    def session(self) -> object:
        import onnxruntime  # the extra "export"

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # on cores that are the other side's then
        return onnxruntime.InferenceSession(str(self.network_file), options, providers=["CPUExecutionProvider"])

    def onnxruntime(self) -> None:
        self.session.run(None, {"images": self.image[None]})

    @cached_property
    def outputs(self) -> list[Tensor]:
        with torch.no_grad():
            given = self.network.dense(self.material.config.model.normalisation.apply(self.images))
        return [t.detach().requires_grad_() for t in given]

    def loss(self) -> None:
        size, config = self.material.size, self.material.config.loss
        plain_loss(*self.outputs, self.material.targets, plain_anchors(size, size), config).backward()

    def crops(self) -> None:
        for photo in self.material.read:
            plain_augment(*photo, self.material.size, self.rng)

    def step(self) -> None:
        self._step(self.images, self.material.targets)

    def step_from_files(self) -> None:
        size, photos = self.material.size, self.material.photos
        crops = [plain_augment(*photos[number], size, self.rng) for number in range(len(photos))]
        images = torch.from_numpy(np.stack([image for image, _ in crops])).permute(0, 3, 1, 2).contiguous()
        self._step(images, [to_target(faces, (size, size)) for _, faces in crops])

    def _step(self, images: Tensor, targets: list[Target]) -> None:
        config = self.material.config
        plain_step(self.network, self.optimiser, images, targets, config.loss, config.clip_norm)


def _serve(pipe: Connection, threads: int, clock: Callable[[], float], size: int, batch: int, folder: Path) -> None:
    """Runs what it is asked for by name, and answers with its milliseconds."""
    end_with_parent()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    others = Others(Material(size, batch, folder), folder / "network.onnx")
    while name := pipe.recv():
        pipe.send(_second(getattr(others, name), clock))


def _second(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Milliseconds of a call that follows another: caches and cores are no longer as the other side left them."""
    call()
    begin = clock()
    call()
    return 1e3 * (clock() - begin)


class Bench:
    """Times things on photos of ``size`` pixels, ``repeats`` times, by a clock; rows collects what it finds.

    folder: an empty one, for photos and the exported network. To be used as a context, which ends the other process.
    """

    def __init__(self, size: int, repeats: int, batch: int, clock: Callable[[], float], folder: Path) -> None:
        self.repeats, self.clock, self.folder = repeats, clock, folder
        self.rows: list[dict] = []
        keep_freed_memory()  # as training does
        self.material = Material(size, batch, folder)
        export(self.material.model, folder / "network.onnx", "network")

    def __enter__(self) -> Bench:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        arguments = (theirs, torch.get_num_threads(), self.clock, self.material.size, self.material.batch, self.folder)
        self.process = spawn.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends with the other process
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # it ended by itself
            self.pipe.send("")
        self.process.join()

    def _other(self, name: str) -> float:
        """Milliseconds of one of :class:`Others`. Raises ChildProcessError if the process ended."""
        try:
            self.pipe.send(name)
            return self.pipe.recv()
        except (EOFError, OSError) as error:
            raise ChildProcessError(f"the other process ended in '{name}': see its message above") from error

    def take_turns(self, group: str, part: str, ours: Callable, other: str = "") -> None:
        """Adds a row: the medians of ours and of the other side in milliseconds."""
        times: dict[str, list[float]] = {"ours": []} | ({"other": []} if other else {})
        for _ in range(_UNCOUNTED + self.repeats):
            time.sleep(_REST)
            times["ours"].append(_second(ours, self.clock))
            if other:
                time.sleep(_REST)
                times["other"].append(self._other(other))
        medians = {side: float(np.median(t[_UNCOUNTED:])) for side, t in times.items()}
        self.rows.append({"group": group, "part": part, **medians})

    def detection(self) -> None:
        """One photo from an RGB array to its faces, and the stages of it."""
        detector, size, image = self.material.detector, self.material.size, self.material.drawn[0][0]
        with torch.inference_mode():
            given, network = detector._input([image]), for_inference(self.material.model)
            outputs = network(given)
            self.take_turns("detection", "all", lambda: detector.detect(image), "detect")
            if native_bfloat16(detector.device):
                brief = Detector(self.material.model, "cpu", bfloat16=True)
                self.take_turns("detection", "all, bfloat16", lambda: brief.detect(image), "detect")
            self.take_turns("detection", "pixels to input", lambda: detector._input([image]), "normalise")
            self.take_turns("detection", "network", lambda: network(given), "dense_network")
            self.take_turns("detection", "anchors", lambda: anchor_grid(size, size), "anchors")
            self.take_turns("detection", "decoding, NMS, second look", lambda: decode(network, given, outputs))
            for part, run in (("network as exported, dense", network.dense), ("what detection runs of it", network)):
                self.take_turns("onnxruntime", part, lambda run=run: run(detector._input([image])), "onnxruntime")

    def training(self) -> None:
        """A batch's loss forward and backward, crops of it, and a whole step without and with its data."""
        material, config, anchors = self.material, self.material.config, self.material.anchors
        torch.manual_seed(0)
        model = for_training(RetinaFace(ModelConfig()).train(), anchors.device)
        with torch.no_grad():
            given = model(config.model.normalisation.apply(material.images))
        given = [t.detach().requires_grad_() for t in (given.logits, given.boxes, *given.features)]

        def loss() -> None:
            at = lambda i, a: model.landmarks_at(given[2:], i, a)  # noqa: E731
            multi_task_loss(given[0], given[1], at, material.targets, anchors).total.backward()

        self.take_turns("training", "loss, forward and backward", loss, "loss")
        rng, size = np.random.default_rng(0), material.size
        crops = lambda: [augment(*photo, size, rng, config.augment) for photo in material.read]  # noqa: E731
        self.take_turns("training", "crops of a batch, one process", crops, "crops")
        optimiser = make_optimiser(model, config)

        def step(how: TrainConfig, images: Tensor = material.images, targets: list[Target] = material.targets) -> None:
            training_step(model, optimiser, images, targets, anchors, how, torch.Generator(), ALONE)

        precisions = {"": config}
        if native_bfloat16(anchors.device):
            precisions[", bfloat16"] = replace(config, precision="bfloat16")
        with self._batches(2 * (_UNCOUNTED + self.repeats) * len(precisions) + 2, workers=1) as batches:
            for name, how in precisions.items():
                for _ in range(self.repeats):
                    step(how)  # until it has the memory that it keeps
                self.take_turns("training", "step without data" + name, partial(step, how), "step")
                if self.clock is time.perf_counter:  # a worker's time is not this process'
                    from_files = lambda how=how: step(how, *next(batches)[:2])  # noqa: E731 (meanwhile a later batch is made)
                    self.take_turns("training", "step from files on" + name, from_files, "step_from_files")

    def _batches(self, count: int, workers: int) -> AbstractContextManager[Iterator]:
        """``count`` batches of all photos, cropped from their JPEG files by ``workers`` processes."""
        photos = AugmentedPhotos(self.material.photos, self.material.size, self.material.config.augment, 0)
        return reading(photos, Batches(len(photos.source), len(photos.source), 0, count), workers)

    def data(self) -> None:
        """Crops an epoch from JPEG files, by two processes; a row says milliseconds a crop."""
        with self._batches(2 + 2 * self.repeats, workers=2) as batches:
            next(batches)
            begin = time.perf_counter()
            count = sum(len(images) for images, _, _ in batches)
            taken = 1e3 * (time.perf_counter() - begin)
        self.rows.append({"group": "data", "part": "a crop, 2 workers", "ours": taken / count})

    def rest(self) -> None:
        """Evaluation of a batch, and rendering a picture."""
        drawn, size = self.material.drawn, self.material.size
        truth, found = [faces for _, faces in drawn], self.material.detector.detect([image for image, _ in drawn])
        self.take_turns("evaluation", "errors of a batch", lambda: evaluate_faces(found, truth))
        self.take_turns("evaluation", "AP of a batch", lambda: detection_ap(found, truth))
        self.take_turns("rendering", "a picture", lambda: rendered.draw_picture(0, 0, size, (0, 9)))


def cost(
    points: Sequence[int], faces: Sequence[int], size: int = 640, repeats: int = 9, clock: Callable = time.perf_counter
) -> pd.DataFrame:
    """Detection with a number of landmarks and of faces: columns points, faces, milliseconds (median).

    The networks are untrained; ``faces`` anchors far enough from each other are made to pass for faces.
    """
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    image = image.contiguous(memory_format=torch.channels_last)
    spread = torch.arange(0, size // 8, 4)  # a small anchor in every fourth cell of the finest level
    spots = (2 * (spread[:, None] * (size // 8) + spread)).flatten()
    networks = {}
    for count in points:
        eyes = dict.fromkeys(("right_eye", "left_eye"), Eye(0))
        schema = LandmarkSchema(f"any{count}", count, {"all": tuple(range(count))}, tuple(range(count)), **eyes)
        networks[count] = for_inference(RetinaFace(ModelConfig(schema=schema)))
    times: dict[tuple[int, int], list[float]] = {}
    for _ in range(1 + repeats):
        for key in product(points, faces):
            begin = clock()
            with torch.inference_mode():
                outputs = networks[key[0]](image)
                logits = torch.zeros_like(outputs.logits)
                logits[..., 0] = 9.0
                logits[0, spots[: key[1]], 1] = 18.0
                found = decode(networks[key[0]], image, Outputs(logits, torch.zeros_like(outputs.boxes), outputs.features))
            times.setdefault(key, []).append(1e3 * (clock() - begin))
            if len(found[0]) != key[1]:
                raise ValueError(f"{size} pixels hold no {key[1]} faces apart from each other: take fewer, or a larger size")
    rows = [{"points": p, "faces": f, "milliseconds": float(np.median(t[1:]))} for (p, f), t in times.items()]
    return pd.DataFrame(rows)


def peak_memory(kind: str, size: int, batch: int) -> float:
    """MB that a process holds at most for one training step, torch and all; kind: "ours" or "plain".

    NaN outside of Linux, where it can't be told."""
    if not Path("/proc/self/status").is_file():
        return float("nan")
    code = f"from benchmarks.__main__ import _one_step; _one_step({kind!r}, {size}, {batch})"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1])


def _one_step(kind: str, size: int, batch: int) -> None:
    torch.manual_seed(0)
    config, anchors = TrainConfig(image_size=size), anchor_grid(size, size)
    model = RetinaFace(config.model).train()
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    box = torch.tensor([[0.2, 0.2, 0.4, 0.5]])
    targets = [Target(box, torch.rand(1, 98, 2), torch.ones(1, 98, dtype=torch.bool))] * batch
    if kind == "ours":
        keep_freed_memory()
        model = for_training(model, anchors.device)
        training_step(model, make_optimiser(model, config), images, targets, anchors, config, torch.Generator(), ALONE)
    else:
        plain_step(model, torch.optim.AdamW(model.parameters(), foreach=False), images, targets, config.loss, config.clip_norm)
    status = Path("/proc/self/status").read_text()  # Linux's; getrusage would count what the parent process held
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


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
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **versions,
    }


def main() -> None:
    """Times detection, training, data, evaluation and rendering on the CPU, beside plain ways of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.__main__", description=main.__doc__)
    parser.add_argument("--json", type=Path, help="file for the numbers, with hardware and versions")
    parser.add_argument("--quick", action="store_true", help="small pictures, few repeats: whether it runs, not how fast")
    parser.add_argument("--cpu", action="store_true", help="processor time instead of the clock's: on a busy machine, 1 thread")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu else time.perf_counter
    if arguments.cpu:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    size, repeats, batch = (128, 1, 2) if arguments.quick else (640, 9, 8)
    about = hardware()
    with tempfile.TemporaryDirectory() as folder:
        with Bench(size, repeats, batch, clock, Path(folder)) as bench:
            for part in (bench.detection, bench.training, bench.data, bench.rest):
                part()
    table = pd.DataFrame(bench.rows).assign(ratio=lambda t: t["other"] / t["ours"])
    memory = {kind: peak_memory(kind, size, batch) for kind in ("ours", "plain")}
    costs = cost((5, 98, 500), (1, 10) if arguments.quick else (1, 10, 100), size, repeats, clock)
    print(json.dumps(about))
    print(table.to_markdown(index=False, floatfmt=".2f"))
    print("\nPeak memory of a training step, MB: " + ", ".join(f"{kind} {value:.0f}" for kind, value in memory.items()) + "\n")
    print(costs.pivot(index="points", columns="faces", values="milliseconds").to_markdown(floatfmt=".1f"))
    if arguments.json:
        report = {"about": about, "clock": clock.__name__, "size": size, "batch": batch, "memory_mb": memory}
        report |= {"milliseconds": bench.rows, "cost": costs.to_dict("records")}
        write_text(arguments.json, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
