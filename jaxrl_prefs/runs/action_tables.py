"""What trained policies do in recorded states, as arrays; states and actions in raw units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxrl_prefs.parallel import devices, seed_axis
from jaxrl_prefs.runs.job import mesh_for

BLOCK = 4096  # states in one compiled call


def actions(point: Any, name: str, states: np.ndarray, draws: int, key: int = 0) -> np.ndarray:
    """The actions of all seeds of one policy: [S, N, K, A] in the environment's units.

    K is `draws` for a policy that draws at random, and 1 for one that gives the same action for
    another key.

    Args:
        point: of a run (`runs.run.Point`).
        name: of the policy.
        states: [N, O], as the environment gives them.
        draws: actions per state of a policy that draws.
        key: of the random streams.
    """
    mesh = mesh_for(len(point.seeds), devices.found())
    act = seed_axis.over_seeds(point.method.policies[name].act, mesh, (0, None, 0))
    members = seed_axis.pad(point.state, mesh)
    seen = point.observation.apply(states).astype(np.float32)

    def drawn(count: int, rows: np.ndarray, block: int) -> np.ndarray:
        found = []
        for draw in range(count):
            own = jax.random.fold_in(jax.random.fold_in(jax.random.key(key), draw), block)
            bits = np.broadcast_to(np.asarray(jax.random.key_data(own)), (len(point.seeds), 2))
            keys = seed_axis.pad(jax.random.wrap_key_data(jax.numpy.asarray(bits)), mesh)
            found.append(seed_axis.trim(act(members, rows, keys), len(point.seeds)))
        return np.stack(found, 2)

    count, parts = draws, []
    for number, (rows, size) in enumerate(_blocks(seen)):
        if number == 0 and draws > 1:
            pair = drawn(2, rows, 0)
            count = 1 if np.array_equal(pair[:, :, 0], pair[:, :, 1]) else draws
        parts.append(drawn(count, rows, number)[:, :size])
    return point.action.invert(np.concatenate(parts, 1))


def log_density(
    point: Any, name: str, states: np.ndarray, recorded: np.ndarray
) -> np.ndarray | None:
    """log pi(a | s) of recorded actions for all seeds: [S, N], per raw unit; None without one.

    Args:
        point: of a run.
        name: of the policy.
        states: [N, O], raw.
        recorded: [N, A], raw.
    """
    density: Callable[..., Any] | None = point.method.policies[name].log_density
    if density is None:
        return None
    mesh = mesh_for(len(point.seeds), devices.found())
    over = seed_axis.over_seeds(density, mesh, (0, None, None))
    members = seed_axis.pad(point.state, mesh)
    seen = point.observation.apply(states).astype(np.float32)
    taken = np.clip(point.action.apply(recorded), -1, 1).astype(np.float32)
    parts = []
    for (rows, size), (acts, _) in zip(_blocks(seen), _blocks(taken), strict=True):
        found = seed_axis.trim(over(members, rows, acts), len(point.seeds))
        parts.append(found[:, :size].astype(np.float64))
    return np.concatenate(parts, 1) - np.log(point.action.scale).sum()


def _blocks(rows: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """The rows in blocks of one size, the last filled up, each with how many rows it holds."""
    size = min(BLOCK, len(rows))
    found = []
    for begin in range(0, len(rows), size):
        block = rows[begin : begin + size]
        fill = np.repeat(block[-1:], size - len(block), 0)
        found.append((np.concatenate([block, fill]), len(block)))
    return found
