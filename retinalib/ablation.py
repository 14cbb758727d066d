"""Arms × seeds: the same training with one thing changed, repeated with several seeds, compared in pairs."""

import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from retinalib.batches import one_thread
from retinalib.config import PROFILES, TrainConfig
from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector, load_detector
from retinalib.evaluate import detection_ap, evaluate_faces, precision_recall, summary
from retinalib.files import end_with_parent, replacing, write_text
from retinalib.landmarks import WFLW_98
from retinalib.model import pick_device
from retinalib.plots.tables import paper_form, write_table
from retinalib.runs import STOP, Stopped, request_stop
from retinalib.second_look import eye_look
from retinalib.studies.comparison import compare, detections_of, verdict
from retinalib.train import detect_all, run_folder, train
from retinalib.workspace import open_dataset, runs_folder

SCORE_THRESHOLD = 0.5  # a face found with less counts as missed; AP is over all scores of train.detect_all

ARMS: dict[str, dict[str, dict | str]] = {
    "no-se": {},
    "se16": {"model": {"se_reduction": 16}},
    "se4": {"model": {"se_reduction": 4}},
    "se16-stride8": {"model": {"se_reduction": 16, "se_strides": (8,)}},
    "se16-stride32": {"model": {"se_reduction": 16, "se_strides": (32,)}},
    "bottleneck16": {"model": {"se_reduction": 16, "se_kind": "bottleneck"}},
    "wing": {"loss": {"landmark_loss": "wing"}},
    "no-pupil-loss": {"loss": {"pupil_weight": 0.0}},
    "second-look": {"model": {"looks": (eye_look(WFLW_98),)}},
    "five-point-flip": {"fault": "five-point-flip"},
    "clamped-crops": {"fault": "clamped-crops"},
}
"""What each arm changes. ``bottleneck16`` has the parameters of ``se16`` and no attention; the last two are old faults."""


def arm_config(arm: str, base: TrainConfig, seed: int) -> TrainConfig:
    """``base`` with the arm's change and the seed. Raises ValueError for an unknown arm."""
    if arm not in ARMS:
        raise ValueError(f"unknown arm '{arm}': choose from {', '.join(ARMS)}")
    changes = {
        part: replace(getattr(base, part), **change) if isinstance(change, dict) else change
        for part, change in ARMS[arm].items()
    }
    return replace(base, seed=seed, **changes)


def train_all(
    configs: Mapping[Path, TrainConfig],
    train_set: FaceDataset,
    validation_set: FaceDataset,
    device: str | torch.device | None = None,
    processes: int | None = None,
) -> list[pd.DataFrame]:
    """Trains several runs, ``{folder: configuration}``, and returns the metrics of each.

    On a GPU one after the other; on a CPU ``processes`` of them (None: as many as cores) side by side, each with one thread.
    Raises what :func:`retinalib.train.train` raises; an error, or a stop asked for in any of the folders, stops them all."""
    device = pick_device(device)
    missing = {folder: config for folder, config in configs.items() if _finished([folder]) < config.epochs}
    if missing and device.type == "cpu":
        _side_by_side(missing, train_set, validation_set, min(processes or os.cpu_count() or 1, len(missing)))
    workers = min(8, os.cpu_count() or 1)
    return [train(config, train_set, validation_set, folder, device, workers) for folder, config in configs.items()]


def _finished(folders: Iterable[Path]) -> int:
    logs = (folder / "metrics.csv" for folder in folders)
    return sum(len(pd.read_csv(log)) for log in logs if log.is_file())


def _side_by_side(
    configs: Mapping[Path, TrainConfig], train_set: FaceDataset, validation_set: FaceDataset, processes: int
) -> None:
    for folder in configs:
        folder.mkdir(parents=True, exist_ok=True)  # so that a stop can be asked for from now on
        (folder / STOP).unlink(missing_ok=True)
    # a fork of this process would inherit torch's threads in an unknown state; of a server that has loaded it, it does not
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    context.set_forkserver_preload(["retinalib.train"])
    shown = {"total": sum(config.epochs for config in configs.values()), "initial": _finished(configs), "desc": "epochs"}
    with ProcessPoolExecutor(processes, context, end_with_parent) as pool, tqdm(**shown) as bar:
        jobs = [pool.submit(_train_in_child, config, train_set, validation_set, at) for at, config in configs.items()]
        try:
            waiting = set(jobs)
            while waiting:
                done, waiting = wait(waiting, timeout=1)
                for job in done:
                    job.result()
                bar.update(_finished(configs) - bar.n)
                if any((folder / STOP).exists() for folder in configs):
                    raise Stopped(f"{bar.n} of {bar.total} epochs are kept; start again to go on")
        except BaseException as error:  # an interruption, too: the others stop, and keep their finished epochs
            while wait(jobs, timeout=0.5).not_done:
                request_stop(configs)  # again and again: a run that begins takes an older wish away
            if isinstance(error, BrokenProcessPool):
                said = "what it said stands above: mend that, or ask for fewer processes if memory ran out, and start again"
                raise ChildProcessError(f"a run's process ended early; {said}") from error
            raise


def _train_in_child(config: TrainConfig, train_set: FaceDataset, validation_set: FaceDataset, folder: Path) -> None:
    one_thread()
    if (folder / STOP).exists():
        raise Stopped(f"{folder.name} was not begun")
    train(config, train_set, validation_set, folder, "cpu", 0, False)


def measure(detector: Detector, dataset: FaceDataset, pyramid: bool = False) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """A row a labelled face (evaluate.evaluate_faces), a row a detection (evaluate.precision_recall), AP at IoU 0.5, 0.75 and
    over 0.5 to 0.95 (COCO's), numbers of photos and faces. Where labels are partial: no rows of detections, and AP is NaN."""
    found = detect_all(detector, dataset, pyramid=pyramid)
    truth = [dataset.faces(number) for number in range(len(dataset))]
    table = evaluate_faces([f[f.scores >= SCORE_THRESHOLD] for f in found], truth, dataset.names)
    detections = precision_recall(found, truth, dataset.names) if dataset.complete else precision_recall([], [])
    aps = [detection_ap(found, truth, iou) if dataset.complete else float("nan") for iou in np.arange(0.5, 1, 0.05)]
    numbers = {"ap": aps[0], "ap75": aps[5], "ap50_95": float(np.mean(aps)), "photos": len(dataset), "faces": len(table)}
    return table, detections, numbers


def run(
    arms: Sequence[str],
    seeds: Sequence[int],
    base: TrainConfig,
    train_set: FaceDataset,
    validation_set: FaceDataset,
    test_set: FaceDataset,
    runs: Path,
    device: str | torch.device | None = None,
    processes: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trains (:func:`train_all`) and measures arms × seeds: the faces, a row per arm, seed and true face, and the runs (columns
    arm, seed, ap, photos, faces, folder). Raises ValueError for arms that do not differ, and what training raises."""
    configs = {(arm, seed): arm_config(arm, base, seed) for seed in seeds for arm in arms}
    if len({str(arm_config(arm, base, 0)) for arm in arms}) < len(set(arms)):
        raise ValueError(f"two of the arms {', '.join(arms)} are the same training at this profile: leave one out")
    folders = {key: run_folder(runs, key[0], config, train_set) for key, config in configs.items()}
    train_all({folders[key]: config for key, config in configs.items()}, train_set, validation_set, device, processes)
    faces, rows = [], []
    for (arm, seed), folder in tqdm(folders.items(), desc="measuring"):
        said, wanted = folder / "test.json", test_set.fingerprint()
        numbers = json.loads(said.read_text()) if said.is_file() else {}
        if numbers.pop("test_set", None) != wanted or "ap75" not in numbers:  # not measured before on the same photos
            table, detections, numbers = measure(load_detector(folder, device), test_set)
            write_text(folder / "test_faces.csv", table.to_csv(index=False))
            write_text(folder / "test_detections.csv", detections.to_csv(index=False))
            write_text(said, json.dumps({**numbers, "test_set": wanted}))  # last: it says that the others are whole
        faces.append(pd.read_csv(folder / "test_faces.csv").assign(arm=arm, seed=seed))
        rows.append({"arm": arm, "seed": seed, **numbers, "folder": folder.name})
    return pd.concat(faces, ignore_index=True), pd.DataFrame(rows)


def report(
    arms: Sequence[str],
    seeds: Sequence[int] = (),
    dataset: str = "synthetic",
    data_root: str | None = None,
    profile: str = "standard",
    epochs: int | None = None,
    runs: Path | None = None,
    device: str | None = None,
    processes: int | None = None,
    out: Path | None = None,
) -> None:
    """Trains and measures arms, prints what they give, and writes the tables to ``out``; see ``retinalib ablation --help``."""
    sets = [open_dataset(dataset, data_root, profile, 0, split) for split in ("train", "validation", "test")]
    seeds = seeds or range(PROFILES[profile].seeds)
    runs_at = runs_folder(runs)
    base = PROFILES[profile].train_config(epochs=epochs, schema=sets[0].schema)
    faces, runs = run(arms, seeds, base, *sets, runs_at, device, processes)
    by_run = summary(faces, ["arm", "seed"]).join(runs.set_index(["arm", "seed"])[["ap", "ap75", "ap50_95"]])
    print(by_run.reset_index().to_markdown(index=False, floatfmt=".4f"))
    caption = (
        f"{len(sets[2])} {dataset} test photos, {len(seeds)} seeds, {base.epochs} epochs on {len(sets[0])} "
        f"photos, crops of {base.image_size} px; NME over the distance of the outer canthi; found: IoU ≥ 0.5, "
        f"score ≥ {SCORE_THRESHOLD}; failure and AUC at 10 %, a miss is a failure"
    )
    if out:
        write_table(by_run, out / "runs", caption)
        with replacing(out / "faces.csv.gz") as temporary:
            faces.to_csv(temporary, index=False, compression="gzip")
    if len(arms) > 1 and len(seeds) > 1:
        differences = compare(faces, detections_of(runs, runs_at), arms)
        print(verdict(differences, arms[0]))
        if out:
            table, caption = differences.set_index(["arm", "measure"]), f"Against {arms[0]}. {caption}"
            write_table(table, out / "differences", caption, paper_form(differences))


if __name__ == "__main__":
    from retinalib.cli import main

    main(["ablation", *sys.argv[1:]], "retinalib")
