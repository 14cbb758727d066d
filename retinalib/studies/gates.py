"""The gates of Squeeze-and-Excitation in a trained network, on crops with a face and without."""

import cv2
import numpy as np
import pandas as pd
import torch

from retinalib.datasets.table import ATTRIBUTES, FaceDataset
from retinalib.detect import Detector
from retinalib.studies.network_cost import excitations

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
