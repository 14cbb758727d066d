"""Fuzzes the readers of annotations and image headers, guided by the code they run through: python tests/fuzz_readers.py.

Options are libFuzzer's, such as -max_total_time=600 (seconds) or -runs=100000, and a folder for the inputs found. What it
reports is an exception that is no ValueError, or a table that breaks the promises of ``tests.test_properties.read_bytes``.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
with atheris.instrument_imports(include=["retinalib.datasets"]):
    from retinalib.datasets import table, wflw, wider
from tests.test_properties import read_bytes

_ROW = " ".join(["7 9"] * 98)
WORDS = [
    b" 0 0 30 40 0 1 0 0 0 1 a/b.jpg\n",
    b"# a/b.jpg\n",
    b"a/b.jpg\n1\n",
    b"10 10 20 20\n",
    b"nan",
    b"1e39",
    b"-1 -1 -1 ",
    b"\xef\xbb\xbf",
]


def one_input(data: bytes) -> None:
    """The first byte chooses the reader."""
    kind, rest = data[:1], data[1:]
    if kind < b"\x40":
        read_bytes(wider.read_boxes, rest)
    elif kind < b"\x80":
        read_bytes(wider.read_labels, rest)
    elif kind < b"\xc0":
        read_bytes(wflw.read_annotations, rest)
    elif kind < b"\xe0":  # what follows the coordinates
        read_bytes(wflw.read_annotations, _ROW.encode() + rest)
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, of damaged tags
                table.decode_image(rest, "photo")
        except ValueError as error:
            assert "photo" in str(error)


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Now and then a word of the formats is put in; libFuzzer's own changes otherwise."""
    if seed % 3:
        return atheris.Mutate(data, most)
    at = seed // 3 % (len(data) + 1)
    return (data[:at] + WORDS[seed % len(WORDS)] + data[at:])[:most]


SEEDS = [
    b"\x01a/b.jpg\n2\n10 10 20 20\n1 2 3 4 0 0 0 0 0 0\nb.jpg\n0\n0 0 0 0\n",
    b"\x41# a/b.jpg\n10 10 20 20 " + b"1 2 0 3 4 0 5 6 0 7 8 0 9 9 0 0.5\n# b.jpg\n1 1 2 2\n",
    b"\x81" + _ROW.encode() + WORDS[0],
    b"\xc1" + WORDS[0],
    *(
        b"\xe1" + cv2.imencode(suffix, np.zeros((3, 4, 3), np.uint8))[1].tobytes()
        for suffix in (".jpg", ".png", ".tif", ".webp", ".bmp")
    ),
]

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS):
            (Path(folder) / str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, "-rss_limit_mb=4096", folder], one_input, custom_mutator=mutate)
        atheris.Fuzz()
