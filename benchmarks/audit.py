"""How many planted faults a label audit finds: ``python -m benchmarks.audit``."""

from pathlib import Path

import click
import numpy as np
import pandas as pd

from retinalib import rendered
from retinalib.datasets.table import BOX, FaceDataset
from retinalib.detect import load_detector
from retinalib.studies import audit

PLANTED = ("mirrored order", "swapped eyes", "shifted", "another person")


def plant(dataset: FaceDataset, count: int, seed: int) -> tuple[FaceDataset, pd.Series]:
    """The data set with ``count`` faulty faces, and the fault of each face ("" for none), by its place in the table.

    Faults take turns: left and right exchanged; the points of the eyes exchanged; all points moved by 0.1 to 0.3 of the box's
    size; the points of another face, put into this face's box."""
    rng, schema, table = np.random.default_rng(seed), dataset.schema, dataset.table.copy()
    points, boxes = np.stack(table["landmarks"].to_list()), table[BOX].to_numpy(float)[:, None]
    place = (points - boxes[..., :2]) / (boxes[..., 2:] - boxes[..., :2])
    faults = pd.Series("", index=table.index)
    eyes = [point for eye in (schema.right_eye, schema.left_eye) for point in eye.points()]
    for turn, row in enumerate(rng.permutation(len(table))[:count]):
        kind, wrong, mirrored = PLANTED[turn % len(PLANTED)], points[row].copy(), points[row][list(schema.flip_order)]
        if kind == "mirrored order":
            wrong = mirrored
        elif kind == "swapped eyes":
            wrong[eyes] = mirrored[eyes]
        elif kind == "shifted":
            angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.3) * dataset.table["size"][row]
            wrong += (reach * np.cos(angle), reach * np.sin(angle))
        else:
            other = (row + rng.integers(1, len(table))) % len(table)
            wrong = boxes[row, :, :2] + place[other] * (boxes[row, :, 2:] - boxes[row, :, :2])
        table.at[row, "landmarks"], faults[row] = wrong.astype(np.float32), kind
    return FaceDataset(table, dataset.images_root, schema), faults


def find(dataset: FaceDataset, count: int, seed: int, checkpoint: str | None = None) -> pd.DataFrame:
    """The audit of a data set with planted faults, most disputed first, with a column ``planted``."""
    sizes = np.concatenate([dataset.faces(number).size for number in range(len(dataset))])
    where = np.concatenate(dataset.rows)
    dataset.table["size"] = pd.Series(sizes, where).sort_index()
    faulty, faults = plant(dataset, count, seed)
    detector = load_detector(checkpoint)
    faces, _ = audit.look(detector, faulty)
    key = ["image", "line"]
    planted = faulty.table[key].assign(planted=faults.to_numpy())
    return audit.disputed(faces, faulty.schema).merge(planted, on=key, how="left", validate="one_to_one")


@click.command()
@click.option("--pictures", default=300, help="Rendered ones, of which four fifths are audited.")
@click.option("--faults", default=50)
@click.option("--seed", default=0)
@click.option("--checkpoint", help="By default the first that is shipped.")
@click.option("--out", default="build/audit", type=click.Path(path_type=Path), help="Folder for the pictures and the table.")
def main(pictures: int, faults: int, seed: int, checkpoint: str | None, out: Path) -> None:
    """Plant faults into rendered faces and count those among the faces that the audit disputes most."""
    table = find(rendered.load(rendered.make(out, pictures, seed=seed), "train"), faults, seed, checkpoint)
    table.drop(columns=["box", "labels", "predicted"]).to_csv(out / "planted.csv", index=False)
    for measure in ("dispute", "nme"):
        order = table.sort_values(measure, ascending=False, kind="stable", ignore_index=True)
        hits = {kind: [int((order["planted"][:n] == kind).sum()) for n in (faults, 2 * faults)] for kind in PLANTED}
        counted = pd.DataFrame(hits, index=[f"worst {faults}", f"worst {2 * faults}"]).T
        counted["planted"] = [int((order["planted"] == kind).sum()) for kind in PLANTED]
        counted.loc["all"] = counted.sum()
        click.echo(f"{len(order)} faces by {measure}\n{counted.to_markdown()}\n")
    found = table[table["planted"] != ""]
    click.echo(pd.crosstab(found["planted"], found["kind"]).to_markdown())


if __name__ == "__main__":
    main()
