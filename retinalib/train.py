"""The training loop: data in order by seed, schedule, precision, EMA, checkpoints, log. A run is a folder that can go on.

A run folder holds ``config.json``, ``metrics.csv`` (a row per epoch), ``best.pt`` (to use: the averaged weights of the epoch
with the best validation), ``last.pt`` (to go on: the last averaged weights with all of the training's state; until the run
is finished, ``previous.pt`` is the one before), and ``pictures/`` (predictions in blue over truth in green). One process
works in it at a time, or several that torchrun started together, of which the first writes.
"""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from retinalib.anchors import anchor_grid
from retinalib.batches import AugmentedPhotos, Batches, reading
from retinalib.checkpoint import save_atomically
from retinalib.config import TrainConfig
from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector
from retinalib.distributed import Processes, share_batch_norms
from retinalib.evaluate import auc, detection_ap, evaluate_faces
from retinalib.faces import Faces, mean_landmarks_in_box
from retinalib.files import write_bytes
from retinalib.loss import Parts, Target, multi_task_loss
from retinalib.memory import keep_freed_memory
from retinalib.model import RetinaFace
from retinalib.precision import warn_of_slow_bfloat16
from retinalib.runs import Stopped, claim, save_epoch, stop_file
from retinalib.second_look import eye_loss

_VALIDATION_SCORE = 0.05  # detections from this score on enter the validation's AP
_VALIDATION_PICTURES = 4


def run_folder(runs: Path, arm: str, config: TrainConfig, train_set: FaceDataset) -> Path:
    """``runs/<arm>-<seed>-<hash>``: another configuration or other data make another run."""
    description = json.dumps([config.to_dict(), fingerprint(train_set)], sort_keys=True)
    return Path(runs) / f"{arm}-{config.seed}-{hashlib.sha256(description.encode()).hexdigest()[:8]}"


def fingerprint(dataset: FaceDataset) -> str:
    """A digest of the names, boxes and landmarks of a data set, its photos without faces, and whether it is complete."""
    digest = hashlib.sha256("\n".join(dataset.table["image"]).encode())
    digest.update(dataset.table[["x1", "y1", "x2", "y2"]].to_numpy(np.float32).tobytes())
    digest.update(b"".join(np.asarray(points, np.float32).tobytes() for points in dataset.table["landmarks"]))
    bare = [name for name, rows in zip(dataset.names, dataset.rows, strict=True) if not len(rows)]
    digest.update("\n".join(bare).encode())
    if not dataset.complete:  # which decides what counts as background
        digest.update(b"labelled in part")
    return digest.hexdigest()[:16]


def learning_rate_factor(step: int, steps: int, config: TrainConfig) -> float:
    """The share of ``config.learning_rate`` at ``step`` of ``steps``."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0 if progress < 0.7 else 0.1 if progress < 0.9 else 0.01


def for_training(model: RetinaFace, device: torch.device) -> RetinaFace:
    """The model on its device, laid out for speed: in ``channels_last``, but for its first layers, of eight channels, where a
    CPU's threads share the work: the sums over eight channels that two threads of a batch norm keep share a cache line in that
    layout, and together they take twice as long as one alone.
    """
    model = model.to(device, memory_format=torch.channels_last)
    if device.type == "cpu" and torch.get_num_threads() > 1:
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d) and layer.out_channels <= 8:  # gives its output in the layout of its weights
                layer.weight.data = layer.weight.data.clone(memory_format=torch.contiguous_format)
    return model


def make_optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Weight decay for kernels only, not for biases and batch norms."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


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

    A finished run is only read. The number of data workers changes nothing but speed; that of processes which torchrun started
    (see distributed) nothing beyond rounding, and all of them return the metrics. Raises ValueError if the folder holds a run
    of another configuration or another process is at work in it, or if there are fewer images than a batch or fewer in a batch
    than processes; FloatingPointError if the loss is not finite, naming the images, which are kept in the folder as
    ``not_finite.pt``; OSError if a file can't be written; ChildProcessError if a data worker died; Stopped after
    :func:`retinalib.runs.request_stop`. Of these, as of a crash, the next start repeats the epoch that was under way.
    """
    folder, device = Path(folder), torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    processes = Processes.here()
    if len(train_set) < config.batch_size:
        raise ValueError(f"{len(train_set)} training images do not make one batch of {config.batch_size}: lower batch_size")
    if not len(validation_set):
        raise ValueError("the validation set has no photos: the best epoch is chosen by them")
    if config.batch_size < processes.count:
        raise ValueError(f"{processes.count} processes can't share a batch of {config.batch_size}: start fewer")
    recipe = _recipe(config, train_set)
    with ExitStack() as hold:
        state = processes.first(lambda: claim(folder, recipe, hold))
        rows: list[dict] = state["rows"] if state else []
        if len(rows) == config.epochs:
            return pd.DataFrame(rows)
        if config.precision == "bfloat16":
            warn_of_slow_bfloat16(device)
        if device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        model = RetinaFace(config.model)
        shape = mean_landmarks_in_box([train_set.faces(number) for number in range(len(train_set))])
        model.start_from_shape(torch.from_numpy(np.nan_to_num(shape, nan=0.5)).float())
        model = for_training(model, device)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
        optimiser = make_optimiser(model, config)
        if state:
            average.module.load_state_dict(state["model"])
            average.n_averaged.copy_(state["averaged"])
            model.load_state_dict(state["training"])
            optimiser.load_state_dict(state["optimiser"])
        if processes.count > 1:
            share_batch_norms(model, device)

        anchors = anchor_grid(config.image_size, config.image_size, config.model.anchors).to(device)
        batches = Batches(len(train_set), config.batch_size, config.seed, config.epochs, len(rows), processes)
        photos = AugmentedPhotos(train_set, config.image_size, config.augment, config.seed)
        steps, done = batches.per_epoch * config.epochs, batches.per_epoch * len(rows)
        silent = not progress or processes.rank > 0
        bar = hold.enter_context(tqdm(total=steps, initial=done, desc=folder.name, disable=silent, mininterval=1))
        stream = hold.enter_context(reading(photos, batches, workers, pin_memory=device.type == "cuda"))
        for epoch in range(len(rows), config.epochs):
            model.train()
            sums = torch.zeros(len(Parts._fields))
            for step in range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch):
                if any(processes.numbers(stop_file(folder).exists())):
                    raise Stopped(f"{folder.name} keeps {epoch} of {config.epochs} epochs; start it again to go on")
                images, targets, names = next(stream)
                for group in optimiser.param_groups:
                    group["lr"] = config.learning_rate * learning_rate_factor(step, steps, config)
                generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
                values = training_step(model, optimiser, images, targets, anchors, config, generator, processes).cpu()
                if not values.isfinite().all():
                    raise FloatingPointError(
                        f"the loss is {values[0]:g} at step {step} of {folder.name}; "
                        + _keep(images, names, values, folder / "not_finite.pt", processes)
                    )
                average.update_parameters(model)
                sums += values
                bar.set_postfix({n: f"{v:.2f}" for n, v in zip(Parts._fields, values.tolist(), strict=True)}, refresh=False)
                bar.update()
            row = dict(zip(Parts._fields, (sums / batches.per_epoch).tolist(), strict=True))
            row = {"epoch": epoch + 1, "learning_rate": optimiser.param_groups[0]["lr"], **row}
            if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
                row |= _validate(average.module, validation_set, folder / "pictures" / f"{epoch + 1:03d}.jpg", processes)
            rows.append(row)
            if processes.rank == 0:
                save_epoch(folder, recipe, rows, model, average, optimiser)
    return pd.DataFrame(rows)


def training_step(
    model: RetinaFace,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    targets: list[Target],
    anchors: Tensor,
    config: TrainConfig,
    generator: torch.Generator,
    processes: Processes,
) -> Tensor:
    """One update of the weights; a loss or a gradient that is not finite updates nothing.

    generator: what the eye head's loss draws from.

    Returns the values of :class:`retinalib.loss.Parts` for the whole batch; NaN where the gradient is not finite.
    """
    device = anchors.device
    last = next(model.parameters()).is_contiguous(memory_format=torch.channels_last)  # see for_training
    layout = torch.channels_last if last else torch.contiguous_format
    images = images.to(device, non_blocking=True).contiguous(memory_format=layout)
    targets = [Target(*(t.to(device, non_blocking=True) for t in target[:3]), target.complete) for target in targets]
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        images = config.model.normalisation.apply(images)
        logits, boxes, features = model(images)
        schema = config.model.schema
        parts = multi_task_loss(
            logits,
            boxes,
            lambda i, a: model.landmarks_at(features, i, a),
            targets,
            anchors,
            config.loss,
            config.model.anchors,
            (schema.right_eye, schema.left_eye),
            processes,
        )
    if model.eye_head is not None:  # in float32: bfloat16 knows places in an image to some pixels only
        places, known = [t.landmarks for t in targets], [t.visible for t in targets]
        eye = eye_loss(model.eye_head, images, places, known, schema, generator, processes)
        parts = parts._replace(total=parts.total + eye, eye=eye)
    values = processes.mean(torch.stack(parts))
    optimiser.zero_grad(set_to_none=True)
    if values[0].isfinite():
        parts.total.backward()
        processes.average_gradients(model.parameters())
        if nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm).isfinite():
            optimiser.step()
        else:
            values = torch.full_like(values, float("nan"))
    return values


def _keep(images: Tensor, names: list[str], values: Tensor, path: Path, processes: Processes) -> str:
    """Keeps the batch of a loss that is not finite, and says so."""
    shares = processes.gather((images, names))
    names = [name for _, part in shares for name in part]
    if processes.rank == 0:
        save_atomically({"images": torch.cat([part for part, _ in shares]), "names": names, "loss": values}, path)
    return f"the images {', '.join(names)} are kept in {path}: look at their annotations, or lower the learning rate"


def _validate(model: RetinaFace, dataset: FaceDataset, picture: Path, processes: Processes) -> dict[str, float]:
    """AP at IoU 0.5, median NME of the faces found, and AUC at 10 % with a miss as a failure; draws a picture.

    Each process looks at its share of the photos.

    AP is NaN where photos are labelled only in part, NME and AUC where no face has landmarks.
    """
    detector, own = Detector(model, next(model.parameters()).device), []
    for number in range(processes.rank, len(dataset), processes.count):
        image, faces = dataset[number]
        found = detector.detect(image, score_threshold=_VALIDATION_SCORE)
        own.append((found, faces, _draw(image, faces, found) if number < _VALIDATION_PICTURES else None))
    shares = processes.gather(own)
    found, truth, drawn = zip(*(shares[n % processes.count][n // processes.count] for n in range(len(dataset))), strict=True)
    if processes.rank == 0:
        shown = cv2.hconcat(_same_height(drawn[:_VALIDATION_PICTURES]))
        write_bytes(picture, cv2.imencode(picture.suffix, cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))[1].tobytes())
    table = evaluate_faces(found, truth)
    return {
        "ap": detection_ap(found, truth) if dataset.complete else float("nan"),
        "nme": float(table["nme"].median()),
        "auc": auc(table["nme"].fillna(np.inf).to_numpy()),
    }


def _draw(image: np.ndarray, truth: Faces, found: Faces) -> np.ndarray:
    """Truth in green, predictions with a score over 0.5 in blue."""
    image = image.copy()
    for faces, colour in ((truth, (60, 180, 75)), (found[found.scores > 0.5], (30, 110, 255))):
        for box, points in zip(faces.boxes, faces.landmarks, strict=True):
            cv2.rectangle(image, box[:2].round().astype(int).tolist(), box[2:].round().astype(int).tolist(), colour, 1)
            for x, y in points[np.isfinite(points).all(1)]:
                cv2.circle(image, (round(float(x)), round(float(y))), 1, colour, -1)
    return image


def _same_height(images: list[np.ndarray]) -> list[np.ndarray]:
    height = min(i.shape[0] for i in images)
    return [cv2.resize(i, (round(i.shape[1] * height / i.shape[0]), height), interpolation=cv2.INTER_AREA) for i in images]


def _recipe(config: TrainConfig, train_set: FaceDataset) -> dict:
    """What the run's folder says of it, plain values."""
    description = {"config": config.to_dict(), "data": {"images": len(train_set), "fingerprint": fingerprint(train_set)}}
    return json.loads(json.dumps(description))


if __name__ == "__main__":
    import sys

    from retinalib.cli import main

    main(["train", *sys.argv[1:]], "retinalib")
