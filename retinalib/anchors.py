"""The anchor grid, which face each anchor answers for, and the codes between faces and network outputs.

Everything here is in fractions of the image: x and widths divided by its width, y and heights by its height."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou


@dataclass(frozen=True)
class AnchorConfig:
    """Square anchors: ``sizes[level]`` pixels at every cell of the feature map with stride ``strides[level]``; by default those
    of biubug6/Pytorch_Retinaface. ``variances`` scale the codes of positions and of log sizes (SSD)."""

    strides: tuple[int, ...] = (8, 16, 32)
    sizes: tuple[tuple[int, ...], ...] = ((16, 32), (64, 128), (256, 512))
    variances: tuple[float, float] = (0.1, 0.2)

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.sizes) or len({len(level) for level in self.sizes}) != 1:
            raise ValueError(f"anchors need one list of sizes per stride, all equally long: {self.strides}, {self.sizes}")
        if not all(number > 0 for number in (*self.strides, *sum(self.sizes, ()), *self.variances)):
            raise ValueError(f"strides, sizes and variances must be positive: {self.strides}, {self.sizes}, {self.variances}")

    @property
    def per_cell(self) -> int:
        """Anchors at each cell of a feature map."""
        return len(self.sizes[0])

    def levels(self, height: int, width: int) -> list[tuple[int, int]]:
        """Rows and columns of each level's feature map, for an image of ``height`` × ``width`` pixels."""
        return [((height + s - 1) // s, (width + s - 1) // s) for s in self.strides]  # ONNX divides towards zero


@lru_cache(maxsize=8)  # the sizes of a pyramid
@torch.inference_mode(False)  # the same serves training
def anchor_grid(height: int, width: int, config: AnchorConfig = AnchorConfig()) -> Tensor:
    """All anchors of an image of ``height`` × ``width`` pixels, by level, row, column, size: (A, 4) float32 cx cy w h,
    fractions of the image. The result is cached and shared: do not write into it."""
    grids = []
    for (rows, columns), stride, sizes in zip(config.levels(height, width), config.strides, config.sizes, strict=True):
        y, x, size = torch.meshgrid(
            (torch.arange(rows) + 0.5) * stride / height,
            (torch.arange(columns) + 0.5) * stride / width,
            torch.tensor(sizes, dtype=torch.float32),
            indexing="ij",
        )
        grids.append(torch.stack([x, y, size / width, size / height], -1).reshape(-1, 4))
    return torch.cat(grids)


def match(boxes: Tensor, anchors: Tensor, threshold: float = 0.35, minimum: float = 0.2) -> Tensor:
    """The face that each anchor answers for (SSD): (A,) int64 indices of faces, -1 for background.

    boxes: (F, 4) x1 y1 x2 y2, anchors: (A, 4) cx cy w h, both in fractions. An anchor takes the face it overlaps most from an
    IoU of ``threshold`` on; and each face keeps the anchor that overlaps it most, from ``minimum`` on."""
    if not len(boxes):
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    overlap = box_iou(boxes, box_convert(anchors, "cxcywh", "xyxy"))
    best_overlap, matched = overlap.max(0)
    matched[best_overlap < threshold] = -1
    kept_overlap, kept_anchor = overlap.max(1)
    reachable = kept_overlap >= minimum
    faces = torch.arange(len(boxes), device=boxes.device)[reachable]
    kept = torch.full_like(matched, -1).scatter_reduce(0, kept_anchor[reachable], faces, "amax")  # of two faces, the later
    return torch.where(kept >= 0, kept, matched)


def encode_boxes(boxes: Tensor, anchors: Tensor, variances: tuple[float, float] = (0.1, 0.2)) -> Tensor:
    """(N, 4) boxes x1 y1 x2 y2 as offsets from (N, 4) anchors: shift and log size (SSD, Liu et al. 2016, eq. 2)."""
    centre, size = box_convert(boxes, "xyxy", "cxcywh").split(2, -1)
    shift = (centre - anchors[..., :2]) / (variances[0] * anchors[..., 2:])
    return torch.cat([shift, (size / anchors[..., 2:]).log() / variances[1]], -1)


def decode_boxes(offsets: Tensor, anchors: Tensor, variances: tuple[float, float] = (0.1, 0.2)) -> Tensor:
    """The inverse of :func:`encode_boxes`: (N, 4) x1 y1 x2 y2 in fractions."""
    centre = anchors[..., :2] + offsets[..., :2] * variances[0] * anchors[..., 2:]
    size = anchors[..., 2:] * (offsets[..., 2:] * variances[1]).exp()
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def encode_landmarks(landmarks: Tensor, anchors: Tensor, variances: tuple[float, float] = (0.1, 0.2)) -> Tensor:
    """(N, L, 2) landmarks in fractions as (N, L, 2) shifts from their (N, 4) anchors."""
    return (landmarks - anchors[:, None, :2]) / (variances[0] * anchors[:, None, 2:])


def decode_landmarks(offsets: Tensor, anchors: Tensor, variances: tuple[float, float] = (0.1, 0.2)) -> Tensor:
    """The inverse of :func:`encode_landmarks`."""
    return anchors[:, None, :2] + offsets * variances[0] * anchors[:, None, 2:]
