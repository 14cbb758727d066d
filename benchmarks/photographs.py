"""How long the shipped detectors take on photographs with 1 to 20 faces, beside a pair of networks from elsewhere.

    python -m benchmarks.photographs --pair YUNET.onnx PFLD.onnx

A photo of 640×640 pixels is put together from portraits of data/photos. Every side gives boxes and 98 landmarks with what it
does by default. The pair is what a user would take instead: YuNet's boxes through OpenCV, and a PFLD on each by onnxruntime.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import onnxruntime
import pandas as pd

from benchmarks.__main__ import REST, hardware
from retinalib.datasets import london
from retinalib.datasets.table import read_image
from retinalib.detect import load_detector

SIZE, FACES = 640, (1, 3, 5, 20)
ROUNDS = 3  # in each, every side detects several times in a row, as in a folder of photos, and then with a pause before each


def mosaic(portraits: list[np.ndarray]) -> np.ndarray:
    """Portraits side by side in one picture: (640, 640, 3) RGB uint8."""
    columns = math.ceil(math.sqrt(len(portraits)))
    side = SIZE // columns
    picture = np.full((SIZE, SIZE, 3), 124, np.uint8)
    for number, portrait in enumerate(portraits):
        row, column = divmod(number, columns)
        square = portrait[: portrait.shape[1]]
        part = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
        picture[row * side : (row + 1) * side, column * side : (column + 1) * side] = part
    return picture


def pair(yunet: Path, pfld: Path) -> Callable[[np.ndarray], int]:
    """Both networks, one after the other, at YuNet's scores from 0.5 on; gives the number of faces."""
    detector = cv2.FaceDetectorYN.create(str(yunet), "", (SIZE, SIZE), 0.5, 0.4, 5000)
    session = onnxruntime.InferenceSession(pfld, providers=["CPUExecutionProvider"])
    name, side = session.get_inputs()[0].name, 112

    def run(picture: np.ndarray) -> int:
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        detector.setInputSize(picture.shape[1::-1])
        _, found = detector.detect(bgr)
        boxes = [] if found is None else found[:, :4]
        for x, y, width, height in boxes:
            scale = side / (1.2 * max(width, height))
            matrix = np.array([[scale, 0, side / 2 - scale * (x + width / 2)], [0, scale, side / 2 - scale * (y + height / 2)]])
            crop = cv2.warpAffine(bgr, matrix, (side, side)).astype(np.float32) / 255
            session.run(None, {name: crop.transpose(2, 0, 1)[None]})
        return len(boxes)

    return run


def timed(run: Callable[[np.ndarray], int], pictures: list[np.ndarray], pause: float) -> list[float]:
    """Milliseconds a picture, one after the other, with a pause before each; the first picture is looked at once before."""
    run(pictures[0])
    taken = []
    for picture in pictures:
        time.sleep(pause)
        begin = time.perf_counter()
        run(picture)
        taken.append(1e3 * (time.perf_counter() - begin))
    return taken


@click.command()
@click.option("--pair", "files", nargs=2, type=click.Path(exists=True, path_type=Path), help="YuNet's and a PFLD's ONNX files.")
@click.option("--folder", type=click.Path(exists=True, path_type=Path), help="Photos to detect in as well, at their own size.")
@click.option("--repeats", default=7, show_default=True, help="Detections of each side in a row, three times over.")
def main(files: tuple[Path, Path] | None, folder: Path | None, repeats: int) -> None:
    """Time whole detections, from an RGB array to landmarks; the sides take turns."""
    sides = {}
    for name in ("photos98", "rendered98"):
        detector = load_detector(name, "cpu")
        sides[name] = lambda picture, detector=detector: len(detector.detect(picture))
        sides[f"{name}, one size"] = lambda picture, detector=detector: len(detector.detect(picture, pyramid=False))
    if files:
        sides["pair"] = pair(*files)
    portraits = [portrait for portrait, _ in london.load()]
    pictures = {f"{count} faces": [mosaic(portraits[:count])] * repeats for count in FACES}
    if folder:
        pictures["folder"] = [read_image(path) for path in sorted(folder.rglob("*.jpg"))]
    rows = []
    for what, of_one in pictures.items():
        times: dict[str, list[list[float]]] = {side: [[], []] for side in sides}
        for _ in range(ROUNDS):
            for side, run in sides.items():
                for taken, pause in zip(times[side], (0.0, REST), strict=True):
                    time.sleep(REST)
                    taken += timed(run, of_one, pause)
        rows += [
            (what, side, run(of_one[0]), *map(np.median, times[side]), *map(np.mean, times[side]))
            for side, run in sides.items()
        ]
    click.echo(hardware())
    columns = ["photos", "detector", "found", "median ms", f"after {REST} s", "mean ms", f"mean after {REST} s"]
    click.echo(pd.DataFrame(rows, columns=columns).to_markdown(index=False, floatfmt=".1f"))


if __name__ == "__main__":
    main()
