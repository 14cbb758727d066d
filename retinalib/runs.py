"""A run's folder: who may write, what is kept to go on, the wish to stop. ``last.pt`` ends an epoch; the log follows it."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from torch.optim.swa_utils import AveragedModel

from retinalib.checkpoint import read, save_model
from retinalib.files import only_process, write_text
from retinalib.model import RetinaFace

STOP = "stop"  # the file in a run's folder that asks for a stop, see request_stop


class Stopped(Exception):
    """Training was asked to stop, see :func:`request_stop`. What the finished epochs gave is kept."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the sentence alone, for nothing went wrong."""
        return [f"Stopped: {self}"]


def request_stop(folders: str | Path | Iterable[str | Path]) -> None:
    """Asks whoever trains the run in a folder, or one of the runs in several, to stop: leaves a file ``stop`` in each folder
    that is there, as anybody may; the next start takes it away and goes on."""
    for folder in [folders] if isinstance(folders, (str, Path)) else folders:
        if Path(folder).is_dir():
            (Path(folder) / STOP).touch()


@contextmanager
def claim(folder: Path, recipe: dict) -> Iterator[dict | None]:
    """Takes the folder for the run that ``recipe`` describes, and gives the state to go on from, None at the beginning.

    The folder is this process' within the block; a finished run's is only read. recipe: plain values; a run may go on with more
    epochs. Raises ValueError if the folder holds another recipe, or more epochs, or another process has it, or is damaged."""
    log = folder / "metrics.csv"
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    if len(lines) == recipe["config"]["epochs"] + 1 and (state := _state(folder, recipe)):
        yield state
        return
    with only_process(folder):
        state = _state(folder, recipe)
        (folder / STOP).unlink(missing_ok=True)
        write_text(folder / "config.json", json.dumps(recipe, indent=1))
        if state:
            write_text(log, pd.DataFrame(state["rows"]).to_csv(index=False))
        yield state


def _state(folder: Path, recipe: dict) -> dict | None:
    last = folder / "last.pt"
    if not last.is_file():
        return None
    try:
        state = read(last)
    except ValueError as error:
        raise ValueError(f"{error}; delete the folder to train anew") from error
    if _what_is_learned(state["recipe"]) != _what_is_learned(recipe):
        raise ValueError(f"{folder} holds a run of another configuration or other data: take another folder, or delete it")
    if len(state["rows"]) > recipe["config"]["epochs"]:
        raise ValueError(f"{folder} holds {len(state['rows'])} epochs already: ask for as many, or take another folder")
    return state


def _what_is_learned(recipe: dict) -> dict:
    """The recipe without what may differ when a run goes on: its length, its validations, the place of its first weights."""
    config = {name: value for name, value in recipe["config"].items() if name not in ("epochs", "validate_every", "start_from")}
    return {**recipe, "config": config}


def save_epoch(
    folder: Path, recipe: dict, rows: list[dict], model: RetinaFace, average: AveragedModel, optimiser: torch.optim.Optimizer
) -> None:
    """Keeps an epoch: the checkpoints, which say how they were trained, and the log. rows: of all epochs so far."""
    log = pd.DataFrame(rows)
    # by the sum of those that were measured: AUC alone would be 0 but for a lucky face while nearly all faces fail
    scores = log.reindex(columns=["ap", "auc"]).sum(axis=1, min_count=1)
    if scores.iloc[-1] == scores.max():
        save_model(average.module, folder / "best.pt", epoch=len(rows), recipe=recipe)
    states = {"training": model.state_dict(), "averaged": average.n_averaged, "optimiser": optimiser.state_dict()}
    save_model(average.module, folder / "last.pt", epoch=len(rows), recipe=recipe, rows=rows, **states)
    write_text(folder / "metrics.csv", log.to_csv(index=False))
