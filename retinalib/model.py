"""RetinaFace (Deng et al., CVPR 2020) for any landmark schema: backbone, FPN, SSH, optional SE, heads."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import resnet50
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import Conv2dNormActivation

from retinalib.anchors import AnchorConfig
from retinalib.landmarks import SCHEMAS, WFLW_98, WIDER_5, LandmarkSchema, as_tuples
from retinalib.second_look import Look, LookConfig


@dataclass(frozen=True)
class Normalisation:
    """What stands between 8-bit RGB pixels and the network: ``(pixel - mean) / std`` by channel. ``mean`` and ``std`` are in
    the network's channel order and on the scale 0 to 255. ``assumed``: a guess, for weights that do not say."""

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    bgr: bool = False
    assumed: bool = field(default=False, compare=False)

    def apply(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) RGB pixels, 0 to 255 of any dtype, to float32 network input."""
        images = images.flip(-3) if self.bgr else images
        mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (self.mean, self.std))
        return images.to(torch.float32, copy=True).sub_(mean).div_(std)


REFERENCE_NORMALISATION = Normalisation(mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), bgr=True)


@dataclass(frozen=True)
class TrainedOn:
    """Which faces a network has learned, as it saw them in training: what is beyond needs another scale, or a turn."""

    smallest: float  # longer side, pixels of the input
    largest: float
    turns: float  # degrees of roll either way


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a network and to use it."""

    backbone: str = "mobilenet0.25"  # or "resnet50"
    schema: LandmarkSchema = WFLW_98  # of the heads
    se_reduction: int | None = None  # SE blocks after each SSH: channels are squeezed by this factor; None: no SE
    se_kind: str = "se"  # or "bottleneck": the same parameters without attention, a control
    se_strides: tuple[int, ...] | None = None  # the levels that have such blocks; None: all
    looks: tuple[LookConfig, ...] = ()  # second looks, one after the other, see second_look; they learn beside the rest
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    normalisation: Normalisation = field(default_factory=Normalisation)
    trained_on: TrainedOn | None = None  # None: unknown

    def __post_init__(self) -> None:
        for name, kind in (("schema", LandmarkSchema), ("anchors", AnchorConfig), ("normalisation", Normalisation)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        if self.backbone not in _BACKBONES:
            raise ValueError(f"unknown backbone '{self.backbone}': choose one of {', '.join(_BACKBONES)}")
        channels = _BACKBONES[self.backbone].pyramid
        if self.se_reduction is not None and not 1 <= self.se_reduction <= channels:
            raise ValueError(f"se_reduction must be None or from 1 to {channels} (the pyramid's); got {self.se_reduction}")
        if self.se_kind not in _BLOCKS:
            raise ValueError(f"se_kind must be one of {', '.join(_BLOCKS)}; got '{self.se_kind}'")
        if self.se_strides is not None and not set(self.se_strides) <= set(self.anchors.strides):
            raise ValueError(f"se_strides must be among the strides {self.anchors.strides}, got {self.se_strides}")
        if self.anchors.strides != AnchorConfig.strides:  # the defaults fit the backbones
            raise ValueError(f"the backbones give features at strides {AnchorConfig.strides}, not {self.anchors.strides}")
        if any(max(map(max, look.parts)) >= self.schema.count for look in self.looks):
            raise ValueError(f"a look moves landmarks that the schema {self.schema.name} does not have")

    def to_dict(self) -> dict:
        """Plain values only, for JSON and checkpoints; of the schemas that every version has the name, of others all."""
        values = asdict(self)
        values["schema"] = self.schema.name if self.schema in (WFLW_98, WIDER_5) else self.schema.to_dict()
        if not self.normalisation.assumed:
            del values["normalisation"]["assumed"]
        return {name: value for name, value in values.items() if value or name not in ("trained_on", "looks")}

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        """The inverse of :meth:`to_dict`. Raises ValueError for an unknown parameter or schema."""
        values = {name: value for name, value in values.items() if name != "eye_head"}  # of an earlier version
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown model parameters: {', '.join(sorted(unknown))}")
        values = as_tuples(values)
        schema = values.get("schema", WFLW_98.name)
        if not isinstance(schema, dict) and schema not in SCHEMAS:
            raise ValueError(f"unknown landmark schema '{schema}': this version knows {', '.join(SCHEMAS)}")
        values["schema"] = LandmarkSchema.from_dict(schema) if isinstance(schema, dict) else SCHEMAS[schema]
        kinds = {"anchors": AnchorConfig, "normalisation": Normalisation, "trained_on": TrainedOn}
        parts = {name: kind(**values[name]) for name, kind in kinds.items() if name in values}
        return cls(**{**values, **parts, "looks": tuple(LookConfig(**look) for look in values.get("looks", ()))})


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, slope: float | None = 0.1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm and leaky ReLU with the given slope (None: no activation)."""
    activation = None if slope is None else partial(nn.LeakyReLU, slope)
    return Conv2dNormActivation(inputs, outputs, kernel, stride, groups=groups, activation_layer=activation)


def mobilenet() -> nn.Sequential:
    """MobileNetV1 (Howard et al. 2017) at a quarter of its width, as RetinaFace uses it: stages to strides 8, 16 and 32."""

    def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(*_conv(inputs, inputs, stride=stride, groups=inputs), *_conv(inputs, outputs, kernel=1))

    first = ((8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
    stages = {
        "stage1": nn.Sequential(_conv(3, 8, stride=2), *(separable(*layer) for layer in first)),
        "stage2": nn.Sequential(separable(64, 128, 2), *(separable(128, 128) for _ in range(5))),
        "stage3": nn.Sequential(separable(128, 256, 2), separable(256, 256)),
    }
    return nn.Sequential(OrderedDict(stages))


class _Backbone(NamedTuple):
    build: Callable[[], nn.Module]
    nodes: tuple[str, str, str]  # of its parts that give features at strides 8, 16, 32: the rest goes
    levels: tuple[int, int, int]  # channels
    pyramid: int  # channels of the FPN and the rest


# A new backbone is a row here, of torchvision or a module like the one above; ModelConfig(backbone=…) chooses it.
_BACKBONES = {
    "mobilenet0.25": _Backbone(mobilenet, ("stage1", "stage2", "stage3"), (64, 128, 256), 64),
    "resnet50": _Backbone(resnet50, ("layer2", "layer3", "layer4"), (512, 1024, 2048), 256),  # He et al., CVPR 2016
}


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017) with batch norm, nearest upsampling and a 3×3 merge at the two finer levels."""

    def __init__(self, inputs: Iterable[int], channels: int, slope: float) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_conv(n, channels, kernel=1, slope=slope) for n in inputs)
        self.merge = nn.ModuleList(_conv(channels, channels, slope=slope) for _ in range(2))

    def forward(self, features: Iterable[Tensor]) -> list[Tensor]:
        eight, sixteen, thirty_two = (lateral(f) for lateral, f in zip(self.lateral, features, strict=True))
        sixteen = self.merge[1](sixteen + interpolate(thirty_two, size=sixteen.shape[-2:], mode="nearest"))
        eight = self.merge[0](eight + interpolate(sixteen, size=eight.shape[-2:], mode="nearest"))
        return [eight, sixteen, thirty_two]


class SSH(nn.Module):
    """The context module of SSH (Najibi et al., ICCV 2017): receptive fields 3, 5 and 7, side by side."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.conv3 = _conv(channels, half, slope=None)
        self.conv5_first = _conv(channels, quarter, slope=slope)
        self.conv5_second = _conv(quarter, quarter, slope=None)
        self.conv7_second = _conv(quarter, quarter, slope=slope)
        self.conv7_third = _conv(quarter, quarter, slope=None)

    def forward(self, features: Tensor) -> Tensor:
        first = self.conv5_first(features)
        context = [self.conv3(features), self.conv5_second(first), self.conv7_third(self.conv7_second(first))]
        return torch.cat(context, 1).relu()


class SqueezeExcitation(nn.Module):
    """Squeeze-and-Excitation (Hu et al., CVPR 2018, eq. 2–4): scales each channel by a gate made from all channels' means."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // reduction), bias=False)
        self.expand = nn.Linear(self.squeeze.out_features, channels, bias=False)

    def gate(self, features: Tensor) -> Tensor:
        """(B, C, H, W) features to (B, C) excitations between 0 and 1."""
        return self.expand(self.squeeze(features.mean((2, 3))).relu()).sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        return features * self.gate(features)[:, :, None, None]


class Bottleneck(nn.Module):
    """The two layers of :class:`SqueezeExcitation` without attention: at every pixel, added to the features."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, max(1, channels // reduction), 1, bias=False)
        self.expand = nn.Conv2d(self.squeeze.out_channels, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.expand(self.squeeze(features).relu())


_BLOCKS = {"se": SqueezeExcitation, "bottleneck": Bottleneck}


class Outputs(NamedTuple):
    """What the network gives for B images and A anchors."""

    logits: Tensor  # (B, A, 2) background, face
    boxes: Tensor  # (B, A, 4), see anchors.encode_boxes
    features: list[Tensor]  # (B, C, rows, columns) of each level, what the landmark head reads


class RetinaFace(nn.Module):
    """Faces and landmarks in one pass. Input: (B, 3, H, W) float32, see :class:`Normalisation`; any H and W. The landmark head
    is a 1×1 convolution, which :meth:`landmarks_at` evaluates at chosen anchors only, with the same result as :meth:`dense`."""

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        build, nodes, levels, channels = _BACKBONES[config.backbone]
        slope = 0.1 if channels <= 64 else 0.0
        self.backbone = create_feature_extractor(build(), list(nodes))
        self.fpn = FeaturePyramid(levels, channels, slope)
        self.ssh = nn.ModuleList(SSH(channels, slope) for _ in levels)
        k = config.anchors.per_cell
        self.class_head = nn.ModuleList(nn.Conv2d(channels, 2 * k, 1) for _ in levels)
        self.box_head = nn.ModuleList(nn.Conv2d(channels, 4 * k, 1) for _ in levels)
        self.landmark_head = nn.ModuleList(nn.Conv2d(channels, 2 * config.schema.count * k, 1) for _ in levels)
        # last, so that with one seed everything else begins alike with and without SE
        at = () if config.se_reduction is None else config.anchors.strides if config.se_strides is None else config.se_strides
        block = _BLOCKS[config.se_kind]
        self.excitation = nn.ModuleList(
            block(channels, config.se_reduction) if stride in at else nn.Identity() for stride in config.anchors.strides
        )
        self.looks = nn.ModuleList(Look(look) for look in config.looks)

    @torch.no_grad()
    def start_from_shape(self, shape: Tensor) -> None:
        """Lets the untrained landmark head predict ``shape``, (L, 2) fractions of a box, in every anchor as in a box."""
        wanted = ((shape - 0.5) / self.config.anchors.variances[0]).flatten().repeat(self.config.anchors.per_cell)
        for head in self.landmark_head:
            head.weight.mul_(0.1)
            head.bias.copy_(wanted)

    def features(self, images: Tensor) -> list[Tensor]:
        """What the heads read: (B, C, ceil(H / stride), ceil(W / stride)) at each level, after SSH and SE."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"RetinaFace takes normalised float images (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        pyramid = self.fpn(self.backbone(images).values())
        return [se(ssh(f)) for se, ssh, f in zip(self.excitation, self.ssh, pyramid, strict=True)]

    @staticmethod
    def _flat(heads: Iterable[nn.Module], features: list[Tensor], values: int) -> Tensor:
        """Head outputs (B, k·values, rows, columns) of all levels as (B, A, values), in the anchors' order."""
        maps = [head(f).permute(0, 2, 3, 1) for head, f in zip(heads, features, strict=True)]
        return torch.cat([m.reshape(m.shape[0], m.shape[1] * m.shape[2] * (m.shape[3] // values), values) for m in maps], 1)

    def forward(self, images: Tensor) -> Outputs:
        features = self.features(images)
        return Outputs(self._flat(self.class_head, features, 2), self._flat(self.box_head, features, 4), features)

    def landmarks_at(self, features: list[Tensor], image: Tensor, anchor: Tensor) -> Tensor:
        """The landmark head at N anchors, image and anchor (N,) int64: (N, 2L) shifts, see anchors.encode_landmarks."""
        k, values = self.config.anchors.per_cell, 2 * self.config.schema.count
        result = features[0].new_zeros(len(anchor), values)
        first = 0
        for head, level in zip(self.landmark_head, features, strict=True):
            columns = level.shape[3]
            last = first + level.shape[2] * columns * k
            for size in range(k):
                chosen = ((anchor >= first) & (anchor < last) & ((anchor - first) % k == size)).nonzero()[:, 0]
                if not len(chosen):
                    continue
                cell = (anchor[chosen] - first) // k
                at = level[image[chosen], :, cell // columns, cell % columns]  # (n, C)
                rows = slice(size * values, (size + 1) * values)
                here = nn.functional.linear(at, head.weight[rows, :, 0, 0], head.bias[rows])
                result = result.to(here.dtype).index_copy(0, chosen, here)
            first = last
        return result

    def look_again(self, images: Tensor, image: Tensor, landmarks: Tensor) -> Tensor:
        """(F, L, 2) landmarks in pixels moved by the second looks; images: (B, 3, H, W) RGB, 0 to 255; image: (F,) of each."""
        for look in self.looks:
            landmarks = look.again(images, image, landmarks)
        return landmarks

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, A, 2), box offsets (B, A, 4) and landmark shifts (B, A, 2L) at every anchor."""
        logits, boxes, features = self(images)
        return logits, boxes, self._flat(self.landmark_head, features, 2 * self.config.schema.count)


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 natively: a GPU from Ampere on; avx512_bf16, AMX or ARM's bf16 in a processor.
    Where torch can't tell (2.9 can't), a processor passes for one that does."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return True
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device of that name, by default a GPU if there is one. Raises ValueError if it can't be used here."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch's build decides which
        raise ValueError(f"device '{device}' can't be used here: choose cpu, or cuda or mps where torch finds one") from error
    return chosen
