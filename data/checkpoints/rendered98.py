"""Gives ``rendered98`` and ``rendered98-se16`` their second look at each eye, trained on rendered faces alone.

    python data/checkpoints/rendered98.py FIRST.pt … --out FOLDER

The look does not depend on the first one: it learns from frames that are off as first answers are. So one look serves both.
Needs no GPU: about a quarter of an hour on one core, and ten minutes on two cores for the pictures.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import click
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from retinalib import rendered
from retinalib.augment import AugmentConfig
from retinalib.batches import AugmentedPhotos, batch_keys, reading
from retinalib.checkpoint import load_model, save_model
from retinalib.landmarks import WFLW_98
from retinalib.model import RetinaFace
from retinalib.second_look import Look, eye_look, look_loss

SIZE, BATCH = 160, 16  # pixels of a crop, crops a step


def train_look(photos: AugmentedPhotos, steps: int) -> Look:
    """The averaged weights of a look at the eyes after ``steps`` batches."""
    look, generator = Look(eye_look(WFLW_98)), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(look.parameters(), weight_decay=0.02)
    schedule = OneCycleLR(optimiser, 3e-3, steps, pct_start=0.05)
    average = AveragedModel(look, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
    epochs = steps // (len(photos.source) // BATCH) + 1
    with reading(photos, batch_keys(len(photos.source), BATCH, 0, epochs), workers=0) as stream:
        for images, targets, _ in tqdm(islice(stream, steps), total=steps, mininterval=10):
            image = torch.tensor([number for number, target in enumerate(targets) for _ in target.boxes])
            landmarks = torch.cat([t.landmarks.masked_fill(~t.visible[..., None], torch.nan) for t in targets]) * SIZE
            loss = look_loss(look, images.float(), image, landmarks, generator)
            if not loss.requires_grad:  # a batch without an eye
                continue
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(look.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(look)
    return average.module.eval()


def with_look(first: RetinaFace, look: Look) -> RetinaFace:
    """The detector with ``look`` as its only second look."""
    model = RetinaFace(replace(first.config, looks=(look.config,)))
    state = {name: value for name, value in first.state_dict().items() if not name.startswith("looks.")}
    model.load_state_dict(state | {f"looks.0.{name}": value for name, value in look.state_dict().items()})
    return model.eval()


@click.command()
@click.argument("firsts", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder for the checkpoints.")
@click.option("--steps", default=4000, show_default=True, help="Batches of 16 crops.")
@click.option("--pictures", default=3000, show_default=True, help="Rendered pictures, made in data/rendered-rendered98.")
def main(firsts: tuple[Path, ...], out: Path, steps: int, pictures: int) -> None:
    """Trains the look and writes each checkpoint of FIRSTS with it to OUT."""
    torch.manual_seed(0)
    root = rendered.make(Path(__file__).parents[1] / "rendered-rendered98", pictures, seed=98)
    photos = AugmentedPhotos(rendered.load(root, "train"), SIZE, AugmentConfig(near=0.15), seed=0)
    look = train_look(photos, steps)
    for path in firsts:
        save_model(with_look(load_model(path), look), out / path.name)


if __name__ == "__main__":
    main()
