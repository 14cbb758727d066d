"""Second looks: small networks read the pixels of a found face, or of its eyes, and move the landmarks.

The landmark head reads one cell of a feature map, which is as wide as an eye or wider; where the pupil is in the eye is lost
there. Cascaded regression (Cao et al., CVPR 2012; Sun et al., CVPR 2013) looks again where the first answer points. The pixels
around each eye are sampled in a frame that the first answer's lids span, mirrored for one of the two eyes, so that one network
serves both; it answers in that frame, and the frame is then taken anew from the answer. The cost grows with faces alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, linear, pad
from torchvision.ops import Conv2dNormActivation

from retinalib.landmarks import Eye, LandmarkSchema

_ROWS, _COLUMNS = 32, 48  # samples of a patch
_REACH = (1.05, 0.7)  # eye widths from the frame's origin to the patch's border, along x and along y
_SMALLEST_EYE = 2.0  # pixels between the canthi; a smaller eye keeps its first answer
_ROUNDS = 2  # looks at each eye
_PUPIL_WEIGHT = 4.0  # in the loss, of a pupil against a lid point: half as much as all lid points together
_SHIFT, _SCALE, _TURN = 0.15, 0.2, math.radians(8)  # how far first answers are off: standard deviations in training


def second_looks(schema: LandmarkSchema) -> list[Eye]:
    """The eyes that can be looked at again. Raises ValueError if the schema's do not have eight lid points and a pupil each."""
    if not schema.has_pupils or len(schema.right_eye.lids) != 8:
        raise ValueError(f"schema {schema.name} has no lids of eight points with a pupil: an eye head needs them, as WFLW's")
    return [schema.right_eye, schema.left_eye]


def _points(eye: Eye) -> list[int]:
    """The landmarks of an eye, in the same order for both eyes: the lids from the outer canthus on, the pupil."""
    return [*eye.lids, eye.pupil]


def eye_frames(points: Tensor, eye: Eye) -> Tensor:
    """(N, 9, 2) points of an eye, lids and pupil, in pixels, to (N, 2, 3) frames, which take (x, y, 1) to pixels.

    The origin is the mean of the lids; x points from the outer to the inner canthus, y up an upright face; the unit is the
    canthus distance.
    """
    lids = points[:, : len(eye.lids)]
    x = lids[:, eye.lids.index(eye.inner)] - lids[:, eye.lids.index(eye.outer)]
    y = eye.handedness * torch.stack([x[:, 1], -x[:, 0]], -1)
    return torch.stack([x, y, lids.mean(1)], -1)


def _to_pixels(points: Tensor, frames: Tensor) -> Tensor:
    """(N, K, 2) points in their frames to pixels."""
    return points @ frames[:, :, :2].mT + frames[:, None, :, 2]


def _to_frames(points: Tensor, frames: Tensor) -> Tensor:
    """The inverse of :func:`_to_pixels`."""
    return torch.linalg.solve(frames[:, :, :2], (points - frames[:, None, :, 2]).mT).mT


@lru_cache
@torch.inference_mode(False)  # the same serves training
def _grid(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows · columns, 2) the middles of a patch's cells in the frame: x to the right, y up."""
    y, x = torch.meshgrid(
        _REACH[1] * (1 - 2 * (torch.arange(rows, device=device) + 0.5) / rows),
        _REACH[0] * (2 * (torch.arange(columns, device=device) + 0.5) / columns - 1),
        indexing="ij",
    )
    return torch.stack([x, y], -1).view(-1, 2)


def sample_patches(images: Tensor, image: Tensor, frames: Tensor) -> Tensor:
    """The surroundings of eyes: (N, C, 32, 48) from (B, C, H, W) images, (N,) their numbers and (N, 2, 3) frames in pixels.

    Outside the image its border is repeated.
    """
    size = torch.tensor([images.shape[3], images.shape[2]], device=images.device)
    frames = frames * (2 / size)[:, None] - torch.tensor([0.0, 0.0, 1.0], device=images.device)  # to -1 to 1 across the image
    points = pad(_grid(_ROWS, _COLUMNS, images.device), (0, 1), value=1.0)  # (x, y, 1)
    places = linear(points, frames.flatten(0, 1)).view(_ROWS, _COLUMNS, -1, 2)
    patches = images.new_zeros(len(image), images.shape[1], _ROWS, _COLUMNS)
    for number in image.unique().tolist():  # an image at a time: all its patches stand below each other in one grid
        own = (image == number).nonzero()[:, 0]
        grid = places[:, :, own].permute(2, 0, 1, 3).reshape(1, -1, _COLUMNS, 2)
        seen = grid_sample(images[number : number + 1], grid, padding_mode="border", align_corners=False)
        seen = seen.view(images.shape[1], len(own), _ROWS, _COLUMNS).transpose(0, 1)
        patches = patches.index_copy(0, own, seen)
    return patches


class EyeHead(nn.Module):
    """Patches of eyes to their lids and pupils: a heat map a point, and its mean as the answer (Sun et al., ECCV 2018).

    A small hourglass, about 0.04 M parameters: what it has learned of an iris holds wherever in the patch the iris is.
    """

    def __init__(self, points: int = 9) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            Conv2dNormActivation(inputs, outputs, stride=2) for inputs, outputs in ((3, 16), (16, 32), (32, 64))
        )
        self.across = nn.ModuleList(nn.Conv2d(inputs, 32, 1) for inputs in (16, 32, 64))
        self.merge = nn.ModuleList(Conv2dNormActivation(32, 32) for _ in range(2))
        self.heat = nn.Conv2d(32, points, 1)

    def forward(self, images: Tensor, image: Tensor, frames: Tensor) -> Tensor:
        """(B, 3, H, W) network input, (N,) numbers of images, (N, 2, 3) frames to (N, 9, 2) points in their frames.

        Each patch is brought to zero mean and unit contrast.
        """
        patches = sample_patches(images, image, frames)
        patches = patches - patches.mean((1, 2, 3), keepdim=True)
        contrast = vector_norm(patches, dim=(1, 2, 3), keepdim=True) / math.sqrt(patches.shape[1] * _ROWS * _COLUMNS - 1)
        fine = self.down[0](patches / (contrast + 0.05))  # (N, 16, 16, 24)
        middle = self.down[1](fine)  # (N, 32, 8, 12)
        coarse = self.across[2](self.down[2](middle))  # (N, 32, 4, 6)
        middle = self.merge[1](self.across[1](middle) + interpolate(coarse, scale_factor=2.0))
        fine = self.merge[0](self.across[0](fine) + interpolate(middle, scale_factor=2.0))
        heat = self.heat(fine).float().flatten(2).softmax(-1)  # (N, 9, 16 · 24)
        return heat @ _grid(*fine.shape[2:], images.device)


def look_again(head: EyeHead, images: Tensor, image: Tensor, landmarks: Tensor, schema: LandmarkSchema) -> Tensor:
    """(N, L, 2) landmarks in pixels, their eyes looked at twice more.

    images: (B, 3, H, W) network input; image: (N,) int64. Eyes under 2 pixels, or far outside the image, stay as they were.
    """
    landmarks, faces, eyes = landmarks.clone(), len(landmarks), second_looks(schema)
    size = torch.tensor([images.shape[3], images.shape[2]], device=images.device)
    mine = torch.tensor([_points(eye) for eye in eyes], device=landmarks.device)
    for _ in range(_ROUNDS):  # one eye of all faces after the other, (E · N), through the head together
        frames = torch.cat([eye_frames(landmarks[:, points], eye) for points, eye in zip(mine, eyes, strict=True)])
        there = (frames[:, :, 0].norm(dim=1) >= _SMALLEST_EYE) & ((frames[..., 2] - size / 2).abs() <= size).all(1)
        chosen = there.nonzero()[:, 0]
        if not len(chosen):
            break
        face, which = chosen % faces, chosen // faces
        answer = head(images, image[face], frames[chosen]).float()
        landmarks[face[:, None], mine[which]] = _to_pixels(answer, frames[chosen])
    return landmarks


def eye_loss(
    head: EyeHead,
    images: Tensor,
    landmarks: Sequence[Tensor],
    visible: Sequence[Tensor],
    schema: LandmarkSchema,
    generator: torch.Generator,
) -> Tensor:
    """How far the head's answers are off, seen from frames that are off as first answers are.

    images: (B, 3, H, W) network input; landmarks: (F, L, 2) fractions and visible: (F, L) bool of each image's faces;
    generator: on the CPU, draws how the frames are off. The sum of absolute differences over an eye's coordinates, eye
    widths, the pupil weighing more; its mean over eyes that are wholly visible, 0 without any.
    """
    size = torch.tensor([images.shape[3], images.shape[2]], device=images.device)
    image = torch.tensor([n for n, faces in enumerate(landmarks) for _ in range(len(faces))], device=images.device)
    everything, known = torch.cat(list(landmarks)) * size, torch.cat(list(visible))
    total, eyes = images.new_zeros(()), 0
    for eye in second_looks(schema):
        mine = _points(eye)
        noise = torch.randn(len(everything), 4, generator=generator).clamp(-2.5, 2.5).to(images.device)
        points = everything[:, mine]
        frames = eye_frames(points, eye)
        use = known[:, mine].all(1) & (frames[:, :, 0].norm(dim=1) >= _SMALLEST_EYE)
        if not use.any():
            continue
        points, frames = points[use], _disturbed(frames[use], noise[use])
        answer = head(images, image[use], frames).float()
        gap = (answer - _to_frames(points, frames)).abs()
        total = total + gap[:, :-1].sum() + _PUPIL_WEIGHT * gap[:, -1].sum()
        eyes += len(points)
    return total / max(eyes, 1)


def _disturbed(frames: Tensor, noise: Tensor) -> Tensor:
    """(N, 2, 3) frames shifted, scaled and turned by (N, 4) standard normal draws."""
    turn, grow = _TURN * noise[:, 2], (_SCALE * noise[:, 3]).exp()
    cos, sin = grow * turn.cos(), grow * turn.sin()
    axes = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    origin = _to_pixels(_SHIFT * noise[:, None, :2], frames)[:, 0]
    return torch.cat([frames[:, :, :2] @ axes, origin[..., None]], -1)


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


def sample_parts(images: Tensor, image: Tensor, frames: Tensor, rows: int, columns: int) -> Tensor:
    """The pixels around parts: (N, C, rows, columns) from (B, C, H, W) images, (N,) their numbers and (N, 2, 3) frames.

    Where a sample stands for several pixels of the image, these are averaged first. Outside the image its border is repeated.
    """
    frames = frames * torch.tensor([1.0, rows / columns, 1.0], device=frames.device)
    step = 2 / columns * vector_norm(frames[:, :, 0], dim=1)  # pixels of the image from one sample to the next
    halved = step.clamp(1.0, 64.0).log2().floor().long()
    patches = images.new_zeros(len(image), images.shape[1], rows, columns)
    for number, power in torch.stack([image, halved], 1).unique(dim=0).tolist():
        own = ((image == number) & (halved == power)).nonzero()[:, 0]
        pixels = min(2**power, *images.shape[-2:])
        source = avg_pool2d(images[number : number + 1], pixels)
        size = pixels * torch.tensor([source.shape[3], source.shape[2]], device=frames.device)
        to_unit = frames[own] * (2 / size)[:, None] - torch.tensor([0.0, 0.0, 1.0], device=frames.device)
        grid = affine_grid(to_unit, [len(own), 1, rows, columns], align_corners=False)
        seen = grid_sample(source, grid.view(1, -1, columns, 2), padding_mode="border", align_corners=False)
        patches = patches.index_copy(0, own, seen.view(images.shape[1], len(own), rows, columns).transpose(0, 1))
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
        patches = patches / (patches.std((1, 2, 3), keepdim=True) + 1.0)
        moved = self.place(self.squeeze(self.layers(patches)).flatten(1)).float()
        return self.shape + moved.view(len(patches), -1, 2)

    def again(self, images: Tensor, image: Tensor, landmarks: Tensor, to_rgb: Callable[[Tensor], Tensor]) -> Tensor:
        """(N, L, 2) landmarks, pixels, with this look's points moved.

        images: (B, 3, H, W) network input; image: (N,) int64; to_rgb: patches of network input to RGB pixels. Parts that are
        too small, or far outside the image, stay as they were.
        """
        landmarks, config, faces = landmarks.clone(), self.config, len(landmarks)
        size = torch.tensor([images.shape[3], images.shape[2]], device=images.device)
        parts = torch.tensor(config.parts, device=images.device)
        part = torch.arange(len(parts), device=images.device).repeat_interleave(faces)
        face = torch.arange(faces, device=images.device).repeat(len(parts))
        mirrored = torch.tensor(config.mirrored, device=images.device)[part]
        for _ in range(config.rounds):
            frames = fit_frames(landmarks[face[:, None], parts[part]], self.shape, mirrored)
            large = 2 * vector_norm(frames[:, :, 0], dim=1) >= config.smallest
            chosen = (large & ((frames[..., 2] - size / 2).abs() <= size).all(1)).nonzero()[:, 0]
            if not len(chosen):
                break
            patches = sample_parts(images, image[face[chosen]], frames[chosen], config.rows, config.columns)
            answer = _to_pixels(self(to_rgb(patches)), frames[chosen])
            landmarks[face[chosen, None], parts[part[chosen]]] = answer
        return landmarks
