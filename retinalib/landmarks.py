"""Landmark schemas: how many points a face has, what they are called, and which ones change places in a mirror.

The only place where an index such as 60 or 96 is written. "Right" and "left" are the person's own."""

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Eye:
    """The landmarks of one eye; what a schema does not have is None or empty. ``lids`` runs around it: outer canthus, upper
    lid, inner canthus, lower lid. ``upper[i]`` lies across from ``lower[i]``, both from the outer canthus on."""

    pupil: int | None = None
    outer: int | None = None
    inner: int | None = None
    lids: tuple[int, ...] = ()
    upper: tuple[int, ...] = ()
    lower: tuple[int, ...] = ()
    left: bool = False

    @property
    def handedness(self) -> int:
        """1 for the person's right eye, -1 for the left: on which side of the line between the canthi the upper lid lies."""
        return -1 if self.left else 1

    @property
    def middle(self) -> tuple[int, ...]:
        """The landmarks whose mean is the middle of the eye: its pupil, else its lids, else its canthi."""
        return (self.pupil,) if self.pupil is not None else self.lids or (self.outer, self.inner)

    def points(self) -> list[int | None]:
        """All its numbers, in the same order for both eyes."""
        return [self.pupil, self.outer, self.inner, *self.lids, *self.upper, *self.lower]


@dataclass(frozen=True, repr=False)
class LandmarkSchema:
    """A numbering of landmarks, of a face or of anything that has points of its own.

    ``flip_order[i]`` is the landmark of the original picture that becomes landmark ``i`` of the mirrored one. ``regions``
    partitions ``range(count)``; a region's points are in drawing order, and those named in ``closed_regions`` form closed
    outlines; at points in ``breaks`` an outline begins anew. ``rigid``: points that hardly move with expression or gaze. Raises
    ValueError naming what does not agree."""

    name: str
    count: int
    regions: dict[str, tuple[int, ...]]
    flip_order: tuple[int, ...]
    right_eye: Eye | None = None
    left_eye: Eye | None = None
    closed_regions: frozenset[str] = frozenset()
    rigid: tuple[int, ...] = ()
    breaks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        everything, order = list(range(self.count)), dict(enumerate(self.flip_order))
        parts = sorted(i for points in self.regions.values() for i in points)
        self._need(parts == everything, f"the regions must hold each of the {self.count} landmarks exactly once")
        involution = sorted(order.values()) == everything and all(order[j] == i for i, j in order.items())
        self._need(involution, f"flip_order must be an involution of {self.count} landmarks")
        known = self.closed_regions <= set(self.regions) and set(self.rigid) <= set(everything)
        self._need(known, "closed_regions must name regions, and rigid landmarks")
        for name, points in self.regions.items():
            left = self.regions.get(name.replace("right", "left"), points)
            either = {order[i] for i in points} == set(left) or not name.startswith("right")
            self._need(either, f"flip_order must exchange {name} and its counterpart, as a mirror does")
        self._need((self.right_eye is None) == (self.left_eye is None), "both eyes are given, or neither")
        if self.right_eye is None:
            return
        object.__setattr__(self, "left_eye", replace(self.left_eye, left=True))
        for name, eye in (("the right eye", self.right_eye), ("the left eye", self.left_eye)):
            known, canthi = {number for number in eye.points() if number is not None}, {eye.outer, eye.inner}
            self._need(known <= set(everything), f"{name} has a landmark beyond the {self.count}, counted from 0")
            self._need(
                known and (None not in canthi or canthi == {None}), f"{name} needs a pupil, or both canthi, or all three"
            )
            lids = {*canthi, *eye.upper, *eye.lower} <= set(eye.lids) and len(eye.upper) == len(eye.lower)
            bare = not (eye.lids + eye.upper + eye.lower)
            self._need(lids or bare, f"{name} has lids without canthi, or not as many upper as lower points among them")
        mirrored = [order.get(number) for number in self.right_eye.points()] == self.left_eye.points()
        self._need(mirrored, "flip_order must exchange the two eyes, point by point, as a mirror does")

    def _need(self, holds: object, what: str) -> None:
        if not holds:
            raise ValueError(f"schema {self.name}: {what}")

    def __repr__(self) -> str:
        return f"<LandmarkSchema {self.name}: {self.count} landmarks>"

    def __hash__(self) -> int:
        return hash((self.name, self.count))

    @property
    def has_pupils(self) -> bool:
        """Whether both eyes have canthi, lids and a pupil: what is said about pupils needs them."""
        return self.right_eye is not None and bool(self.right_eye.lids) and self.right_eye.pupil is not None  # and so the left

    @property
    def pupils(self) -> tuple[int, int]:
        """The right and the left pupil (or eye centre, in schemas that have no more). Raises ValueError without any."""
        if self.right_eye is None or self.right_eye.pupil is None:
            raise ValueError(f"schema {self.name} has no pupils")
        return self.right_eye.pupil, self.left_eye.pupil

    @property
    def inter_ocular(self) -> tuple[int, int]:
        """The landmarks whose distance normalises NME: the outer canthi, else the pupils. Raises ValueError without eyes."""
        if self.right_eye is None:
            raise ValueError(f"schema {self.name} has no eyes, so no inter-ocular distance: normalise by 'box', or by lengths")
        if self.right_eye.outer is None:
            return self.pupils
        return self.right_eye.outer, self.left_eye.outer

    def region_of(self) -> list[str]:
        """The region's name of each landmark, ``count`` strings."""
        names = {i: name for name, points in self.regions.items() for i in points}
        return [names[i] for i in range(self.count)]

    def to_dict(self) -> dict:
        """Plain values only, for JSON and checkpoints."""
        return {**asdict(self), "closed_regions": sorted(self.closed_regions)}

    @classmethod
    def from_dict(cls, values: dict) -> "LandmarkSchema":
        """The inverse of :meth:`to_dict`. Raises ValueError or TypeError for other values."""
        values = as_tuples(values)
        eyes = {side: values[side] and Eye(**values[side]) for side in ("right_eye", "left_eye")}
        return cls(**{**values, **eyes, "closed_regions": frozenset(values["closed_regions"])})


def as_tuples(value: object) -> object:
    """JSON's lists back to the tuples they were."""
    if isinstance(value, dict):
        return {name: as_tuples(v) for name, v in value.items()}
    return tuple(as_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def _flip_order(count: int, pairs: list[tuple[int, int]]) -> tuple[int, ...]:
    partner = dict(pairs) | {b: a for a, b in pairs}
    return tuple(partner.get(i, i) for i in range(count))


_WFLW_PAIRS = (
    [(i, 32 - i) for i in range(16)]  # contour
    + [(33, 46), (34, 45), (35, 44), (36, 43), (37, 42), (38, 50), (39, 49), (40, 48), (41, 47)]  # brows
    + [(55, 59), (56, 58)]  # nose base
    + [(60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)]  # lids
    + [(76, 82), (77, 81), (78, 80), (87, 83), (86, 84)]  # outer lips
    + [(88, 92), (89, 91), (95, 93)]  # inner lips
    + [(96, 97)]  # pupils
)

WFLW_98 = LandmarkSchema(
    name="wflw98",
    count=98,
    regions={
        "contour": tuple(range(33)),
        "right brow": tuple(range(33, 42)),
        "left brow": tuple(range(42, 51)),
        "nose": tuple(range(51, 60)),
        "right eye": tuple(range(60, 68)),
        "left eye": tuple(range(68, 76)),
        "outer lips": tuple(range(76, 88)),
        "inner lips": tuple(range(88, 96)),
        "pupils": (96, 97),
    },
    flip_order=_flip_order(98, _WFLW_PAIRS),
    right_eye=Eye(96, 60, 64, (60, 61, 62, 63, 64, 65, 66, 67), upper=(61, 62, 63), lower=(67, 66, 65)),
    left_eye=Eye(97, 72, 68, (72, 71, 70, 69, 68, 75, 74, 73), upper=(71, 70, 69), lower=(73, 74, 75)),
    closed_regions=frozenset({"right brow", "left brow", "right eye", "left eye", "outer lips", "inner lips"}),
    rigid=(51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 64, 68, 72),
    breaks=(55,),  # from the nose's ridge to its base
)
"""The 98 landmarks of WFLW (Wu et al., "Look at Boundary", CVPR 2018); 96 and 97 are the pupils."""

WIDER_5 = LandmarkSchema(
    name="wider5",
    count=5,
    regions={"eyes": (0, 1), "nose": (2,), "mouth": (3, 4)},
    flip_order=_flip_order(5, [(0, 1), (3, 4)]),
    right_eye=Eye(0),
    left_eye=Eye(1),
)
"""The five landmarks that RetinaFace (Deng et al., CVPR 2020) adds to WIDER FACE: eye centres, nose tip, mouth corners."""

SCHEMAS = {schema.name: schema for schema in (WFLW_98, WIDER_5)}
