"""What things cost: ``python -m retinalib.benchmark --json FILE`` times this library beside a plain version of the same.

The plain versions do what the straightforward implementations do: the landmark head at every anchor, anchors made in loops for
every image, NMS in NumPy, a loss that goes from image to image and encodes 98 points for every anchor, colours distorted in
floating point on the whole photo. They give the same results (the tests hold them together). Both take turns in one run, and
the medians are compared.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import ops

from retinalib.anchors import AnchorConfig, anchor_grid, decode_boxes, decode_landmarks, encode_boxes, encode_landmarks
from retinalib.augment import AugmentConfig, augment
from retinalib.batches import AugmentedPhotos, Batches, collate, start_worker, to_target
from retinalib.datasets import synthetic
from retinalib.detect import Detector, decode, for_inference, load_detector
from retinalib.distributed import ALONE
from retinalib.evaluate import detection_ap, evaluate_faces
from retinalib.export import export
from retinalib.faces import Faces, box_iou
from retinalib.files import write_text
from retinalib.landmarks import Eye, LandmarkSchema
from retinalib.loss import LossConfig, Target, multi_task_loss
from retinalib.model import ModelConfig, Outputs, RetinaFace
from retinalib.train import TrainConfig, make_optimiser, training_step

# ---- the plain way ---------------------------------------------------------------------------------------------------------


def plain_anchors(height: int, width: int, config: AnchorConfig = AnchorConfig()) -> Tensor:  # noqa: B008 (frozen)
    """:func:`retinalib.anchors.anchor_grid` in loops, made anew at every call."""
    anchors = []
    for stride, sizes in zip(config.strides, config.sizes, strict=True):
        for row in range(math.ceil(height / stride)):
            for column in range(math.ceil(width / stride)):
                for size in sizes:
                    x, y = (column + 0.5) * stride / width, (row + 0.5) * stride / height
                    anchors.append((x, y, size / width, size / height))
    return torch.tensor(anchors)


def plain_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """The rows that stay of (N, 4) boxes x1 y1 x2 y2, best first."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        kept.append(int(order[0]))
        overlap = box_iou(boxes[order[:1]], boxes[order[1:]])[0]
        order = order[1:][overlap <= threshold]
    return kept


@torch.no_grad()
def plain_detect(model: RetinaFace, image: np.ndarray, score_threshold: float = 0.5, nms_threshold: float = 0.4) -> Faces:
    """``Detector.detect`` of one image: everything at every anchor, then threshold, NMS, and a second look face by face."""
    height, width = image.shape[:2]
    schema, variances = model.config.schema, model.config.anchors.variances
    size = torch.tensor([width, height])
    pixels = model.config.normalisation.apply(torch.from_numpy(image).permute(2, 0, 1)[None].contiguous())
    logits, boxes, landmarks = (t[0] for t in model.dense(pixels))
    anchors = plain_anchors(height, width, model.config.anchors)
    scores = logits.softmax(-1)[:, 1].numpy()
    boxes = (decode_boxes(boxes, anchors, variances) * size.repeat(2)).numpy()
    landmarks = (decode_landmarks(landmarks.view(-1, schema.count, 2), anchors, variances) * size).numpy()
    chosen = scores >= score_threshold
    boxes, landmarks, scores = boxes[chosen], landmarks[chosen], scores[chosen]
    kept = plain_nms(boxes, scores, nms_threshold)
    points = torch.from_numpy(landmarks[kept])
    looked = [model.look_again(pixels, torch.zeros(1, dtype=torch.int64), p[None]) for p in points]
    points = torch.cat(looked).numpy() if looked else points.numpy()
    visible = ((points >= 0) & (points <= [width, height])).all(-1)
    return Faces(boxes[kept], points, visible, scores[kept], schema=schema)


def plain_loss(
    logits: Tensor, boxes: Tensor, landmarks: Tensor, targets: list[Target], anchors: Tensor, config: LossConfig
) -> Tensor:
    """The total of :func:`retinalib.loss.multi_task_loss` for completely labelled photos (smooth L1, no pupil part), image by
    image, with (B, A, 2L) ``landmarks`` given and encoded at every anchor, and the hardest negatives found by two sorts."""
    corners = ops.box_convert(anchors, "cxcywh", "xyxy")
    shape = logits.shape[:2]
    positive, pointed = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    wanted_boxes, wanted_points = torch.zeros_like(boxes), torch.zeros_like(landmarks)
    seen = torch.zeros_like(landmarks, dtype=torch.bool)
    for row, target in enumerate(targets):
        if not len(target.boxes):
            continue
        best, face = torch.full(shape[1:], -1.0), torch.zeros(shape[1:], dtype=torch.int64)
        keepers = []
        for number, box in enumerate(target.boxes):
            overlap = ops.box_iou(box[None], corners)[0]  # the library's: anchors that tie must tie here, too
            face[overlap > best] = number
            best = torch.maximum(best, overlap)
            if overlap.max() >= config.minimum_iou:
                keepers.append((int(overlap.argmax()), number))
        for anchor, number in keepers:
            best[anchor], face[anchor] = 2.0, number
        positive[row] = best >= config.positive_iou
        wanted_boxes[row] = encode_boxes(target.boxes[face], anchors)
        wanted_points[row] = encode_landmarks(target.landmarks[face].nan_to_num(), anchors).flatten(1)
        seen[row] = target.visible[face].repeat_interleave(2, dim=1)
        pointed[row] = positive[row] & target.visible[face].any(1)

    def smooth_l1(given: Tensor, wanted: Tensor) -> Tensor:
        gap = (given - wanted).abs()
        return torch.where(gap < 1, 0.5 * gap * gap, gap - 0.5)

    nll = logits.logsumexp(-1) - torch.where(positive, logits[..., 1], logits[..., 0])
    _, order = nll.detach().masked_fill(positive, 0).sort(1, descending=True)
    _, rank = order.sort(1)
    wanted = (config.negatives_per_positive * positive.sum(1, keepdim=True)).clamp(min=config.least_negatives)
    negative = (rank < wanted) & ~positive
    count, with_points = max(int(positive.sum()), 1), max(int(pointed.sum()), 1)
    box = smooth_l1(boxes[positive], wanted_boxes[positive]).sum() / count
    landmark = (smooth_l1(landmarks[pointed], wanted_points[pointed]) * seen[pointed]).sum() / with_points
    return (
        config.box_weight * box
        + config.class_weight * nll[positive | negative].sum() / count
        + (config.landmark_weight * landmark)
    )


def plain_augment(image: np.ndarray, faces: Faces, size: int, rng: np.random.Generator) -> tuple[np.ndarray, Faces]:
    """A training crop with the colours of the whole photo distorted first, in floating point; the crop is :func:`augment`'s."""
    photo = image.astype(np.float32)
    photo = (photo - 128) * (1 + rng.uniform(-0.4, 0.4)) + 128 + rng.uniform(-32, 32)
    hsv = cv2.cvtColor((photo / 255).clip(0, 1), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-12, 12)) % 360
    hsv[..., 1] = (hsv[..., 1] * (1 + rng.uniform(-0.5, 0.5))).clip(0, 1)
    photo = (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).round().astype(np.uint8)
    still = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)
    return augment(photo, faces, size, rng, still)


# ---- what is timed ---------------------------------------------------------------------------------------------------------


class Bench:
    """Photos of ``size`` pixels, a network, how often each thing is timed, and by which clock."""

    def __init__(self, size: int, repeats: int, batch: int, clock: Callable[[], float], folder: Path) -> None:
        self.size, self.repeats, self.clock = size, repeats, clock
        self.detector = load_detector("rendered98", "cpu")
        self.model = self.detector.model
        self.rows: list[dict] = []
        root = synthetic.make(folder, batch + 2, size=round(1.6 * size), progress=False)  # 1,024 for crops of 640
        self.photos = synthetic.load(root, "train")
        drawn = [self.photos[number] for number in range(len(self.photos))]
        self.drawn = [(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), faces) for image, faces in drawn]
        self.drawn = [(image, faces.transformed((1 / 1.6,) * 2)) for image, faces in self.drawn]
        self.targets = [to_target(faces, (size, size)) for _, faces in self.drawn]
        self.images = torch.from_numpy(np.stack([image for image, _ in self.drawn])).permute(0, 3, 1, 2)

    def take_turns(self, group: str, part: str, fast: Callable, plain: Callable | None = None, repeats: int = 0) -> None:
        """Adds a row: the median of both in milliseconds, after one run of each that is not counted."""
        calls = {"fast": fast} | ({} if plain is None else {"plain": plain})
        times = {name: [] for name in calls}
        for _ in range(1 + (repeats or self.repeats)):
            for name, call in calls.items():
                begin = self.clock()
                call()
                times[name].append(1e3 * (self.clock() - begin))
        self.rows.append({"group": group, "part": part, **{name: float(np.median(t[1:])) for name, t in times.items()}})

    def detection(self) -> None:
        """One photo from an RGB array to its faces, and the stages of it."""
        model, detector, image = self.model, self.detector, self.drawn[0][0]
        brief = Detector(model, "cpu", bfloat16=True)
        planar = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
        apply, anchors = model.config.normalisation.apply, model.config.anchors
        with torch.inference_mode():
            given = detector._input([image])
            network = for_inference(model)
            outputs = network(given)
            self.take_turns("detection", "all", lambda: detector.detect(image), lambda: plain_detect(model, image))
            self.take_turns("detection", "all, bfloat16", lambda: brief.detect(image))
            self.take_turns("detection", "pixels to input", lambda: detector._input([image]), lambda: apply(planar))
            self.take_turns("detection", "network", lambda: network(given), lambda: model.dense(apply(planar)))
            size = self.size
            self.take_turns("detection", "anchors", lambda: anchor_grid(size, size), lambda: plain_anchors(size, size, anchors))
            self.take_turns("detection", "decoding, NMS, second look", lambda: decode(network, given, outputs))

    def onnxruntime(self) -> None:
        """The network, everything dense, from pixels: torch as "fast", onnxruntime as "plain", with equally many threads."""
        import onnxruntime  # the extra "export"

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            export(self.model, path, "network")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        image, network = self.drawn[0][0], for_inference(self.model)

        def torch_network() -> None:
            with torch.inference_mode():
                network.dense(self.detector._input([image]))

        self.take_turns(
            "onnxruntime",
            "dense network (plain: onnxruntime)",
            torch_network,
            lambda: session.run(None, {"images": image[None]}),
        )

    def training(self) -> None:
        """A batch's loss forward and backward, crops of it, and a whole step."""
        size, config = self.size, TrainConfig(image_size=self.size)
        fast, plain = (RetinaFace(ModelConfig()).train() for _ in range(2))
        fast = fast.to(memory_format=torch.channels_last)
        anchors = anchor_grid(size, size)
        with torch.no_grad():
            given = fast(config.model.normalisation.apply(self.images))
            dense = plain.dense(config.model.normalisation.apply(self.images))
        given = [given.logits, given.boxes, *given.features]
        given, dense = ([t.detach().requires_grad_() for t in ts] for ts in (given, dense))

        def fast_loss() -> None:
            at = lambda i, a: fast.landmarks_at(given[2:], i, a)  # noqa: E731
            multi_task_loss(given[0], given[1], at, self.targets, anchors).total.backward()

        def plain_loss_of() -> None:
            plain_loss(*dense, self.targets, plain_anchors(size, size), config.loss).backward()

        self.take_turns("training", "loss, forward and backward", fast_loss, plain_loss_of)
        rng = np.random.default_rng(0)
        photos = [self.photos[number] for number in range(len(self.photos))]
        self.take_turns(
            "training",
            "crops of a batch, one process",
            lambda: [augment(*photo, size, rng, config.augment) for photo in photos],
            lambda: [plain_augment(*photo, size, rng) for photo in photos],
        )
        optimisers = make_optimiser(fast, config), torch.optim.AdamW(plain.parameters(), foreach=False)

        def fast_step(how: TrainConfig = config) -> None:
            training_step(fast, optimisers[0], self.images, self.targets, anchors, how, torch.Generator(), ALONE)

        def plain_step() -> None:
            logits, boxes, landmarks = plain.dense(config.model.normalisation.apply(self.images.contiguous()))
            loss = plain_loss(logits, boxes, landmarks, self.targets, plain_anchors(size, size), config.loss)
            optimisers[1].zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), config.clip_norm)
            optimisers[1].step()

        self.take_turns("training", "step without data", fast_step, plain_step, max(1, self.repeats // 3))
        brief = replace(config, precision="bfloat16")
        self.take_turns("training", "step without data, bfloat16", lambda: fast_step(brief), repeats=max(1, self.repeats // 3))

    def data(self) -> None:
        """Crops an epoch from JPEG files, by two processes; a row says milliseconds a crop."""
        photos = AugmentedPhotos(self.photos, self.size, AugmentConfig(), 0)
        epochs = 2 + 2 * self.repeats
        order = Batches(len(self.photos), len(self.photos), 0, epochs)
        loader = iter(DataLoader(photos, batch_sampler=order, collate_fn=collate, num_workers=2, worker_init_fn=start_worker))
        next(loader)
        begin = time.perf_counter()
        count = sum(len(images) for images, _, _ in loader)
        self.rows.append({"group": "data", "part": "a crop, 2 workers", "fast": 1e3 * (time.perf_counter() - begin) / count})

    def rest(self) -> None:
        """Evaluation and rendering, a photo each."""
        truth = [faces for _, faces in self.drawn]
        found = self.detector.detect([image for image, _ in self.drawn])
        self.take_turns("evaluation", "errors of a batch", lambda: evaluate_faces(found, truth))
        self.take_turns("evaluation", "AP of a batch", lambda: detection_ap(found, truth))
        self.take_turns("rendering", "a picture", lambda: synthetic.draw_picture(0, 0, self.size, (0, 9)))


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
    """MB that a process holds at most for one training step, torch and all (Linux); kind: "fast" or "plain"."""
    code = f"from retinalib.benchmark import _one_step; _one_step({kind!r}, {size}, {batch})"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1])


def _one_step(kind: str, size: int, batch: int) -> None:
    torch.manual_seed(0)
    config, anchors = TrainConfig(image_size=size), anchor_grid(size, size)
    model = RetinaFace(config.model).train()
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    box = torch.tensor([[0.2, 0.2, 0.4, 0.5]])
    targets = [Target(box, torch.rand(1, 98, 2), torch.ones(1, 98, dtype=torch.bool))] * batch
    if kind == "fast":
        model = model.to(memory_format=torch.channels_last)
        training_step(model, make_optimiser(model, config), images, targets, anchors, config, torch.Generator(), ALONE)
    else:
        dense = model.dense(config.model.normalisation.apply(images))
        plain_loss(*dense, targets, plain_anchors(size, size), config.loss).backward()
    status = Path("/proc/self/status").read_text()  # Linux's; getrusage would count what the parent process held
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def hardware() -> dict:
    """What the numbers belong to: processor, cores, threads, versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy", "opencv-python-headless")}
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # processes that wanted to run, one's own among them
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **versions,
    }


def main() -> None:
    """Times detection, training, data, evaluation and rendering on the CPU, beside plain versions of them."""
    parser = argparse.ArgumentParser(prog="python -m retinalib.benchmark", description=main.__doc__)
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
        bench = Bench(size, repeats, batch, clock, Path(folder))
        for part in (bench.detection, bench.onnxruntime, bench.training, bench.data, bench.rest):
            part()
    table = pd.DataFrame(bench.rows).assign(ratio=lambda t: t["plain"] / t["fast"])
    memory = {kind: peak_memory(kind, size, batch) for kind in ("fast", "plain")}
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
