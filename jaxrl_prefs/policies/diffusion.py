"""Diffusion policies: noise prediction, the reverse chain as a policy, the pathwise KL."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrl_prefs import learner
from jaxrl_prefs.ops import ddpm
from jaxrl_prefs.ops.schedules import Schedule
from jaxrl_prefs.policies.family import Family, Refinement
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params


def eps_fn(net: Net, params: Params, observation: Array) -> ddpm.EpsFn:
    """The network as a function of (x, n), with parameters and observation held."""
    return lambda x, n: net.apply(params, x, observation, n)


def denoising_loss(
    params: Params, *, net: Net, schedule: Schedule, observation: Array, action: Array, key: Key
) -> tuple[Array, Metrics]:
    """Mean squared error of the predicted noise, over batch and dimensions (Ho et al., eq. 14)."""
    level_key, noise_key = jax.random.split(key)
    n = jax.random.randint(level_key, action.shape[:-1], 1, schedule.steps + 1)
    eps = jax.random.normal(noise_key, action.shape, action.dtype)
    x = ddpm.noised(schedule, action, n, eps)
    loss = jnp.mean(jnp.square(net.apply(params, x, observation, n) - eps))
    return loss, learner.measured(behavior_loss=loss)


def _start(observation: Array, key: Key, count: int, action_dim: int) -> tuple[Array, Array]:
    """Noise [B, K, A] and the observation [B, 1, O] that all K samples share."""
    shape = (observation.shape[0], count, action_dim)
    return jax.random.normal(key, shape, observation.dtype), observation[:, None]


def draw(
    params: Params,
    observation: Array,
    key: Key,
    count: int,
    *,
    net: Net,
    schedule: Schedule,
    step: ddpm.Step,
    action_dim: int,
) -> Array:
    """Draws `count` actions for each observation by the whole reverse chain: [B, K, A]."""
    start_key, chain_key = jax.random.split(key)
    start, shared = _start(observation, start_key, count, action_dim)
    return ddpm.reverse(schedule, eps_fn(net, params, shared), start, chain_key, step)[0]


def paths(
    actor: Params,
    behavior: Params,
    observation: Array,
    key: Key,
    count: int,
    *,
    net: Net,
    schedule: Schedule,
    step: ddpm.Step,
    action_dim: int,
) -> tuple[Array, Array]:
    """Draws actions with their path KL to the behaviour (BDPO, equation 11): [B, K, A], [B, K]."""
    start_key, chain_key = jax.random.split(key)
    start, shared = _start(observation, start_key, count, action_dim)
    reference = eps_fn(net, behavior, shared)

    def penalty(x: Array, eps: Array, n: Array) -> Array:
        return ddpm.path_kl(schedule, eps, reference(x, n), n)

    act = eps_fn(net, actor, shared)
    action, penalties = ddpm.reverse(schedule, act, start, chain_key, step, penalty)
    return action, penalties.sum(0)


def stratified_levels(batch_size: int, steps: int) -> Array:
    """Levels 1..T in sorted blocks of equal length, give or take one row: [B]."""
    return 1 + jnp.arange(batch_size) * steps // batch_size


def refine(
    actor: Params,
    behavior: Params,
    observation: Array,
    action: Array,
    key: Key,
    count: int,
    *,
    net: Net,
    schedule: Schedule,
    step: ddpm.Step,
    stratified: bool,
) -> Refinement:
    """One reverse step from the noised data action (BDPO, equations 15 and 16).

    Levels are uniform over 1..T, or in equal sorted blocks. One network evaluation per row: the K
    samples differ by the step's noise alone, through which gradients reach `actor`.
    """
    level_key, noise_key, step_key = jax.random.split(key, 3)
    rows = action.shape[0]
    if stratified:
        n = stratified_levels(rows, schedule.steps)
    else:
        n = jax.random.randint(level_key, (rows,), 1, schedule.steps + 1)
    eps = jax.random.normal(noise_key, action.shape, action.dtype)
    x = ddpm.noised(schedule, action, n, eps)
    predicted = net.apply(actor, x, observation, n)
    reference = jax.lax.stop_gradient(net.apply(behavior, x, observation, n))
    z = jax.random.normal(step_key, (rows, count, action.shape[-1]), action.dtype)
    samples = step(schedule, x[:, None], predicted[:, None], n[:, None], z)
    return Refinement(x, n, samples, ddpm.path_kl(schedule, predicted, reference, n))


def family(
    net: Net, schedule: Schedule, step: ddpm.Step, action_dim: int, *, stratified: bool = False
) -> Family:
    """Binds a noise-prediction network `net(x, observation, n)` into a policy family."""

    def init(key: Key, observation: Array, action: Array) -> Params:
        return net.init(key, action, observation, jnp.zeros(action.shape[:-1], jnp.int32))

    def fit(params: Params, observation: Array, action: Array, key: Key) -> tuple[Array, Metrics]:
        return denoising_loss(
            params, net=net, schedule=schedule, observation=observation, action=action, key=key
        )

    return Family(
        net=net,
        init=init,
        levels=schedule.steps,
        fit=fit,
        draw=functools.partial(draw, net=net, schedule=schedule, step=step, action_dim=action_dim),
        paths=functools.partial(
            paths, net=net, schedule=schedule, step=step, action_dim=action_dim
        ),
        refine=functools.partial(
            refine, net=net, schedule=schedule, step=step, stratified=stratified
        ),
    )
