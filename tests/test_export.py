import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from retinalib.checkpoint import save_model
from retinalib.cli import main
from retinalib.detect import load_detector
from retinalib.export import OUTPUTS, export
from retinalib.landmarks import WIDER_5
from retinalib.model import ModelConfig, Normalisation, RetinaFace
from retinalib.rendered.dataset import render_face

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
AS_EXPORTED = {"pyramid": False, "second_look": False}
SIZES = [(1, 160, 160), (2, 181, 243), (3, 96, 65)]  # one that no stride divides, one upright


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def photos(count, height, width):
    faces = [render_face(yaw=20 * n, size=max(height, width), person=n)[0] for n in range(count)]
    return np.stack([face[:height, :width] for face in faces])


@pytest.fixture(scope="module")
def exported(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "detector.onnx"
    export(detector.model, path)
    return session(path)


def test_whole_detector_is_torchs(detector, exported):
    assert [output.name for output in exported.get_outputs()] == list(OUTPUTS["detector"])
    total = 0
    for size in SIZES:
        images = photos(*size)
        boxes, scores, landmarks, image = exported.run(None, {"images": images})
        assert (np.diff(scores) <= 0).all()
        for number, faces in enumerate(detector.detect(list(images), **AS_EXPORTED)):
            own = image == number
            assert own.sum() == len(faces)
            np.testing.assert_allclose(boxes[own], faces.boxes, atol=1e-2)
            np.testing.assert_allclose(landmarks[own], faces.landmarks, atol=1e-2)
            np.testing.assert_allclose(scores[own], faces.scores, atol=1e-4)
            total += len(faces)
    assert total >= 4
    nothing = exported.run(None, {"images": np.zeros((1, 40, 50, 3), np.uint8)})
    assert [output.shape for output in nothing] == [(0, 4), (0,), (0, 98, 2), (0,)]


def test_network_alone_is_torchs_from_the_command_line(tmp_path):
    torch.manual_seed(0)
    normalisation = Normalisation(mean=(104.0, 117.0, 123.0), std=(1.0, 2.0, 3.0), bgr=True)
    model = RetinaFace(ModelConfig(schema=WIDER_5, se_reduction=16, normalisation=normalisation)).eval()
    save_model(model, tmp_path / "best.pt")
    said = CliRunner().invoke(main, ["export", str(tmp_path), str(tmp_path / "network.onnx"), "--what", "network"]).stdout
    assert "images (B, H, W, 3) uint8 RGB to logits, boxes, landmarks" in said and "no pyramid, no second look" in said
    assert not list(tmp_path.glob(".*"))
    exported = session(tmp_path / "network.onnx")
    for size in SIZES:
        images = photos(*size)
        found = exported.run(None, {"images": images})
        with torch.inference_mode():
            expected = model.dense(normalisation.apply(torch.from_numpy(images).permute(0, 3, 1, 2)))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-3 * float(theirs.abs().max()))


def test_overlapping_faces_of_two_photos_both_stay(detector, exported):
    image = photos(1, 160, 160)
    alone = detector.detect(image[0], **AS_EXPORTED)
    found = exported.run(None, {"images": np.repeat(image, 2, 0)})
    assert len(alone) > 0 and len(found[0]) == 2 * len(alone)


def fitted(points, shape, mirrored):
    """(2, 3) the frame that brings (K, 2) ``shape`` closest to points, by complex numbers: (x, y, 1) to pixels."""
    own, there = shape * [-1, 1] if mirrored else shape, points
    a, b = (p @ [1, 1j] for p in (own - own.mean(0), there - there.mean(0)))
    turn = (a.conj() @ b) / (a.conj() @ a)
    axes = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    frame = np.c_[axes, there.mean(0) - axes @ own.mean(0)]
    frame[:, 0] *= -1 if mirrored else 1
    return frame


def test_looks_in_numpy_and_opencv_are_torchs(tmp_path):
    """Patches cut by OpenCV where the frames are, through the exported looks: the landmarks of ``detect``."""
    detector = load_detector("photos98", "cpu")
    image, _ = render_face(size=300, person=3)
    before = detector.detect(image, second_look=False)
    after = detector.detect(image)
    assert len(before) == 1
    landmarks = before.landmarks[0].astype(float)
    for path, look in zip(export(detector.model, tmp_path / "out.onnx", "looks"), detector.model.config.looks, strict=True):
        run = session(path)
        to_frame = np.array([[2 / look.columns, 0, -1], [0, 2 / look.columns, -look.rows / look.columns], [0, 0, 1]])
        for part, mirrored in look.rounds * list(zip(look.parts, look.mirrored, strict=True)):
            to_pixels = fitted(landmarks[list(part)], np.array(look.shape), mirrored) @ to_frame
            middles = to_pixels @ [[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]] - [[0, 0, 0.5]] * 2  # OpenCV's zero is a pixel's middle
            finer = np.c_[middles[:, :2] / 4, middles @ [-0.375, -0.375, 1]]
            size, flags = (4 * look.columns, 4 * look.rows), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            large = cv2.warpAffine(image, finer, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
            patch = cv2.resize(large, (look.columns, look.rows), interpolation=cv2.INTER_AREA)
            (points,) = run.run(None, {"patches": patch[None]})
            landmarks[list(part)] = points[0] @ to_pixels[:, :2].T + to_pixels[:, 2]
    moved = np.linalg.norm(after.landmarks[0] - before.landmarks[0], axis=1).mean()
    assert np.linalg.norm(landmarks - after.landmarks[0], axis=1).mean() < 0.05 * moved
