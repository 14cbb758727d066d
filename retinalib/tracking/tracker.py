"""Follows faces over the frames of a video: detection now and then, the network's second looks in between."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from retinalib.datasets.table import BOX
from retinalib.datasets.video import Video
from retinalib.detect import Detector
from retinalib.faces import Faces, box_iou
from retinalib.gaze import gaze_angles, head_pose
from retinalib.landmarks import LandmarkSchema
from retinalib.pupils import eyes_of, pupil_table
from retinalib.tracking.one_euro import OneEuro

_FIRST, _AGAIN = 0.5, 0.3  # least scores: of a new face, and of one that is known already
_REACH = 1.0  # face sizes: landmarks this far from where they were expected are another face's, as is one of twice the size
_CROWDED = 0.1  # IoU from which on faces are near each other, and a look might take one for the other
_ALIKE = 0.7  # correlation with the face as last detected, under which it is doubted that this is still the face
_SIDE = 24  # pixels a side of the grey picture that is compared
_SMOOTHING = OneEuro()
_TABLED = 300  # frames that a table is made of at a time
_SMOOTHED = ("offset_x", "offset_y", "pupil_x", "pupil_y", "openness")  # columns with a twin, <name>_<side>_smooth


@dataclass
class Track:
    """One face, as it was when it was last seen."""

    face: int  # who it is
    seen: float  # seconds
    score: float  # of its last detection
    box: np.ndarray  # (4,)
    points: np.ndarray  # (L, 2) landmarks as found
    smooth: np.ndarray  # (L, 2) filtered
    speed: np.ndarray  # (L, 2) the filter's, pixels a second
    picture: np.ndarray  # (24, 24) uint8 grey, the face as last detected

    @property
    def size(self) -> float:
        """The square root of the box's area, pixels."""
        return max(float(np.sqrt(np.prod(self.box[2:] - self.box[:2]))), 1.0)


class Tracker:
    """Faces over frames, in the order of time.

    every: frames from one detection to the next; 1: detection in each. Between them the second looks alone follow the faces,
    from where the points were; where what they arrive at does not look like the face, or faces come near each other, a
    detection is made at once. gap: seconds for which a face that is lost keeps its number. Raises ValueError for a detector
    without canthi and pupils, or options that are none."""

    def __init__(self, detector: Detector, every: int = 10, gap: float = 1.0, smoothing: OneEuro = _SMOOTHING) -> None:
        eyes_of(detector.model.config.schema)
        if every < 1 or not gap >= 0:
            raise ValueError(f"every must be a whole number from 1 on and gap seconds from 0 on, got {every} and {gap}")
        self.detector, self.every, self.gap, self.smoothing = detector, every, gap, smoothing
        self.tracks: list[Track] = []
        self.frames, self.faces, self.time = 0, 0, -np.inf  # frames and faces so far, and when the last frame was

    def update(self, image: np.ndarray, time: float) -> tuple[list[Track], bool]:
        """The faces in the next frame, (H, W, 3) uint8 RGB at ``time`` (s, later than the last), and whether by detection."""
        live = [track for track in self.tracks if track.seen == self.time]
        followed = self._follow(image, live) if live and self.frames % self.every else None
        if followed is None:
            self._match(image, self.detector.detect(image, _AGAIN), time)
        for track, box, points in followed or ():
            self._move(track, time, box, points)
        self.frames, self.time = self.frames + 1, time
        self.tracks = [track for track in self.tracks if time - track.seen <= self.gap]
        return [track for track in self.tracks if track.seen == time], followed is None

    def _follow(self, image: np.ndarray, live: list[Track]) -> list[tuple[Track, np.ndarray, np.ndarray]] | None:
        """The faces with new boxes and landmarks; None where a detection is due."""
        before = Faces(*(np.stack([getattr(track, name) for track in live]) for name in ("box", "points")))
        if (np.triu(box_iou(before.boxes, before.boxes), 1) > _CROWDED).any():
            return None
        result = []
        for track, old, new in zip(live, before.landmarks, self.detector.look_again(image, before).landmarks, strict=True):
            moved = (new != old).any(1)
            change = cv2.estimateAffinePartial2D(old[moved], new[moved], method=cv2.LMEDS)[0] if moved.sum() > 3 else None
            if change is None:
                return None
            middle = change[:, :2] @ (track.box[:2] + track.box[2:]) / 2 + change[:, 2]
            half = np.sqrt(np.linalg.det(change[:, :2])) * (track.box[2:] - track.box[:2]) / 2
            box = np.concatenate([middle - half, middle + half])
            if cv2.matchTemplate(_picture(image, box), track.picture, cv2.TM_CCOEFF_NORMED)[0, 0] < _ALIKE:
                return None
            result.append((track, box, np.where(moved[:, None], new, old @ change[:, :2].T + change[:, 2])))
        return result

    def _match(self, image: np.ndarray, found: Faces, time: float) -> None:
        """Gives each detected face to the track that it belongs to, or to a new one."""
        cost = np.full((len(self.tracks), len(found)), np.inf)
        for row, track in enumerate(self.tracks):
            shift = track.speed.mean(0) * (time - track.seen)  # it went on as it moved
            apart = np.linalg.norm(found.landmarks - (track.points + shift), axis=-1).mean(1) / track.size
            overlap = box_iou((track.box + np.tile(shift, 2))[None], found.boxes)[0]
            alike = (apart < _REACH) & (np.abs(np.log2(found.size / track.size)) < 1)
            cost[row] = np.where(alike, apart + 1 - overlap, 1e3)
        pairs = [(row, column) for row, column in zip(*linear_sum_assignment(cost), strict=True) if cost[row, column] < 1e3]
        for row, column in pairs:
            self.tracks[row].score = float(found.scores[column])
            self.tracks[row].picture = _picture(image, found.boxes[column])
            self._move(self.tracks[row], time, found.boxes[column], found.landmarks[column])
        for column in np.flatnonzero(found.scores >= _FIRST):
            known = np.array([track.box for track in self.tracks if track.seen == time]).reshape(-1, 4)
            box, points, score = found.boxes[column], found.landmarks[column], float(found.scores[column])
            middle = (box[:2] + box[2:]) / 2
            if ((middle > known[:, :2]) & (middle < known[:, 2:])).all(1).any():
                continue  # a known face, or what looks like one over a part of it
            rest, picture = np.zeros_like(points), _picture(image, box)
            self.tracks.append(Track(self.faces, time, score, box, points, points, rest, picture))
            self.faces += 1

    def _move(self, track: Track, time: float, box: np.ndarray, points: np.ndarray) -> None:
        track.smooth, track.speed = self.smoothing(points, track.smooth, track.speed, time - track.seen, track.size)
        track.seen, track.box, track.points = time, box, points

    def table(self, frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[pd.DataFrame]:
        """The trace of (seconds, image) pairs, some hundred frames at a time: the columns of :func:`track`."""
        rows: list[tuple] = []
        begin = self.frames
        for time, image in frames:
            tracks, detected = self.update(image, time)
            rows += [(self.frames - 1, time, t.face, detected, t.score, t.box, t.points, t.smooth) for t in tracks]
            if self.frames - begin == _TABLED:
                yield trace_table(rows, self.detector.model.config.schema)
                rows, begin = [], self.frames
        yield trace_table(rows, self.detector.model.config.schema)


def _picture(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(24, 24) uint8: what lies in a box (4,), grey and small; zeros where it is outside the image."""
    x1, y1, x2, y2 = np.clip(box, 0, np.tile(image.shape[1::-1], 2)).astype(int)
    if x1 == x2 or y1 == y2:
        return np.zeros((_SIDE, _SIDE), np.uint8)
    small = cv2.resize(image[y1:y2, x1:x2], (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def trace_table(rows: list[tuple], schema: LandmarkSchema) -> pd.DataFrame:
    """Rows of frame, time, face, detected, score, box (4,), raw and smoothed landmarks (L, 2) to what :func:`track` gives."""
    about = pd.DataFrame([row[:4] for row in rows], columns=["frame", "time", "face", "detected"])
    boxes = np.array([row[5] for row in rows]).reshape(-1, 4)
    raw, smooth = (np.array([row[n] for row in rows]).reshape(-1, schema.count, 2) for n in (6, 7))
    faces = Faces(boxes, raw, scores=np.array([row[4] for row in rows]), schema=schema)
    smoothed = pupil_table(replace(faces, landmarks=smooth))
    smoothed = smoothed[[name for name in smoothed if name.startswith(_SMOOTHED)]].add_suffix("_smooth")
    pose, gaze = head_pose(smooth).angles()[["yaw", "pitch", "roll"]], gaze_angles(smooth)[["gaze_yaw", "gaze_pitch"]]
    return pd.concat([about, pd.DataFrame(boxes, columns=BOX), pupil_table(faces), smoothed, pose, gaze], axis=1)


def track(video: str | Path | int | Iterable[tuple[float, np.ndarray]], detector: Detector, **options: Any) -> pd.DataFrame:
    """The trace of a video: a row for each face in each frame.

    video: a file, a stream's address, or (seconds, (H, W, 3) uint8 RGB) pairs, as ``islice(Video(0).read(), 300)`` of a camera.
    options: those of :class:`Tracker`. Columns: ``frame`` (from 0), ``time`` (s, as the file states it), ``face`` (its number,
    the same in all frames), ``detected`` (or followed by the second looks alone), x1 y1 x2 y2, the columns of
    :func:`retinalib.pupils.pupil_table` from the raw landmarks, offsets, pupils and openness also from the filtered ones
    (``offset_x_right_smooth`` …), and from those yaw, pitch, roll (the head's) and gaze_yaw, gaze_pitch (°, against the
    camera's axis). Raises what :class:`Video` and Tracker raise."""
    frames = Video(video).read() if isinstance(video, (str, Path, int)) else video
    return pd.concat(list(Tracker(detector, **options).table(frames)), ignore_index=True)
