"""Bad data, bad use and hostile files through the public entries: refused in a sentence, or as good as sound ones."""

import importlib.util
import struct
import subprocess
import sys
import warnings
import zlib

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from retinalib.anchors import AnchorConfig
from retinalib.augment import AugmentConfig, augment
from retinalib.datasets import wider
from retinalib.datasets.describe import describe_faces
from retinalib.datasets.table import FaceDataset, decode_image, read_image
from retinalib.detect import Detector, load_detector
from retinalib.evaluate import detection_ap, evaluate_faces, matched_landmarks, nme, summary
from retinalib.export import export
from retinalib.faces import Faces
from retinalib.landmarks import WFLW_98, WIDER_5
from retinalib.model import ModelConfig, RetinaFace
from retinalib.pupils import pupil_table
from retinalib.second_look import eye_look
from retinalib.workspace import PROJECT
from tests.shared import IBUG_68


def ramp(height=60, width=80):
    x, y = np.meshgrid(np.linspace(0, 250, width), np.linspace(0, 250, height))
    return np.stack([x, y, (x + y) / 2], -1).astype(np.uint8)


def bomb(width, height):
    """A PNG of 74 bytes that says it is huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


# -------------------------------------------------------------------------------------------------------------------- photos


@pytest.mark.parametrize(
    ("mode", "suffix", "options", "most"),
    [
        ("RGB", "jpg", {"quality": 95}, 4),
        ("RGB", "jpg", {"quality": 95, "progressive": True}, 4),
        ("CMYK", "jpg", {"quality": 95}, 5),
        ("CMYK", "tif", {}, 2),
        ("P", "png", {}, 30),
        ("RGBA", "png", {}, 0),
        ("RGB", "webp", {"lossless": True}, 0),
        ("RGB", "tif", {}, 0),
        ("RGB", "bmp", {}, 0),
        ("RGB", "gif", {}, 30),
    ],
)
def test_colours_are_those_of_the_photo_in_every_format(tmp_path, mode, suffix, options, most):
    path = tmp_path / f"a photo ü {mode}.{suffix}"
    Image.fromarray(ramp()).convert(mode).save(path, **options)
    assert np.abs(read_image(path).astype(int) - ramp()).mean() <= most


def test_sizes_at_both_ends():
    assert decode_image(cv2.imencode(".png", np.full((1, 1, 3), 9, np.uint8))[1].tobytes(), "dot").shape == (1, 1, 3)
    wide = decode_image(cv2.imencode(".png", np.zeros((7, 20_000, 3), np.uint8))[1].tobytes(), "wide")
    assert wide.shape == (7, 20_000, 3)


@pytest.mark.parametrize("size", [(30_000, 30_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1), (100_001, 1)])
def test_bombs_are_refused_by_their_headers(size):
    with pytest.raises(ValueError, match=r"photo has .* scale it down"):
        decode_image(bomb(*size), "photo")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_half_a_photo_is_no_photo(suffix, share):
    data = cv2.imencode(suffix, ramp())[1].tobytes()
    assert decode_image(data, "photo").shape == (60, 80, 3)
    with pytest.raises(ValueError, match="photo is not an image"):
        decode_image(data[: int(share * len(data))], "photo")


def test_values_that_are_no_colours_are_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)).save(tmp_path / "float.tif")
    Image.fromarray(ramp()).convert("LAB").save(tmp_path / "lab.tif")
    for name in ("float.tif", "lab.tif"):
        with pytest.raises(ValueError, match=rf"{name} holds \w+ values, not grey levels or RGB"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_face_is_where_its_box_says_however_viewers_turn_the_photo(tmp_path, orientation, suffix):
    """A red face in a corner, with its box in stored pixels: the picture that the data set gives agrees with the box."""
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[4:20, 50:70] = 255, 0, 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    (tmp_path / "wider_face_mine_bbx_gt.txt").write_text(f"a.{suffix}\n1\n50 4 20 16\n")
    if suffix == "tif" and orientation > 1:
        with pytest.raises(ValueError, match="TIFF with an orientation"):
            read_image(tmp_path / "a.tif")
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        image, faces = wider.load(tmp_path / "wider_face_mine_bbx_gt.txt", tmp_path)[0]
    assert ["viewers turn 1 photos as their EXIF" in str(one.message) for one in said] == [True] * (orientation > 1)
    x1, y1, x2, y2 = faces.boxes[0].astype(int)
    assert image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2, 0].mean() > 240 and image[..., 0].mean() < 25
    seen = read_image(tmp_path / f"a.{suffix}", honour_exif=True)  # as a viewer shows it
    expected = Image.open(tmp_path / f"a.{suffix}")
    assert np.abs(seen.astype(int) - np.asarray(ImageOps.exif_transpose(expected).convert("RGB"))).mean() < 2


# ----------------------------------------------------------------------------------------------------------------------- use


@pytest.fixture(scope="module")
def detector():
    return Detector(RetinaFace(ModelConfig(schema=WIDER_5)), "cpu")


def test_what_is_no_image_is_said(detector):
    for images in (None, 3, Image.new("RGB", (9, 9)), np.zeros((3, 9, 9), np.uint8), [None], [np.zeros((9, 9))]):
        with pytest.raises(ValueError, match=r"detect takes RGB arrays \(H, W, 3\) of uint8 or paths"):
            detector.detect(images)


NONE = {"score_threshold": ("0.5", np.nan, -1), "nms_threshold": (None, np.nan), "max_faces": (None, -1, 2.5)}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, values in NONE.items() for value in values])
def test_thresholds_that_are_none(detector, option, value):
    with pytest.raises(ValueError, match="thresholds must not be negative"):
        detector.detect(np.zeros((32, 32, 3), np.uint8), **{option: value})


def test_images_of_any_size_and_memory_layout(detector):
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    plain = detector.detect(image, score_threshold=0.0, max_faces=3)
    for same in (np.asfortranarray(image), image[:, ::-1][:, ::-1], np.broadcast_to(image, image.shape)):
        np.testing.assert_array_equal(detector.detect(same, score_threshold=0.0, max_faces=3).boxes, plain.boxes)
    assert [len(detector.detect(image[:1, :n], score_threshold=2)) for n in (1, 60)] == [0, 0]
    assert detector.detect([]) == [] and len(detector.detect(image, score_threshold=0, nms_threshold=1, max_faces=10**6)) > 50


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: load_detector(3), "found by its name or path, got int"),
        (lambda: Detector("rendered98"), "a Detector takes a RetinaFace, got str: load_detector makes one"),
        (lambda: ModelConfig(schema="wflw98"), "schema must be a LandmarkSchema, got 'wflw98'"),
        (lambda: ModelConfig(normalisation="imagenet"), "normalisation must be a Normalisation"),
        (lambda: export(RetinaFace(), "a.onnx", "everything"), "must be one of network, detector, looks; got 'everything'"),
        (lambda: export(RetinaFace(), "a.onnx", "looks"), "no second looks"),
        (lambda: eye_look(IBUG_68), "no lids of eight points with a pupil"),
        (lambda: eye_look(WIDER_5), "wider5 has no lids of eight points with a pupil"),
        (lambda: ModelConfig(schema=WIDER_5, looks=(eye_look(WFLW_98),)), "the schema wider5 does not have"),
        (lambda: nme(*np.zeros((2, 1, 68, 2)), normaliser="inter_ocular"), "98 landmarks, the faces have 68"),
    ],
)
def test_wrong_uses_are_named(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_configurations_of_no_sense():
    for wrong in ({"strides": (0, 16, 32)}, {"sizes": ((16, 0), (64, 128), (256, 512))}, {"variances": (0.1, 0.0)}):
        with pytest.raises(ValueError, match="must be positive"):
            AnchorConfig(**wrong)
    good = np.zeros((9, 9, 3), np.uint8)
    for image, size in ((good[..., 0], 64), (good.astype(float), 64), (good, 0), (good[:0], 64)):
        with pytest.raises(ValueError, match="an RGB image"):
            augment(image, Faces.empty(), size, np.random.default_rng(0), AugmentConfig())


# ------------------------------------------------------------------------------------------------------- none and thousands


def crowd(count, span=4000.0, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, span, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 40, (count, 2))], 1)
    size = boxes[:, None, 2:] - boxes[:, None, :2]
    return Faces(boxes, boxes[:, None, :2] + rng.random((count, 98, 2)) * size, scores=rng.random(count))


def test_thousands_of_faces(tmp_path):
    faces = crowd(1000)
    table = evaluate_faces([faces], [faces])
    assert len(table) == 1000 and summary(table).loc["all", "recall"] > 0.99 and detection_ap([faces], [faces]) > 0.99
    assert len(pupil_table(faces)) == 1000
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4100, 4100, 3), np.uint8))
    rows = pd.DataFrame(faces.boxes, columns=["x1", "y1", "x2", "y2"]).assign(image="a.png", line=range(1000))
    rows["landmarks"] = list(faces.landmarks)
    described = describe_faces(FaceDataset(rows, tmp_path))
    assert len(described) == 1000 and described["faces"].eq(1000).all() and not described["twin"].any()
    image, kept = augment(
        np.zeros((400, 400, 3), np.uint8), crowd(3000, 400), 64, np.random.default_rng(0), AugmentConfig(near=0.5)
    )
    assert image.shape == (64, 64, 3) and 0 < len(kept) < 3000


def test_a_box_far_larger_than_the_photo_fits_into_memory():
    faces = Faces([[-1e5, -1e5, 1e5, 1e5]], np.zeros((1, 98, 2)))
    for seed in range(4):
        crop, kept = augment(np.zeros((60, 80, 3), np.uint8), faces, 64, np.random.default_rng(seed), AugmentConfig(near=0.5))
        assert crop.shape == (64, 64, 3) and len(kept) <= 1


# ------------------------------------------------------------------------------------------------------------------- metrics


def test_a_face_that_can_not_be_measured_is_no_failure():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 50, (3, 98, 2))
    points[1] = 5.0  # all in one place: no distance to measure by
    points[2, WFLW_98.inter_ocular[0]] = np.nan
    boxes = [[0, 0, 50, 50], [100, 0, 150, 50], [200, 0, 250, 50]]
    table = evaluate_faces([Faces(boxes, np.nan_to_num(points, nan=3.0))], [Faces(boxes, points)])
    assert table["face"].tolist() == [0] and summary(table).loc["all", "failure_rate"] == 0
    by_box = evaluate_faces([Faces(boxes, np.nan_to_num(points, nan=3.0))], [Faces(boxes, points)], normaliser="box")
    assert by_box["face"].tolist() == [0, 1, 2] and by_box["nme"].max() < 1e-6


def test_predictions_that_would_flatter_are_refused():
    true = np.random.default_rng(0).uniform(0, 50, (2, 98, 2))
    partly = true.copy()
    partly[1, 3] = np.nan
    with pytest.raises(ValueError, match=r"faces \[1\] are NaN in part"):
        nme(partly, true, normaliser="inter_ocular")
    assert np.isfinite(nme(true, partly, normaliser="inter_ocular")).all()  # unknown truth is not measured
    assert np.isnan(nme(np.full_like(true, np.nan), true, normaliser="inter_ocular")).all()
    for lengths in (np.ones(3), 1.0, [1.0]):
        with pytest.raises(ValueError, match="2 faces need as many lengths"):
            nme(true, true, normaliser=lengths)
    assert nme(true, true, normaliser=[1.0, 2.0]).tolist() == [0, 0]


def test_schemas_and_names_that_disagree():
    five, many = Faces.empty(WIDER_5), Faces.empty(WFLW_98)
    for function in (evaluate_faces, matched_landmarks):
        with pytest.raises(ValueError, match="landmarks of wider5, the truth those of wflw98"):
            function([five], [many])
    with pytest.raises(ValueError, match="2 photos have 1 names"):
        evaluate_faces([many, many], [many, many], ["a"])


# ----------------------------------------------------------------------------------------------------------------------- fuzz


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is made for Linux")
def test_readers_bear_a_thousand_fuzzed_files():
    command = [sys.executable, str(PROJECT / "tests/fuzz_readers.py"), "-runs=1000", "-seed=1", "-max_len=600"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 0 and "Done 1000 runs" in result.stderr, result.stderr[-3000:]
