"""What a network is made of and how far it sees: parameters, operations, shapes, receptive fields, excitations."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from retinalib.model import RetinaFace, SqueezeExcitation

PARTS = {
    "backbone": ("backbone",),
    "FPN": ("fpn",),
    "SSH": ("ssh",),
    "SE": ("excitation",),
    "class head": ("class_head",),
    "box head": ("box_head",),
    "landmark head": ("landmark_head",),
}


def cost_by_part(model: RetinaFace, height: int = 640, width: int = 640) -> pd.DataFrame:
    """Parameters and GFLOP (a multiplication and an addition are two) of each part, a row a part.

    Columns: part, parameters, gflop (the landmark head at every anchor), for one image of ``height`` × ``width`` pixels.
    """
    counter = FlopCounterMode(display=False)
    device = next(model.parameters()).device
    with torch.inference_mode(), counter:
        model.eval().dense(torch.zeros(1, 3, height, width, device=device))
    counts = counter.get_flop_counts()
    root = type(model).__name__
    rows = []
    for part, (name,) in PARTS.items():
        module = getattr(model, name)
        flop = sum(sum(ops.values()) for key, ops in counts.items() if _is_leaf_of(key, f"{root}.{name}", counts))
        rows.append({"part": part, "parameters": sum(p.numel() for p in module.parameters()), "gflop": flop / 1e9})
    return pd.DataFrame(rows)


def costs_side_by_side(models: Mapping[str, RetinaFace], size: int = 640, rounds: int = 21) -> pd.DataFrame:
    """What each network costs, a row a network: parameters, gflop (a multiplication and an addition are two) and latency_ms of
    finding boxes in one image of ``size`` × ``size`` pixels, on the machine and with the threads that are there.

    latency_ms is the median over ``rounds``; the networks take turns, so that a slow moment of the machine hits all of them.
    Detections' landmarks, whose cost grows with the faces, and NMS are not in it.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    table = pd.DataFrame(index=list(models), columns=["parameters", "gflop", "latency_ms"])
    with torch.inference_mode():
        for name, model in models.items():
            image = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
            with FlopCounterMode(display=False) as counter:
                model.eval()(image)
            table.loc[name, "parameters"] = sum(p.numel() for p in model.parameters())
            table.loc[name, "gflop"] = counter.get_total_flops() / 1e9
        for _ in range(rounds):
            for name, model in models.items():
                start = time.perf_counter()
                model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device)).logits.cpu()  # waits for a GPU
                times[name].append(1000 * (time.perf_counter() - start))
    table["latency_ms"] = [np.median(times[name]) for name in models]
    return table.astype({"parameters": int, "gflop": float, "latency_ms": float})


def _is_leaf_of(key: str, root: str, counts: dict) -> bool:
    """Whether ``key`` names a module below ``root`` that contains no other counted module."""
    return (key == root or key.startswith(f"{root}.")) and not any(other.startswith(f"{key}.") for other in counts)


def shapes(model: RetinaFace, height: int = 640, width: int = 640) -> pd.DataFrame:
    """What comes out of the parts for one image, a row a part and level: part, level, shape (channels × rows × columns)."""
    rows: list[dict] = []

    def note(part: str, level: str):
        def hook(_module: nn.Module, _inputs: tuple, output: object) -> None:
            values = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else [output]
            for number, value in enumerate(values):
                stride = level or f"1/{(8, 16, 32)[number]}"
                rows.append({"part": part, "level": stride, "shape": "×".join(map(str, value.shape[1:]))})

        return hook

    handles = [model.backbone.register_forward_hook(note("backbone", "")), model.fpn.register_forward_hook(note("FPN", ""))]
    for number, stride in enumerate((8, 16, 32)):
        for part, modules in (("SSH", model.ssh), ("SE", model.excitation), ("class head", model.class_head)):
            handles.append(modules[number].register_forward_hook(note(part, f"1/{stride}")))
        handles.append(model.box_head[number].register_forward_hook(note("box head", f"1/{stride}")))
        handles.append(model.landmark_head[number].register_forward_hook(note("landmark head", f"1/{stride}")))
    try:
        with torch.inference_mode():
            model.eval().dense(torch.zeros(1, 3, height, width, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return pd.DataFrame(rows)


def receptive_field(model: RetinaFace, size: int = 640) -> dict[int, np.ndarray]:
    """How much each input pixel moves one cell's features: stride -> (size - stride, size - stride) float32, the largest at 1.

    The cell is the one at the image's middle, right and below; it is cut out so that its own middle is the array's.

    The effective receptive field (Luo et al., NeurIPS 2016): the gradient of the central cell's features, with random signs
    over channels, with respect to a mid-grey image with noise, absolute values averaged over 8 draws. Taken before SE, whose
    gate sees the whole image.
    """
    model, device = model.eval(), next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    fields = {stride: np.zeros((size, size), np.float32) for stride in model.config.anchors.strides}
    for _ in range(8):
        image = torch.randn(1, 3, size, size, generator=generator).to(device).requires_grad_()
        pyramid = model.fpn(model.backbone(image).values())
        for stride, ssh, level in zip(model.config.anchors.strides, model.ssh, pyramid, strict=True):
            output = ssh(level)
            centre = output[0, :, output.shape[2] // 2, output.shape[3] // 2]
            signs = (torch.randint(0, 2, centre.shape, generator=generator) * 2.0 - 1).to(device)
            (gradient,) = torch.autograd.grad((centre * signs).sum(), image, retain_graph=True)
            fields[stride] += gradient.abs().sum(1)[0].cpu().numpy()
    return {stride: field[stride:, stride:] / field.max() for stride, field in fields.items()}


def field_width(field: np.ndarray, share: float = 0.95) -> int:
    """The side, in pixels, of the smallest centred square that holds ``share`` of a receptive field's sum."""
    centre = np.array(field.shape) // 2
    rows, columns = np.indices(field.shape)
    distance = np.maximum(abs(rows - centre[0]), abs(columns - centre[1]))
    held = np.bincount(distance.ravel(), field.ravel()).cumsum()
    return 2 * int(np.searchsorted(held, share * held[-1])) + 1


@torch.inference_mode()
def excitations(model: RetinaFace, images: Tensor) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
    """What SE does at each level: stride -> (features before (B, C, h, w), gate (B, C), features after).

    images: normalised, (B, 3, H, W). Levels without SE are left out; raises ValueError if no level has it.
    """
    if not any(isinstance(se, SqueezeExcitation) for se in model.excitation):
        raise ValueError("this network has no SE blocks: build it with se_reduction")
    pyramid = model.fpn(model.backbone(images).values())
    result = {}
    for stride, ssh, se, level in zip(model.config.anchors.strides, model.ssh, model.excitation, pyramid, strict=True):
        if isinstance(se, SqueezeExcitation):
            before = ssh(level)
            result[stride] = before, se.gate(before), se(before)
    return result
