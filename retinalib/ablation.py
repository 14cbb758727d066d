"""Arms × seeds: the same training with one thing changed, repeated with several seeds, compared in pairs.

Every run is a folder (see train); a finished run is read, an interrupted one goes on. Measured on the test photos with the
run's best averaged weights, the faces of each run are kept in its folder as ``test_faces.csv``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector, load_detector
from retinalib.evaluate import detection_ap, evaluate_faces
from retinalib.faces import Faces
from retinalib.files import write_text
from retinalib.train import TrainConfig, fingerprint, run_folder, train

SCORE_THRESHOLD = 0.5  # a face found with less counts as missed; AP is over all scores from _AP_SCORE on
_AP_SCORE = 0.02

ARMS: dict[str, dict[str, dict]] = {
    "no-se": {},
    "se16": {"model": {"se_reduction": 16}},
    "se4": {"model": {"se_reduction": 4}},
    "wing": {"loss": {"landmark_loss": "wing"}},
    "five-point-flip": {"augment": {"flip_order": "five-point"}},
    "clamped-crops": {"augment": {"clamp_landmarks": True}},
}
"""What each arm changes in the base configuration. The last two are faults of the predecessor, one each."""


def arm_config(arm: str, base: TrainConfig, seed: int) -> TrainConfig:
    """``base`` with the arm's change and the seed. Raises ValueError for an unknown arm."""
    if arm not in ARMS:
        raise ValueError(f"unknown arm '{arm}': choose from {', '.join(ARMS)}")
    changes = {part: replace(getattr(base, part), **values) for part, values in ARMS[arm].items()}
    return replace(base, seed=seed, **changes)


def detect_all(detector: Detector, dataset: FaceDataset) -> list[Faces]:
    """What the detector finds in each photo, down to the scores that enter AP."""
    return [detector.detect(dataset[number][0], score_threshold=_AP_SCORE) for number in range(len(dataset))]


def measure(detector: Detector, dataset: FaceDataset) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row for each labelled face of ``dataset`` (see evaluate.evaluate_faces), and the photos' AP at IoU 0.5.

    AP is NaN where photos are labelled only in part.
    """
    found = detect_all(detector, dataset)
    truth = [dataset[number][1] for number in range(len(dataset))]
    ap = detection_ap(found, truth) if dataset.complete else float("nan")
    table = evaluate_faces([f[f.scores >= SCORE_THRESHOLD] for f in found], truth, dataset.names)
    return table, {"ap": ap, "photos": len(dataset), "faces": len(table)}


def run(
    arms: Sequence[str],
    seeds: Sequence[int],
    base: TrainConfig,
    train_set: FaceDataset,
    validation_set: FaceDataset,
    test_set: FaceDataset,
    runs: Path,
    device: str | torch.device | None = None,
    workers: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trains and measures every arm with every seed.

    Returns the faces (a row an arm, seed and true face) and the runs (a row an arm and seed: arm, seed, ap, photos, faces,
    folder). The same seed means the same initial weights where shapes agree, the same order of images and the same crops.
    """
    faces, rows = [], []
    for seed in seeds:
        for arm in arms:
            config = arm_config(arm, base, seed)
            folder = run_folder(runs, arm, config, train_set)
            train(config, train_set, validation_set, folder, device, workers)
            table, numbers = _measured(folder, test_set, device)
            faces.append(table.assign(arm=arm, seed=seed))
            rows.append({"arm": arm, "seed": seed, **numbers, "folder": folder.name})
            tqdm.write(f"{arm}, seed {seed}: AP {numbers['ap']:.3f}, median NME {table['nme'].median():.2%}")
    return pd.concat(faces, ignore_index=True), pd.DataFrame(rows)


def _measured(folder: Path, test_set: FaceDataset, device: str | torch.device | None) -> tuple[pd.DataFrame, dict]:
    """The test of a run, from its folder if it was made before on the same photos."""
    table_path, numbers_path = folder / "test_faces.csv", folder / "test.json"
    wanted = fingerprint(test_set)
    if numbers_path.is_file():
        numbers = json.loads(numbers_path.read_text())
        if numbers.pop("test_set") == wanted:
            return pd.read_csv(table_path), numbers
    table, numbers = measure(load_detector(folder, device), test_set)
    write_text(table_path, table.to_csv(index=False))
    write_text(numbers_path, json.dumps({**numbers, "test_set": wanted}))  # last: it says that the table is whole
    return pd.read_csv(table_path), numbers
