"""retinalib: RetinaFace for any number of landmarks, and what the workbook's notebooks share."""

from importlib import import_module

_PUBLIC = {
    "WFLW_98": "landmarks",
    "WIDER_5": "landmarks",
    "LandmarkSchema": "landmarks",
    "Faces": "faces",
    "ModelConfig": "model",
    "RetinaFace": "model",
    "Detector": "detect",
    "available_detectors": "detect",
    "load_detector": "detect",
    "setup": "workspace",
    "track": "tracking",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    """Public names are imported on first use, so that what needs no torch does not wait for it."""
    if name in _PUBLIC:
        return getattr(import_module(f"retinalib.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'retinalib' has no attribute '{name}'")
