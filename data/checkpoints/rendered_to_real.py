"""What rendered faces and public weights are worth: the whole first look, trained with so many real faces, with and without.

    python data/checkpoints/rendered_to_real.py --real FACES --real POOL --start mobilenet0.25_Final.pth --out runs

FACES and POOL as for photos98.py. Trains everything, the backbone as well, for 2,200 batches of 16 crops of 320 pixels, eleven
times: 0, 100, 1,000 and all real faces beside rendered ones, from the public five-point weights or from scratch; all real faces
without rendered ones, likewise; and once with SE after each SSH. A checkpoint each, for retinalib.load_detector.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from photos98 import Photo, read_photos, train_first_look

from retinalib import rendered
from retinalib.checkpoint import save_model

ALL = 10**6
RUNS = [(real, True, public, None) for real in (0, 100, 1000, ALL) for public in (True, False)]
RUNS += [(ALL, False, True, None), (ALL, False, False, None), (ALL, True, True, 16)]  # real faces, rendered, public, SE


def chosen(photos: list[Photo], faces: int) -> list[Photo]:
    """Photos in random order until they have so many faces with landmarks."""
    kept, count = [], 0
    for number in np.random.default_rng(0).permutation(len(photos)):
        if count >= faces:
            break
        kept.append(photos[number])
        count += int(np.isfinite(photos[number].points).all((1, 2)).sum())
    return kept


@click.command()
@click.option("--real", "roots", multiple=True, required=True, type=click.Path(exists=True, path_type=Path), help="Photos.")
@click.option("--start", required=True, type=click.Path(exists=True, path_type=Path), help="The public five-point weights.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the checkpoints.")
@click.option("--steps", default=2200, show_default=True, help="Of each training.")
@click.option("--pictures", default=1600, show_default=True, help="Rendered pictures, made in data/rendered-photos98.")
@click.option("--workers", default=7, show_default=True, help="Processes that make the crops.")
@click.option("--size", default=320, show_default=True, help="Pixels a side of a crop.")
def main(roots: tuple[Path, ...], start: Path, out: Path, steps: int, pictures: int, workers: int, size: int) -> None:
    """Trains the eleven networks into OUT; what is there already stays."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    photos = [photo for root in roots for photo in read_photos(root) if photo.weight and len(photo.boxes)]
    drawn = rendered.load(rendered.make(Path(__file__).parents[1] / "rendered-photos98", pictures, seed=4242), "train")
    for real, with_drawn, public, se in RUNS:
        path = out / f"{'all' if real == ALL else real}{'-rendered' * with_drawn}{'-public' * public}{'-se16' if se else ''}.pt"
        if path.exists():
            continue
        kept = chosen(photos, real)
        share = 0.35 if kept else 1.0
        more = [(drawn.images_root / drawn.names[n], drawn.faces(n)) for n in range(len(drawn) * with_drawn)]
        kept += [Photo(place, faces.boxes, faces.landmarks, True, share) for place, faces in more if len(faces)]
        torch.manual_seed(0)
        network = train_first_look(kept, start if public else None, steps, device, workers, size, 16, True, se)
        out.mkdir(parents=True, exist_ok=True)
        save_model(network, path)


if __name__ == "__main__":
    main()
