"""Studies of two arms whose true difference is known: faces in photos, runs that turn out better or worse."""

import numpy as np
import pandas as pd

FACES = 2  # in a photo
_TYPICAL = 0.12  # NME


def study(
    rng: np.random.Generator, seeds: int, photos: int, gain: float = 0.0, run: float = 0.03, own: float = 0.1, miss: float = 0.0
) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """Tables of faces and detections as of retinalib.ablation, and the true difference of mean NME.

    NME is a product of log-normal factors: photo and face (shared by all runs), run (spread ``run``), photo in the eyes of
    this arm (shared by its seeds) and of this run (spread ``own`` each), chance; arm b's is 1 + ``gain`` times as large.
    Spreads are about those of the workbook's trainings. Faces are missed with a probability of about ``miss``, hard ones more
    often; there is one false detection a photo.
    """
    shape = (2, seeds, photos, FACES)  # arm, seed, photo, face
    spreads = {
        (1, 1, photos, 1): 0.4,
        (1, 1, photos, FACES): 0.4,
        (2, seeds, 1, 1): run,
        (2, 1, photos, 1): own,
        (2, seeds, photos, 1): own,
        shape: 0.3,
    }
    parts = {size: rng.normal(0, spread, size) for size, spread in spreads.items()}
    logs = sum(parts.values())
    expected = _TYPICAL * np.exp(sum(spread**2 for spread in spreads.values()) / 2)
    nme = _TYPICAL * np.exp(logs) * np.array([1.0, 1.0 + gain])[:, None, None, None]
    difficulty = parts[1, 1, photos, FACES] + 3 * parts[2, seeds, 1, 1] + rng.normal(0, 0.3, shape)
    matched = ~((difficulty > 0.3) & (rng.random(shape) < 4 * miss))
    names = [f"{number}.jpg" for number in range(photos)]
    index = pd.MultiIndex.from_product([["a", "b"], range(seeds), names, range(FACES)], names=["arm", "seed", "image", "face"])
    faces = pd.DataFrame({"matched": matched.ravel(), "nme": np.where(matched, nme, np.nan).ravel()}, index=index).reset_index()
    faces["nme_pupils"] = faces["nme"] * np.exp(rng.normal(0, 0.2, len(faces)))
    hits = faces[["arm", "seed", "image"]].assign(score=np.where(faces["matched"], 2 - difficulty.ravel(), np.nan))
    hits["hit"] = faces["matched"]
    wrong = faces[faces["face"] == 0][["arm", "seed", "image"]].assign(
        score=rng.normal(0.5, 0.7, 2 * seeds * photos), hit=False
    )
    return faces, pd.concat([hits, wrong], ignore_index=True), gain * expected
