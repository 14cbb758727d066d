"""Rendered clips with truth: one person who moves the head, looks around, follows something and blinks, in changing light.

The first two seconds are still: a trace that moves there is noise. Then fixations change with saccades (minimum jerk, as long
as the main sequence says: 21 ms and 2.2 ms a degree, Carpenter 1988) and smooth pursuits.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from retinalib.datasets.table import BOX
from retinalib.datasets.video import write_video
from retinalib.files import replacing
from retinalib.rendered import scene
from retinalib.rendered.dataset import Person, draw_identity, place_head
from retinalib.rendered.head import Expression, Pose
from retinalib.rendered.render import Light, Look

FPS = 30
STILL = 2.0  # seconds at the beginning
_VERSION = 1
_BLINK = ([0, 0.09, 0.13, 0.28], [1, 0, 0, 1])  # seconds from its start, and how open the lids are (Kwon et al. 2013, rounded)


def script(seed: int, seconds: float = 10.0) -> pd.DataFrame:
    """What happens, a row per frame: time (s), event ("still", "fixation", "saccade", "pursuit"), its number and amplitude (°);
    blink (its number, or -1); gaze, yaw, pitch, roll (°), x, y (head units), near (scale), lids and light (1: as at rest)."""
    rng = np.random.default_rng([seed, 21])
    time = np.arange(round(seconds * FPS)) / FPS
    table = pd.DataFrame({"time": time, "event": "still", "number": 0, "amplitude": 0.0, "blink": -1})
    gaze, begin, now, number = np.zeros((len(time), 2)), STILL, np.zeros(2), 0
    while begin < seconds:
        goal = now + np.exp(rng.uniform(np.log(0.7), np.log(25))) * np.array([np.cos(a := rng.uniform(0, 2 * np.pi)), np.sin(a)])
        goal = np.clip(goal, [-24, -12], [24, 12])
        amplitude, pursued = float(np.linalg.norm(goal - now)), rng.random() < 0.25
        lasts = amplitude / rng.uniform(6, 20) if pursued else 0.021 + 0.0022 * amplitude
        part = ((time - begin) / lasts).clip(0, 1)[:, None]
        gaze = np.where(time[:, None] >= begin, now + (goal - now) * (part if pursued else part**3 * (10 + part * (6 * part - 15))), gaze)
        for name, start in (("pursuit" if pursued else "saccade", begin), ("fixation", begin + lasts)):
            number += 1
            table.loc[time >= start, ["event", "number", "amplitude"]] = [name, number, amplitude]
        begin, now = begin + lasts + rng.uniform(0.4, 1.2), goal
    lids, start = np.ones(len(time)), STILL + rng.uniform(0.3, 1)
    while start < seconds - 0.3:
        lids = np.minimum(lids, np.interp(time - start, *_BLINK))
        table.loc[(time > start) & (time < start + _BLINK[0][-1]), "blink"] = table["blink"].max() + 1
        start += 0.8 + rng.exponential(1.6)
    moving = np.clip((time - STILL) / 0.5, 0, 1)
    for name, reach in {"yaw": 9, "pitch": 5, "roll": 4, "x": 0.35, "y": 0.18, "near": 0.08, "light": 0.18}.items():
        rate, phase = rng.uniform(0.08, 0.45, 2), rng.uniform(0, 2 * np.pi, 2)
        table[name] = reach * moving * np.sin(2 * np.pi * rate * time[:, None] + phase).mean(1)
    table["light"] += 1 - rng.uniform(0, 0.35) * (time > rng.uniform(STILL, seconds))  # somebody switches a lamp off
    return table.assign(gaze_yaw=gaze[:, 0], gaze_pitch=gaze[:, 1], lids=lids, near=table["near"] + 1)


def make_clip(root: str | Path, seed: int, seconds: float = 10.0, size: tuple[int, int] = (640, 480)) -> Path:
    """Renders clip ``seed`` of ``size`` (width, height) on first use; the MP4's path. Its truth: :func:`load_truth`."""
    path = Path(root) / f"clip-{_VERSION}-{seed}-{seconds:g}s-{size[0]}x{size[1]}.mp4"
    if not path.is_file():
        truth, landmarks = script(seed, seconds), []
        write_video(path.with_suffix(".new.mp4"), _draw(seed, truth, size, landmarks), FPS)
        with replacing(path.with_suffix(".npz")) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, faces=np.array(landmarks, np.float32))
        path.with_suffix(".new.mp4").replace(path)  # last: what is there is whole
    return path


def load_truth(path: str | Path) -> tuple[pd.DataFrame, np.ndarray]:
    """The :func:`script` of a clip, with its faces' boxes, and their (frames, 98, 2) landmarks, pixels."""
    seed, seconds = Path(path).name.split("-")[2:4]
    faces = np.load(Path(path).with_suffix(".npz"))["faces"]
    table = script(int(seed), float(seconds[:-1]))
    table[BOX] = faces[:, -2:].reshape(-1, 4)
    return table, faces[:, :-2]


def _draw(seed, truth, size, landmarks):
    """The frames; appends each one's landmarks and box, (100, 2), to ``landmarks``."""
    rng = np.random.default_rng([seed, 22])
    shape, look = draw_identity(seed, 0)
    ground, noise, scale = scene.background(max(size), rng)[: size[1], : size[0]], rng.uniform(1, 4), rng.uniform(0.17, 0.24) * size[1]
    light = Light((float(rng.uniform(-0.8, 0.8)), -0.5, 0.77))
    for row in truth.itertuples():
        pose, lids, gaze = Pose(row.yaw, row.pitch, row.roll), Expression(lids=(row.lids, row.lids)), (row.gaze_yaw, row.gaze_pitch)
        lit = replace(light, ambient=light.ambient * row.light, key=light.key * row.light)
        person = Person(0, shape, Look(**look), lids, pose, (gaze, gaze), lit, 9.0)
        same = np.random.default_rng([seed, 23])  # clothes and skin stay as they are
        spot, picture = (size[0] / 2 + row.x * scale, 0.42 * size[1] + row.y * scale), ground.copy()
        scene.body(picture, spot, scale * row.near, person.look, lit, same)
        points, box = place_head(picture, person, scale * row.near, spot, same)
        landmarks.append(np.concatenate([points, box.reshape(2, 2)]))
        grain = np.random.default_rng([seed, 24, row.Index]).standard_normal(picture.shape, np.float32)
        yield cv2.add(picture, grain * np.float32(noise), dtype=cv2.CV_8U)
