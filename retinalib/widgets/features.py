"""The explorer of chapter 3: what a level of the network sees, and what SE makes of it."""

from functools import lru_cache

import numpy as np
import torch
from ipywidgets import IntSlider, ToggleButtons
from matplotlib.figure import Figure

from retinalib.datasets.table import FaceDataset
from retinalib.detect import Detector
from retinalib.model import SqueezeExcitation
from retinalib.plots.style import PALETTE
from retinalib.studies.network_cost import excitations
from retinalib.widgets.explorer import Explorer, panels


def feature_viewer(detector: Detector, dataset: FaceDataset) -> Explorer:
    """Shows a level's features of a photo, before and after SE, and the gates of all channels (without SE: their mean absolute
    activations, by which channels are ranked); rank 0 is the mean of all."""
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

    def draw(photo: int, level: int, rank: int) -> tuple[Figure, str]:
        image, levels = seen(photo - 1)
        before, *gated = levels[level]
        strength = np.abs(before).mean((1, 2))
        ranks = np.argsort(-strength, kind="stable")
        maps = {"before SE": before, "after SE": gated[1]} if gated else {"features": before}
        values = {name: part[ranks[rank - 1]] if rank else part.mean(0) for name, part in maps.items()}
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
        heights = (gated[0] if gated else strength)[ranks]
        colours = [PALETTE[1] if place + 1 == rank else "#B8CFE0" for place in range(len(heights))]
        right.bar(range(1, 1 + len(heights)), heights, width=1.0, color=colours)
        what = "gate" if gated else "mean |activation|"
        right.set(xlabel="channel, the strongest first", ylabel=what, ylim=(0, 1 if gated else None))
        one = f"channel {ranks[rank - 1]}, rank {rank}, {what} {heights[rank - 1]:.3f}" if rank else "the mean of all"
        return figure, f"stride {level}: {len(before)} channels of {before.shape[1]} × {before.shape[2]} cells; {one}"

    controls = {
        "photo": IntSlider(value=1, min=1, max=len(dataset), description="photo"),
        "level": ToggleButtons(options=[(f"stride {s}", s) for s in strides]),
        "rank": IntSlider(value=0, min=0, max=len(seen(0)[1][strides[0]][0]), description="channel"),
    }
    return Explorer(controls, draw)
