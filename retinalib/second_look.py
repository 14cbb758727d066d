"""Second looks: small networks read the pixels of a found face, or of its eyes, and move the landmarks.

The landmark head reads one cell of a feature map, which is as wide as an eye or wider; where the pupil is in the eye is lost
there. Cascaded regression (Cao et al., CVPR 2012; Sun et al., CVPR 2013) looks again where the first answer points. The pixels
of a part (the face, or an eye) are sampled in a frame that the first answer spans, mirrored for one of the two eyes, so that
one network serves both; it answers in that frame, and the frame is then taken anew from the answer. The cost grows with faces.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, smooth_l1_loss
from torchvision.ops import Conv2dNormActivation

from retinalib.landmarks import LandmarkSchema

_ROUGH, _FINE = (0.12, 0.16, 12.0), (0.04, 0.05, 3.0)  # how far frames are off in training, before the first and later rounds:
_SHEAR = 0.05  # standard deviations of shifts (half patches), of the scale's logarithm, of turns (degrees); and of the shear
_CLOSEST = 16.0  # times as many samples along each axis, where a part is that large
_EYE = (  # lids from the outer canthus on, over the upper one, and the pupil: the median of real eyes, 1 is 1.05 eye widths
    *((-0.4634, 0.0325), (-0.2579, -0.1052), (-0.0139, -0.1691), (0.2616, -0.1328), (0.489, 0.0325)),
    *((0.2456, 0.1075), (-0.011, 0.1374), (-0.2447, 0.1125), (-0.0053, -0.0153)),
)


@dataclass(frozen=True)
class LookConfig:
    """What a :class:`Look` sees and moves. In its frame x points right and y down, and the patch reaches from -1 to 1 in x."""

    parts: tuple[tuple[int, ...], ...]  # the landmarks of each part (one face, or two eyes), in one order for all parts
    mirrored: tuple[bool, ...]  # which parts are seen in a mirror, so that one network serves both eyes
    shape: tuple[tuple[float, float], ...]  # where a part's points lie on average, in the frame
    rows: int = 96
    columns: int = 96
    width: int = 20  # channels of the first layer
    rounds: int = 2  # looks; each begins where the one before ended
    smallest: float = 8.0  # pixels across the patch; smaller parts stay as they were
    weights: tuple[float, ...] = ()  # of the points in the loss; (): one each


def eye_look(schema: LandmarkSchema) -> LookConfig:
    """A look at each eye: its lids and its pupil. Raises ValueError if the eyes do not have eight lid points and a pupil."""
    if not schema.has_pupils or len(schema.right_eye.lids) != 8:
        raise ValueError(f"schema {schema.name} has no lids of eight points with a pupil: a look at the eyes needs them")
    parts = tuple((*eye.lids, eye.pupil) for eye in (schema.right_eye, schema.left_eye))
    weights = (*(1.0 for _ in range(8)), 4.0)  # the pupil counts half as much as all lid points together
    return LookConfig(parts, (False, True), _EYE, rows=32, columns=48, width=16, smallest=4.0, weights=weights)


def fit_frames(points: Tensor, shape: Tensor, mirrored: Tensor) -> Tensor:
    """The (N, 2, 3) frames that bring (K, 2) ``shape`` closest to (N, K, 2) points in pixels; each takes (x, y, 1) to pixels.

    Least squares over shift, turn and scale (Umeyama, PAMI 1991). mirrored: (N,) bool, whose frames have x to the left.
    """
    sign = torch.where(mirrored, -1.0, 1.0).to(points)[:, None]
    x, y = sign * shape[:, 0], shape[:, 1].expand(len(points), -1)
    mean = torch.stack([x.mean(1), y.mean(1)], -1)
    x, y = x - mean[:, :1], y - mean[:, 1:]
    middle = points.mean(1)
    px, py = (points - middle[:, None]).unbind(-1)
    size = (x**2 + y**2).sum(1)
    a, b = (x * px + y * py).sum(1) / size, (x * py - y * px).sum(1) / size
    turn = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], -2)
    origin = middle - (turn @ mean[..., None])[..., 0]
    return torch.cat([turn * torch.cat([sign, torch.ones_like(sign)], 1)[:, None], origin[..., None]], -1)


def to_pixels(points: Tensor, frames: Tensor) -> Tensor:
    """(N, K, 2) points in their (N, 2, 3) frames to pixels."""
    return points @ frames[:, :, :2].mT + frames[:, None, :, 2]


def to_frames(points: Tensor, frames: Tensor) -> Tensor:
    """The inverse of :func:`to_pixels`."""
    return torch.linalg.solve(frames[:, :, :2], (points - frames[:, None, :, 2]).mT).mT


def sample_parts(images: Tensor, image: Tensor, frames: Tensor, rows: int, columns: int) -> Tensor:
    """The pixels around parts: (N, C, rows, columns) from (B, C, H, W) images, (N,) their numbers and (N, 2, 3) frames.

    Where the image has more pixels, closer samples are averaged. Outside the image its border is repeated.
    """
    frames = frames * torch.tensor([1.0, rows / columns, 1.0], device=frames.device)
    step = 2 / columns * vector_norm(frames[:, :, 0], dim=1)  # pixels of the image from one sample to the next
    closer = 2 ** step.clamp(1.0, _CLOSEST).log2().floor().long()
    size = torch.tensor([images.shape[3], images.shape[2]], device=frames.device)
    to_unit = frames * (2 / size)[:, None] - torch.tensor([0.0, 0.0, 1.0], device=frames.device)
    patches = images.new_zeros(len(image), images.shape[1], rows, columns)
    for number, times in torch.stack([image, closer], 1).unique(dim=0).tolist():
        own = ((image == number) & (closer == times)).nonzero()[:, 0]
        grid = affine_grid(to_unit[own], [len(own), 1, times * rows, times * columns], align_corners=False)
        source = images[number].expand(len(own), -1, -1, -1)
        seen = grid_sample(source, grid, padding_mode="border", align_corners=False)
        patches[own] = avg_pool2d(seen, times) if times > 1 else seen
    return patches


class Look(nn.Module):
    """Patches of parts to the places of their points: (N, 3, rows, columns) RGB pixels, 0 to 255, to (N, K, 2) in the frame.

    A plain stack of convolutions and the coordinates themselves as the answer: heat maps were as exact and twice as slow.
    """

    def __init__(self, config: LookConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("shape", torch.tensor(config.shape))
        channels = [config.width * n for n in (1, 2, 4)] + [5 * config.width + config.width // 3]
        layers, inputs = [], 3
        for outputs, more in zip(channels, (0, 1, 2, 1), strict=True):  # each begins with half the rows and columns
            layers.append(Conv2dNormActivation(inputs, outputs, stride=2))
            layers += [Conv2dNormActivation(outputs, outputs) for _ in range(more)]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        cells = math.ceil(config.rows / 16) * math.ceil(config.columns / 16)
        self.squeeze = nn.Conv2d(inputs, 2 * config.width, 1)
        self.place = nn.Linear(2 * config.width * cells, 2 * len(config.shape))

    def forward(self, patches: Tensor) -> Tensor:
        patches = patches - patches.mean((1, 2, 3), keepdim=True)
        deviation = vector_norm(patches, dim=(1, 2, 3), keepdim=True) / math.sqrt(patches[0].numel() - 1)  # faster than std
        patches = patches / (deviation + 1.0)
        moved = self.place(self.squeeze(self.layers(patches)).flatten(1)).float()
        return self.shape + moved.view(len(patches), -1, 2)

    def parts(self, landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The parts of (F, L, 2) landmarks, one of all faces after the other, N = parts · F: (N,) int64 numbers of their faces,
        (N, K) int64 numbers of their landmarks, (N,) bool whether they are seen in a mirror."""
        faces, device = len(landmarks), landmarks.device
        face = torch.arange(faces, device=device).repeat(len(self.config.parts))
        indices = torch.tensor(self.config.parts, device=device).repeat_interleave(faces, 0)
        mirrored = torch.tensor(self.config.mirrored, device=device).repeat_interleave(faces)
        return face, indices, mirrored

    def again(self, images: Tensor, image: Tensor, landmarks: Tensor) -> Tensor:
        """(F, L, 2) landmarks, pixels, with this look's points moved.

        images: (B, 3, H, W) RGB pixels, float32 from 0 to 255; image: (F,) int64, the image of each face. Parts that are too
        small, or far outside the image, stay as they were.
        """
        landmarks, config = landmarks.clone(), self.config
        size = torch.tensor([images.shape[3], images.shape[2]], device=images.device)
        face, indices, mirrored = self.parts(landmarks)
        for _ in range(config.rounds):
            frames = fit_frames(landmarks[face[:, None], indices], self.shape, mirrored)
            large = 2 * vector_norm(frames[:, :, 0], dim=1) >= config.smallest
            chosen = (large & ((frames[..., 2] - size / 2).abs() <= size).all(1)).nonzero()[:, 0]
            if not len(chosen):
                break
            patches = sample_parts(images, image[face[chosen]], frames[chosen], config.rows, config.columns)
            landmarks[face[chosen, None], indices[chosen]] = to_pixels(self(patches), frames[chosen])
        return landmarks


def look_loss(
    look: Look,
    images: Tensor,
    image: Tensor,
    landmarks: Tensor,
    generator: torch.Generator,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """How far a look's answers are off, seen from frames that are off as first answers are.

    images: (B, 3, H, W) RGB pixels, float32 from 0 to 255; image: (F,) int64; landmarks: (F, L, 2) pixels, NaN where unknown;
    generator: on the CPU, draws how the frames are off; change: of the patches, before the network sees them. The weighted sum
    over a part's coordinates of a smooth absolute difference, in units of the frame; its mean over the parts that are wholly
    known, 0 without any.
    """
    face, indices, mirrored = look.parts(landmarks)
    points = landmarks[face[:, None], indices]
    frames = fit_frames(points, look.shape, mirrored)
    use = points.isfinite().all((1, 2)) & (2 * vector_norm(frames[:, :, 0], dim=1) >= look.config.smallest)
    if not use.any():
        return images.new_zeros(())
    points, frames = points[use], disturbed(frames[use], generator)
    patches = sample_parts(images, image[face[use]], frames, look.config.rows, look.config.columns)
    answers = look(patches if change is None else change(patches)).float()
    gap = smooth_l1_loss(answers, to_frames(points, frames), beta=0.01, reduction="none")
    weights = torch.tensor(look.config.weights or (1.0,), device=gap.device)
    return (gap.sum(-1) * weights).sum(1).mean()


def disturbed(frames: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 2, 3) frames shifted, scaled, turned and sheared by normal draws: half of them roughly, half of them little."""
    noise = torch.randn(len(frames), 8, generator=generator).clamp(-2.5, 2.5)
    rough = torch.rand(len(frames), 1, generator=generator) < 0.5
    noise, rough = noise.to(frames.device), rough.to(frames.device)
    shift, scale, turn = torch.where(rough, torch.tensor(_ROUGH).to(noise), torch.tensor(_FINE).to(noise)).unbind(1)
    angle, grow = torch.deg2rad(turn * noise[:, 2]), (scale * noise[:, 3]).exp()
    cos, sin = grow * angle.cos(), grow * angle.sin()
    axes = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    axes = axes @ (torch.eye(2, device=frames.device) + _SHEAR * noise[:, 4:].view(-1, 2, 2))
    origin = to_pixels(shift[:, None, None] * noise[:, None, :2], frames)[:, 0]
    return torch.cat([frames[:, :, :2] @ axes, origin[..., None]], -1)
