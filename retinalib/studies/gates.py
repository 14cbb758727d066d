"""The gates of Squeeze-and-Excitation in a trained network."""

import numpy as np
import torch

from retinalib.detect import Detector
from retinalib.studies.network_cost import excitations

_AT_ONCE = 32


@torch.inference_mode()
def gates(detector: Detector, crops: np.ndarray) -> dict[int, np.ndarray]:
    """The gates of (N, H, W, 3) uint8 RGB images, N > 0: stride -> (N, C), for the levels that have SE."""
    parts = []
    for pixels in torch.from_numpy(crops).permute(0, 3, 1, 2).split(_AT_ONCE):
        found = excitations(detector.model, detector.model.config.normalisation.apply(pixels.to(detector.device)))
        parts.append({stride: gate.cpu().numpy() for stride, (_, gate, _) in found.items()})
    return {stride: np.concatenate([part[stride] for part in parts]) for stride in parts[0]}
