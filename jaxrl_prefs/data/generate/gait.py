"""A trot that walks Gymnasium's ant in any direction, without anything learned.

Opposite legs are in step. A leg swings with its foot up, then stands with its foot down and pushes
the torso along: hips sweep the feet around the torso, ankles draw them in or let them out, each
as far as it moves the foot along the way. The torso need not turn. PD control makes torques of the
joints' targets. All numbers are ours, the fastest of a few dozen that stayed upright.
"""

from __future__ import annotations

import numpy as np

FREQUENCY = 2.4  # cycles per second
STEP = 0.05  # seconds an action
SWEEP, REACH = 0.45, 0.45  # of hips and ankles, radians
RAISED, LOWERED = 0.55, 0.95  # of ankles, radians below the horizontal
ANKLE_RANGE = (0.53, 1.21)  # the joint's own, less a little
STIFFNESS, DAMPING = 1.6, 0.2  # torque per radian, and per radian a second

ANGLES = np.pi / 4 + np.arange(4) * np.pi / 2  # of legs 1 to 4 around the torso
OUTWARD = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)  # [4, 2], of each leg
AROUND = np.stack([-np.sin(ANGLES), np.cos(ANGLES)], 1)  # where a turning hip takes the foot
DOWN = np.array([1.0, -1.0, -1.0, 1.0])  # the sign of an ankle's angle that lowers the foot
OPPOSITE = np.array([0.0, np.pi, 0.0, np.pi])  # phases
MOTORS = [3, 0, 1, 2]  # the legs in the order of the actuators


def heading(observation: np.ndarray) -> float:
    """How far the torso has turned around the vertical, in radians; of an observation [29]."""
    w, x, y, z = observation[3:7]
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


def uprightness(observation: np.ndarray) -> float:
    """1 representative, -1 on the back: the vertical part of the torso's own upward axis."""
    _, x, y, _ = observation[3:7]
    return float(1 - 2 * (x * x + y * y))


def torques(observation: np.ndarray, way: np.ndarray, phase: float) -> np.ndarray:
    """The action [8] that walks on.

    Args:
        observation: positions [15] and velocities [14], as `antmaze_env` has them.
        way: the direction [2], of length 1; shorter is slower, zero trots on the spot.
        phase: of the gait, in radians; it grows by 2 pi FREQUENCY STEP an action.
    """
    turned = heading(observation)
    cosine, sine = np.cos(turned), np.sin(turned)
    ahead = np.array([cosine * way[0] + sine * way[1], cosine * way[1] - sine * way[0]])
    cycle = phase + OPPOSITE
    forward = -np.cos(cycle)  # rises while a foot is in the air, falls while it stands
    hip = SWEEP * (AROUND @ ahead) * forward
    ankle = np.where(np.sin(cycle) > 0, RAISED, LOWERED) - REACH * (OUTWARD @ ahead) * forward
    target = np.stack([hip, DOWN * np.clip(ankle, *ANKLE_RANGE)], 1)
    angle, speed = observation[7:15].reshape(4, 2), observation[21:29].reshape(4, 2)
    torque = STIFFNESS * (target - angle) - DAMPING * speed
    return torque[MOTORS].reshape(-1).clip(-1.0, 1.0)
