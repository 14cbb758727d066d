"""Videos: frames with their times, of any file or camera that OpenCV reads, and a writer that leaves no half file."""

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import cv2
import numpy as np

_MOST_PIXELS = 7680 * 4320  # of a frame: 8K
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a file is said once, by us


class Video:
    """A video file, a stream's address, or a camera by its number.

    ``size``: width and height, pixels; ``fps``: frames a second as the file states them; ``frames``: how many it promises, None
    where it doesn't; ``file``, ``camera``: whether it is one. Raises FileNotFoundError where there is no such file, ValueError
    for a camera that isn't there, a file without a picture track (damaged, or audio alone), or frames over 8K."""

    def __init__(self, source: str | Path | int) -> None:
        self.source, self.file = source, Path(str(source)).is_file()
        self.camera = str(source).isdecimal() and not self.file
        if not (self.file or self.camera or "://" in str(source)):
            raise FileNotFoundError(f"there is no video {source}")
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._capture = cv2.VideoCapture(int(source) if self.camera else str(source))
        cv2.utils.logging.setLogLevel(level)
        if not self._capture.isOpened():
            no_video = f"{source} is no video that OpenCV can read: damaged, cut off, audio alone, or another kind of file"
            raise ValueError(f"there is no camera {source}" if self.camera else no_video)
        properties = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)
        width, height, frames, fps = (self._capture.get(name) for name in properties)
        self.size, self.fps = (int(width), int(height)), fps if 0 < fps < 1000 else 30.0
        self.frames = int(frames) if 0 < frames < 1e9 and not self.camera else None
        if width * height > _MOST_PIXELS:
            raise ValueError(f"{source} has frames of {width:.0f} × {height:.0f} pixels, more than 8K: scale it down first")

    def close(self) -> None:
        """Ends :meth:`read` before the next frame."""
        self._capture.release()

    def read(self, start: int = 0) -> Iterator[tuple[float, np.ndarray]]:
        """Seconds and (H, W, 3) uint8 RGB of each frame from number ``start`` on, once.

        The time is the one stated in the file, so that rates that vary and frames that were dropped show; where a file states
        none it follows from ``fps``, and with a camera it is the clock's. Warns of an early end; ValueError without a frame."""
        begin, before = time.monotonic(), -1.0
        for number in count():
            if not self._capture.grab():
                break
            stated = time.monotonic() - begin if self.camera else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            before = stated if stated > before else before + 1 / self.fps
            if number < start:
                continue
            known, image = self._capture.retrieve()
            if known:
                yield before, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        if before < 0:
            raise ValueError(f"{self.source} holds no frame that can be decoded")
        if self.frames and number < 0.98 * self.frames:  # files promise a little too much
            warnings.warn(f"{self.source} ends early: {number} of {self.frames} frames can be read", stacklevel=2)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """An MP4 of (H, W, 3) uint8 RGB frames, whole or not at all. Raises ValueError without a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, writer = path.with_name(f".{path.stem}.part.mp4"), None
    for image in frames:
        writer = writer or cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), fps, image.shape[1::-1])
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if writer is None or not writer.isOpened():
        raise ValueError(f"{path} could not be written as MP4: no frame, or OpenCV lacks the encoder")
    writer.release()
    os.replace(temporary, path)
