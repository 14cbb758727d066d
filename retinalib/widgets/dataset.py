"""The explorer of chapter 1: the faces of a data set, one at a time, chosen by what they are."""

import numpy as np
import pandas as pd
from ipywidgets import Button, Checkbox, Dropdown, IntRangeSlider, IntSlider, Text, ToggleButtons
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from retinalib.datasets.describe import describe_faces
from retinalib.datasets.table import ATTRIBUTES, FaceDataset
from retinalib.plots.style import crop_face, draw_faces
from retinalib.widgets.explorer import Explorer, nothing, panels

_ODD = {
    "outside_photo": "{} landmarks outside the photo",
    "outside_box": "{} landmarks outside the box",
    "repeated": "{} landmarks on another one",
    "twin": "labelled twice",
}


def dataset_browser(dataset: FaceDataset) -> Explorer:
    """Shows one face after the other, as filters choose them: its photo with all boxes, and the face with its landmarks."""
    if not len(dataset.table):
        raise ValueError("the data set holds no face to look at")
    names = [name for name in ATTRIBUTES if name in dataset.table]
    table = pd.concat([describe_faces(dataset), dataset.table[["image", *names]].reset_index(drop=True)], axis=1)
    odd_face = (table[list(_ODD)] > 0).any(axis=1)
    flags = table[names].astype(bool).assign(none=lambda known: ~known.any(axis=1), any=True)
    choices = [(f"{name.replace('_', '-')}: {flags[name].sum():,}", name) for name in ("any", *names, "none")]
    smallest, largest = int(np.floor(table["size"].min())), int(np.ceil(table["size"].max()))

    def chosen(attribute: str, sizes: tuple[int, int], text: str, odd: bool) -> pd.DataFrame:
        keep = table["size"].between(*sizes) & table["image"].str.contains(text, case=False, regex=False)
        return table[keep & flags[attribute] & (odd_face | (not odd))]

    def draw(
        attribute: str, sizes: tuple[int, int], text: str, odd: bool, region: str, numbers: bool, face: int
    ) -> tuple[Figure, str]:
        rows = chosen(attribute, sizes, text, odd)
        if not len(rows):
            return nothing("no face is left: widen the filters"), f"0 of {len(table)} faces"
        row = rows.iloc[:face].iloc[-1]
        image, faces = dataset[row["photo"]]
        figure, (left, right) = panels([3.5, 3.5], 3.7)
        draw_faces(left, image, faces, landmarks=False)
        x1, y1, x2, y2 = faces.boxes[row["face"]]
        left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="#E69F00", lw=2.2))
        left.set_title(row["image"].rpartition("/")[2], fontsize=8)
        crop, close = crop_face(image, faces, row["face"], 400)
        close.landmarks[:, [region not in ("all", name) for name in close.schema.region_of()]] = np.nan
        draw_faces(right, crop, close, boxes=False, regions=True, numbers=numbers)
        right.set_title(f"{row['size']:.0f} px, face {row['face'] + 1} of {row['faces']} in the photo", fontsize=8)
        said = [n.replace("_", "-") for n in names if row[n]] or (["no attribute"] if names else [])
        said += [what.format(int(row[column])) for column, what in _ODD.items() if row[column]]
        return figure, f"{min(face, len(rows))} of {len(rows)} faces" + (": " + ", ".join(said) if said else "")

    controls = {
        "attribute": ToggleButtons(options=choices, style={"button_width": "auto"}),  # the attributes' bars, to be clicked
        "sizes": IntRangeSlider(value=(smallest, largest), min=smallest, max=largest, description="size (px)"),
        "text": Text(placeholder="part of the photo's name", description="name"),
        "odd": Checkbox(description="odd faces only", indent=False),
        "region": Dropdown(options=["all", *dataset.schema.regions], description="region"),
        "numbers": Checkbox(description="numbers", indent=False),
        "previous": Button(description="previous"),
        "next": Button(description="next"),
        "face": IntSlider(value=1, min=1, max=len(table), description="face"),
    }
    explorer = Explorer(controls, draw)

    def narrow(_: object) -> None:
        filters = {name: controls[name].value for name in ("attribute", "sizes", "text", "odd")}
        with controls["face"].hold_trait_notifications():  # the picture is drawn once
            controls["face"].max = max(1, len(chosen(**filters)))
            controls["face"].value = 1

    for name in ("attribute", "sizes", "text", "odd"):
        controls[name].observe(narrow, "value")
    for name, step in (("previous", -1), ("next", 1)):
        controls[name].on_click(lambda _, step=step: setattr(controls["face"], "value", controls["face"].value + step))
    return explorer
