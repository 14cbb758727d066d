from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from retinalib import pupils
from retinalib.detect import Detector
from retinalib.landmarks import WFLW_98, WIDER_5
from retinalib.model import ModelConfig, RetinaFace
from retinalib.rendered.dataset import render_face
from retinalib.second_look import (
    EyeHead,
    _disturbed,
    _grid,
    _points,
    _to_frames,
    _to_pixels,
    eye_frames,
    eye_loss,
    look_again,
    sample_patches,
    second_looks,
)

EYES = (WFLW_98.right_eye, WFLW_98.left_eye)


def face(**options):
    image, faces = render_face(size=160, **options)
    return torch.from_numpy(image).permute(2, 0, 1)[None].float(), torch.from_numpy(faces.landmarks)


def test_frames_are_those_of_the_pupil_offsets():
    """The same axes and unit as pupils.eye_frame; only the origin is the lids' mean."""
    _, landmarks = face(yaw=20, roll=15)
    for eye in EYES:
        frame = eye_frames(landmarks[:, _points(eye)], eye)[0].numpy()
        _, x, y, width = pupils.eye_frame(landmarks.numpy(), eye)
        np.testing.assert_allclose(frame[:, 0], x[0] * width, rtol=1e-5)
        np.testing.assert_allclose(frame[:, 1], y[0] * width, rtol=1e-5)
        np.testing.assert_allclose(frame[:, 2], landmarks[0, list(eye.lids)].mean(0), rtol=1e-6)


def test_points_come_back_from_their_frames():
    _, landmarks = face(roll=-30)
    points = landmarks[:, _points(EYES[1])].double()
    frames = _disturbed(eye_frames(points, EYES[1]), torch.tensor([[1.0, -0.5, 0.7, -1.2]], dtype=torch.float64))
    torch.testing.assert_close(_to_pixels(_to_frames(points, frames), frames), points)


def test_disturbing_by_nothing_changes_nothing_and_turns_keep_the_unit():
    frames = eye_frames(face()[1][:, _points(EYES[0])], EYES[0])
    torch.testing.assert_close(_disturbed(frames, torch.zeros(1, 4)), frames)
    turned = _disturbed(frames, torch.tensor([[0.0, 0.0, 2.0, 0.0]]))
    torch.testing.assert_close(turned[:, :, 0].norm(), frames[:, :, 0].norm())
    assert abs((turned[0, :, 0] @ turned[0, :, 1]).item()) < 1e-3


@pytest.mark.parametrize("eye", EYES, ids=("right", "left"))
def test_patches_agree_with_opencv(eye):
    image, landmarks = face(roll=12)
    frames = eye_frames(landmarks[:, _points(eye)], eye)
    patch = sample_patches(image, torch.tensor([0]), frames)[0].numpy()
    places = _to_pixels(_grid(*patch.shape[1:], "cpu")[None], frames)[0].numpy().reshape(*patch.shape[1:], 2)
    x, y = (places[..., i].astype(np.float32) - 0.5 for i in range(2))  # OpenCV counts from the middle of the first pixel
    expected = cv2.remap(image[0].permute(1, 2, 0).numpy(), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(patch, expected.transpose(2, 0, 1), atol=4)  # OpenCV interpolates in steps of 1/32 pixel
    assert np.abs(patch - expected.transpose(2, 0, 1)).mean() < 0.3


def test_a_mirrored_face_gives_the_other_eye_the_same_patch():
    image, landmarks = face(yaw=15, roll=5)
    mirrored = landmarks[:, list(WFLW_98.flip_order)].clone()
    mirrored[..., 0] = image.shape[3] - mirrored[..., 0]
    right = sample_patches(image, torch.tensor([0]), eye_frames(landmarks[:, _points(EYES[0])], EYES[0]))
    left = sample_patches(image.flip(3), torch.tensor([0]), eye_frames(mirrored[:, _points(EYES[1])], EYES[1]))
    torch.testing.assert_close(right, left, atol=0.05, rtol=0)


def test_patches_of_several_images_keep_their_order():
    images = torch.stack([torch.full((3, 64, 64), float(n)) for n in range(3)])
    frames = torch.tensor([[[10.0, 0, 32], [0, -10, 32]]]).expand(4, -1, -1)
    patches = sample_patches(images, torch.tensor([2, 0, 1, 2]), frames)
    assert patches[:, 0, 0, 0].tolist() == [2, 0, 1, 2]


def test_learns_to_place_the_pupil_of_other_faces():
    """A few steps on rendered eyes: the pupil is placed better than by the frame alone, on faces and gazes not seen before."""
    torch.manual_seed(0)
    head, generator = EyeHead(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2)

    def batch(seed):
        rng = np.random.default_rng(seed)
        made = [
            face(yaw=rng.uniform(-15, 15), gaze=tuple(rng.uniform(-25, 25, 2)), person=int(rng.integers(99))) for _ in range(8)
        ]
        images = torch.cat([m[0] for m in made]) / 64 - 2
        return images, [m[1] / 160 for m in made], [torch.ones(1, 98, dtype=torch.bool)] * 8

    batches = [batch(seed) for seed in range(6)]
    for _ in range(12):
        for images, places, known in batches:
            loss = eye_loss(head, images, places, known, WFLW_98, generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    images, places, _ = batch(1000)
    true = torch.cat(places) * 160
    start = true + 3 * torch.randn(8, 1, 2, generator=generator)  # the whole face is off by some pixels
    found = look_again(head.eval(), images, torch.arange(8), start, WFLW_98)
    mine = list(WFLW_98.pupils)
    assert (found - true)[:, mine].norm(dim=-1).mean() < 0.5 * (start - true)[:, mine].norm(dim=-1).mean()
    others = [i for i in range(98) if i not in _points(EYES[0]) + _points(EYES[1])]
    assert torch.equal(found[:, others], start[:, others])


def test_the_loss_skips_what_is_not_wholly_visible():
    head, generator = EyeHead(), torch.Generator().manual_seed(0)
    image, landmarks = face()
    known = torch.ones(1, 98, dtype=torch.bool)
    known[:, [WFLW_98.right_eye.outer, WFLW_98.left_eye.pupil]] = False
    unknown = torch.where(known[..., None], landmarks / 160, torch.nan)
    assert eye_loss(head, image, [unknown], [known], WFLW_98, generator).item() == 0
    none = torch.zeros(0, 98, 2)
    assert eye_loss(head, image, [none], [none[..., 0] > 0], WFLW_98, generator).item() == 0


def test_eyes_too_small_or_outside_stay_as_they_were():
    image, landmarks = face()
    far = torch.stack([landmarks[0] + 1000, landmarks[0].mean(0) + 1e-3 * landmarks[0]])
    assert torch.equal(look_again(EyeHead().eval(), image, torch.tensor([0, 0]), far, WFLW_98), far)
    none = torch.zeros(0, 98, 2)
    assert look_again(EyeHead().eval(), image, torch.zeros(0, dtype=torch.int64), none, WFLW_98).shape == (0, 98, 2)


def test_a_schema_without_lids_is_refused():
    with pytest.raises(ValueError, match="wider5 has no lids"):
        second_looks(WIDER_5)
    with pytest.raises(ValueError, match="wider5 has no lids"):
        ModelConfig(schema=WIDER_5, eye_head=True)


def test_the_rest_of_the_network_is_the_same_with_and_without():
    """Equal initial weights, and equal detections but for the eyes."""
    networks = []
    for with_head in (False, True):
        torch.manual_seed(3)
        networks.append(RetinaFace(ModelConfig(eye_head=with_head)))
    plain, both = (network.state_dict() for network in networks)
    assert all(torch.equal(value, both[name]) for name, value in plain.items())
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    a, b = (Detector(network, "cpu").detect(image, 0.4, max_faces=5) for network in networks)
    assert len(a) and np.array_equal(a.boxes, b.boxes)
    eyes = _points(EYES[0]) + _points(EYES[1])
    others = [i for i in range(98) if i not in eyes]
    assert np.array_equal(a.landmarks[:, others], b.landmarks[:, others])
    config = ModelConfig.from_dict(replace(networks[1].config, se_reduction=16).to_dict())
    assert config.eye_head and config.se_reduction == 16
