"""Arms × seeds: the same training with one thing changed, repeated with several seeds, compared in pairs.

Every run is a folder (see train); a finished run is read, an interrupted one goes on. Measured on the test photos with the
run's best averaged weights, the faces of each run are kept in its folder as ``test_faces.csv``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
import pandas as pd
import torch
from tqdm import tqdm

from retinalib.config import PROFILES, TrainConfig
from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector, load_detector
from retinalib.evaluate import detection_ap, evaluate_faces, precision_recall, summary
from retinalib.faces import Faces
from retinalib.files import end_with_parent, write_text
from retinalib.landmarks import WFLW_98
from retinalib.model import pick_device
from retinalib.plots.tables import paper_form, write_table
from retinalib.runs import Stopped, request_stop, stop_file
from retinalib.second_look import eye_look
from retinalib.studies.comparison import compare, verdict
from retinalib.train import fingerprint, run_folder, train
from retinalib.workspace import open_dataset, runs_folder

SCORE_THRESHOLD = 0.5  # a face found with less counts as missed; AP is over all scores from _AP_SCORE on
_AP_SCORE = 0.02

ARMS: dict[str, dict[str, dict | str]] = {
    "no-se": {},
    "se16": {"model": {"se_reduction": 16}},
    "se4": {"model": {"se_reduction": 4}},
    "se16-stride8": {"model": {"se_reduction": 16, "se_strides": (8,)}},
    "se16-stride32": {"model": {"se_reduction": 16, "se_strides": (32,)}},
    "bottleneck16": {"model": {"se_reduction": 16, "se_kind": "bottleneck"}},
    "no-pupil-loss": {"loss": {"pupil_weight": 0.0}},
    "second-look": {"model": {"looks": (eye_look(WFLW_98),)}},
    "five-point-flip": {"fault": "five-point-flip"},
    "clamped-crops": {"fault": "clamped-crops"},
}
"""What each arm changes in the base configuration. ``bottleneck16`` has the parameters of ``se16`` and no attention: a gain
that both share is not the gate's. The last two are faults of the predecessor, one each."""


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
    watch: Callable[[pd.DataFrame], None] | None = None,
) -> list[pd.DataFrame]:
    """Trains several runs, ``{folder: configuration}``, and returns the metrics of each.

    On a GPU one after the other. On a CPU ``processes`` of them (None: as many as there are cores) go side by side, each
    with one thread: small networks train faster that way than with all cores on one run, and the numbers do not depend on
    how many cores there are. Raises what :func:`retinalib.train.train` raises; the other runs then stop where they are. A stop
    asked for in any of the folders (see :func:`retinalib.runs.request_stop`) stops them all, and those to come are not begun.
    watch: is given :func:`progress` of the runs after every epoch, on a GPU after every run.
    """
    device = pick_device(device)
    watch = watch or (lambda table: None)
    if device.type != "cpu":
        metrics = []
        for folder, config in configs.items():
            metrics.append(train(config, train_set, validation_set, folder, device, min(8, os.cpu_count() or 1)))
            watch(progress(configs))
        return metrics
    before = progress(configs)
    missing = [folder for folder, config in configs.items() if before.at[folder.name, "epochs"] < config.epochs]
    for folder in missing:
        folder.mkdir(parents=True, exist_ok=True)  # so that a stop can be asked for from now on
        stop_file(folder).unlink(missing_ok=True)  # of an earlier start
    if missing:
        _side_by_side(missing, configs, train_set, validation_set, min(processes or os.cpu_count() or 1, len(missing)), watch)
    else:
        watch(before)
    return [train(config, train_set, validation_set, folder, device) for folder, config in configs.items()]  # only read


def progress(configs: Mapping[Path, TrainConfig]) -> pd.DataFrame:
    """How far the runs ``{folder: configuration}`` are, a row per run: finished epochs and those asked for, the loss of the
    last epoch, AP and median NME (a fraction) of the last validation; NaN where there is none yet."""
    rows = []
    for folder, config in configs.items():
        written = folder / "metrics.csv"
        log = pd.read_csv(written) if written.is_file() else pd.DataFrame()
        log = log.reindex(columns=["total", "ap", "nme"])  # there is no AP before the first validation
        last = {column: next(iter(log[column].dropna()[::-1]), float("nan")) for column in ("total", "ap", "nme")}
        rows.append({"run": folder.name, "epochs": len(log), "of": config.epochs, "loss": last.pop("total"), **last})
    return pd.DataFrame(rows, columns=["run", "epochs", "of", "loss", "ap", "nme"]).set_index("run")


def _side_by_side(
    missing: Sequence[Path],
    configs: Mapping[Path, TrainConfig],
    train_set: FaceDataset,
    validation_set: FaceDataset,
    processes: int,
    watch: Callable[[pd.DataFrame], None],
) -> None:
    """Trains the runs of ``missing`` folders; told to ``watch``, and counted, are all of ``configs``."""
    before, table = set(multiprocessing.active_children()), progress(configs)
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    with (
        ProcessPoolExecutor(processes, context, _start_child) as pool,
        tqdm(total=int(table["of"].sum()), initial=int(table["epochs"].sum()), desc="epochs") as bar,
    ):
        jobs = [pool.submit(_train_in_child, configs[folder], train_set, validation_set, folder) for folder in missing]
        children = set(multiprocessing.active_children()) - before
        try:
            waiting = set(jobs)
            while waiting:
                done, waiting = wait(waiting, timeout=1)
                for job in done:
                    job.result()
                table = progress(configs)
                epochs = int(table["epochs"].sum())
                if any(stop_file(folder).exists() for folder in missing):
                    raise Stopped(f"{epochs} of {bar.total} epochs are kept; start again to go on")
                losses = table["loss"].dropna()
                bar.set_postfix({name.rpartition("-")[0]: f"{loss:.1f}" for name, loss in losses.items()}, refresh=False)
                if epochs > bar.n:
                    watch(table)
                bar.update(epochs - bar.n)
        except BaseException as error:  # an interruption, too: the others stop, and keep their finished epochs
            while wait(jobs, timeout=0.5).not_done:
                request_stop(missing)  # again and again: a run that begins takes an older wish away
            if isinstance(error, BrokenProcessPool):
                raise ChildProcessError(_why_ended(children)) from error
            raise


def _why_ended(children: Iterable[BaseProcess]) -> str:
    kept = "finished epochs are kept: start again to go on"
    if any(child.exitcode == -signal.SIGKILL for child in children):
        return f"a run's process was killed, perhaps for want of memory; {kept}, with fewer processes if memory ran out"
    return f"a run's process ended early; what it said stands above: mend that; {kept}"


def _start_child() -> None:
    end_with_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _train_in_child(config: TrainConfig, train_set: FaceDataset, validation_set: FaceDataset, folder: Path) -> None:
    if stop_file(folder).exists():
        raise Stopped(f"{folder.name} was not begun")
    train(config, train_set, validation_set, folder, "cpu", 0, False)


def detect_all(detector: Detector, dataset: FaceDataset) -> list[Faces]:
    """What the detector finds in each photo, down to the scores that enter AP."""
    return [detector.detect(dataset[number][0], _AP_SCORE, pyramid=False) for number in range(len(dataset))]


def measure(detector: Detector, dataset: FaceDataset) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:
    """A row for each labelled face of ``dataset`` (see evaluate.evaluate_faces), a row for each detection (see
    evaluate.precision_recall), and the AP at IoU 0.5 with the numbers of photos and faces.

    Where photos are labelled only in part there are no rows of detections, and AP is NaN.
    """
    found = detect_all(detector, dataset)
    truth = [dataset.faces(number) for number in range(len(dataset))]
    table = evaluate_faces([f[f.scores >= SCORE_THRESHOLD] for f in found], truth, dataset.names)
    detections = precision_recall(found, truth, dataset.names) if dataset.complete else precision_recall([], [])
    ap = detection_ap(found, truth) if dataset.complete else float("nan")
    return table, detections, {"ap": ap, "photos": len(dataset), "faces": len(table)}


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
    watch: Callable[[pd.DataFrame], None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trains (see :func:`train_all`) and measures every arm with every seed.

    Returns the faces (a row per arm, seed and true face) and the runs (a row per arm and seed: arm, seed, ap, photos, faces,
    folder). The same seed means the same initial weights where shapes agree, the same order of images and the same crops.
    """
    configs = {(arm, seed): arm_config(arm, base, seed) for seed in seeds for arm in arms}
    folders = {key: run_folder(runs, key[0], config, train_set) for key, config in configs.items()}
    by_folder = {folders[key]: config for key, config in configs.items()}
    train_all(by_folder, train_set, validation_set, device, processes, watch)
    faces, rows = [], []
    for (arm, seed), folder in tqdm(folders.items(), desc="measuring"):
        table, numbers = _measured(folder, test_set, device)
        faces.append(table.assign(arm=arm, seed=seed))
        rows.append({"arm": arm, "seed": seed, **numbers, "folder": folder.name})
    return pd.concat(faces, ignore_index=True), pd.DataFrame(rows)


def _measured(folder: Path, test_set: FaceDataset, device: str | torch.device | None) -> tuple[pd.DataFrame, dict]:
    """The test of a run, from its folder if it was made before on the same photos."""
    faces_path, detections_path, numbers_path = (folder / f"test{end}" for end in ("_faces.csv", "_detections.csv", ".json"))
    wanted = fingerprint(test_set)
    numbers = json.loads(numbers_path.read_text()) if numbers_path.is_file() else {}
    if numbers.pop("test_set", None) != wanted or not detections_path.is_file():
        table, detections, numbers = measure(load_detector(folder, device), test_set)
        write_text(faces_path, table.to_csv(index=False))
        write_text(detections_path, detections.to_csv(index=False))
        write_text(numbers_path, json.dumps({**numbers, "test_set": wanted}))  # last: it says that the others are whole
    return pd.read_csv(faces_path), numbers


def detections_of(runs: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The detections that :func:`run` left in the run folders: columns arm, seed, and those of evaluate.precision_recall."""
    tables = [
        pd.read_csv(folder / row.folder / "test_detections.csv", dtype={"image": str}).assign(arm=row.arm, seed=row.seed)
        for row in runs.itertuples()
    ]
    return pd.concat(tables, ignore_index=True)


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
    """Trains and measures arms, prints what they give, and writes the tables to ``out``; see ``retinalib ablation --help``.

    seeds: by default as many as the profile has. Raises what :func:`run` raises.
    """
    sets = [open_dataset(dataset, data_root, profile, 0, split) for split in ("train", "validation", "test")]
    seeds = seeds or range(PROFILES[profile].seeds)
    runs_at = runs_folder(runs)
    base = PROFILES[profile].train_config(epochs=epochs, schema=sets[0].schema)
    faces, runs = run(arms, seeds, base, *sets, runs_at, device, processes)
    by_run = summary(faces, ["arm", "seed"]).join(runs.set_index(["arm", "seed"])["ap"])
    print(by_run.reset_index().to_markdown(index=False, floatfmt=".4f"))
    tables, printed = {"runs": by_run}, {}
    if len(arms) > 1 and len(seeds) > 1:
        differences = compare(faces, detections_of(runs, runs_at), arms)
        tables["differences"] = differences.set_index(["arm", "measure"])
        printed["differences"] = paper_form(differences)
        print(verdict(differences, arms[0]))
    if out:
        caption = (
            f"{len(sets[2])} {dataset} test photos, {len(seeds)} seeds, {base.epochs} epochs on {len(sets[0])} "
            f"photos, crops of {base.image_size} px; NME over the distance of the outer canthi; found: IoU ≥ 0.5, "
            f"score ≥ {SCORE_THRESHOLD}; failure and AUC at 10 %, a miss is a failure"
        )
        for name, table in tables.items():
            against = f"Against {arms[0]}. " if name == "differences" else ""
            write_table(table, out / name, against + caption, printed.get(name))


if __name__ == "__main__":
    import sys

    from retinalib.cli import main

    main(["ablation", *sys.argv[1:]], "retinalib")
