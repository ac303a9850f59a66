"""Trains on one task, draws from what was learned, and puts it beside what is exact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from jaxrl_prefs.data.generate.bandits import BOUND, Bandit, retarget, transitions
from jaxrl_prefs.method import Method
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs.display import Display
from jaxrl_prefs.toy import bdpo, bpr
from jaxrl_prefs.toy.training import Trained, train
from jaxrl_prefs.training import loop
from jaxrl_prefs.types import Spec, Transition

STUDIES: dict[str, Any] = {"bdpo": bdpo, "bpr": bpr}  # what a method adds: SIZES, check, ...
CONFIGS: dict[str, Any] = {"bdpo": METHODS["bdpo"].Config, "bpr": bpr.Config}
DRAWN = 20_000  # samples behind every learned number
DRAWS = 10  # times as many behind distances from the target
CELLS = 60  # along each axis, in which distances are counted
SHOWN, PATHS = 3_000, 60  # points and paths in a picture
CHUNK = 500  # updates between two log points
AXIS = np.linspace(-BOUND, BOUND, 121)  # of the landscapes, and the frame of every picture


class Setting(NamedTuple):
    """How to train, whatever the task."""

    algo: str
    config: Any  # of the method
    points: int  # of data
    seed: int  # of data, training and samples


class Outcome(NamedTuple):
    """What one task gave: numbers for the table and results.json, and what the pictures show."""

    numbers: dict[str, Any]
    samples: dict[str, np.ndarray]  # of data, target and learned policy, each [SHOWN, 2]
    scene: bdpo.Scene


def study(setting: Setting, bandit: Bandit, folder: Path, console: Console) -> Outcome:
    """Trains on `bandit`, from wherever that stands in `folder`, and compares.

    Raises:
        NonFiniteError: if training breaks.
    """
    began = time.perf_counter()
    data = transitions(bandit, setting.points, setting.seed)
    spec = Spec.of(data, low=-BOUND, high=BOUND)
    method, trained = fit(setting, data, spec, folder, console)
    state, training = trained.state, time.perf_counter() - began
    own, eta = STUDIES[setting.algo], setting.config.eta
    keys = jax.random.split(jax.random.fold_in(jax.random.key(setting.seed), 2), 4)
    learned = draw(method, next(iter(method.policies)), state, keys[0])
    behavior = draw(method, "behavior", state, keys[1])
    measured = own.measure(setting.config, spec, state, keys[2], DRAWN)
    scene = own.scene(setting.config, spec, state, keys[3], PATHS, AXIS)
    rng, points = np.random.default_rng([setting.seed, 1]), np.asarray(data.action)
    samples = {
        "data": points[:SHOWN],
        "target": retarget(rng, points, np.asarray(data.reward), eta, SHOWN),
        "learned": learned[:SHOWN],
    }
    more = jax.random.fold_in(jax.random.key(setting.seed), 3)
    many = draw(method, next(iter(method.policies)), state, more, DRAWS)
    return Outcome(
        compare(bandit, eta, measured, learned, behavior)
        | distances(rng, data, eta, many)
        | {
            "train_seconds": trained.seconds,
            "seconds": trained.seconds + time.perf_counter() - began - training,
        },
        samples,
        scene,
    )


def fit(
    setting: Setting, data: Transition, spec: Spec, folder: Path, console: Console
) -> tuple[Method, Trained]:
    """Trains one seed on the first device; returns the method and what it came to."""
    method = METHODS[setting.algo].make(setting.config, spec)
    total = sum(phase.steps for phase in method.phases)
    clock, before = time.perf_counter(), 0
    with Display(console, method, 0) as display:

        def watch(log_point: loop.LogPoint) -> None:
            nonlocal clock, before
            now, done = time.perf_counter(), log_point.step
            rate = min(CHUNK, done - before) / (now - clock)
            left = (total - done) / rate
            display.advance(log_point.phase, log_point.phase_step, rate, left)
            clock, before = now, done

        trained = train(
            method, setting.config, data, spec, setting.seed, folder, every=CHUNK, watch=watch
        )
    return method, trained


def draw(method: Method, policy: str, state: Any, key: jax.Array, draws: int = 1) -> np.ndarray:
    """Actions of a policy, [draws * DRAWN, 2]."""
    act = jax.jit(method.policies[policy].act)
    still = np.zeros((DRAWN, 1), np.float32)
    keys = [key] if draws == 1 else jax.random.split(key, draws)
    return np.concatenate([act(state, still, each) for each in keys])


def distances(
    rng: np.random.Generator, data: Transition, eta: float, learned: np.ndarray
) -> dict[str, float]:
    """How far samples of a policy [K, 2] are from the best one's, in the cells of a grid.

    Args:
        rng: resamples the data by exp(energy / eta), which gives samples of the best policy.
        data: points of the behaviour, with their energies as rewards.
        eta: strength of the regularisation.
        learned: samples of the policy.

    Returns `variation`, the total variation from the best policy; `resampled`, that of as many
    samples of the best policy itself, below which no policy can be told from it; and `outside`, the
    share of samples in cells without data.
    """
    points, energies = np.asarray(data.action), np.asarray(data.reward)
    target, again = (retarget(rng, points, energies, eta, len(learned)) for _ in range(2))
    goal, exact, found = (_shares(each) for each in (target, again, learned))
    return {
        "variation": float(np.abs(found - goal).sum() / 2),
        "resampled": float(np.abs(exact - goal).sum() / 2),
        "outside": float(1 - found[_shares(points) > 0].sum()),
    }


def _shares(points: np.ndarray) -> np.ndarray:
    """The share of points [N, 2] in every cell, and last of those outside the square."""
    edges = np.linspace(-BOUND, BOUND, CELLS + 1)
    count, *_ = np.histogram2d(points[:, 0], points[:, 1], bins=(edges, edges))
    return np.append(count, len(points) - count.sum()) / len(points)


def worst_mode(bandit: Bandit, eta: float, learned: np.ndarray) -> dict[str, Any]:
    """The modes' weights, [found, exact] each, and the largest error; {} without modes."""
    if bandit.modes is None:
        return {}
    exact = bandit.mode_weights(eta)
    found = np.bincount(bandit.modes.of(learned), minlength=len(exact)) / len(learned)
    return {
        "mode_weights": np.stack([found, exact], 1).tolist(),
        "mode_error": float(np.abs(found - exact).max()),
    }


def compare(
    bandit: Bandit,
    eta: float,
    measured: dict[str, float],
    learned: np.ndarray,
    behavior: np.ndarray,
) -> dict[str, Any]:
    """Learned beside exact, {name: [learned, exact]}, and the largest error of a mode's weight.

    Args:
        bandit: the task.
        eta: strength of the regularisation.
        measured: what was learned: `value`, the mean of V_N over noise, and `path_kl`.
        learned: samples of the policy, [K, 2].
        behavior: samples of the behaviour, [K, 2].
    """
    energy, value = float(bandit.energy(learned).mean()), bandit.value(eta)
    paid = eta * measured["path_kl"]
    return {
        "value": [measured["value"], value],
        "net": [energy - paid, value],
        "energy": [energy, bandit.target_energy(eta)],
        "paid": [paid, eta * bandit.target_kl(eta)],
        "behavior_energy": [float(bandit.energy(behavior).mean()), bandit.mean_energy],
        "value_error": measured["value"] / value - 1,
    } | worst_mode(bandit, eta, learned)
