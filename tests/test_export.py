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
def detector():
    return load_detector("rendered98", "cpu")


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


def test_network_alone_is_torchs(tmp_path):
    torch.manual_seed(0)
    normalisation = Normalisation(mean=(104.0, 117.0, 123.0), std=(1.0, 2.0, 3.0), bgr=True)
    model = RetinaFace(ModelConfig(schema=WIDER_5, se_reduction=16, normalisation=normalisation)).eval()
    export(model, tmp_path / "network.onnx", "network")
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


def test_command_line(tmp_path):
    save_model(load_detector("rendered98", "cpu").model, tmp_path / "best.pt")
    arguments = ["export", str(tmp_path), str(tmp_path / "out.onnx"), "--what", "network"]
    said = CliRunner().invoke(main, arguments).stdout
    assert "images (B, H, W, 3) uint8 RGB to logits, boxes, landmarks" in said and "no pyramid, no second look" in said
    assert (tmp_path / "out.onnx").is_file() and not list(tmp_path.glob(".*"))
