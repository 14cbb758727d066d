import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from retinalib.plots.style import use_style
from retinalib.plots.traces import PANELS, trace_figure


def trace(rows, face=0):
    names = {name for names in PANELS.values() for name in names}
    values = {name: np.linspace(0, 1, rows) for name in names | {"offset_x_right_smooth"}}
    return pd.DataFrame({"face": face, "time": np.arange(rows) / 30, **values})


def test_shows_the_face_that_is_seen_longest_with_its_blinks():
    blinks = pd.DataFrame({"face": [0, 3, 3], "start": [0.1, 0.2, 0.5], "end": [0.2, 0.3, 0.6], "depth": 1.0})
    use_style()  # whose titles stand on the left
    fig = trace_figure(pd.concat([trace(20), trace(40, face=3)]), blinks)
    assert fig.axes[0].get_title(loc="left").startswith("Face 3")
    assert [len(ax.patches) for ax in fig.axes] == [2] * len(PANELS)
    assert len(fig.axes[0].lines) == 3 and len(fig.axes[0].lines[0].get_xdata()) == 40  # raw and smoothed right, left
    plt.close(fig)


def test_long_traces_are_thinned():
    fig = trace_figure(trace(12_000), pd.DataFrame({"face": [], "start": [], "end": [], "depth": []}))
    assert len(fig.axes[0].lines[0].get_xdata()) == 4000
    plt.close(fig)
