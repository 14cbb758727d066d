from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from retinalib.detect import Detector
from retinalib.landmarks import WFLW_98
from retinalib.model import ModelConfig, RetinaFace
from retinalib.rendered.dataset import render_face
from retinalib.second_look import Look, disturbed, eye_look, fit_frames, look_loss, sample_parts, to_frames, to_pixels

EYES = eye_look(WFLW_98)
SHAPE = torch.tensor(EYES.shape)
UPRIGHT = torch.tensor([False])
ONE = torch.tensor([0])


def face(**options):
    image, faces = render_face(size=160, **options)
    return torch.from_numpy(image).permute(2, 0, 1)[None].float(), torch.from_numpy(faces.landmarks)


def eye_frame(landmarks, part=0):
    return fit_frames(landmarks[:, list(EYES.parts[part])], SHAPE, torch.tensor([EYES.mirrored[part]]))


def test_a_frame_that_was_drawn_is_found_again():
    """Shape, turned, scaled and moved, mirrored or not: least squares give exactly that frame."""
    angle = torch.deg2rad(torch.tensor([25.0, -140.0]))
    sign = torch.tensor([1.0, -1.0])
    axes = torch.stack([torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], -2)
    axes = 30 * axes * torch.stack([sign, torch.ones(2)], -1)[:, None]
    frames = torch.cat([axes, torch.tensor([[[70.0], [50.0]], [[20.0], [90.0]]])], -1)
    points = to_pixels(SHAPE.expand(2, -1, -1), frames)
    torch.testing.assert_close(fit_frames(points, SHAPE, sign < 0), frames)
    torch.testing.assert_close(to_frames(points, frames), SHAPE.expand(2, -1, -1))


def test_frames_in_training_are_off_by_little_and_by_much_in_every_way():
    frames = torch.tensor([[[20.0, 0, 50], [0, 20, 50]]]).expand(4000, -1, -1)
    off = disturbed(frames, torch.Generator().manual_seed(0))
    assert torch.equal(off, disturbed(frames, torch.Generator().manual_seed(0)))
    shift = (off[:, :, 2] - 50) / 20
    turn = torch.rad2deg(torch.atan2(off[:, 1, 0], off[:, 0, 0]))
    assert shift.mean(0).abs().max() < 0.01 and abs(turn.mean()) < 0.5
    for value in (shift[:, 0] / 0.04, turn / 3):  # in units of the small ones: half within, half wide
        assert 1.5 < value.std() < 4 and 0.4 < (value.abs() < 1.5).float().mean() < 0.85


@pytest.mark.parametrize("part", (0, 1), ids=("right", "left"))
def test_patches_agree_with_opencv(part):
    image, landmarks = face(roll=12)
    frames = eye_frame(landmarks, part)
    patch = sample_parts(image, ONE, frames, 32, 48)[0].numpy()
    y, x = np.mgrid[:32, :48]
    middles = np.stack([(2 * x + 1) / 48 - 1, ((2 * y + 1) / 32 - 1) * 32 / 48], -1).reshape(1, -1, 2)
    places = to_pixels(torch.from_numpy(middles).float(), frames)[0].numpy().reshape(32, 48, 2)
    x, y = (places[..., i].astype(np.float32) - 0.5 for i in range(2))  # OpenCV counts from the middle of the first pixel
    expected = cv2.remap(image[0].permute(1, 2, 0).numpy(), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(patch, expected.transpose(2, 0, 1), atol=4)  # OpenCV interpolates in steps of 1/32 pixel
    assert np.abs(patch - expected.transpose(2, 0, 1)).mean() < 0.3


def test_pixels_of_a_large_part_are_averaged():
    """A level frame over 96 pixels, in 24 samples: the mean of each four by four pixels, as OpenCV's resizing by areas."""
    image, _ = face()
    frames = torch.tensor([[[48.0, 0, 80], [0, 48, 80]]])
    patch = sample_parts(image, ONE, frames, 24, 24)[0].permute(1, 2, 0).numpy()
    cut = image[0, :, 32:128, 32:128].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(patch, cv2.resize(cut, (24, 24), interpolation=cv2.INTER_AREA), atol=0.01)


def test_a_mirrored_face_gives_the_other_eye_the_same_patch():
    image, landmarks = face(yaw=15, roll=5)
    mirrored = landmarks[:, list(WFLW_98.flip_order)].clone()
    mirrored[..., 0] = image.shape[3] - mirrored[..., 0]
    right = sample_parts(image, ONE, eye_frame(landmarks), 32, 48)
    left = sample_parts(image.flip(3), ONE, eye_frame(mirrored, 1), 32, 48)
    torch.testing.assert_close(right, left, atol=0.05, rtol=0)


def test_patches_of_several_images_keep_their_order():
    images = torch.stack([torch.full((3, 64, 64), float(n)) for n in range(3)])
    frames = torch.tensor([[[10.0, 0, 32], [0, 10, 32]]]).repeat(4, 1, 1)
    frames[1, :, :2] *= 8  # a larger one, with more samples
    patches = sample_parts(images, torch.tensor([2, 0, 1, 2]), frames, 16, 16)
    assert patches[:, 0, 0, 0].tolist() == [2, 0, 1, 2]


def test_learns_to_place_the_pupil_of_other_faces():
    """A few steps on rendered eyes: the pupil is placed better than by the frame alone, on faces and gazes not seen before."""
    torch.manual_seed(0)
    look, generator = Look(EYES), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(look.parameters(), lr=2e-3)

    def batch(seed):
        rng = np.random.default_rng(seed)
        made = [
            face(yaw=rng.uniform(-15, 15), gaze=tuple(rng.uniform(-25, 25, 2)), person=int(rng.integers(99))) for _ in range(8)
        ]
        return torch.cat([m[0] for m in made]), torch.cat([m[1] for m in made])

    batches, each = [batch(seed) for seed in range(10)], torch.arange(8)
    for _ in range(25):
        for images, landmarks in batches:
            loss = look_loss(look, images, each, landmarks, generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    images, true = batch(1000)
    start = true + 3 * torch.randn(8, 1, 2, generator=generator)  # the whole face is off by some pixels
    with torch.inference_mode():
        found = look.eval().again(images, each, start)
    mine = list(WFLW_98.pupils)
    assert (found - true)[:, mine].norm(dim=-1).mean() < 0.6 * (start - true)[:, mine].norm(dim=-1).mean()
    others = [i for i in range(98) if i not in EYES.parts[0] + EYES.parts[1]]
    assert torch.equal(found[:, others], start[:, others])


def test_the_loss_skips_parts_that_are_not_wholly_known():
    look, generator = Look(EYES).eval(), torch.Generator().manual_seed(0)
    image, landmarks = face()
    both = landmarks.clone()
    both[:, [WFLW_98.right_eye.outer, WFLW_98.left_eye.pupil]] = torch.nan
    assert look_loss(look, image, ONE, both, generator).item() == 0
    assert look_loss(look, image, ONE[:0], landmarks[:0], generator).item() == 0
    right = landmarks.clone()
    right[:, WFLW_98.left_eye.outer] = torch.nan
    assert look_loss(look, image, ONE, right, generator).item() > 0


def test_a_point_weighs_as_much_as_the_configuration_says():
    image, landmarks = face()
    doubled = replace(EYES, weights=tuple(2 * w for w in EYES.weights))
    look = Look(EYES).eval()
    loss = look_loss(look, image, ONE, landmarks, torch.Generator().manual_seed(0))
    look.config = doubled
    torch.testing.assert_close(look_loss(look, image, ONE, landmarks, torch.Generator().manual_seed(0)), 2 * loss)


def test_eyes_too_small_or_outside_stay_as_they_were():
    look = Look(EYES).eval()
    image, landmarks = face()
    far = torch.stack([landmarks[0] + 1000, landmarks[0].mean(0) + 1e-3 * landmarks[0]])
    with torch.inference_mode():
        assert torch.equal(look.again(image, torch.tensor([0, 0]), far), far)
        assert look.again(image, ONE[:0], landmarks[:0]).shape == (0, 98, 2)


def test_the_rest_of_the_network_is_the_same_with_and_without():
    """Equal initial weights, and equal detections but for the eyes."""
    networks = []
    for looks in ((), (EYES,)):
        torch.manual_seed(3)
        networks.append(RetinaFace(ModelConfig(looks=looks)))
    plain, both = (network.state_dict() for network in networks)
    assert all(torch.equal(value, both[name]) for name, value in plain.items())
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    a, b = (Detector(network, "cpu").detect(image, 0.4, max_faces=5) for network in networks)
    assert len(a) and np.array_equal(a.boxes, b.boxes)
    others = [i for i in range(98) if i not in EYES.parts[0] + EYES.parts[1]]
    assert np.array_equal(a.landmarks[:, others], b.landmarks[:, others])
