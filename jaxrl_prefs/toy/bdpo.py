"""What the toy command needs to know of BDPO: its settings, its values, its generation paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.ops import ddpm
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.types import Array, Key, Params, Spec

INTERVALS = 5  # columns of figure 4 that show the way from noise to action

# One state and no next one, so Q needs no paths. Points are not normalised, so nothing is clipped,
# and there is one candidate. Section 5.1 and appendix B.2 of the paper.
BANDIT: Mapping[str, Any] = {
    "rho": 0.0,
    "q_samples": 0,
    "clip_sampler": False,
    "candidates": 1,
    "diffusion_steps": 50,
    "batch_size": 512,
}
SIZES: dict[str, Mapping[str, Any]] = {
    # The paper's networks and rates; steps by the authors' configuration of these tasks.
    "paper": {
        **BANDIT,
        "eta": 0.06,
        "pretrain_steps": 100_000,
        "train_steps": 100_000,
        "warmup_steps": 5_000,
    },
    # Ours, for a CPU: docs/toy.md says why.
    "cpu": {
        **BANDIT,
        "eta": 0.25,
        "diffusion_steps": 100,
        "levels": "stratified",
        "v_samples": 1,
        "actor_samples": 1,
        "actor_hidden": (64, 64, 64, 64, 64),
        "critic_hidden": (128, 128, 128),
        "critic_ensemble_size": 1,
        "behavior_learning_rate": 2e-3,
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 2e-3,
        "value_tau": 0.5,
        "pretrain_steps": 32_000,
        "train_steps": 24_000,
        "warmup_steps": 2_000,
        "actor_interval": 2,
        "behavior_continues": False,
        "batches": "uniform",
    },
}


def measure(
    config: bdpo.Config, spec: Spec, state: bdpo.State, key: Key, count: int
) -> dict[str, float]:
    """Means over `count` samples: V_N over noise from N(0, I), and the path KL."""
    parts = bdpo.build(config, spec)

    @jax.jit
    def means(state: bdpo.State) -> dict[str, Array]:
        noise_key, path_key = jax.random.split(key)
        observation = jnp.zeros((count, 1))
        noise = jax.random.normal(noise_key, (count, spec.action_dim))
        level = jnp.full(count, config.diffusion_steps)
        value = parts.value.apply(_critic(state), observation, noise, level)
        _, penalty = parts.policy.paths(
            state.actor.target, state.behavior.target, observation, path_key, 1
        )
        return {"value": value.mean(), "path_kl": penalty.mean()}

    return {name: float(mean) for name, mean in means(state).items()}


class Scene(NamedTuple):
    """What figure 4 shows: paths of actions, and the values along them."""

    bounds: tuple[int, ...]  # N = n_0 > n_1 > ... > n_I = 0, the ends of the intervals
    path: np.ndarray  # [N + 1, K, A], entry n is a^n
    landscape: np.ndarray  # [I, G, G], V at the start n of each interval; rows are the second axis


def scene(
    config: bdpo.Config, spec: Spec, state: bdpo.State, key: Key, count: int, axis: np.ndarray
) -> Scene:
    """Samples `count` paths by DDIM; and V_n over the square grid of `axis` [G]."""
    parts = bdpo.build(dataclasses.replace(config, sampler="ddim"), spec)
    policy = parts.policy
    assert isinstance(policy, DiffusionPolicy)  # `check` has refused the others
    schedule = policy.schedule
    ends = np.linspace(schedule.steps, 0, min(INTERVALS, schedule.steps) + 1)
    bounds = tuple(int(n) for n in ends.round())
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)

    @jax.jit
    def draw(state: bdpo.State) -> tuple[Array, Array]:
        eps_fn = policy.eps_fn(state.actor.target, jnp.zeros((count, 1)))
        start = jax.random.normal(key, (count, spec.action_dim))
        end, path = ddpm.reverse(schedule, eps_fn, start, key, ddpm.ddim(), lambda x, eps, n: x)
        origin = jnp.zeros((len(grid), 1))

        def value(n: Array) -> Array:
            level = jnp.full(len(grid), n)
            return parts.value.apply(_critic(state), origin, grid, level).mean(0)

        return jnp.concatenate([path, end[None]])[::-1], jax.lax.map(value, jnp.array(bounds[:-1]))

    path, landscape = draw(state)
    size = len(axis)
    return Scene(bounds, np.asarray(path), np.asarray(landscape).reshape(-1, size, size))


def _critic(state: bdpo.State) -> Params:
    """V's target network; `check` has refused configs without V."""
    assert state.value is not None
    return state.value.target


def check(config: bdpo.Config) -> None:
    """Raises ValueError for a policy that takes no steps from noise to action, so has no V_n."""
    if config.policy != "diffusion" or config.diffusion_steps < 2:
        raise ValueError("the 2-D tasks need policy=diffusion and diffusion_steps of 2 or more")
