"""What is made of a trace: blinks, files that an interruption does not lose, an annotated video."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.signal import find_peaks, peak_widths
from tqdm import tqdm

from retinalib.datasets.table import BOX
from retinalib.datasets.video import Video, write_video
from retinalib.files import only_process, write_text
from retinalib.plots.style import png
from retinalib.plots.traces import trace_figure
from retinalib.tracking.tracker import Track, Tracker

_USUAL = "8s"  # window of the eye's usual openness, which is the upper quartile in it
_SHUT = 0.5  # of the usual openness, that a blink takes away at least
_SHOWN = ("time", "face", "offset", "openness", "foreshortened", "yaw", "pitch", "roll")  # how columns of figures begin
_BLUE, _YELLOW = (31, 95, 224), (240, 228, 66)


def blinks(trace: pd.DataFrame) -> pd.DataFrame:
    """The blinks in a trace, a row each: ``face``, ``start`` and ``end`` (s, where the lids are half way), ``depth`` (share of
    the usual openness that goes, 1: shut). trace: time, face, openness_<side>, foreshortened_<side>. The mean openness of the
    eyes that are not foreshortened falls to half of what is usual around that time, or less (peaks by scipy)."""
    rows = []
    for face, part in trace.groupby("face"):
        lids = [part[f"openness_{side}"].mask(part[f"foreshortened_{side}"].astype(bool)) for side in ("right", "left")]
        lids = pd.concat(lids, axis=1).mean(axis=1).set_axis(pd.to_timedelta(part["time"], unit="s"))
        closed = (1 - lids / lids.rolling(_USUAL, center=True).quantile(0.75)).fillna(0).to_numpy()
        closed = np.concatenate([[0], closed, [0]])  # a blink may be cut off by the ends
        peaks, found = find_peaks(closed, height=_SHUT, prominence=_SHUT / 2)
        _, _, left, right = peak_widths(closed, peaks, rel_height=0.5)
        times = (np.interp(ends - 1, np.arange(len(part)), part["time"]) for ends in (left, right))
        rows += zip([face] * len(peaks), *times, found["peak_heights"], strict=True)
    return pd.DataFrame(rows, columns=["face", "start", "end", "depth"])


def write_trace(source: Video, tracker: Tracker, out: Path, annotated: bool = False, detector: str = "") -> dict:
    """Tracks ``source`` into the folder ``out``: ``trace.csv``, ``blinks.csv``, ``trace.png``, ``trace.json`` (counts
    and parameters, returned as well) and, on demand, ``annotated.mp4``. detector: its name.

    An interrupted call goes on where it was, with the same result. Raises ValueError where no frame has a face, another
    process is at work in ``out``, or a camera's frames would have to be drawn."""
    if annotated and not source.file:
        raise ValueError("an annotated video is made of a file: a camera's or a stream's frames are gone once they are tracked")
    with only_process(out):
        parameters = {"every": tracker.every, "gap": tracker.gap, **asdict(tracker.smoothing)}
        size = [source.frames, *source.size] if source.file else None
        about = {"video": str(source.source), "size": size, "detector": detector, "parameters": parameters}
        part, state = out / "trace.csv.part", out / "state.json"
        _resume(tracker, part, state, about)
        begin, frames = tracker.frames, source.read(tracker.frames)
        shown = tqdm(frames, "tracking", source.frames, initial=begin, unit="frame", disable=None)
        for table in tracker.table(shown):
            with open(part, "a") as file:
                table.round(5).to_csv(file, index=False, header=not file.tell())
            now = {"tracks": [vars(track) for track in tracker.tracks], "length": part.stat().st_size}
            now |= {name: getattr(tracker, name) for name in ("frames", "faces", "time")}
            write_text(state, json.dumps({"about": about, **now}, default=np.ndarray.tolist))
        if not tracker.faces:
            part.unlink()
            state.unlink()
            raise ValueError(f"no face was found in the {tracker.frames} frames of {source.source}")
        trace = pd.read_csv(part, usecols=lambda name: name.startswith(_SHOWN))
        events = blinks(trace)
        write_text(out / "blinks.csv", events.round(4).to_csv(index=False))
        (out / "trace.png").write_bytes(png(trace_figure(trace, events), 130))
        result = {**about, "frames": tracker.frames, "seconds": tracker.time, "faces": tracker.faces, "blinks": len(events)}
        write_text(out / "trace.json", json.dumps(result, indent=1))
        write_text(out / "trace.csv", part.read_text())
        if annotated:
            write_video(out / "annotated.mp4", draw_trace(source.source, pd.read_csv(part)), source.fps)
        part.unlink()
        state.unlink()
        return result


def _resume(tracker: Tracker, part: Path, state: Path, about: dict) -> None:
    """Takes the tracker to where an interrupted call for the same video left it; of what came after, rows are cut off."""
    then = json.loads(state.read_text()) if state.is_file() else {}
    if then.get("about") != about or about["size"] is None or not part.is_file():
        part.unlink(missing_ok=True)
        return
    os.truncate(part, then["length"])
    for track in then["tracks"]:
        arrays = {name: np.array(track[name]) for name in ("box", "points", "smooth", "speed")}
        tracker.tracks.append(Track(**track | arrays | {"picture": np.array(track["picture"], np.uint8)}))
    tracker.frames, tracker.faces, tracker.time = then["frames"], then["faces"], then["time"]


def draw_trace(video: str | Path, trace: pd.DataFrame) -> Iterator[np.ndarray]:
    """The frames of ``video``, (H, W, 3) uint8 RGB, with the trace's boxes, numbers, and circles around open eyes' pupils."""
    of_frame = dict(list(trace.groupby("frame")))
    for number, (_, image) in enumerate(Video(video).read()):
        for row in of_frame.get(number, trace[:0]).to_dict("records"):
            corners = [round(row[name]) for name in BOX]
            cv2.rectangle(image, corners[:2], corners[2:], _BLUE, 1, cv2.LINE_AA)
            cv2.putText(image, str(row["face"]), corners[:2], cv2.FONT_HERSHEY_SIMPLEX, 0.6, _BLUE, 2, cv2.LINE_AA)
            for side in ("right", "left"):
                if not row[f"closed_{side}"]:
                    x, y, radius = row[f"pupil_x_{side}"] - 0.5, row[f"pupil_y_{side}"] - 0.5, 0.15 * row[f"eye_width_{side}"]
                    x, y, radius = (round(16 * value) for value in (x, y, radius))  # sixteenths of a pixel
                    cv2.circle(image, (x, y), radius, _YELLOW, 1, cv2.LINE_AA, 4)
        yield image
