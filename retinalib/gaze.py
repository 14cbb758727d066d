"""Head pose from rigid landmarks, and from it what the pupils say once the head's turn is taken out: where the eyes look.

Camera frame: x to the image's right, y down, z towards the camera. Angles in degrees: yaw is positive to the image's right,
pitch up, roll clockwise in the image. Weak perspective (Horaud et al., PAMI 1997): a few degrees off for a close face."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from retinalib.landmarks import WFLW_98, Eye
from retinalib.pupils import CLOSED, eye_frame, eyes_of, openness
from retinalib.rendered.head import average_landmarks, gaze_vector


@dataclass(frozen=True)
class HeadPose:
    """The weak-perspective pose of N heads: ``pixels = scale · (rotation @ model)[:2] + shift``."""

    rotation: np.ndarray  # (N, 3, 3) head to camera
    scale: np.ndarray  # (N,) pixels a model unit
    residual: np.ndarray  # (N,) root mean square distance of the rigid points, in model units (outer canthi at 1)

    def angles(self) -> pd.DataFrame:
        """Columns yaw, pitch, roll (degrees) and residual."""
        r = self.rotation
        yaw, roll = np.arctan2(-r[:, 2, 0], r[:, 2, 2]), np.arctan2(-r[:, 0, 1], r[:, 1, 1])
        turns = {"yaw": yaw, "pitch": np.arcsin(r[:, 2, 1].clip(-1, 1)), "roll": roll}
        return np.degrees(pd.DataFrame(turns)).assign(residual=self.residual)


def head_pose(landmarks: np.ndarray) -> HeadPose:
    """The pose of (N, 98, 2) landmarks of WFLW from those that are rigid: canthi and nose, not the pupils, not the jaw.

    Least squares on an average head: in turns, depths are filled in from the pose, and the pose is fitted to points in three
    dimensions (Umeyama, PAMI 1991). Faces with an unknown rigid point give NaN. Raises ValueError for other landmarks."""
    if np.shape(landmarks)[1:] != (WFLW_98.count, 2):
        raise ValueError(f"head pose and gaze need WFLW's 98 landmarks, (N, 98, 2), got {np.shape(landmarks)}")
    rigid = list(WFLW_98.rigid)
    model = average_landmarks()[rigid]
    model = model - model.mean(0)
    points = np.asarray(landmarks, float)[:, rigid]
    known = np.isfinite(points).all((1, 2))
    points = np.where(known[:, None, None], points, model[None, :, :2])
    points = points - points.mean(1, keepdims=True)
    depth = np.zeros(points.shape[:2])
    for _ in range(60):  # the last ten change under 0.01°
        seen = np.concatenate([points, depth[..., None]], -1)
        u, _, vt = np.linalg.svd(np.einsum("npi,pj->nij", seen, model))
        sign = np.ones((len(points), 3))
        sign[:, 2] = np.sign(np.linalg.det(u @ vt))
        rotation = (u * sign[:, None]) @ vt
        # the scale comes from what was seen, not from the depths, which would pull it towards the last one
        placed = np.einsum("nij,pj->npi", rotation, model)
        flat = placed[..., :2]
        scale = (flat * points).sum((1, 2)) / (flat**2).sum((1, 2))
        depth = scale[:, None] * placed[..., 2]
    gap = points / scale[:, None, None] - flat
    residual = np.sqrt((gap**2).sum(-1).mean(1))
    nan = np.where(known, 1.0, np.nan)
    return HeadPose(rotation * nan[:, None, None], scale * nan, residual * nan)


@dataclass(frozen=True)
class Eyeball:
    """The right eye's ball in head units; the left one is its mirror image. By default that of rendered faces."""

    centre: tuple[float, float, float] = (-0.002, -0.004, -0.080)  # from the middle of the canthi: x, y, z of the head
    radius: float = 0.130  # to the pupil

    def towards(self, pose: HeadPose, eye: Eye) -> np.ndarray:
        """(N, 2) from the middle of the canthi to the ball's centre, as the camera sees it, in head units."""
        return (pose.rotation @ (np.array(self.centre) * [eye.handedness, 1, 1]))[:, :2]


def calibrate(landmarks: np.ndarray, gaze: dict[str, np.ndarray], closed: float = CLOSED) -> Eyeball:
    """The eyeball that explains known gaze best, by least squares over all open eyes, from (N, 98, 2) landmarks and ``{"right":
    (N, 2), "left": (N, 2)}`` yaw and pitch in degrees. Raises ValueError for fewer than two open eyes.

    A pupil lies at ``scale · (rotation @ centre + radius · gaze)`` from the middle of its canthi: linear in both."""
    landmarks = np.asarray(landmarks, float)
    pose = head_pose(landmarks)
    rows, wanted = [], []
    for side, eye in eyes_of(WFLW_98).items():
        use = (openness(landmarks, eye) > closed) & np.isfinite(pose.scale) & np.isfinite(gaze[side]).all(1)
        turned = pose.rotation[use] * [eye.handedness, 1, 1]  # (M, 3, 3): what the camera sees of each coordinate of the centre
        look = gaze_vector(*gaze[side][use].T)
        rows.append(np.concatenate([turned[:, :2], look[:, :2, None]], -1).reshape(-1, 4))
        shift = landmarks[use, eye.pupil] - eye_frame(landmarks, eye)[0][use]
        wanted.append((shift / pose.scale[use, None]).ravel())
    rows, wanted = np.concatenate(rows), np.concatenate(wanted)
    if len(rows) < 4:
        raise ValueError("calibrating an eyeball needs at least two open eyes with known gaze")
    *centre, radius = np.linalg.lstsq(rows, wanted, rcond=None)[0].tolist()
    return Eyeball(tuple(centre), radius)


def gaze_angles(landmarks: np.ndarray, eyeball: Eyeball = Eyeball(), closed: float = CLOSED) -> pd.DataFrame:
    """Where the eyes of (N, 98, 2) landmarks look, in degrees against the camera's axis.

    Columns: gaze_yaw_<side>, gaze_pitch_<side> ("right" and "left" are the person's), gaze_yaw, gaze_pitch (of the mean
    direction), vergence (right minus left yaw). An eye with an openness of at most ``closed`` has no gaze: NaN, and the mean
    direction is the other eye's. A pupil seen beyond the eyeball is taken to lie on its rim."""
    landmarks = np.asarray(landmarks, float)
    pose = head_pose(landmarks)
    table, looks = pd.DataFrame(index=range(len(landmarks))), []
    for side, eye in eyes_of(WFLW_98).items():
        shift = (landmarks[:, eye.pupil] - eye_frame(landmarks, eye)[0]) / pose.scale[:, None]
        flat = (shift - eyeball.towards(pose, eye)) / eyeball.radius
        flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1.0)
        look = np.column_stack([flat, np.sqrt((1 - (flat**2).sum(1)).clip(min=0))])
        looks.append(np.where((openness(landmarks, eye) > closed)[:, None], look, np.nan))
        table[f"gaze_yaw_{side}"], table[f"gaze_pitch_{side}"] = _angles(looks[-1])
    mean = np.nansum(looks, axis=0)  # only its direction counts
    table["gaze_yaw"], table["gaze_pitch"] = _angles(np.where(np.isfinite(looks).all(-1).any(0)[:, None], mean, np.nan))
    table["vergence"] = table["gaze_yaw_right"] - table["gaze_yaw_left"]
    return table


def _angles(look: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) directions of any length to yaw and pitch, degrees; the inverse of ``head.gaze_vector``."""
    return np.degrees(np.arctan2(look[:, 0], look[:, 2])), np.degrees(np.arctan2(-look[:, 1], np.hypot(look[:, 0], look[:, 2])))


def gaze_error(predicted: pd.DataFrame, true: pd.DataFrame, side: str) -> np.ndarray:
    """(N,) the angle between two directions, degrees; both tables have gaze_yaw_<side> and gaze_pitch_<side>."""
    columns = [f"gaze_yaw_{side}", f"gaze_pitch_{side}"]
    a, b = (gaze_vector(*table[columns].to_numpy(float).T) for table in (predicted, true))
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)))
