"""Explorers for the notebooks, a module a chapter: each function returns one widget, with controls over a picture."""

from importlib import import_module

_PUBLIC = {
    "dataset_browser": "dataset",
    "anchor_explorer": "anchors",
    "feature_viewer": "features",
    "training_view": "training",
    "detection_explorer": "detection",
    "pupil_explorer": "pupils",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    """An explorer is imported on first use, so that one that needs no torch does not wait for it."""
    if name in _PUBLIC:
        return getattr(import_module(f"retinalib.widgets.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'retinalib.widgets' has no attribute '{name}'")
