import json

import cv2
import numpy as np
import pytest
import torch

from retinalib import load_detector
from retinalib.anchors import anchor_grid, decode_boxes, decode_landmarks
from retinalib.checkpoint import save_model
from retinalib.datasets import wider
from retinalib.detect import Detector, for_inference
from retinalib.evaluate import detection_ap, nme
from retinalib.faces import Faces, box_iou
from retinalib.landmarks import WIDER_5
from retinalib.model import ModelConfig, Normalisation, RetinaFace
from retinalib.rendered.dataset import render_face
from tests.shared import SHARED, needs_shared


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig())
    for head in model.class_head:  # an untrained network that calls some anchors faces
        torch.nn.init.normal_(head.weight, std=0.2)
    return Detector(model, "cpu")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((96, 128, 3), (65, 97, 3), (96, 128, 3))]


def plain_detect(model, image, score_threshold, nms_threshold, max_faces):
    """Detection said in the straightforward way: everything dense, NMS with loops."""
    height, width = image.shape[:2]
    anchors = anchor_grid(height, width)
    with torch.inference_mode():
        pixels = model.config.normalisation.apply(torch.from_numpy(image).permute(2, 0, 1)[None])
        logits, boxes, landmarks = (t[0] for t in model.dense(pixels))
    scores = logits.softmax(-1)[:, 1].numpy()
    size = np.array([width, height])
    boxes = decode_boxes(boxes, anchors).numpy() * np.tile(size, 2)
    landmarks = decode_landmarks(landmarks.view(len(anchors), -1, 2), anchors).numpy() * size
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] < score_threshold or len(kept) == max_faces:
            break
        for j in kept:
            w, h = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
            shared = max(w, 0) * max(h, 0)
            areas = [np.prod(boxes[n, 2:] - boxes[n, :2]) for n in (i, j)]
            if shared / (sum(areas) - shared) > nms_threshold:
                break
        else:
            kept.append(i)
    return boxes[kept], landmarks[kept], scores[kept]


@pytest.mark.parametrize("options", [(0.5, 0.4, 750), (0.3, 0.2, 5)])
def test_detect_is_the_plain_way(detector, images, options):
    for image in images:
        faces = detector.detect(image, *options)
        boxes, landmarks, scores = plain_detect(detector.model, image, *options)
        assert len(faces) == len(boxes) > 0
        np.testing.assert_allclose(faces.scores, scores, atol=1e-5)
        np.testing.assert_allclose(faces.boxes, boxes, atol=1e-2)
        np.testing.assert_allclose(faces.landmarks, landmarks, atol=1e-2)
        height, width = image.shape[:2]
        inside = (faces.landmarks >= 0).all(-1) & (faces.landmarks <= [width, height]).all(-1)
        assert (faces.visible == inside).all()


def test_a_pyramid_finds_faces_larger_than_any_in_training():
    image, truth = render_face(yaw=15, size=256, person=4)
    detector, large = load_detector("rendered98", "cpu"), cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    wanted = truth.transformed((4, 4))
    alone, found = detector.detect(large), detector.detect(large, pyramid=True)
    assert not (box_iou(alone.boxes, wanted.boxes) > 0.5).any() and len(found) == 1  # from too near, parts look like faces
    assert box_iou(found.boxes, wanted.boxes).item() > 0.9
    assert nme(found.landmarks, wanted.landmarks, normaliser="inter_ocular").item() < 0.04
    small, alike = detector.detect(image), detector.detect(image, pyramid=True)  # 256 pixels have no smaller level
    np.testing.assert_array_equal(small.landmarks, alike.landmarks)
    nothing = detector.detect(np.full((900, 700, 3), 128, np.uint8), pyramid=True)
    assert len(nothing) == 0 and nothing.landmarks.shape == (0, 98, 2)


def test_lists_paths_and_single_images_agree(detector, images, tmp_path):
    cv2.imwrite(str(tmp_path / "an image.png"), images[1][..., ::-1])
    together = detector.detect([images[0], tmp_path / "an image.png", images[2]])
    assert isinstance(together, list)
    for faces, image in zip(together, images, strict=True):
        alone = detector.detect(image)
        assert isinstance(alone, Faces) and len(alone) == len(faces)
        np.testing.assert_allclose(faces.boxes, alone.boxes, atol=1e-2)
        np.testing.assert_allclose(faces.landmarks, alone.landmarks, atol=1e-2)


@pytest.mark.parametrize(
    "config", [ModelConfig(se_reduction=16), ModelConfig(eye_head=True), ModelConfig(backbone="resnet50", schema=WIDER_5)]
)
def test_the_copy_for_inference_gives_the_same(config):
    torch.manual_seed(0)
    model = RetinaFace(config)
    for module in model.modules():  # as after a training
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    copied, pixels = for_inference(model), torch.randn(2, 3, 70, 90)
    assert not [m for m in copied.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)] and model.training
    with torch.inference_mode():
        for ours, theirs in zip(copied.dense(pixels), model.eval().dense(pixels), strict=True):
            assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_new_weights_are_seen(detector, images):
    ours = Detector(RetinaFace(detector.model.config), "cpu")
    ours.detect(images[0])
    ours.model.load_state_dict(detector.model.state_dict())
    np.testing.assert_array_equal(ours.detect(images[0]).boxes, detector.detect(images[0]).boxes)
    with torch.inference_mode():  # tensors that keep no count of changes
        assert len(Detector(RetinaFace(detector.model.config), "cpu").detect(images[0], score_threshold=1.1)) == 0


@pytest.mark.parametrize("bgr", [False, True])
def test_input_is_the_normalisation(images, bgr):
    model = RetinaFace(ModelConfig(normalisation=Normalisation(mean=(100.0, 110.0, 120.0), std=(50.0, 1.0, 60.0), bgr=bgr)))
    ours = Detector(model, "cpu")._input([images[0], images[2]])
    expected = model.config.normalisation.apply(torch.from_numpy(np.stack([images[0], images[2]])).permute(0, 3, 1, 2))
    assert torch.equal(ours, expected) and ours.is_contiguous(memory_format=torch.channels_last)


def test_limits_count_for_each_image(detector, images):
    """A batch of two equal images gives each its own best faces."""
    one = detector.detect(images[0], 0.3, 0.2, 3)
    for faces in detector.detect([images[0], images[2], images[0]], 0.3, 0.2, 3)[::2]:
        assert len(faces) == 3
        np.testing.assert_allclose(faces.boxes, one.boxes, atol=1e-2)


@pytest.mark.filterwarnings("ignore:this cpu has no bfloat16")
def test_bfloat16_stays_near():
    detector = load_detector("rendered98", "cpu")
    image, truth = render_face(size=256)
    exact, brief = detector.detect(image), Detector(detector.model, "cpu", bfloat16=True).detect(image)
    assert len(exact) == len(brief) == 1 and brief.landmarks.dtype == np.float32
    assert np.abs(exact.landmarks - brief.landmarks).max() < 0.03 * truth.size[0]
    assert np.abs(exact.boxes - brief.boxes).max() < 0.03 * truth.size[0]


def test_nothing_found_and_nothing_asked(detector, images):
    faces = detector.detect(images[0], score_threshold=1.1)
    assert len(faces) == 0 and faces.landmarks.shape == (0, 98, 2)
    assert detector.detect([]) == []
    assert len(detector.detect(np.zeros((1, 1, 3), np.uint8), score_threshold=1.1)) == 0


@pytest.mark.parametrize(
    "image", [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 3), np.float32), np.zeros((0, 10, 3), np.uint8), 7]
)
def test_wrong_images_are_named(detector, image):
    with pytest.raises(ValueError, match=r"image 0: detect takes RGB arrays \(H, W, 3\) of uint8 or paths, got"):
        detector.detect([image])


def test_load_detector_from_file_and_run_folder(detector, images, tmp_path):
    save_model(detector.model, tmp_path / "best.pt")
    for place in (tmp_path, tmp_path / "best.pt"):
        again = load_detector(place, "cpu").detect(images[0])
        np.testing.assert_array_equal(again.boxes, detector.detect(images[0]).boxes)
    with pytest.raises(FileNotFoundError, match="no detector 'nobody'"):
        load_detector("nobody")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_detector(tmp_path / "empty")


@needs_shared
def test_detections_are_the_references():
    expected = json.loads((SHARED / "reference/detections_5pt.json").read_text())
    detector = load_detector(SHARED / "reference/mobilenet0.25_Final.pth", "cpu")
    photo = SHARED / "real_faces/WFLW_images" / expected["image"]
    faces = detector.detect(photo, expected["score_threshold"], expected["nms_threshold"])
    assert faces.schema == WIDER_5 and len(faces) == len(expected["boxes"])
    np.testing.assert_allclose(faces.boxes, expected["boxes"], atol=0.1)
    np.testing.assert_allclose(faces.scores, expected["scores"], atol=1e-4)
    np.testing.assert_allclose(
        faces.landmarks.reshape(len(faces), -1), np.reshape(expected["landmarks"], (len(faces), -1)), atol=0.1
    )


@needs_shared
def test_reference_weights_reach_their_level_on_wider_val():
    """All 176 faces of 46 validation photos, most of them large. The published values of these weights on all 3,226 photos are
    0.907, 0.882 and 0.738 (easy, medium, hard)."""
    real = SHARED / "real_faces"
    dataset = wider.load(real / "wider_face_val_bbx_gt.txt", real / "WFLW_images")
    detector = load_detector(SHARED / "reference/mobilenet0.25_Final.pth", "cpu")
    photos = [dataset[number] for number in range(len(dataset))]
    found = [detector.detect(image, score_threshold=0.02) for image, _ in photos]
    ap = detection_ap(found, [faces for _, faces in photos])
    print(f"AP of the reference weights, {len(photos)} photos, {sum(len(f) for _, f in photos)} faces: {ap:.4f}")
    assert ap > 0.92


def test_a_fused_optimisers_step_is_noticed(images):
    """It leaves no trace in the weights' versions; with frozen batch norms nothing else changes, either."""
    model = RetinaFace(ModelConfig()).eval()
    detector, optimiser = Detector(model, "cpu"), torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    detector.detect(images[0], 0.0, max_faces=1)
    model(torch.zeros(1, 3, 64, 64)).logits.sum().backward()
    optimiser.step()
    (found, again) = (d.detect(images[0], 0.0, max_faces=5) for d in (detector, Detector(model, "cpu")))
    np.testing.assert_array_equal(found.scores, again.scores)
