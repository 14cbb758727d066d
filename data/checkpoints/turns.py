"""What turned crops bring to photos98: its landmark head trained with and without them, measured on faces turned on purpose.

    python data/checkpoints/turns.py --real FACES --real POOL --start mobilenet0.25_Final.pth --test FACES

FACES and POOL as for photos98.py; the test list of FACES is measured, with the second looks as shipped and without. Writes
the table figures/tables/turns.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from photos98 import TURN, read_photos, train_first_look

from retinalib.checkpoint import load_model
from retinalib.datasets import wflw
from retinalib.detect import Detector, find_checkpoint
from retinalib.evaluate import failure_rate, match_faces, point_errors
from retinalib.faces import Faces
from retinalib.plots.tables import write_table
from retinalib.studies.statistics import cluster_bootstrap

DEGREES = (-40, -20, 0, 20, 40)
TABLE = Path(__file__).parents[2] / "figures" / "tables" / "turns"


def turned(image: np.ndarray, faces: Faces, degrees: float) -> tuple[np.ndarray, Faces]:
    """A photo turned about its middle on a ground that holds all of it; the boxes are the extents of the points."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    size = np.abs(matrix[:, :2]) @ [width, height]
    matrix[:, 2] += size / 2 - [width / 2, height / 2]
    image = cv2.warpAffine(image, matrix, tuple(np.ceil(size).astype(int).tolist()), borderValue=(124, 116, 104))
    points = faces.landmarks @ matrix[:, :2].T + matrix[:, 2]
    boxes = np.concatenate([points.min(1), points.max(1)], 1)
    return image, Faces(boxes.astype(np.float32), points.astype(np.float32))


def errors(detector: Detector, photos: list[tuple[np.ndarray, Faces]], second_look: bool) -> pd.DataFrame:
    """A row a face and turn: image, degrees, nme and pupil_nme in % of the inter-ocular distance, NaN for a miss."""
    rows = []
    for number, (photo, known) in enumerate(tqdm(photos)):
        for degrees in DEGREES:
            image, true = turned(photo, known, degrees)
            found = detector.detect(image, score_threshold=0.3, second_look=second_look)
            partner, landmarks = match_faces(found, true, 0.4), np.full(true.landmarks.shape, np.nan)
            landmarks[partner >= 0] = found.landmarks[partner[partner >= 0]]
            off = 100 * point_errors(landmarks, true.landmarks, normaliser="inter_ocular")
            pupils = off[:, list(true.schema.pupils)].mean(1)
            rows.append(pd.DataFrame({"image": number, "degrees": degrees, "nme": off.mean(1), "pupil_nme": pupils}))
    return pd.concat(rows, ignore_index=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row for faces upright, turned by 20 and by 40°: how many were found, failures, medians with intervals over photos."""
    rows = {}
    for degrees, part in table.groupby(table["degrees"].abs()):
        found = part.dropna()
        low_high = [cluster_bootstrap(found, [name], np.median) for name in ("nme", "pupil_nme")]
        names = ("nme", "nme_low", "nme_high", "pupil_nme", "pupil_nme_low", "pupil_nme_high")
        medians = dict(zip(names, np.ravel(low_high), strict=True))
        rows[degrees] = {"shown": len(part), "found": len(found), "failures": 100 * failure_rate(part["nme"], 10.0), **medians}
    return pd.DataFrame(rows).T.rename_axis("degrees")


@click.command()
@click.option("--real", "roots", multiple=True, required=True, type=click.Path(exists=True, path_type=Path), help="Photos.")
@click.option("--start", required=True, type=click.Path(exists=True, path_type=Path), help="The public five-point weights.")
@click.option("--test", required=True, type=click.Path(exists=True, path_type=Path), help="Folder of the test list.")
@click.option("--out", default=TABLE, type=click.Path(path_type=Path), help="The table, without suffix.")
@click.option("--steps", default=1500, show_default=True, help="Of each training, 16 crops each.")
@click.option("--size", default=320, show_default=True, help="Pixels a side of a crop.")
@click.option("--workers", default=0, show_default=True, help="Processes that make the crops.")
def main(roots: tuple[Path, ...], start: Path, test: Path, out: Path, steps: int, size: int, workers: int) -> None:
    """Trains the landmark head twice, without and with turned crops, and measures both."""
    train_photos = [photo for root in roots for photo in read_photos(root) if photo.weight and len(photo.boxes)]
    test_photos, tables = list(wflw.load(test, "test")), {}
    for turn in (0.0, TURN):
        torch.manual_seed(0)
        head = train_first_look(train_photos, start, steps, "cpu", workers, size, 16, turn=turn).landmark_head.state_dict()
        model = load_model(find_checkpoint("photos98"))
        model.landmark_head.load_state_dict(head)
        for second_look in (False, True):
            looks = "all looks" if second_look else "first look"
            name = (f"crops turned by up to {turn:.0f}°" if turn else "crops upright", looks)
            tables[name] = summary(errors(Detector(model.eval()), test_photos, second_look))
    table = pd.concat(tables, names=["training", "looks"])
    write_table(table, out, "Faces of WFLW's test list turned on purpose; medians in % of the inter-ocular distance")
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
