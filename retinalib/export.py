"""A network or a whole detector as ONNX: ``retinalib export CHECKPOINT OUT.onnx``.

The file takes photos as they come, ``images`` (B, H, W, 3) uint8 RGB, for any B, H and W; normalisation is inside. It gives

- "detector": ``boxes`` (N, 4) x1 y1 x2 y2 and ``landmarks`` (N, L, 2) in pixels, ``scores`` (N,), and ``image`` (N,), the
  number of each face's photo; of one look at the photo's own size, without second looks; best first, without a limit.
- "network": ``logits`` (B, A, 2), ``boxes`` (B, A, 4) offsets and ``landmarks`` (B, A, 2L) shifts at every anchor.
- "looks": beside the file, one for each second look, ``OUT-look1.onnx``, …: ``patches`` (N, rows, columns, 3) uint8 RGB to
  ``points`` (N, K, 2), pixels of the patch; `tests/test_export.py` shows in NumPy where patches are cut."""

import warnings
from inspect import unwrap
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from retinalib.anchors import anchor_grid, decode_boxes, decode_landmarks
from retinalib.detect import for_inference
from retinalib.files import replacing
from retinalib.model import RetinaFace
from retinalib.second_look import Look

OUTPUTS = {
    "network": ("logits", "boxes", "landmarks"),
    "detector": ("boxes", "scores", "landmarks", "image"),
    "looks": ("points",),
}


class _Network(nn.Module):
    def __init__(self, model: RetinaFace) -> None:
        super().__init__()
        self.model = for_inference(model).cpu()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.model.dense(self.model.config.normalisation.apply(images.permute(0, 3, 1, 2)))


class _Detector(_Network):
    def __init__(self, model: RetinaFace, score_threshold: float, nms_threshold: float) -> None:
        super().__init__(model)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        config, (height, width) = self.model.config, images.shape[1:3]
        logits, offsets, shifts = super().forward(images)
        anchors = unwrap(anchor_grid)(height, width, config.anchors)  # made in the graph: its sizes are not known yet
        scores = logits.softmax(-1)[..., 1]
        image, anchor = (scores >= self.score_threshold).nonzero(as_tuple=True)
        score, chosen = scores[image, anchor], anchors[anchor]
        pixels = torch.stack([torch.scalar_tensor(n) for n in (width, height)])
        boxes = decode_boxes(offsets[image, anchor], chosen, config.anchors.variances) * pixels.repeat(2)
        apart = 2 * torch.cat([boxes.abs().flatten(), pixels]).max() + 1  # so that faces of two photos never overlap
        kept = nms(boxes + image[:, None] * apart, score, self.nms_threshold)
        image, anchor = image[kept], anchor[kept]
        shifts = shifts[image, anchor].view(-1, config.schema.count, 2)
        landmarks = decode_landmarks(shifts, chosen[kept], config.anchors.variances) * pixels
        return boxes[kept], score[kept], landmarks, image


class _Look(nn.Module):
    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look

    def forward(self, patches: Tensor) -> Tensor:
        config = self.look.config
        points = self.look(patches.permute(0, 3, 1, 2).float())
        return (points + torch.tensor([1.0, config.rows / config.columns])) * config.columns / 2


def export(
    model: RetinaFace, path: str | Path, what: str = "detector", score_threshold: float = 0.5, nms_threshold: float = 0.4
) -> list[Path]:
    """Writes one ONNX file, or one for each second look, and returns their paths; what: see the module. Raises ImportError
    without the extra ``export``, ValueError for another ``what`` or a network without second looks."""
    if what not in OUTPUTS:
        raise ValueError(f"what must be one of {', '.join(OUTPUTS)}; got '{what}'")
    if what == "looks" and not model.looks:
        raise ValueError("this network has no second looks to export")
    path = Path(path)
    if what == "looks":
        looks = enumerate(for_inference(model).cpu().looks, 1)
        named = [(look, path.with_stem(f"{path.stem}-look{number}")) for number, look in looks]
        wanted = [(_Look(look), name, (2, look.config.rows, look.config.columns, 3)) for look, name in named]
    else:
        module = _Network(model) if what == "network" else _Detector(model, score_threshold, nms_threshold)
        wanted = [(module, path, (2, 96, 160, 3))]
    for module, name, shape in wanted:
        example = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchvision's NMS, about names that torch will change
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                input_names=["patches" if what == "looks" else "images"],
                output_names=list(OUTPUTS[what]),
                dynamic_shapes=(dict.fromkeys(range(1 if what == "looks" else 3), torch.export.Dim.DYNAMIC),),
                verbose=False,
            )
        with replacing(name) as temporary:
            program.save(temporary)
    return [name for _, name, _ in wanted]


if __name__ == "__main__":
    import sys

    from retinalib.cli import main

    main(["export", *sys.argv[1:]], "retinalib")
