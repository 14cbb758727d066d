"""The explorer of chapter 3: what a level of the network sees, and what SE makes of it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from ipywidgets import Dropdown, IntSlider, ToggleButtons
from matplotlib.figure import Figure

from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector
from retinalib.model import SqueezeExcitation
from retinalib.plots.style import PALETTE
from retinalib.studies.network_cost import excitations
from retinalib.widgets.explorer import Explorer, panels

_ORDERS = ("mean of all", "strongest first", "by number")
_SHADES = ("#B8CFE0", PALETTE[1])  # of the bars, and of the chosen channel's


def feature_viewer(detector: Detector, dataset: FaceDataset) -> Explorer:
    """Shows one level's features of a photo, before SE and after it, beside the photo and the gates of all channels.

    A channel is chosen by its number or by its rank (by mean absolute activation before SE). Bars are the excitations; at a
    level without SE there is only one map, and the bars are the channels' mean absolute activations.
    """
    model = detector.model.eval()
    strides = model.config.anchors.strides

    @lru_cache(maxsize=8)
    def seen(photo: int) -> tuple[np.ndarray, dict[int, tuple[np.ndarray, ...]]]:
        image = dataset[photo][0]
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(detector.device)
        with torch.inference_mode():
            one = model.config.normalisation.apply(pixels)
            levels = {stride: (features,) for stride, features in zip(strides, model(one).features, strict=True)}
            if any(isinstance(block, SqueezeExcitation) for block in model.excitation):
                levels |= excitations(model, one)
        return image, {stride: tuple(part[0].float().cpu().numpy() for part in parts) for stride, parts in levels.items()}

    def draw(photo: int, level: int, show: str, order: str, channel: int) -> tuple[Figure, str]:
        image, levels = seen(photo - 1)
        before, *gated = levels[level]
        strength = np.abs(before).mean((1, 2))
        heights, after = gated if gated else (strength, None)
        ranks = np.argsort(-strength, kind="stable")
        chosen = None if order == "mean of all" else int(ranks[channel - 1] if order == "strongest first" else channel - 1)
        maps = {"without SE": before} if after is None else {"before SE": before, "after SE": after}
        shown = {name: part for name, part in maps.items() if after is None or show in (name, "both")}
        values = {name: part.mean(0) if chosen is None else part[chosen] for name, part in shown.items()}
        low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
        figure, (left, *middle, right) = panels([3, *[3] * len(values), 3.4], 3.2)
        left.imshow(image)
        left.set_title("photo", fontsize=9)
        for ax, (name, value) in zip(middle, values.items(), strict=True):
            shades = ax.imshow(value, cmap="mako", vmin=low, vmax=high)
            ax.set_title(f"{name}: {value.mean():.3f} in the mean", fontsize=9)
        figure.colorbar(shades, ax=middle[-1], shrink=0.75)
        for ax in (left, *middle):
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        at = np.arange(len(heights))
        placed = ranks if order == "strongest first" else at
        right.bar(at, heights[placed], width=1.0, color=[_SHADES[int(c == chosen)] for c in placed])
        what = "excitation" if gated else "mean |activation|"
        right.set(xlabel="channel, strongest first" if order == "strongest first" else "channel", ylabel=what)
        if gated:
            right.set_ylim(0, 1)
        size = f"stride {level}: {len(before)} channels of {before.shape[1]} × {before.shape[2]} cells"
        if chosen is None:
            return figure, f"{size}, their mean"
        return (
            figure,
            f"{size}; channel {chosen}, rank {int(np.flatnonzero(ranks == chosen)[0]) + 1}, {what} {heights[chosen]:.3f}",
        )

    channels = len(seen(0)[1][strides[0]][0])
    controls = {
        "photo": IntSlider(value=1, min=1, max=len(dataset), description="photo"),
        "level": ToggleButtons(options=[(f"stride {s}", s) for s in strides]),
        "show": Dropdown(options=["both", "before SE", "after SE"], description="features"),
        "order": Dropdown(options=_ORDERS, description="channels"),
        "channel": IntSlider(value=1, min=1, max=channels, description="channel"),
    }
    return Explorer(controls, draw)
