"""The explorer of chapter 4: where training runs stand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from ipywidgets import Button, Dropdown
from matplotlib.figure import Figure

from retinalib.plots.style import PALETTE
from retinalib.widgets.explorer import Explorer, nothing

_MEASURES = {"total": "loss", "landmark": "landmark loss", "ap": "validation: AP", "nme": "validation: median NME"}


def training_view(folders: str | Path | Sequence[str | Path]) -> Explorer:
    """Shows the losses and validations of run folders so far, and the newest picture of the chosen run.

    The runs go on elsewhere, in this process or another; "refresh", or ``update()`` in code, reads their files again.
    """
    runs = [Path(f) for f in ([folders] if isinstance(folders, (str, Path)) else folders)]
    if not runs:
        raise ValueError("there is no run folder to look at")

    def draw(run: int) -> tuple[Figure, str]:
        histories = {folder.name: _history(folder) for folder in runs}
        said = "; ".join(f"{name}: {_standing(history)}" for name, history in histories.items())
        if all(history.empty for history in histories.values()):
            return nothing("no run has finished an epoch yet: refresh later"), said
        newest = _newest_picture(runs[run])
        figure = Figure(figsize=(10, 5.2 if newest else 2.8), layout="constrained")
        grid = figure.add_gridspec(2 if newest else 1, len(_MEASURES))
        for place, (column, title) in enumerate(_MEASURES.items()):
            ax = figure.add_subplot(grid[0, place])
            for (name, history), colour in zip(histories.items(), PALETTE * len(runs), strict=False):
                if column in history:
                    known = history.dropna(subset=[column])
                    ax.plot(known["epoch"], known[column], marker="o", ms=3, color=colour, label=name)
            ax.set_title(title, fontsize=9)
            ax.set(xlabel="epoch", ylim=(0, None))
        ax = figure.axes[0]
        if ax.lines:
            figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
        if newest:
            ax = figure.add_subplot(grid[1, :])
            ax.imshow(newest[1])
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.set_title(f"{runs[run].name}, {newest[0]}: predictions in blue over truth in green", fontsize=9)
        return figure, said

    controls = {
        "run": Dropdown(options=[(folder.name, n) for n, folder in enumerate(runs)], description="picture of"),
        "refresh": Button(description="refresh"),
    }
    explorer = Explorer(controls, draw)
    controls["refresh"].on_click(lambda _: explorer.update())
    return explorer


def _history(folder: Path) -> pd.DataFrame:
    """A row for each epoch that the run has finished."""
    path = folder / "metrics.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def _standing(history: pd.DataFrame) -> str:
    if history.empty:
        return "no epoch yet"
    last = history.iloc[-1]
    text = f"epoch {int(last['epoch'])}, loss {last['total']:.2f}"
    measured = history.dropna(subset=["ap"]) if "ap" in history else history[:0]
    return text + (f", AP {measured.iloc[-1]['ap']:.3f}, NME {measured.iloc[-1]['nme']:.1%}" if len(measured) else "")


def _newest_picture(folder: Path) -> tuple[str, np.ndarray] | None:
    """The last picture that can be read (one may just be being written), and the epoch it is of."""
    for path in sorted((folder / "pictures").glob("*.jpg"), reverse=True):
        picture = cv2.imread(str(path))
        if picture is not None:
            return f"epoch {int(path.stem)}" if path.stem.isdigit() else path.stem, picture[..., ::-1]
    return None
