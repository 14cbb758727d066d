"""What the notebooks share: profiles (how much work), where data and figures lie, seeds."""

from __future__ import annotations

import importlib.metadata
import platform
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retinalib.datasets import synthetic, wflw, wider
from retinalib.datasets.table import FaceDataset
from retinalib.landmarks import WFLW_98, LandmarkSchema

if TYPE_CHECKING:
    from retinalib.train import TrainConfig

PROJECT = Path(__file__).resolve().parents[1]
DATASETS = ("synthetic", "wflw", "wider")
_FEW_LANDMARKS = 20  # of more, the sum over coordinates would drown the other parts of the loss: they weigh a quarter
_NEAR = 0.15  # of the crops of large faces show a part from near, which is background
_LEAST_NEGATIVES = 32  # as of a face with four or five positive anchors; without them crops without faces teach nothing
_PUPIL_WEIGHT = 5.0  # so that the place of the pupil in the eye, what this workbook is about, is felt at all
_VALIDATION_SHARE = 0.1  # of the training photos, kept from training to watch it and to choose the best epoch


@dataclass(frozen=True)
class Profile:
    """How much work the notebooks do."""

    images: int  # rendered pictures, training and test together
    epochs: int  # of one training run
    seeds: int  # training runs of each arm
    image_size: int  # pixels a side of a training crop
    batch_size: int
    learning_rate: float
    eye_head: bool = False  # a second look at each eye, see retinalib.eyes

    def train_config(
        self,
        se_reduction: int | None = None,
        seed: int = 0,
        epochs: int | None = None,
        schema: LandmarkSchema = WFLW_98,
    ) -> TrainConfig:
        """The training run of this profile, with or without SE, for the landmarks of ``schema``."""
        from retinalib.augment import AugmentConfig
        from retinalib.loss import LossConfig
        from retinalib.train import TrainConfig

        epochs = self.epochs if epochs is None else epochs
        config = TrainConfig(
            image_size=self.image_size,
            epochs=epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            validate_every=max(1, min(5, epochs // 5)),
            loss=LossConfig(
                landmark_weight=1.0 if schema.count <= _FEW_LANDMARKS else 0.25,
                pupil_weight=_PUPIL_WEIGHT,
                least_negatives=_LEAST_NEGATIVES,
            ),
            augment=AugmentConfig(near=_NEAR),
            seed=seed,
        )
        eye_head = self.eye_head and bool(schema.right_eye.lids)
        return replace(config, model=replace(config.model, schema=schema, se_reduction=se_reduction, eye_head=eye_head))


PROFILES = {
    "quick": Profile(images=160, epochs=24, seeds=2, image_size=128, batch_size=4, learning_rate=4e-3),
    "standard": Profile(images=2500, epochs=10, seeds=3, image_size=160, batch_size=16, learning_rate=6e-3),
    "shipped": Profile(images=8000, epochs=36, seeds=1, image_size=160, batch_size=16, learning_rate=6e-3, eye_head=True),
    "full": Profile(images=12000, epochs=60, seeds=5, image_size=320, batch_size=32, learning_rate=6e-3, eye_head=True),
}


def setup(seed: int) -> None:
    """Seeds Python, NumPy and torch, sets the figures' style, and prints the versions that matter."""
    import torch

    from retinalib.plots.style import use_style

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (for libraries that draw from the global generator)
    torch.manual_seed(seed)
    use_style()
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("retinalib", "torch", "torchvision", "numpy", "pandas")
    ]
    print(f"Python {platform.python_version()}, {', '.join(versions)}; seed {seed}")


def open_dataset(dataset: str, data_root: str | Path | None, profile: str, seed: int, split: str) -> FaceDataset:
    """The data set of a notebook.

    dataset: "synthetic" (rendered on first use) and "wflw", 98 landmarks, or "wider", 5 landmarks; data_root: its folder,
    relative to the project's, or None for ``data/<dataset>``; split: "train", "validation" (a tenth of the official training
    photos, which "train" leaves out) or "test" (WIDER FACE's official validation, since its test has no public truth).

    Where WIDER FACE's box lists lie in WFLW's folder or in ``data/wider/wider_face_split``, they are joined into WFLW: all
    faces of its photos, not only the labelled ones, then train and measure detection.

    Raises ValueError for another name, FileNotFoundError where data are missing, saying where to get them.
    """
    _check("DATASET", dataset, DATASETS)
    _check("PROFILE", profile, PROFILES)
    _check("split", split, ("train", "validation", "test"))
    root = PROJECT / (data_root or f"data/{dataset}")
    official = "test" if split == "test" else "train"
    if dataset == "synthetic":
        root = synthetic.make(root, PROFILES[profile].images, seed=seed)
        faces = synthetic.load(root, official)
    elif dataset == "wflw":
        faces = wflw.load(root, official, _wider_lists(root))
    else:
        faces = wider.load_split(root, official)
    if split == "test":
        return faces
    count = max(1, round(_VALIDATION_SHARE * len(faces)))
    # WIDER FACE is sorted by event: its share is spread over the list, the others' are the last photos
    kept_out = faces.names[:: len(faces) // count] if dataset == "wider" else faces.names[len(faces) - count :]
    return faces.subset(kept_out if split == "validation" else set(faces.names) - set(kept_out))


def _wider_lists(root: Path) -> list[Path] | None:
    """WIDER FACE's box lists in the folder of WFLW, or else in that of WIDER FACE; None where there are none."""
    for folder in (root, PROJECT / "data/wider/wider_face_split"):
        if lists := wider.box_lists(folder):
            return lists
    return None


def figures_folder(figures: str | Path | None, dataset: str, profile: str) -> Path:
    """Where figures go: the folder named, relative to the project's; or None for ``figures/``, which is the committed report
    of the standard profile on rendered faces, and ``figures/<dataset>-<profile>/`` for everything else."""
    if figures is not None:
        return PROJECT / figures
    if (dataset, profile) == ("synthetic", "standard"):
        return PROJECT / "figures"
    return PROJECT / "figures" / f"{dataset}-{profile}"


def runs_folder(runs: str | Path | None = None) -> Path:
    """Where training runs are kept and found again: the folder named, relative to the project's, or None for ``data/runs``."""
    return PROJECT / (runs or "data/runs")


def _check(name: str, value: str, allowed: tuple[str, ...] | dict) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got '{value}'")
