"""What a network is made of and how far it sees: parameters, operations, shapes, receptive fields, excitations."""

import math

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from retinalib.model import RetinaFace, SqueezeExcitation

PARTS = {
    "backbone": "backbone",
    "FPN": "fpn",
    "SSH": "ssh",
    "SE": "excitation",
    "class head": "class_head",
    "box head": "box_head",
    "landmark head": "landmark_head",
}


_ATEN = torch.ops.aten
_ELEMENTWISE = {
    **dict.fromkeys((_ATEN.mul, _ATEN.add), lambda *shapes, out_shape, **_: math.prod(out_shape)),
    _ATEN.mean: lambda shape, *_, **__: math.prod(shape),
}
"""What torch's counter leaves out: SE's means and scaling, FPN's sums; an operation a number. Activations count nothing, nor
do batch norms, which detection fuses into the convolutions."""


def cost_by_part(model: RetinaFace, height: int = 640, width: int = 640) -> pd.DataFrame:
    """A row per part: part, parameters, gflop of one image (a multiplication and an addition are two; heads at all anchors)."""
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE) as counter:
        model.eval().dense(torch.zeros(1, 3, height, width, device=next(model.parameters()).device))
    counts, rows = counter.get_flop_counts(), []  # of modules, and again of those that contain them
    for part, name in PARTS.items():
        values = sum(p.numel() for p in getattr(model, name).parameters())
        own = [key for key in counts if f"{key}.".startswith(f"{type(model).__name__}.{name}.")]
        outer = [key for key in own if not any(key.startswith(f"{other}.") for other in own)]
        flop = sum(sum(counts[key].values()) for key in outer)
        rows.append({"part": part, "parameters": values, "gflop": flop / 1e9})
    return pd.DataFrame(rows)


@torch.inference_mode()
def excitations(model: RetinaFace, images: Tensor) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
    """What SE does at each level that has it: stride -> (features before (B, C, h, w), gate (B, C), features after). images:
    normalised, (B, 3, H, W). Raises ValueError if no level has it."""
    if not any(isinstance(se, SqueezeExcitation) for se in model.excitation):
        raise ValueError("this network has no SE blocks: build it with se_reduction")
    pyramid = model.fpn(model.backbone(images).values())
    result = {}
    for stride, ssh, se, level in zip(model.config.anchors.strides, model.ssh, model.excitation, pyramid, strict=True):
        if isinstance(se, SqueezeExcitation):
            before = ssh(level)
            result[stride] = before, se.gate(before), se(before)
    return result
