"""Makes learning.csv: the error in held-out photos against the number of training photos and the size of crops.

    python data/ablation/learning_curves.py

The network without SE and the profile standard, one seed. Fewer photos are seen as much more often, so that all runs have the
same number of steps. Finished runs are reused; about half an hour on two cores.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

import retinalib
from retinalib.ablation import measure, train_all
from retinalib.config import PROFILES
from retinalib.files import write_text
from retinalib.studies.statistics import cluster_interval
from retinalib.train import run_folder
from retinalib.workspace import open_dataset, runs_folder

OUT = Path(__file__).with_name("learning.csv")
RUNS = ((16, 160), (4, 160), (1, 160), (1, 96))  # one in so many photos, pixels of a crop


def main() -> None:
    """Train, measure on the held-out photos, write the table."""
    train_set, held_out = (open_dataset("synthetic", None, "standard", 0, split) for split in ("train", "validation"))
    rows = []
    for part, crop in RUNS:
        config = PROFILES["standard"].train_config(schema=train_set.schema)
        times = {"epochs": part * config.epochs, "validate_every": part * config.validate_every}
        config = replace(config, image_size=crop, **times)
        photos = train_set.subset(train_set.names[::part])
        folder = run_folder(runs_folder(), f"learning-{part}-{crop}", config, photos)
        (log,) = train_all({folder: config}, photos, held_out)
        table, _, _ = measure(retinalib.load_detector(folder), held_out)
        row = {"photos": len(photos), "crop": crop, "epochs": config.epochs, "recall": table["matched"].mean()}
        row |= dict(zip(("nme", "low", "high"), cluster_interval(table, "nme"), strict=True))
        rows.append(row | log.iloc[-1][["landmark", "validation_landmark"]].to_dict())
    write_text(OUT, pd.DataFrame(rows).to_csv(index=False))


if __name__ == "__main__":
    main()
