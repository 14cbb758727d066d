"""What the notebooks share: which data set, where data, runs and figures lie, seeds."""

import importlib.metadata
import math
import platform
import random
from pathlib import Path

import numpy as np

from retinalib import rendered
from retinalib.config import PROFILES
from retinalib.datasets import wflw, wider
from retinalib.datasets.table import FaceDataset

_ABOVE = Path(__file__).resolve().parents[1]
PROJECT = _ABOVE if (_ABOVE / "notebooks").is_dir() else Path.cwd()  # an installed package works where it is called
DATASETS = ("synthetic", "wflw", "wider")


def setup(seed: int) -> None:
    """Seeds Python, NumPy and torch, sets the figures' style, and prints the versions that matter."""
    import torch

    from retinalib.plots.style import use_style

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (for libraries that draw from the global generator)
    torch.manual_seed(seed)
    use_style()
    names = ("retinalib", "torch", "torchvision", "numpy", "pandas")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"Python {platform.python_version()}, {versions}; seed {seed}")


def open_dataset(dataset: str, data_root: str | Path | None, profile: str, seed: int, split: str) -> FaceDataset:
    """The data set of a notebook.

    dataset: "synthetic" (rendered on first use) and "wflw", 98 landmarks, or "wider", 5 landmarks; data_root: its folder,
    relative to the project's, or None for ``data/<dataset>``; split: "train", "validation" (a tenth of the official training
    photos, which "train" leaves out) or "test" (WIDER FACE's validation). WIDER FACE's box lists are joined into WFLW where
    they are, see data/README.md. Raises ValueError for another name, FileNotFoundError where data are missing."""
    splits = ("train", "validation", "test")
    for name, value, allowed in (("DATASET", dataset, DATASETS), ("PROFILE", profile, PROFILES), ("split", split, splits)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}; got '{value}'")
    root = PROJECT / (data_root or f"data/{dataset}")
    official = "test" if split == "test" else "train"
    if dataset == "synthetic":
        root = rendered.make(root, PROFILES[profile].images, seed=seed)
        faces = rendered.load(root, official)
    elif dataset == "wflw":
        lists = wider.box_lists(root) or wider.box_lists(PROJECT / "data/wider/wider_face_split")
        faces = wflw.load(root, official, lists or None)
    else:
        faces = wider.load_split(root, official)
    if split == "test":
        return faces
    count = max(1, round(0.1 * len(faces)))  # kept from training to watch it and to choose the best epoch
    # WIDER FACE is sorted by event: its share is spread over the list, the others' are the last photos
    kept_out = faces.names[:: len(faces) // count] if dataset == "wider" else faces.names[len(faces) - count :]
    return faces.subset(kept_out if split == "validation" else set(faces.names) - set(kept_out))


def measured(photos: FaceDataset, profile: str) -> FaceDataset:
    """As many photos as a profile measures at most, evenly spaced; "full" measures all."""
    most = PROFILES[profile].measured
    return photos.subset(photos.names[:: max(1, math.ceil(len(photos) / most))]) if most else photos


def figures_folder(figures: str | Path | None, dataset: str, profile: str) -> Path:
    """Where figures go, in the project: by default ``figures/``, or ``figures/<dataset>-<profile>/`` unless both are usual."""
    if figures is None:
        figures = "figures" if (dataset, profile) == ("synthetic", "standard") else f"figures/{dataset}-{profile}"
    return PROJECT / figures


def runs_folder(runs: str | Path | None = None) -> Path:
    """Where training runs are kept and found again: the folder named, relative to the project's, or None for ``data/runs``."""
    return PROJECT / (runs or "data/runs")
