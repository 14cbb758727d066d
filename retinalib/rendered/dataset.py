"""Rendered faces with known pose and gaze, in WFLW's own file layout; made on first use.

Every picture is drawn from a generator of its own, so the files are the same to the byte whatever the number of processes.
The six attributes follow from what was drawn. *pose*: yaw over 45°, pitch over 25° or roll over 35°. *expression*: mouth wide
open, strong smile or pucker. *illumination*: dark, glaring, one-sided or coloured light. *make_up*: painted eyes and lips.
*occlusion*: sunglasses, mask, hand, microphone or another thing in front of the face, hair over the brows. *blur*: the
picture's blur is at least a fiftieth of the face's size."""

import hashlib
import json
import math
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from retinalib.datasets import wflw
from retinalib.datasets.table import BOX, FaceDataset
from retinalib.faces import Faces
from retinalib.files import end_with_parent, only_process, write_bytes, write_text
from retinalib.landmarks import WFLW_98
from retinalib.rendered import scene
from retinalib.rendered.head import BASIS, Expression, Head, Pose, build, gaze_vector
from retinalib.rendered.render import Light, Look, Painter

_VERSION = 2  # of the renderer
_EVENTS = {1: "0--Portrait", 2: "1--Couple", 3: "2--Group"}
_TEST_SHARE = 0.2  # of the pictures, the last ones
TRUTH = [
    "identity", "yaw", "pitch", "roll", "gaze_yaw_right", "gaze_pitch_right", "gaze_yaw_left", "gaze_pitch_left",
    "eye_openness_right", "eye_openness_left", "light",
]  # fmt: skip
"""What ``truth.csv`` knows beside WFLW's columns. Angles in degrees; gaze relative to the camera's axis, positive to the
image's right and up; openness 0 closed, 1 as on the average face; light: mean brightness on the skin, 1 is neutral."""


@dataclass(frozen=True)
class Person:
    number: int
    shape: tuple[float, ...]  # coefficients of ``BASIS``
    look: Look
    expression: Expression
    pose: Pose
    gaze: tuple[tuple[float, float], tuple[float, float]]  # right, left: yaw and pitch in the camera's frame, degrees
    light: Light
    distance: float  # of the camera, head units

    def head(self) -> Head:
        """The head in three dimensions."""
        return build(self.shape, self.expression, self.pose, tuple(gaze_vector(*angles) for angles in self.gaze))


def draw_identity(seed: int, number: int) -> tuple[tuple[float, ...], dict]:
    """Person ``number``: the shape, and the lasting part of the look."""
    rng = np.random.default_rng([seed, 11, number])
    shape = tuple(np.clip(rng.standard_normal(len(BASIS)), -2.2, 2.2).tolist())
    depth = rng.beta(1.2, 1.9)  # of the skin
    skin = np.array([243, 206, 182]) * (1 - depth) ** 1.1 + np.array([74, 46, 34]) * (1 - (1 - depth) ** 1.1)
    skin = skin + rng.normal(0, 5, 3)
    colours = ((28, 22, 20), (62, 42, 28), (110, 78, 48), (176, 140, 88), (150, 72, 38), (160, 158, 156))
    hair = np.array(colours[rng.choice(6, p=(0.36, 0.28, 0.14, 0.09, 0.04, 0.09))]) + rng.normal(0, 6, 3)
    iris = np.array(((74, 48, 32), (92, 66, 40), (88, 106, 78), (96, 122, 142)))[rng.choice(4, p=(0.5, 0.2, 0.13, 0.17))]
    style = str(rng.choice(["short", "long", "bald"], p=(0.52, 0.38, 0.1)))
    return shape, {
        "skin": tuple(np.clip(skin, 20, 250).tolist()),
        "hair": tuple(np.clip(hair, 5, 230).tolist()),
        "iris": tuple(np.clip(iris + rng.normal(0, 6, 3), 10, 230).tolist()),
        "lips": tuple(np.clip(skin * [0.86, 0.62, 0.62] + rng.normal(0, 5, 3), 15, 235).tolist()),
        "hair_style": style,
        "beard": float(rng.uniform(0.25, 0.95)) if style != "long" and rng.random() < 0.3 else 0.0,
        "blemish": float(rng.uniform(0.015, 0.07)),
    }


def draw_person(seed: int, number: int, rng: np.random.Generator) -> Person:
    """Person ``number`` as met in one picture."""
    shape, look = draw_identity(seed, number)
    made_up = rng.random() < (0.2 if look["hair_style"] == "long" else 0.01)
    look["glasses"] = str(rng.choice(["none", "clear", "sun"], p=(0.83, 0.11, 0.06)))
    hanging = look["hair_style"] != "bald" and rng.random() < 0.08
    look["fringe"] = float(rng.uniform(0.65, 1.0) if hanging else rng.uniform(0, 0.35))
    look["hat"] = tuple(rng.uniform(20, 230, 3).tolist()) if rng.random() < 0.1 else None
    look["make_up"] = float(rng.uniform(0.4, 1.0)) if made_up else 0.0
    turned = rng.random()
    yaw = rng.normal(0, 12) if turned < 0.58 else rng.uniform(-57, 57) if turned < 0.95 else rng.uniform(-80, 80)
    pitch = float(np.clip(rng.normal(-2.5, 11), -35, 35))
    roll = float(np.clip(rng.normal(0, 8 if rng.random() < 0.75 else 18), -45, 45))
    pose, expression = Pose(float(yaw), pitch, roll), _draw_expression(rng)
    gaze, light = _draw_gaze(rng, pose), _draw_light(rng)
    return Person(number, shape, Look(**look), expression, pose, gaze, light, float(rng.uniform(6, 16)))


def _draw_expression(rng: np.random.Generator) -> Expression:
    closed = rng.random() < 0.06
    lids = np.clip(rng.normal(1.0, 0.18) + rng.normal(0, 0.03, 2), 0.35, 1.5) * (not closed)
    mouth = -1.4 if rng.random() < 0.4 else rng.gamma(1.5, 1.25) - 0.5  # two of five are shut; real mouths' openings otherwise
    smile, pucker = min(rng.normal(0.3, 0.5), 1.1), 0.0
    kind = rng.random()
    if kind < 0.05:
        smile = rng.uniform(1.2, 1.6)
    elif kind < 0.09:
        pucker = rng.uniform(0.6, 1.0)
    brows = float(np.clip(rng.normal(0, 0.45), -1, 1))
    return Expression(float(min(mouth, 4.0)), float(max(smile, -1.0)), float(pucker), brows, tuple(lids.tolist()))


def _draw_gaze(rng: np.random.Generator, pose: Pose) -> tuple[tuple[float, float], tuple[float, float]]:
    """Eyes turn up to 35° in the head; a third of the people look into the camera as far as they can."""
    yaw, pitch = rng.normal(0, 14), rng.normal(0, 8)
    if rng.random() < 0.33:
        yaw, pitch = -0.9 * pose.yaw + rng.normal(0, 3), -0.9 * pose.pitch + rng.normal(0, 3)
    yaw, pitch = float(np.clip(yaw, -35, 35)), float(np.clip(pitch, -22, 18))
    inward = rng.uniform(0, 2.5)  # vergence
    angles = []
    for turn in (inward, -inward):
        x, y, z = pose.matrix() @ gaze_vector(yaw + turn, pitch)
        angles.append((math.degrees(math.atan2(x, z)), math.degrees(math.asin(np.clip(-y, -1, 1)))))
    return angles[0], angles[1]


def _draw_light(rng: np.random.Generator) -> Light:
    around, up = rng.uniform(-1.1, 1.1), rng.uniform(-0.2, 0.9)
    direction = (math.sin(around), -math.sin(up), math.cos(around) * math.cos(up))
    ambient, key, tint = rng.uniform(0.42, 0.62), rng.uniform(0.35, 0.6), 1 + rng.normal(0, 0.03, 3)
    if rng.random() < 0.28:
        kind = rng.integers(4)
        if kind == 0:
            ambient, key = rng.uniform(0.12, 0.25), rng.uniform(0.1, 0.25)  # dark
        elif kind == 1:
            ambient, key = rng.uniform(0.65, 0.85), rng.uniform(0.6, 0.9)  # glaring
        elif kind == 2:
            side = float(rng.choice([-1, 1]))
            direction, ambient, key = (side, rng.uniform(-0.5, 0.6), 0.15), rng.uniform(0.12, 0.25), rng.uniform(0.8, 1.1)
        else:
            tint = np.clip(1 + rng.uniform(-0.4, 0.3, 3), 0.5, 1.3)  # coloured
    gloss = float(rng.uniform(0.02, 0.2))
    return Light(tuple(map(float, direction)), float(ambient), float(key), gloss, tuple(map(float, tint)))


def _attributes(person: Person, covered: bool, blur: float, size: float) -> dict[str, bool]:
    pose, face, light = person.pose, person.expression, person.light
    brightness = light.ambient + 0.6 * light.key
    return {
        "pose": abs(pose.yaw) > 45 or abs(pose.pitch) > 25 or abs(pose.roll) > 35,
        "expression": face.mouth > 3.2 or face.smile > 1.15 or face.pucker > 0.5,
        "illumination": brightness < 0.45 or brightness > 1.0 or light.ambient < 0.3 or np.ptp(light.tint) > 0.18,
        "make_up": person.look.make_up > 0.3,
        "occlusion": covered or person.look.glasses == "sun" or person.look.fringe > 0.6,
        "blur": blur >= size / 50,
    }


def place_head(
    picture: np.ndarray, person: Person, scale: float, at: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a person, the head's origin near ``at`` (x, y), ``scale`` pixels a unit; gives landmarks (98, 2) and box (4,)."""
    fine = float(np.clip(1.7 * scale, 26, 120))
    drawn = Painter(person.head(), person.look, person.light, fine, person.distance, rng)
    drawn.paint()
    size = tuple(max(1, round(n * scale / fine)) for n in (drawn.width, drawn.height))
    ratio = np.array([size[0] / drawn.width, size[1] / drawn.height])
    method = cv2.INTER_AREA if scale < fine else cv2.INTER_LINEAR
    alpha = cv2.resize(drawn.mask, size, interpolation=method)
    colour = cv2.resize(cv2.copyTo(drawn.colour, drawn.mask), size, interpolation=method)  # premultiplied: no dark rim
    corner = np.round(np.asarray(at) - drawn.origin * ratio).astype(int)
    scene.blend(picture, colour, alpha, corner)
    landmarks = drawn.points * ratio + corner
    extent = np.concatenate([landmarks, drawn.forehead() * ratio + corner])
    return landmarks, np.concatenate([extent.min(0), extent.max(0)])


def draw_picture(seed: int, index: int, size: int, people: tuple[int, int]) -> tuple[np.ndarray, list[dict]]:
    """Picture ``index``: (size, size, 3) uint8 RGB and a row for each face; people: the identities' numbers, from … to."""
    rng = np.random.default_rng([seed, 5, index])
    picture = scene.background(size, rng)
    count = int(rng.choice([1, 2, 3, 4, 5], p=(0.42, 0.26, 0.16, 0.1, 0.06)))
    blur = float(rng.uniform(0.9, 2.6)) * size / 320 if rng.random() < 0.34 else float(rng.uniform(0, 0.5))
    rows, taken = [], []
    largest = {1: 0.95, 2: 0.48, 3: 0.4, 4: 0.34, 5: 0.3}[count]
    smallest = 0.04 if rng.random() < 0.15 else 0.12
    heights = np.sort(np.exp(rng.uniform(math.log(smallest), math.log(largest), count)) * size)
    heights[-1] = max(heights[-1], 0.24 * size)
    spots = [(spot, height) for height in heights if (spot := scene.free_spot(size, height, taken, rng)) is not None]
    for spot, height in sorted(spots, key=lambda s: s[0][1]):  # who stands lower stands before the others
        person = draw_person(seed, int(rng.integers(*people)), rng)
        scale = height / 2  # the units of a face's box
        scene.body(picture, spot, scale, person.look, person.light, rng)
        landmarks, box = place_head(picture, person, scale, spot, rng)
        covered = rng.random() < 0.18
        if covered:
            scene.cover(picture, landmarks, scale, person.look.skin, rng)
        size_of_face = float(np.sqrt(np.prod(box[2:] - box[:2])))
        rows.append(_row(person, landmarks, box) | _attributes(person, covered, blur, size_of_face))
    return scene.lens(picture, blur, rng), rows


def _row(person: Person, landmarks: np.ndarray, box: np.ndarray) -> dict:
    (right, left), pose, light = person.gaze, person.pose, person.light.ambient + 0.6 * person.light.key
    measured = (pose.yaw, pose.pitch, pose.roll, *right, *left, *person.expression.lids, light)
    truth = (int(person.number), *(round(float(v), 4) for v in measured))
    return {"landmarks": landmarks, **dict(zip([*BOX, *TRUTH], [*box.tolist(), *truth], strict=True))}


def render_face(
    yaw: float = 0.0,
    pitch: float = 0.0,
    roll: float = 0.0,
    gaze: tuple[float, float] = (0.0, 0.0),
    lids: float = 1.0,
    size: int = 256,
    person: int = 0,
    seed: int = 0,
) -> tuple[np.ndarray, Faces]:
    """One face on a plain ground: (size, size, 3) uint8 RGB and its ``Faces`` with the truth as attributes. Angles in degrees;
    gaze (yaw, pitch) relative to the camera's axis, both eyes in parallel. person, seed: who it is."""
    shape, look = draw_identity(seed, person)
    expression, pose = Expression(mouth=-0.8, lids=(lids, lids)), Pose(yaw, pitch, roll)
    drawn = Person(person, shape, Look(**look), expression, pose, (gaze, gaze), Light(), 9.0)
    picture = np.full((size, size, 3), (188, 192, 196), np.uint8)
    rng = np.random.default_rng([seed, 3, person])
    scale, spot = 0.3 * size, (0.5 * size, 0.44 * size)
    scene.body(picture, spot, scale, drawn.look, drawn.light, rng)
    landmarks, box = place_head(picture, drawn, scale, spot, rng)
    return picture, Faces(box[None], landmarks[None], attributes=pd.DataFrame([_row(drawn, landmarks, box)])[TRUTH])


def _draw(folder: Path, configuration: dict, train: int, index: int) -> None:
    cv2.setNumThreads(0)
    images, seed, split = configuration["images"], configuration["seed"], "train" if index < train else "test"
    people = (0, train) if split == "train" else (1_000_000, 1_000_000 + images - train)
    picture, faces = draw_picture(seed, index, configuration["size"], people)
    event = _EVENTS[min(max(len(faces), 1), 3)]
    name = f"{event}/{event.replace('--', '_')}_{index:06d}.jpg"
    quality = int(np.random.default_rng([seed, 9, index]).integers(62, 96))
    coded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    write_bytes(folder / wflw.IMAGES / name, coded.tobytes())
    about = [{"image": name, "face": n, "split": split} for n in range(len(faces))]
    rows = [{**row, **face, "landmarks": face["landmarks"].tolist()} for row, face in zip(about, faces, strict=True)]
    write_text(folder / "drawn" / f"{index:06d}.json", json.dumps(rows, default=bool))


def _rows(folder: Path, index: int) -> list[dict] | None:
    """The faces of a finished picture; None for another, or where a power cut left a damaged file."""
    try:
        return json.loads((folder / "drawn" / f"{index:06d}.json").read_text())
    except (FileNotFoundError, ValueError):
        return None


def make(
    root: str | Path, images: int, seed: int = 0, size: int = 320, workers: int | None = None, progress: bool = True
) -> Path:
    """Renders ``images`` pictures of ``size`` × ``size`` pixels in WFLW's layout and returns the folder that holds them.

    It lies below ``root`` and is named by the configuration; a finished one is used again, an interrupted one goes on. The last
    fifth of the pictures, with people of their own, is the test split. workers: processes, by default one a processor. Raises
    ValueError if there would be no picture to train on or to test with."""
    train = images - round(images * _TEST_SHARE)
    if not 0 < train < images or size < 64:
        raise ValueError(f"{images} pictures of {size} px leave nothing to train or to test with")
    configuration = {"version": _VERSION, "images": images, "seed": seed, "size": size, "test_share": _TEST_SHARE}
    name = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(root) / f"{images}-pictures-{name}"
    if (folder / "config.json").is_file():  # written last
        return folder
    with only_process(folder, wait=True):
        if (folder / "config.json").is_file():
            return folder
        missing = [index for index in range(images) if _rows(folder, index) is None]
        with ProcessPoolExecutor(min(workers or os.cpu_count() or 1, len(missing) or 1), initializer=end_with_parent) as pool:
            done = pool.map(partial(_draw, folder, configuration, train), missing, chunksize=8)
            for _ in tqdm(done, total=images, initial=images - len(missing), desc="rendering", disable=not progress):
                pass
        table = pd.DataFrame([row for index in range(images) for row in _rows(folder, index)])
        for part in ("train", "test"):
            wflw.write_annotations(table[table["split"] == part], folder / wflw.LISTS.format(split=part))
        write_text(folder / "truth.csv", table[["image", "face", "split", *TRUTH]].to_csv(index=False))
        write_text(folder / "config.json", json.dumps(configuration, indent=1))
        shutil.rmtree(folder / "drawn")
    return folder


def load(root: str | Path, split: str) -> FaceDataset:
    """The "train" or "test" pictures of a folder that :func:`make` returned; the truth's columns stand beside WFLW's."""
    root = Path(root)
    faces = wflw.read_annotations(root / wflw.LISTS.format(split=split))
    truth = pd.read_csv(root / "truth.csv").drop(columns="face")
    truth = truth[truth["split"] == split].drop(columns="split")
    truth["line"] = np.arange(1, len(truth) + 1)  # in the list, of which a face may have been set aside
    faces = faces.merge(truth, on=["image", "line"], how="left", validate="one_to_one")
    return FaceDataset(faces, root / wflw.IMAGES, WFLW_98)
