"""How long the shipped detectors take on photographs with 1, 5 and 20 faces, beside a pair of networks from elsewhere.

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
from retinalib.detect import load_detector

SIZE, FACES = 640, (1, 5, 20)


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
        _, found = detector.detect(bgr)
        boxes = [] if found is None else found[:, :4]
        for x, y, width, height in boxes:
            scale = side / (1.2 * max(width, height))
            matrix = np.array([[scale, 0, side / 2 - scale * (x + width / 2)], [0, scale, side / 2 - scale * (y + height / 2)]])
            crop = cv2.warpAffine(bgr, matrix, (side, side)).astype(np.float32) / 255
            session.run(None, {name: crop.transpose(2, 0, 1)[None]})
        return len(boxes)

    return run


@click.command()
@click.option("--pair", "files", nargs=2, type=click.Path(exists=True, path_type=Path), help="YuNet's and a PFLD's ONNX files.")
@click.option("--repeats", default=21, show_default=True, help="Turns of each side; the medians are compared.")
def main(files: tuple[Path, Path] | None, repeats: int) -> None:
    """Time whole detections, from an RGB array to landmarks, the sides taking turns."""
    sides = {}
    for name in ("photos98", "rendered98"):
        detector = load_detector(name, "cpu")
        sides[name] = lambda picture, detector=detector: len(detector.detect(picture))
        sides[f"{name}, one size"] = lambda picture, detector=detector: len(detector.detect(picture, pyramid=False))
    if files:
        sides["pair"] = pair(*files)
    photos = london.load()
    rows = []
    for count in FACES:
        picture = mosaic([photos[number][0] for number in range(count)])
        found = {side: run(picture) for side, run in sides.items()}  # and the first, uncounted turn
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(repeats):
            for side, run in sides.items():
                time.sleep(REST)
                begin = time.perf_counter()
                run(picture)
                times[side].append(1e3 * (time.perf_counter() - begin))
        rows += [(count, side, found[side], float(np.median(taken)), min(taken)) for side, taken in times.items()]
    click.echo(hardware())
    table = pd.DataFrame(rows, columns=["faces", "detector", "found", "median ms", "fastest ms"])
    click.echo(table.to_markdown(index=False, floatfmt=".1f"))


if __name__ == "__main__":
    main()
