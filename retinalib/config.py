"""All that decides what a run learns, and the profiles: how much work the workbook does."""

from dataclasses import asdict, dataclass, field

from retinalib.augment import AugmentConfig
from retinalib.landmarks import WFLW_98, LandmarkSchema
from retinalib.loss import LossConfig
from retinalib.model import ModelConfig
from retinalib.second_look import eye_look

_NEAR = 0.15  # of crops show a part, as background


@dataclass(frozen=True)
class TrainConfig:
    """All that decides what a run learns. Two equal configurations on equal data and hardware give equal weights."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    image_size: int = 256  # pixels a side of a crop
    epochs: int = 30
    batch_size: int = 16
    learning_rate: float = 2e-3  # at its highest
    weight_decay: float = 5e-4
    warmup: float = 0.05  # share of the steps in which the rate rises from zero; then it falls to zero along a cosine
    ema_decay: float = 0.99  # of averaged weights
    clip_norm: float = 10.0  # of gradients, at most
    precision: str = "float32"  # or "bfloat16": autocast, for devices that have it
    validate_every: int = 5  # epochs; and the last
    start_from: str | None = None  # weights to begin with, see checkpoint.start_from; their content is part of the run
    fault: str | None = None  # "five-point-flip" or "clamped-crops": what the predecessor did to the crops, see batches
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {"precision": ("float32", "bfloat16"), "fault": (None, "five-point-flip", "clamped-crops")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got '{getattr(self, name)}'")
        if self.epochs < 1 or self.image_size < 32 or self.batch_size * self.image_size <= 32:
            raise ValueError("training needs at least one epoch, and batches of two images of 32 pixels a side or one larger")
        if self.validate_every < 1 or self.seed < 0:
            raise ValueError(f"validate_every must be from 1 on and the seed from 0, got {self.validate_every} and {self.seed}")

    def to_dict(self) -> dict:
        """Plain values only, for JSON."""
        return {**asdict(self), "model": self.model.to_dict()}


_AUGMENT = AugmentConfig(near=_NEAR)  # rendered faces are turned, blurred and grey already
_PHOTOS = AugmentConfig(near=_NEAR, turn=30.0, blur=0.1, grey=0.1, jpeg=0.2)


@dataclass(frozen=True)
class Profile:
    """How much work the notebooks do."""

    images: int  # pictures, training and test together
    epochs: int  # of one training run
    seeds: int  # training runs of each arm
    image_size: int  # pixels a side of a training crop
    batch_size: int
    learning_rate: float
    second_look: bool = False  # see second_look
    augment: AugmentConfig = _AUGMENT
    measured: int | None = None  # test photos at most, and validation photos; None: all, see workspace.measured

    def train_config(
        self, se_reduction: int | None = None, seed: int = 0, epochs: int | None = None, schema: LandmarkSchema = WFLW_98
    ) -> TrainConfig:
        """The training run of this profile, with or without SE, for the landmarks of ``schema``."""
        epochs = self.epochs if epochs is None else epochs
        looks = (eye_look(schema),) if self.second_look and schema.has_pupils else ()
        loss = LossConfig(
            landmark_weight=1.0 if schema.count <= 20 else 0.25,  # of many, the sum would drown the rest of the loss
            pupil_weight=5.0,  # so that the place of the pupil in the eye, which this workbook is about, counts in the sum
            least_negatives=32,  # as of a face with four or five positives; else crops without faces would teach nothing
        )
        own = {name: getattr(self, name) for name in ("image_size", "batch_size", "learning_rate", "augment")}
        model = ModelConfig(schema=schema, se_reduction=se_reduction, looks=looks)
        return TrainConfig(model, loss, epochs=epochs, validate_every=max(1, min(5, epochs // 5)), seed=seed, **own)


PROFILES = {
    "quick": Profile(images=160, epochs=18, seeds=2, image_size=128, batch_size=4, learning_rate=5e-3, measured=100),
    "standard": Profile(images=2500, epochs=10, seeds=3, image_size=160, batch_size=16, learning_rate=6e-3, measured=600),
    "shipped": Profile(images=8000, epochs=36, seeds=1, image_size=160, batch_size=16, learning_rate=6e-3, second_look=True),
    "full": Profile(
        12000, epochs=60, seeds=5, image_size=320, batch_size=32, learning_rate=6e-3, second_look=True, augment=_PHOTOS
    ),
}
