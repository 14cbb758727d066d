"""What Squeeze-and-Excitation does in a trained network: do the gates listen to the image, to what in it, does it matter?"""

from collections.abc import Mapping
from copy import deepcopy

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from retinalib.datasets.table import ATTRIBUTES, FaceDataset
from retinalib.detect import Detector
from retinalib.model import RetinaFace
from retinalib.studies.network_cost import excitations

SILENCED = 0.05  # mean gate of a channel
_AT_ONCE = 32


def face_and_background(dataset: FaceDataset, size: int, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """A face and as large a piece without any of each photo with room for both: (N, size, size, 3) uint8 RGB crops, in turn,
    and a row a crop: image, face (bool), and its attributes (bool). Raises ValueError for photos labelled only in part."""
    if not dataset.complete:
        raise ValueError("these photos are labelled only in part: what looks like background may be an unlabelled face")
    rng = np.random.default_rng(seed)
    crops, rows = [np.zeros((0, size, size, 3), np.uint8)], []
    for number, name in enumerate(dataset.names):
        faces = dataset.faces(number)
        if not len(faces):
            continue
        image, chosen = dataset[number][0], int(rng.integers(len(faces)))
        box = faces.boxes[chosen]
        room = np.array(image.shape[1::-1])
        side = int(min(1.6 * (box[2:] - box[:2]).max(), *room))
        corner = ((box[:2] + box[2:] - side) / 2).clip(0, room - side).astype(int)
        places = rng.integers(0, room - side, size=(50, 2), endpoint=True)
        apart = (places[:, None] >= faces.boxes[:, 2:]) | (places[:, None] + side <= faces.boxes[:, :2])  # (tries, F, 2)
        free = apart.any(-1).all(1)
        if side < 8 or not free.any():
            continue
        known = [attribute for attribute in ATTRIBUTES if attribute in faces.attributes]
        about = faces.attributes.iloc[chosen][known].astype(bool)
        for (left, top), face in ((corner, True), (places[free.argmax()], False)):
            piece = image[top : top + side, left : left + side]
            method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
            crops.append(cv2.resize(piece, (size, size), interpolation=method)[None])
            rows.append({"image": name, "face": face, **about})
    return np.concatenate(crops), pd.DataFrame(rows)


@torch.inference_mode()
def gates(detector: Detector, crops: np.ndarray) -> dict[int, np.ndarray]:
    """The gates of (N, H, W, 3) uint8 RGB images, N > 0: stride -> (N, C), for the levels that have SE."""
    parts = []
    for pixels in torch.from_numpy(crops).permute(0, 3, 1, 2).split(_AT_ONCE):
        found = excitations(detector.model, detector.model.config.normalisation.apply(pixels.to(detector.device)))
        parts.append({stride: gate.cpu().numpy() for stride, (_, gate, _) in found.items()})
    return {stride: np.concatenate([part[stride] for part in parts]) for stride in parts[0]}


def explained(values: np.ndarray, groups: np.ndarray) -> float:
    """The share of variance within the columns of (N, C) values that (N,) bool groups explain (η²; 1 / (N - 1) by chance)."""
    total = values.var(axis=0).sum()
    if total < 1e-12 or groups.all() or not groups.any():
        return float("nan")
    share = groups.mean()
    gap = values[groups].mean(0) - values[~groups].mean(0)
    return float(share * (1 - share) * (gap**2).sum() / total)


def gate_table(found: Mapping[int, Mapping[int, np.ndarray]], about: pd.DataFrame) -> pd.DataFrame:
    """What the gates of several seeds depend on, a row per seed and level.

    found: seed -> :func:`gates` of the crops; about: a row a crop, as of :func:`face_and_background`. Columns: seed, level,
    mean, silenced (channels with a mean under SILENCED), spread (standard deviation over images, mean of the channels),
    between_images (its share of the variance of the level's gates, NaN where that is 0), face_or_background (the share of the
    variance between images that it explains), then the same for each attribute among the crops with a face."""
    face = about["face"].to_numpy(bool)
    rows = []
    for seed, levels in found.items():
        for stride, gate in levels.items():
            row = {
                "seed": seed,
                "level": f"1/{stride}",
                "mean": gate.mean(),
                "silenced": int((gate.mean(0) < SILENCED).sum()),
                "spread": gate.std(0).mean(),
                "between_images": gate.var(0).mean() / gate.var() if np.ptp(gate) else np.nan,
                "face_or_background": explained(gate, face),
            }
            for attribute in about.columns.drop(["image", "face"]):
                row[attribute] = explained(gate[face], about.loc[face, attribute].to_numpy(bool))
            rows.append(row)
    return pd.DataFrame(rows)


def with_constant_gates(detector: Detector, dataset: FaceDataset) -> Detector:
    """The same detector with each gate replaced by its mean over the photos of ``dataset``."""
    photos = [gates(detector, dataset[number][0][None]) for number in range(len(dataset))]
    model: RetinaFace = deepcopy(detector.model)
    for number, stride in enumerate(model.config.anchors.strides):
        if stride in photos[0]:
            mean = torch.from_numpy(np.concatenate([photo[stride] for photo in photos]).mean(0))
            model.excitation[number] = scale = nn.Conv2d(len(mean), len(mean), 1, groups=len(mean), bias=False)
            scale.weight.data.copy_(mean[:, None, None, None])
    return Detector(model, detector.device)
