"""Rendered clips with truth: one person who moves the head, looks around, follows something and blinks, in changing light.

The first two seconds are still: a trace that moves there is noise. Then fixations change with saccades (minimum jerk, as long
as the main sequence says: 21 ms and 2.2 ms a degree, Carpenter 1988) and smooth pursuits of 6 to 20° a second."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from retinalib.datasets.video import write_video
from retinalib.faces import Faces
from retinalib.files import replacing
from retinalib.rendered import scene
from retinalib.rendered.dataset import Person, draw_identity, place_head
from retinalib.rendered.head import Expression, Pose
from retinalib.rendered.render import Light, Look

FPS = 30
STILL = 2.0  # seconds at the beginning
_BLINK = ([0, 0.09, 0.13, 0.28], [1, 0, 0, 1])  # seconds from its start, and how open the lids are then
_REACH = {"yaw": 9, "pitch": 5, "roll": 4, "x": 0.35, "y": 0.18, "near": 0.08, "light": 0.18}


def script(seed: int, seconds: float = 10.0) -> pd.DataFrame:
    """What happens, a row per frame: time (s); event ("still", "fixation", "saccade", "pursuit"), its number and amplitude (°);
    blink (its number, or -1); gaze_yaw, gaze_pitch, yaw, pitch, roll (°); x, y (head units), near (scale), lids, light."""
    rng = np.random.default_rng([seed, 21])
    time = np.arange(round(seconds * FPS)) / FPS
    table = pd.DataFrame({"time": time, "event": "still", "number": 0, "amplitude": 0.0, "blink": -1, "lids": 1.0})
    gaze, begin, now, number = np.zeros((len(time), 2)), STILL, np.zeros(2), 0
    while begin < seconds:
        far, angle, pursued = np.exp(rng.uniform(np.log(0.7), np.log(25))), rng.uniform(0, 2 * np.pi), rng.random() < 0.25
        goal = np.clip(now + far * np.array([np.cos(angle), np.sin(angle)]), [-24, -12], [24, 12])
        amplitude = float(np.linalg.norm(goal - now))
        lasts = amplitude / rng.uniform(6, 20) if pursued else 0.021 + 0.0022 * amplitude
        part = ((time - begin) / lasts).clip(0, 1)[:, None]
        path = part if pursued else part**3 * (10 - 15 * part + 6 * part**2)
        gaze = np.where(time[:, None] >= begin, now + (goal - now) * path, gaze)
        for name, start in (("pursuit" if pursued else "saccade", begin), ("fixation", begin + lasts)):
            number += 1
            table.loc[time >= start, ["event", "number", "amplitude"]] = [name, number, amplitude]
        begin, now = begin + lasts + rng.uniform(0.4, 1.2), goal
    start, number = STILL + rng.uniform(0.3, 1), 0
    while start < seconds - _BLINK[0][-1]:
        table["lids"] = np.minimum(table["lids"], np.interp(time - start, *_BLINK))
        table.loc[(time > start) & (time < start + _BLINK[0][-1]), "blink"] = number
        start, number = start + 0.8 + rng.exponential(1.6), number + 1
    for name, reach in _REACH.items():
        rate, phase = rng.uniform(0.08, 0.45, 2), rng.uniform(0, 2 * np.pi, 2)
        waves = np.sin(2 * np.pi * rate * time[:, None] + phase).mean(1)
        table[name] = reach * np.clip((time - STILL) / 0.5, 0, 1) * waves + (name in ("near", "light"))
    table["light"] -= rng.uniform(0, 0.35) * (time > max(STILL, rng.uniform(0, seconds)))  # somebody switches a lamp off
    return table.assign(gaze_yaw=gaze[:, 0], gaze_pitch=gaze[:, 1])


def make_clip(root: str | Path, seed: int, seconds: float = 10.0, size: tuple[int, int] = (640, 480)) -> tuple[Path, Faces]:
    """Clip ``seed`` of ``size`` (width, height), rendered on first use: the MP4's path and its truth, the person's face in each
    frame, with the :func:`script` as attributes. The same arguments give the same bytes."""
    path, truth = Path(root) / f"clip-{seed}-{seconds:g}s-{size[0]}x{size[1]}.mp4", script(seed, seconds)
    if not path.is_file():
        points: list[np.ndarray] = []
        write_video(fresh := path.with_suffix(".new.mp4"), _draw(seed, truth, size, points), FPS)
        with replacing(path.with_suffix(".npy")) as temporary, open(temporary, "wb") as file:
            np.save(file, np.array(points, np.float32))
        fresh.replace(path)  # last: what is there is whole
    points = np.load(path.with_suffix(".npy"))
    return path, Faces(points[:, -2:].reshape(-1, 4), points[:, :-2], attributes=truth)


def _draw(seed: int, truth: pd.DataFrame, size: tuple[int, int], points: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames; to ``points`` it adds each one's landmarks and box, (100, 2)."""
    rng = np.random.default_rng([seed, 22])
    shape, look = draw_identity(seed, 0)
    ground = scene.background(max(size), rng)[: size[1], : size[0]]
    noise, scale, light = rng.uniform(1, 4), rng.uniform(0.17, 0.24) * size[1], Light((rng.uniform(-0.8, 0.8), -0.5, 0.77))
    for row in truth.itertuples():
        lit = replace(light, ambient=light.ambient * row.light, key=light.key * row.light)
        pose, gaze = Pose(row.yaw, row.pitch, row.roll), (row.gaze_yaw, row.gaze_pitch)
        person = Person(0, shape, Look(**look), Expression(lids=(row.lids, row.lids)), pose, (gaze, gaze), lit, 9.0)
        same = np.random.default_rng([seed, 23])  # clothes and skin stay as they are
        spot, picture = (size[0] / 2 + row.x * scale, 0.42 * size[1] + row.y * scale), ground.copy()
        scene.body(picture, spot, scale * row.near, person.look, lit, same)
        landmarks, box = place_head(picture, person, scale * row.near, spot, same)
        points.append(np.concatenate([landmarks, box.reshape(2, 2)]))
        grain = np.random.default_rng([seed, 24, row.Index]).standard_normal(picture.shape, np.float32)
        yield cv2.add(picture, grain * np.float32(noise), dtype=cv2.CV_8U)
