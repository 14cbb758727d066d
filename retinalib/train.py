"""The training loop: data in order by seed, schedule, precision, EMA, checkpoints, log. A run is a folder that can go on.

A run folder holds ``config.json``, ``metrics.csv`` (a row per epoch), ``best.pt`` (to use: the averaged weights of the epoch
with the best validation), ``last.pt`` (to go on: the last averaged weights and the training's state) and ``pictures/``
(predictions in blue over truth in green). Of several processes that torchrun started, each takes an equal part of a batch."""

import hashlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from retinalib.anchors import anchor_grid
from retinalib.batches import AugmentedPhotos, Batch, batch_keys, reading
from retinalib.checkpoint import start_from
from retinalib.config import TrainConfig
from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector, find_checkpoint
from retinalib.evaluate import auc, detection_ap, evaluate_faces
from retinalib.faces import Faces, mean_landmarks_in_box
from retinalib.files import write_bytes
from retinalib.loss import Parts, Target, multi_task_loss
from retinalib.model import RetinaFace, TrainedOn, native_bfloat16, pick_device
from retinalib.runs import STOP, Stopped, claim, save_epoch
from retinalib.second_look import look_loss

_PICTURES, _PICTURE = 4, 320  # of a validation, and the height of each in pixels


def run_folder(runs: Path, arm: str, config: TrainConfig, train_set: FaceDataset) -> Path:
    """``runs/<arm>-<seed>-<hash>``: another configuration, other data or other first weights make another run."""
    recipe = _recipe(config, train_set)
    recipe["config"] |= {"start_from": None}  # its content counts, not its place
    return Path(runs) / f"{arm}-{config.seed}-{hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]}"


def _recipe(config: TrainConfig, train_set: FaceDataset) -> dict:
    recipe = {"config": config.to_dict(), "data": {"images": len(train_set), "fingerprint": train_set.fingerprint()}}
    if config.start_from is not None:
        recipe["start_from"] = hashlib.sha256(find_checkpoint(config.start_from).read_bytes()).hexdigest()
    return json.loads(json.dumps(recipe))


def learning_rate_factor(step: int, steps: int, config: TrainConfig) -> float:
    """The share of ``config.learning_rate`` at ``step`` of ``steps``: rises linearly, then falls to zero along a cosine."""
    warmup = max(1, round(config.warmup * steps))
    falling = 0.5 * (1 + math.cos(math.pi * ((step - warmup) / max(1, steps - warmup))))
    return (step + 1) / warmup if step < warmup else falling


@contextmanager
def process_group(device: str | None = None) -> Iterator[bool]:
    """Joins the processes that torchrun started, a GPU each if ``device`` says so or if there are any. Gives whether this is
    the first process; without torchrun it is the only one."""
    if not dist.is_torchelastic_launched():
        yield True
        return
    gpus = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=timedelta(hours=2))  # while one validates
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def _mean_over_processes(values: Tensor) -> Tensor:
    values = values.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


class Learner(nn.Module):
    """A network together with its loss, as DistributedDataParallel asks for it."""

    def __init__(self, network: RetinaFace, config: TrainConfig) -> None:
        super().__init__()
        self.network, self.config = network, config

    def forward(self, images: Tensor, targets: list[Target], generator: torch.Generator) -> Parts:
        """images: (B, 3, H, W) uint8; targets: one for each; generator: on the CPU, what the second looks' loss draws from."""
        network, config = self.network, self.config
        schema, device = config.model.schema, next(network.parameters()).device
        pixels = images.to(device, non_blocking=True)
        targets = [Target(*(t.to(device, non_blocking=True) for t in target[:3]), target.complete) for target in targets]
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            images = config.model.normalisation.apply(pixels.contiguous(memory_format=torch.channels_last))
            logits, boxes, features = network(images)
            parts = multi_task_loss(
                logits,
                boxes,
                lambda i, a: network.landmarks_at(features, i, a),
                targets,
                anchor_grid(*images.shape[2:], config.model.anchors).to(device),
                config.loss,
                config.model.anchors,
                [eye for eye in (schema.right_eye, schema.left_eye) if eye is not None],
            )
        if network.looks:  # in float32: bfloat16 knows places in an image to some pixels only
            size = torch.tensor([pixels.shape[3], pixels.shape[2]], device=device)
            image = torch.tensor([n for n, t in enumerate(targets) for _ in t.boxes], device=device)
            landmarks = torch.cat([t.landmarks.masked_fill(~t.visible[..., None], math.nan) for t in targets]) * size
            look = sum(look_loss(look, pixels.float(), image, landmarks, generator) for look in network.looks)
            parts = parts._replace(total=parts.total + look, look=look)
        return Parts(parts.total, *(part.detach() for part in parts[1:]))


class Training:
    """All that changes while a run learns, from its beginning or from a state."""

    def __init__(self, network: RetinaFace, config: TrainConfig, device: torch.device, state: dict | None = None) -> None:
        self.config, self.network = config, network.to(device, memory_format=torch.channels_last)
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
        decayed = [p for p in network.parameters() if p.ndim > 1]
        free = [p for p in network.parameters() if p.ndim <= 1]  # biases and batch norms
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        if state:
            self.average.module.load_state_dict(state["model"])
            self.average.n_averaged.copy_(state["averaged"])
            network.load_state_dict(state["training"])
            self.optimiser.load_state_dict(state["optimiser"])
        self.learner: nn.Module = Learner(network, config)
        if dist.is_initialized():
            for part in ("backbone", "fpn", "ssh") if device.type == "cuda" else ():  # not every process has eyes to look at
                setattr(network, part, nn.SyncBatchNorm.convert_sync_batchnorm(getattr(network, part)))
            self.learner = DistributedDataParallel(self.learner, find_unused_parameters=True)

    def step(self, images: Tensor, targets: list[Target], step: int, steps: int) -> Tensor:
        """One update of the weights in a schedule of ``steps``, none where loss or gradient are not finite. Returns the values
        of :class:`retinalib.loss.Parts` on the CPU, of several processes their mean; NaN where the gradient is not finite."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * learning_rate_factor(step, steps, self.config)
        rank = dist.get_rank() if dist.is_initialized() else 0
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step + rank * 1_000_000_007)
        parts = self.learner(images, targets, generator)
        values = _mean_over_processes(torch.stack(parts)).cpu()
        self.optimiser.zero_grad()
        if values[0].isfinite():
            parts.total.backward()
            if not nn.utils.clip_grad_norm_(self.learner.parameters(), self.config.clip_norm).isfinite():
                return torch.full_like(values, float("nan"))
            self.optimiser.step()
            self.average.update_parameters(self.network)
        return values


def train(
    config: TrainConfig,
    train_set: FaceDataset,
    validation_set: FaceDataset,
    folder: str | Path,
    device: str | torch.device | None = None,
    workers: int = 1,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains, or goes on with, the run in ``folder`` and returns its metrics, a row per epoch.

    A finished run is only read, unless ``config.epochs`` is now larger: it goes on with the rates of the longer schedule.
    Within :func:`process_group` the processes share the work; the metrics of the first are complete. Raises ValueError if the
    folder holds another run or another process works in it, or if images, batches and processes don't fit; FloatingPointError
    if the loss is not finite; OSError for files not written; ChildProcessError if a data worker died; ``runs.Stopped``."""
    folder, device = Path(folder), pick_device(device)
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    _check(config, train_set, validation_set, processes)
    with torch.random.fork_rng(devices=[]):  # the caller's own draws stay what they were
        torch.manual_seed(config.seed)
        network = RetinaFace(config.model)
    layers = start_from(network, find_checkpoint(config.start_from)) if config.start_from else ([], [])
    config = replace(config, model=network.config)  # with the normalisation of those weights
    recipe = _recipe(config, train_set)
    with claim(folder, recipe) if rank == 0 else nullcontext() as state:
        states = [state]
        if dist.is_initialized():  # the others go on from the first process' state
            dist.broadcast_object_list(states)
        state = states[0]
        rows: list[dict] = state["rows"] if state else []
        if len(rows) == config.epochs:
            return pd.DataFrame(rows)
        if config.precision == "bfloat16" and not native_bfloat16(device):
            warnings.warn(f"this {device.type} computes bfloat16 in software, many times slower than float32", stacklevel=2)
        if state is None:
            _begin(network, train_set, layers)
        training = Training(network, config, device, state)
        per_epoch = len(train_set) // config.batch_size
        batches = batch_keys(len(train_set), config.batch_size, config.seed, config.epochs, len(rows), (rank, processes))
        photos = AugmentedPhotos(train_set, config.image_size, config.augment, config.seed, config.fault)
        shown = {"desc": folder.name, "disable": not progress or rank > 0, "mininterval": 1}
        with (
            tqdm(total=per_epoch * config.epochs, initial=per_epoch * len(rows), **shown) as bar,
            reading(photos, batches, workers, pin_memory=device.type == "cuda") as stream,
        ):
            for epoch in range(len(rows), config.epochs):
                rows.append(_epoch(training, stream, bar, folder, epoch, per_epoch))
                if rank == 0:
                    if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
                        picture = folder / "pictures" / f"{epoch + 1:03d}.jpg"
                        rows[-1] |= _validate(training.average.module, validation_set, picture)
                        rows[-1] |= _validation_loss(training.average.module, config, validation_set)
                    save_epoch(folder, recipe, rows, network, training.average, training.optimiser)
    return pd.DataFrame(rows)


def _check(config: TrainConfig, train_set: FaceDataset, validation_set: FaceDataset, processes: int) -> None:
    if len(train_set) < config.batch_size:
        raise ValueError(f"{len(train_set)} training images do not make one batch of {config.batch_size}: lower batch_size")
    if not len(validation_set):
        raise ValueError("the validation set has no photos: the best epoch is chosen by them")
    if config.batch_size % processes:
        raise ValueError(f"{processes} processes can't share a batch of {config.batch_size} equally: start fewer, or change it")


def _begin(network: RetinaFace, train_set: FaceDataset, layers: tuple[list[str], list[str]]) -> None:
    """What a run does before its first step. layers: those that other weights filled, and those that they left."""
    filled, left = ({layer.split(".")[0]: None for layer in side} for side in layers)
    if "landmark_head" not in filled:
        shape = mean_landmarks_in_box([train_set.faces(number) for number in range(len(train_set))])
        network.start_from_shape(torch.from_numpy(np.nan_to_num(shape, nan=0.5)).float())
    if filled and (not dist.is_initialized() or dist.get_rank() == 0):
        print(f"begun with weights for {', '.join(filled)}; what has none or does not fit: {', '.join(left) or 'nothing'}")


def _epoch(training: Training, stream: Iterator[Batch], bar: tqdm, folder: Path, epoch: int, steps: int) -> dict[str, float]:
    config, sums, seen = training.config, torch.zeros(len(Parts._fields)), []
    training.network.train()
    for step in range(epoch * steps, (epoch + 1) * steps):
        if _mean_over_processes(torch.tensor(float((folder / STOP).exists()))) > 0:  # any of them has seen it
            raise Stopped(f"{folder.name} keeps {epoch} of {config.epochs} epochs; start it again to go on")
        images, targets, names = next(stream)
        values = training.step(images, targets, step, steps * config.epochs)
        if not values.isfinite().all():
            said = f"at the images {', '.join(names)}: look at their annotations, or lower the learning rate"
            raise FloatingPointError(f"the loss is {values[0]:g} at step {step} of {folder.name}, {said}")
        sums += values
        seen += targets
        bar.set_postfix({n: f"{v:.2f}" for n, v in zip(Parts._fields, values.tolist(), strict=True)}, refresh=False)
        bar.update()
    for network in (training.network, training.average.module):
        network.config = replace(network.config, trained_on=_learned(seen, config))
    parts = dict(zip(Parts._fields, (sums / steps).tolist(), strict=True))
    return {"epoch": epoch + 1, "learning_rate": training.optimiser.param_groups[0]["lr"], **parts}


def _learned(targets: list[Target], config: TrainConfig) -> TrainedOn | None:
    """Which faces crops showed: sizes but for a hundredth at either end, and rolls of 98 of 100; None without any face."""
    boxes, points, known = (torch.cat([target[part] for target in targets]) for part in range(3))
    if not len(boxes):
        return None
    sides = config.image_size * (boxes[:, 2:] - boxes[:, :2]).amax(1)
    smallest, largest = sides.quantile(torch.tensor([0.01, 0.99])).tolist()
    schema, turns = config.model.schema, 0.0
    if schema.right_eye is not None:
        right, left = list(schema.right_eye.middle), list(schema.left_eye.middle)
        x, y = (points[:, left].mean(1) - points[:, right].mean(1))[known[:, right + left].all(1)].T
        turns = torch.atan2(y, x).abs().quantile(0.98).rad2deg().item() if len(x) else turns
    return TrainedOn(round(smallest, 1), round(largest, 1), round(turns, 1))


def _validate(model: RetinaFace, dataset: FaceDataset, picture: Path) -> dict[str, float]:
    """AP at IoU 0.5 (NaN for photos labelled in part), median NME of found faces, AUC at 10 %, misses as failures; draws."""
    found = detect_all(Detector(model, next(model.parameters()).device), dataset, 0.05)
    truth = [dataset.faces(number) for number in range(len(dataset))]
    drawn = [_draw(*dataset[number], found[number]) for number in range(min(_PICTURES, len(dataset)))]
    write_bytes(picture, cv2.imencode(picture.suffix, cv2.cvtColor(cv2.hconcat(drawn), cv2.COLOR_RGB2BGR))[1].tobytes())
    table = evaluate_faces(found, truth)
    return {
        "ap": detection_ap(found, truth) if dataset.complete else float("nan"),
        "nme": float(table["nme"].median()),
        "auc": auc(table["nme"].fillna(np.inf).to_numpy()),
    }


@torch.inference_mode()
def _validation_loss(model: RetinaFace, config: TrainConfig, dataset: FaceDataset) -> dict[str, float]:
    """The loss and its parts, ``validation_<part>``: means over batches of crops as in training, the same in every epoch."""
    photos = AugmentedPhotos(dataset, config.image_size, config.augment, config.seed)
    batches = batch_keys(len(dataset), min(config.batch_size, len(dataset)), config.seed, 1)
    learner, generator = Learner(model, config).eval(), torch.Generator().manual_seed(config.seed)
    with reading(photos, batches, 0) as stream:
        parts = [torch.stack(learner(images, targets, generator)).cpu() for images, targets, _ in stream]
    names = (f"validation_{name}" for name in Parts._fields)
    return dict(zip(names, torch.stack(parts).mean(0).tolist(), strict=True))


def detect_all(detector: Detector, dataset: FaceDataset, score: float = 0.02, pyramid: bool = False) -> list[Faces]:
    """What the detector finds in each photo, by default at its own size alone, down to the score from which on AP counts."""
    return [detector.detect(dataset[number][0], score, pyramid=pyramid) for number in range(len(dataset))]


def _draw(image: np.ndarray, truth: Faces, found: Faces) -> np.ndarray:
    """Truth in green, predictions with a score over 0.5 in blue, on a picture of one height."""
    image = image.copy()
    for faces, colour in ((truth, (60, 180, 75)), (found[found.scores > 0.5], (30, 110, 255))):
        for box, points in zip(faces.boxes.round().astype(int), faces.landmarks, strict=True):
            cv2.rectangle(image, box[:2].tolist(), box[2:].tolist(), colour, 1)
            for point in points[np.isfinite(points).all(1)].round().astype(int).tolist():
                cv2.circle(image, point, 1, colour, -1)
    scale = _PICTURE / image.shape[0]
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    from retinalib.cli import main

    main(["train", *sys.argv[1:]], "retinalib")
