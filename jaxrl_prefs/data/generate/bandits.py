"""Six bandits in the plane, on which the best regularised policy is known exactly.

One state, no next step: an action is a point, its reward an energy E. Regularised to the behaviour
with strength eta, the best policy is p*(x) ∝ p_data(x) exp(E(x) / eta), of value
eta log E_data exp(E / eta). The tasks are those of QGPO (Lu et al. 2023), in the version that the
authors' code of BDPO draws in figures 4 and 5. Points are neither normalised nor clipped: the
values would be others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.types import Transition

BOUND = 4.5  # every coordinate lies within +-BOUND, but for a point in a million
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


class Modes(NamedTuple):
    """Parts of the plane that hold equal shares of the data, with one energy throughout each."""

    energy: np.ndarray  # [M]
    of: Callable[[np.ndarray], np.ndarray]  # points [N, 2] -> the mode of each, [N] in 0 .. M-1


@dataclasses.dataclass(frozen=True)
class Bandit:
    """A task: its generator, its energy as a function of the plane, and its exact value."""

    name: str
    draw: Draw  # (rng, size) -> points [N, 2], energies [N]
    energy: Callable[[np.ndarray], np.ndarray]  # points [N, 2] -> [N]; noise may hide the drawn one
    log_moment: Callable[[float], float]  # k -> log E_data exp(k E), exact
    modes: Modes | None  # None where the energy varies along a curve

    def value(self, eta: float) -> float:
        """eta log E_data exp(E / eta): the value of the best policy at strength eta."""
        return eta * self.log_moment(1 / eta)

    @property
    def mean_energy(self) -> float:
        """Mean energy of the data: the value of a policy that stays at the behaviour."""
        return self._slope(0.0, 1e-2)

    def target_energy(self, eta: float) -> float:
        """Mean energy under p*."""
        return self._slope(1 / eta, 1e-4 / eta)

    def target_kl(self, eta: float) -> float:
        """KL[p* || p_data], which the best policy pays: (mean energy - value) / eta."""
        return (self.target_energy(eta) - self.value(eta)) / eta

    def _slope(self, k: float, step: float) -> float:
        """Mean energy under the density ~ p_data exp(k E): the log moment's derivative."""
        return (self.log_moment(k + step) - self.log_moment(k - step)) / (2 * step)

    def mode_weights(self, eta: float) -> np.ndarray:
        """The share of p* in each mode, [M]; raises ValueError for a task without modes."""
        if self.modes is None:
            raise ValueError(f"the bandit {self.name!r} has no modes")
        return softmax(self.modes.energy / eta)


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x) divided by its sum."""
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def transitions(bandit: Bandit, size: int, seed: int) -> Transition:
    """`size` draws as a dataset: observation one zero, reward the energy, discount 0."""
    points, energies = bandit.draw(np.random.default_rng(seed), size)
    nothing, rows = np.zeros(size, np.float32), np.arange(size, dtype=np.int32)
    leaves: dict[str, Any] = {
        "observation": nothing[:, None],
        "action": points.astype(np.float32),
        "reward": energies.astype(np.float32),
        "discount": nothing,
        "next_observation": nothing[:, None],
        "next_action": np.zeros((size, 2), np.float32),
        "has_next_action": nothing,
        "index": rows,
        "next_index": rows,
    }
    return Transition(**leaves)


def retarget(
    rng: np.random.Generator, points: np.ndarray, energies: np.ndarray, eta: float, size: int
) -> np.ndarray:
    """Draws `size` of the data's points with weights exp(E / eta): samples of p* (figure 5)."""
    return points[rng.choice(len(points), size, p=softmax(energies / eta))]


# -------------------------------------------------------------------- eight Gaussians, rings

CENTRES = (
    4 / 1.414 * np.stack([-np.sin(np.arange(8) * np.pi / 4), np.cos(np.arange(8) * np.pi / 4)], 1)
)
RADII = np.array([3.0, 2.25, 1.5, 0.75])


def draw_8gaussians(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight Gaussians on a circle; the energy grows counter-clockwise from the top, 0 to 1."""
    mode = rng.integers(0, 8, size)
    points = CENTRES[mode] + 0.5 / 1.414 * rng.standard_normal((size, 2))
    # The nearest centre's, so that the energy is a function of the point. Wedges hold equal shares.
    return points, OCTANTS.energy[OCTANTS.of(points)]


def _octant(points: np.ndarray) -> np.ndarray:
    return np.argmax(points @ CENTRES.T, 1)


def draw_rings(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Four concentric rings with equal shares; the energy is the ring's."""
    ring, angle = rng.integers(0, 4, size), rng.uniform(0, 2 * np.pi, size)
    points = RADII[ring, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return points + 0.08 * rng.standard_normal((size, 2)), RINGS.energy[ring]


def _ring(points: np.ndarray) -> np.ndarray:
    radius = np.linalg.norm(points, axis=1)
    return np.argmin(np.abs(radius[:, None] - RADII), 1)


OCTANTS = Modes(np.arange(8) / 7, _octant)
RINGS = Modes(np.array([0.667, 0.333, 1.0, 0.0]), _ring)


# ----------------------------------------------------------------------- moons, checkerboard


def _arcs(angle: np.ndarray) -> np.ndarray:
    """Both half circles at angles [...] in 0 to pi, without noise: [2, ..., 2]."""
    upper = np.stack([np.cos(angle), np.sin(angle)], -1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], -1)
    return 2 * np.stack([upper, lower]) - np.array([1.0, 0.2])


def draw_moons(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles that reach into each other; the lower has energy 1, the upper 0."""
    moon, angle = rng.integers(0, 2, size), rng.uniform(0, np.pi, size)
    points = _arcs(angle)[moon, np.arange(size)]
    return points + 0.2 * rng.standard_normal((size, 2)), MOONS.energy[moon]


def _moon(points: np.ndarray) -> np.ndarray:
    upper, lower = _arcs(np.linspace(0, np.pi, 200))
    return (_distance(points, lower) < _distance(points, upper)).astype(int)


def _distance(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """The squared distance of points [N, 2] to the nearest of a curve's, less |points|^2: [N]."""
    return (np.square(curve).sum(1) - 2 * points @ curve.T).min(1)


def draw_checkerboard(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight squares of side 2; those of the first and third column have energy 1, the others 0."""
    x, u, lower = rng.uniform(-2, 2, size), rng.uniform(0, 1, size), rng.integers(0, 2, size)
    points = 2 * np.stack([x, u - 2 * lower + np.floor(x) % 2], 1)
    return points, SQUARES.energy[SQUARES.of(points)]


def _square(points: np.ndarray) -> np.ndarray:
    column = np.clip(np.floor(points[:, 0] / 2), -2, 1).astype(int)
    upper = points[:, 1] / 2 > column % 2 - 0.5
    return 2 * (column + 2) + upper


MOONS = Modes(np.array([0.0, 1.0]), _moon)
SQUARES = Modes(np.array([1.0, 1, 0, 0, 1, 1, 0, 0]), _square)  # lower, upper; column by column


# ----------------------------------------------------------------------- spirals, swiss roll

REACH = 3 * np.pi  # the spirals' parameter at the outer end


def _spiral(m: np.ndarray) -> np.ndarray:
    return np.stack([-m * np.cos(m), m * np.sin(m)], -1)


def draw_2spirals(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two spirals, one the other's reflection; the energy falls from 1 at the centre to .06."""
    m, arm = REACH * np.sqrt(rng.uniform(0, 1, size)), rng.choice([-1, 1], size)
    points = arm[:, None] * (_spiral(m) + 0.5 * rng.uniform(0, 1, (size, 2))) / 3
    return points + 0.1 * rng.standard_normal((size, 2)), _along(m)


def _along(m: np.ndarray) -> np.ndarray:
    return np.clip(1 - m / 10, 0, 1)


def _spiral_energy(points: np.ndarray) -> np.ndarray:
    m = np.linspace(0, REACH, 400)
    arm = (_spiral(m) + 0.25) / 3  # the middle of the uniform noise
    curve = np.concatenate([arm, -arm])
    nearest = (np.square(curve).sum(1) - 2 * points @ curve.T).argmin(1)
    return _along(m)[nearest % len(m)]


def _spiral_log_moment(k: float) -> float:
    a = k * REACH / 10  # m / 10 = (REACH / 10) s with density 2 s on 0 to 1
    return float(k + np.log(2 * (1 - (1 + a) * np.exp(-a)) / a**2))


def draw_swissroll(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A spiral with broad noise; the energy |x|^2 / 9 passes 1 in the tail."""
    t = rng.uniform(1.5 * np.pi, 4.5 * np.pi, size)
    points = np.stack([t * np.cos(t), t * np.sin(t)], 1) + rng.standard_normal((size, 2))
    points = points / 5
    return points, _roll_energy(points)


def _roll_energy(points: np.ndarray) -> np.ndarray:
    return np.square(points).sum(1) / 9


def _roll_log_moment(k: float) -> float:
    """log mean_t exp(c t^2 / (1 - 2c)) / (1 - 2c) with c = k / 225, by the midpoint rule."""
    c = k / 225
    if c >= 0.5:
        raise ValueError(f"swissroll has no value for eta <= 2/225, got {1 / k:g}")
    t = 1.5 * np.pi + 3 * np.pi * (np.arange(20_000) + 0.5) / 20_000
    exponent = c * t**2 / (1 - 2 * c)
    top = exponent.max()
    return float(top + np.log(np.exp(exponent - top).mean()) - np.log(1 - 2 * c))


# ----------------------------------------------------------------------------- the catalogue


def _with_modes(name: str, draw: Draw, modes: Modes) -> Bandit:
    def log_moment(k: float) -> float:
        exponent = k * modes.energy
        return float(exponent.max() + np.log(np.exp(exponent - exponent.max()).mean()))

    return Bandit(name, draw, lambda points: modes.energy[modes.of(points)], log_moment, modes)


BANDITS = {
    bandit.name: bandit
    for bandit in (
        _with_modes("8gaussians", draw_8gaussians, OCTANTS),
        Bandit("2spirals", draw_2spirals, _spiral_energy, _spiral_log_moment, None),
        _with_modes("moons", draw_moons, MOONS),
        _with_modes("checkerboard", draw_checkerboard, SQUARES),
        _with_modes("rings", draw_rings, RINGS),
        Bandit("swissroll", draw_swissroll, _roll_energy, _roll_log_moment, None),
    )
}
