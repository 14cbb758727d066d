"""Shapes of faces: their mean, how far two are apart, and their proportions."""

import numpy as np
import pandas as pd

from retinalib.landmarks import WFLW_98, LandmarkSchema


def mean_shape(landmarks: np.ndarray, iterations: int = 10) -> np.ndarray:
    """(L, 2) mean of (N, L, 2) shapes after generalised Procrustes alignment (Gower 1975), centred, of unit norm, upright."""
    shapes = np.asarray(landmarks, float)
    shapes = shapes[np.isfinite(shapes).all((1, 2))]
    if not len(shapes):
        raise ValueError("mean_shape needs at least one face with all landmarks known")
    shapes = shapes - shapes.mean(1, keepdims=True)
    shapes /= np.linalg.norm(shapes, axis=(1, 2), keepdims=True)
    mean = shapes.mean(0)
    for _ in range(iterations):
        u, _, vt = np.linalg.svd(shapes.transpose(0, 2, 1) @ mean)
        mean = (shapes @ (u @ vt)).mean(0)
        mean /= np.linalg.norm(mean)
    return mean


def aligned_to(shapes: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(N, L, 2) complete shapes, shifted, scaled and turned onto (L, 2) ``mean`` by least squares (Umeyama 1991, eq. 39–43)."""
    centre = mean.mean(0)
    target, moved = mean - centre, shapes - shapes.mean(1, keepdims=True)
    u, values, vt = np.linalg.svd(moved.transpose(0, 2, 1) @ target)
    sign = np.ones_like(values)
    sign[:, -1] = np.sign(np.linalg.det(u @ vt))
    turn = (u * sign[:, None]) @ vt
    scale = (values * sign).sum(1) / (moved**2).sum((1, 2))
    return scale[:, None, None] * (moved @ turn) + centre


def proportions(landmarks: np.ndarray, schema: LandmarkSchema = WFLW_98) -> pd.DataFrame:
    """A row for each of (N, 98, 2) landmarks: mouth_opening (height by width of the inner lips), aspect (the same of all)."""
    lips = landmarks[:, list(schema.regions["inner lips"])]
    half = lips.shape[1] // 2
    gaps = np.linalg.norm(lips[:, 1:half] - lips[:, :half:-1], axis=-1)
    extent = np.ptp(landmarks, axis=1)
    opening = gaps.mean(1) / np.linalg.norm(lips[:, 0] - lips[:, half], axis=-1)
    return pd.DataFrame({"mouth_opening": opening, "aspect": extent[:, 1] / extent[:, 0]})
