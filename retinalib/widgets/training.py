"""The explorer of chapter 4: where training runs stand, while they train and afterwards."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import pandas as pd
from IPython.display import display
from ipywidgets import Button, Dropdown
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.ticker import MaxNLocator

from retinalib.plots.style import PALETTE
from retinalib.widgets.explorer import Explorer, nothing

_MEASURES = {"total": "loss", "landmark": "landmark loss", "ap": "validation: AP", "nme": "validation: median NME"}
_T = TypeVar("_T")


def watch(folders: Iterable[str | Path], training: Callable[[], _T]) -> _T:
    """Shows the view of run folders and follows them with it while ``training()`` trains, in a thread; returns what that does.
    Its "stop", and an interruption of the kernel, ask the runs to stop: :class:`retinalib.runs.Stopped` is raised."""
    runs = [Path(folder) for folder in folders]
    view = training_view(runs)
    for control in view.controls.values():
        # what is set here sends the control's calls to the cell's thread, which is busy; without it they get one of their own
        vars(control.comm).pop("_reply_subshell_id", None)
    shown = display(view, display_id=True)
    with ThreadPoolExecutor(1) as thread:
        job, shown_logs = thread.submit(training), None
        while not job.done():
            try:
                wait([job], timeout=1)
                logs = [log.stat().st_mtime_ns for run in runs for log in run.glob("metrics.csv")]
                if logs != shown_logs:
                    view.update()
                shown_logs = logs
            except KeyboardInterrupt:
                view.controls["stop"].click()
    view.update()
    if shown:  # outside a notebook nothing is
        shown.update(view)
    return job.result()


def training_view(folders: str | Path | Iterable[str | Path]) -> Explorer:
    """Shows the losses and validations of run folders so far, and the newest picture of the chosen run. "refresh" or
    ``update()`` reads their files again, "stop" asks the runs to stop. Raises ValueError without a folder."""
    runs = [Path(f) for f in ([folders] if isinstance(folders, (str, Path)) else folders)]
    if not runs:
        raise ValueError("there is no run folder to look at")
    names = [folder.name for folder in runs]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}/{folder.name}" for folder in runs]

    def draw(run: int) -> tuple[Figure, str]:
        histories = {name: _history(folder) for name, folder in zip(names, runs, strict=True)}
        said = "; ".join(f"{name}: {_standing(history)}" for name, history in histories.items())
        if all(history.empty for history in histories.values()):
            return nothing("no run has finished an epoch yet: refresh later"), said
        newest = max((runs[run] / "pictures").glob("*.jpg"), default=None)
        figure = Figure(figsize=(10, 5.2 if newest else 2.8), layout="constrained")
        grid = figure.add_gridspec(2 if newest else 1, len(_MEASURES))
        for place, (column, title) in enumerate(_MEASURES.items()):
            ax = figure.add_subplot(grid[0, place])
            for (name, history), colour in zip(histories.items(), PALETTE * len(runs), strict=False):
                known = history.dropna(subset=[column])
                ax.plot(known["epoch"], known[column], marker="o", ms=3, color=colour, label=name)
            ax.set_title(title, fontsize=9)
            ax.set(xlabel="epoch", ylim=(0, None))
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
        if newest:
            ax = figure.add_subplot(grid[1, :])
            ax.imshow(imread(newest))
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.set_title(f"{names[run]}, epoch {newest.stem.lstrip('0')}: predictions in blue over truth in green", fontsize=9)
        return figure, said

    def stop(_: Button) -> None:
        from retinalib.runs import request_stop  # torch takes seconds to load, and looking at runs needs none of it

        request_stop(runs)
        explorer.say("asked to stop: what trains ends after its present step, and keeps its finished epochs")

    controls = {
        "run": Dropdown(options=[(name, n) for n, name in enumerate(names)], description="picture of"),
        "refresh": Button(description="refresh"),
        "stop": Button(description="stop", icon="stop", tooltip="finished epochs are kept; the next start goes on from there"),
    }
    explorer = Explorer(controls, draw)
    controls["refresh"].on_click(lambda _: explorer.update())
    controls["stop"].on_click(stop)
    return explorer


def _history(folder: Path) -> pd.DataFrame:
    path = folder / "metrics.csv"
    known = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    return known.reindex(columns=["epoch", *_MEASURES])


def _standing(history: pd.DataFrame) -> str:
    if history.empty:
        return "no epoch yet"
    epoch, loss = history[["epoch", "total"]].iloc[-1]
    measured = history.dropna(subset=["ap"])
    said = f", AP {measured['ap'].iloc[-1]:.3f}, NME {measured['nme'].iloc[-1]:.1%}" if len(measured) else ""
    return f"epoch {epoch:.0f}, loss {loss:.2f}{said}"
