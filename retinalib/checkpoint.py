"""Checkpoints: ours carry all that is needed to use them; the public reference ones are recognised by their names."""

import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from retinalib.datasets.table import warn
from retinalib.files import write_bytes
from retinalib.landmarks import SCHEMAS
from retinalib.model import REFERENCE_NORMALISATION, ModelConfig, Normalisation, RetinaFace, TrainedOn

_FORMAT = "retinalib-1"
_NOT_WEIGHTS = (
    (rb"\s*<(!doctype|html|\?xml)", "is a web page, not weights: download the file itself"),
    (rb"version https://git-lfs", "is a Git LFS pointer, not the weights it stands for: run git lfs pull"),
)
_NORMALISATIONS = {"imagenet": Normalisation(), "reference": REFERENCE_NORMALISATION}

# the reference implementation's parameter names, and ours
_RENAMED = (
    (r"^((module|model|_orig_mod)\.)+", ""),  # DistributedDataParallel, Lightning, torch.compile
    (r"^body\.", "backbone."),
    (r"^(stage\d|conv1|bn1|layer\d|fc)\.", r"backbone.\1."),  # a backbone alone, of ImageNet
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


def read(path: str | Path) -> dict:
    """A checkpoint's values, tensors on the CPU. Raises FileNotFoundError, or ValueError if the file is no safe checkpoint."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    with open(path, "rb") as file:
        beginning = file.read(200).lower()
    for pattern, what in _NOT_WEIGHTS:
        if re.match(pattern, beginning):
            raise ValueError(f"{path} {what}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                if damaged := file.testzip():
                    raise ValueError(f"the checksum of {damaged} does not fit")
        values = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # what is no pickle may raise anything
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            said = "which could run any program, and is not read: whoever made it can save its state_dict() alone"
            raise ValueError(f"{path} holds a {refused[1]}, not only tensors and plain values, {said}") from error
        said = f": {error}" if isinstance(error, ValueError) else ""  # torch's own words advise to load it all the same
        raise ValueError(f"{path} is damaged or not a checkpoint of tensors alone{said}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, not a checkpoint")
    return values


def save_model(model: RetinaFace, path: str | Path, **more: object) -> None:
    """The model's weights and configuration, with any further plain values and tensors (how it was trained, its state)."""
    data = io.BytesIO()  # a file would say of a full disk only that a position was unexpected
    torch.save({"format": _FORMAT, "config": model.config.to_dict(), "model": model.state_dict(), **more}, data)
    write_bytes(path, data.getbuffer())


def load_model(path: str | Path, normalisation: Normalisation | str | None = None) -> RetinaFace:
    """The network of one of our checkpoints or of a reference checkpoint, in evaluation mode.

    A reference checkpoint is a public five-point RetinaFace, or one in the predecessor's layout with 98 points and SE.
    normalisation: what the weights were trained with: "imagenet" (RGB), "reference" (BGR minus a mean) or a ``Normalisation``;
    by default what the weights say, else a guess, with a warning. Raises FileNotFoundError or ValueError, naming the file."""
    if not (normalisation is None or isinstance(normalisation, Normalisation) or normalisation in _NORMALISATIONS):
        known = " or ".join(f"'{name}'" for name in _NORMALISATIONS)
        raise ValueError(f"normalisation must be {known} or a Normalisation, got {normalisation!r}")
    values = read(path)
    model = (_from_ours if values.get("format") == _FORMAT else _from_names)(values, path)
    if normalisation is not None:
        model.config = replace(model.config, normalisation=_NORMALISATIONS.get(normalisation, normalisation))
    elif model.config.normalisation.assumed:
        _say_what_is_assumed(path, model.config.normalisation)
    return model.eval()


def _say_what_is_assumed(path: str | Path, guess: Normalisation) -> None:
    said = f"{'BGR' if guess.bgr else 'RGB'}, minus {guess.mean}, over {guess.std} is assumed"
    advice = "if faces are missed or landmarks are off, try normalisation='imagenet' or 'reference', which ends this warning"
    warn(f"{path} does not say what input it was trained with: {said}; {advice}")


def _from_ours(values: dict, path: str | Path) -> RetinaFace:
    try:
        model = RetinaFace(ModelConfig.from_dict(values["config"]))
        model.load_state_dict(values["model"])
        if model.config.trained_on is None and "recipe" in values:  # of a version that did not say
            learned = TrainedOn(smallest=12, largest=values["recipe"]["config"]["image_size"], turns=30)
            model.config = replace(model.config, trained_on=learned)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is one of our checkpoints, but damaged or of another version: {_line(error)}") from error
    return model


def start_from(model: RetinaFace, path: str | Path) -> tuple[list[str], list[str]]:
    """Fills those layers of ``model`` that a file has under the same name and in the same shapes.

    path: what :func:`load_model` reads, also with other landmarks, or a backbone's ImageNet weights (the reference's or
    torchvision's). The model takes over a detector's normalisation. Returns the names of the layers that were filled, and of
    those that either side has alone or in another shape. Raises FileNotFoundError, or ValueError if nothing fits."""
    values, normalisation = read(path), None
    if values.get("format") == _FORMAT:
        theirs, normalisation = values["model"], _from_ours(values, path).config.normalisation
    else:
        theirs, guess = _named(values, path)
        if "class_head.0.weight" in theirs:
            _say_what_is_assumed(path, guess)
            normalisation = guess
    fits, left, own = {}, {}, model.state_dict()
    for name in {**own, **theirs}:
        layer = name.rpartition(".")[0]
        fitting = name in own and name in theirs and own[name].shape == theirs[name].shape
        (fits if fitting else left)[layer] = None
    fits = [layer for layer in fits if layer not in left]
    chosen = {name: value for name, value in theirs.items() if name.rpartition(".")[0] in fits}
    if not any(value.ndim > 1 for value in chosen.values()):
        raise ValueError(f"nothing in {path} fits a network with the backbone {model.config.backbone}")
    model.load_state_dict(chosen, strict=False)
    if normalisation is not None:
        model.config = replace(model.config, normalisation=replace(normalisation, assumed=False))
    return fits, list(left)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _named(values: dict, path: str | Path) -> tuple[dict[str, Tensor], Normalisation]:
    """The tensors of a checkpoint that is not ours, under our names, and a guess at its input: the reference's by its names."""
    for wrapper in ("state_dict", "model"):
        values = values[wrapper] if isinstance(values.get(wrapper), dict) else values
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items()):
        raise ValueError(f"{path} is neither one of our checkpoints nor a reference RetinaFace, which are named tensors")
    state = {}
    for name, value in values.items():
        for pattern, ours in _RENAMED:
            name = re.sub(pattern, ours, name)
        state[name] = value
    guess = REFERENCE_NORMALISATION if any("ClassHead" in name for name in values) else Normalisation()
    kept = {name: value for name, value in state.items() if not name.startswith("backbone.fc.")}
    return kept, replace(guess, assumed=True)


def _from_names(values: dict, path: str | Path) -> RetinaFace:
    state, guess = _named(values, path)
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
        normalisation=guess,
        trained_on=TrainedOn(10, 640, 30) if guess == REFERENCE_NORMALISATION else None,  # WIDER FACE, crops of 640 pixels
    )
    model = RetinaFace(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit RetinaFace with {config.backbone}: {_line(error)}") from error
    return model
