"""Checkpoints: ours carry all that is needed to use them; the public reference ones are recognised by their names."""

from __future__ import annotations

import io
import os
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from retinalib.files import replacing
from retinalib.landmarks import SCHEMAS
from retinalib.model import REFERENCE_NORMALISATION, ModelConfig, RetinaFace

_FORMAT = "retinalib-1"

# the reference implementation's parameter names, and ours
_RENAMED = (
    (r"^module\.", ""),
    (r"^body\.", "backbone."),
    (r"^fpn\.output(\d)\.", lambda m: f"fpn.lateral.{int(m[1]) - 1}."),
    (r"^fpn\.merge(\d)\.", lambda m: f"fpn.merge.{int(m[1]) - 1}."),
    (r"^ssh(\d)\.", lambda m: f"ssh.{int(m[1]) - 1}."),
    (r"\.conv3X3\.", ".conv3."),
    (r"\.conv5X5_1\.", ".conv5_first."),
    (r"\.conv5X5_2\.", ".conv5_second."),
    (r"\.conv7X7_2\.", ".conv7_second."),
    (r"\.conv7x7_3\.", ".conv7_third."),
    (r"^se_attn(\d)\.fc\.0\.", lambda m: f"excitation.{int(m[1]) - 1}.squeeze."),
    (r"^se_attn(\d)\.fc\.2\.", lambda m: f"excitation.{int(m[1]) - 1}.expand."),
    (r"^ClassHead\.(\d)\.conv1x1\.", r"class_head.\1."),
    (r"^BboxHead\.(\d)\.conv1x1\.", r"box_head.\1."),
    (r"^LandmarkHead\.(\d)\.conv1x1\.", r"landmark_head.\1."),
)


def save_atomically(values: dict, path: str | Path, before: str | Path | None = None) -> None:
    """``torch.save`` to a temporary name, then renamed: at ``path`` there is the old file or the new one, never half of one.

    before: the name that the old file gets then. Raises OSError, naming the file, for example where the disk is full.
    """
    data = io.BytesIO()
    torch.save(values, data)  # to memory first: torch says of a full disk only that a position was unexpected
    with replacing(path, before) as temporary, open(temporary, "wb") as file:
        file.write(data.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def read(path: str | Path) -> dict:
    """A checkpoint's values, tensors on the CPU. Raises FileNotFoundError, or ValueError if the file is no safe checkpoint."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                if damaged := file.testzip():  # torch.load does not compare the checksums
                    raise ValueError(f"the checksum of {damaged} does not fit")
        values = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # what is no pickle may raise anything
        raise ValueError(f"{path} is damaged or not a checkpoint of tensors alone: {_line(error, 0)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, not a checkpoint")
    return values


def save_model(model: RetinaFace, path: str | Path, before: str | Path | None = None, **more: object) -> None:
    """The model's weights and configuration, with any further plain values and tensors (how it was trained, its state), see
    :func:`save_atomically`."""
    save_atomically({"format": _FORMAT, "config": model.config.to_dict(), "model": model.state_dict(), **more}, path, before)


def load_model(path: str | Path) -> RetinaFace:
    """The network of one of our checkpoints or of a reference checkpoint, in evaluation mode.

    A reference checkpoint is a public five-point RetinaFace, or one in the predecessor's layout with 98 points and SE; its
    backbone, number of landmarks and SE reduction are read from names and shapes. Raises FileNotFoundError or ValueError,
    naming the file and what is wrong with it.
    """
    values = read(path)
    if values.get("format") != _FORMAT:
        return _from_reference(values, path)
    try:
        model = RetinaFace(ModelConfig.from_dict(values["config"]))
        model.load_state_dict(values["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is one of our checkpoints, but damaged or of another version: {_line(error, 1)}") from error
    return model.eval()


def _line(error: Exception, number: int) -> str:
    """One line of what an error says, or its last; line 1 of load_state_dict's lists is the first entry."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[min(number, len(lines) - 1)].strip()}"


def _from_reference(values: dict, path: str | Path) -> RetinaFace:
    state, entries = {}, values.get("state_dict", values)
    if not isinstance(entries, dict) or not all(isinstance(n, str) and isinstance(v, Tensor) for n, v in entries.items()):
        raise ValueError(f"{path} is neither one of our checkpoints nor a reference RetinaFace, which are named tensors")
    for name, value in entries.items():
        for pattern, ours in _RENAMED:
            name = re.sub(pattern, ours, name)
        state[name] = value
    if "landmark_head.0.weight" not in state:
        raise ValueError(f"{path} is neither one of our checkpoints nor a reference RetinaFace: it has no landmark head")
    # the reference has two anchors a cell, each with x and y of every landmark
    count = state["landmark_head.0.weight"].shape[0] // 4
    schema = next((s for s in SCHEMAS.values() if s.count == count), None)
    if schema is None:
        raise ValueError(f"{path} gives {count} landmarks, for which there is no schema ({', '.join(SCHEMAS)})")
    squeeze = state.get("excitation.0.squeeze.weight")
    config = ModelConfig(
        backbone="mobilenet0.25" if "backbone.stage1.0.0.weight" in state else "resnet50",
        schema=schema,
        se_reduction=None if squeeze is None else squeeze.shape[1] // squeeze.shape[0],
        normalisation=REFERENCE_NORMALISATION,
    )
    model = RetinaFace(config)
    state = {name: value for name, value in state.items() if not name.startswith("backbone.fc.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit RetinaFace with {config.backbone}: {_line(error, 1)}") from error
    return model.eval()
