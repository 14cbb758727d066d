"""``Explorer``: controls over a picture that follows them; what all explorers share."""

import base64
import html
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ipywidgets import HTML, Box, Button, Checkbox, Image, Layout, VBox, Widget
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retinalib.plots.style import png

_PEN = threading.Lock()  # a control's call comes in a thread of its own (a subshell of the kernel) while a cell may draw, too


class Explorer(VBox):
    """Controls, a sentence, and a picture that is drawn anew when a control changes; without a kernel, the last picture.

    controls: name -> widget, shown in this order; draw: takes the values of those that its parameters name and returns a figure
    and a sentence on it. ``picture.value`` holds the PNG, ``sentence.value`` the sentence as HTML."""

    def __init__(self, controls: dict[str, Widget], draw: Callable[..., tuple[Figure, str]]) -> None:
        self.controls, self._draw, self._drawn = controls, draw, {}
        self.sentence, self.picture = HTML(), Image(format="png", layout=Layout(max_width="100%", object_fit="contain"))
        for control in controls.values():
            if isinstance(control, (Button, Checkbox)):
                control.layout.width = "auto"
            elif "description_width" in control.style.trait_names():
                control.style.description_width = "100px"  # no label is cut off, and they stand under each other
        super().__init__([Box(list(controls.values()), layout=Layout(flex_flow="row wrap")), self.sentence, self.picture])
        self._followed = list(inspect.signature(draw).parameters)
        for name in self._followed:
            controls[name].observe(lambda _: self._follow(), "value")
        self.update()

    def values(self) -> dict[str, Any]:
        """What the controls say that the picture follows, by name."""
        return {name: self.controls[name].value for name in self._followed}

    def _follow(self) -> None:
        if self.values() != self._drawn:
            self.update()

    def update(self) -> None:
        """Draws the picture for the controls as they are. What can't be drawn is said: the next photo may be readable."""
        with _PEN:
            self._drawn = self.values()
            try:
                figure, sentence = self._draw(**self._drawn)
            except (OSError, ValueError) as error:
                figure, sentence = nothing("nothing to show"), str(error)
            self.picture.value = png(figure)
            self.say(sentence)

    def say(self, sentence: str) -> None:
        """Shows a sentence over the picture."""
        self.sentence.value = html.escape(sentence)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle["text/plain"] = html.unescape(self.sentence.value)
        return {**bundle, "image/png": base64.b64encode(self.picture.value).decode()}


def panels(widths: Sequence[float], height: float) -> tuple[Figure, list[Axes]]:
    """A figure with panels beside each other, in inches. Pyplot does not know it, so that nothing shows it a second time."""
    figure = Figure(figsize=(sum(widths), height), layout="constrained")
    return figure, list(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])


def nothing(sentence: str) -> Figure:
    """An empty figure that says why it is empty."""
    figure, (ax,) = panels([6], 1.5)
    ax.axis("off")
    ax.text(0.5, 0.5, sentence, ha="center", va="center")
    return figure
