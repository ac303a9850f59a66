"""Diffusion policies by noise prediction, with the path KL by which BDPO regularises them."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxrl_prefs.ops import ddpm
from jaxrl_prefs.ops.schedules import Schedule
from jaxrl_prefs.policies.paths import Refinement
from jaxrl_prefs.types import Array, Key, Net, Params


class DiffusionPolicy(NamedTuple):
    """The reverse chain of a noise-prediction network as a policy."""

    net: Net  # (a^n, observation, n) -> predicted noise, [..., A]
    schedule: Schedule
    step: ddpm.Step  # one reverse step: DDPM or DDIM
    action_dim: int
    stratified: bool = False  # levels of `refine`: equal sorted blocks, or uniform over 1..T

    @property
    def steps(self) -> int:
        """The number of diffusion steps T."""
        return self.schedule.steps

    def init(self, key: Key, observation: Array) -> Params:
        """Initial parameters; the observation is read for its shape only."""
        rows = observation.shape[:-1]
        action = jnp.zeros((*rows, self.action_dim), observation.dtype)
        return self.net.init(key, action, observation, jnp.zeros(rows, jnp.int32))

    def eps_fn(self, params: Params, observation: Array) -> ddpm.EpsFn:
        """The network as a function of (x, n), at fixed parameters and observation."""
        return lambda x, n: self.net.apply(params, x, observation, n)

    def sample(self, params: Params, observation: Array, key: Key, count: int) -> Array:
        """Samples `count` actions for each observation by the whole reverse chain: [B, K, A]."""
        start_key, chain_key = jax.random.split(key)
        start = self._noise(observation, start_key, count)
        eps_fn = self.eps_fn(params, observation[:, None])
        return ddpm.reverse(self.schedule, eps_fn, start, chain_key, self.step)[0]

    def bc_loss(self, params: Params, observation: Array, action: Array, key: Key) -> Array:
        """The denoising loss: mean squared error of the predicted noise (Ho et al., eq. 14).

        A scalar for actions [B, A], the mean over batch and dimensions.
        """
        chex.assert_shape(action, (len(observation), self.action_dim))
        x, n, eps = self.noised(action, key)
        return jnp.mean(jnp.square(self.net.apply(params, x, observation, n) - eps))

    def noised(self, action: Array, key: Key) -> tuple[Array, Array, Array]:
        """Actions [B, A] at levels uniform in 1..T: x_n [B, A], n [B], and their noise [B, A]."""
        level_key, noise_key = jax.random.split(key)
        n = jax.random.randint(level_key, action.shape[:-1], 1, self.schedule.steps + 1)
        eps = jax.random.normal(noise_key, action.shape, action.dtype)
        return ddpm.noised(self.schedule, action, n, eps), n, eps

    def paths(
        self, actor: Params, behavior: Params, observation: Array, key: Key, count: int
    ) -> tuple[Array, Array]:
        """Samples of the actor with their path KL (BDPO, equation 11): [B, K, A], [B, K]."""
        start_key, chain_key = jax.random.split(key)
        start = self._noise(observation, start_key, count)
        reference = self.eps_fn(behavior, observation[:, None])

        def penalty(x: Array, eps: Array, n: Array) -> Array:
            return ddpm.path_kl(self.schedule, eps, reference(x, n), n)

        eps_fn = self.eps_fn(actor, observation[:, None])
        action, penalties = ddpm.reverse(
            self.schedule, eps_fn, start, chain_key, self.step, penalty
        )
        return action, penalties.sum(0)

    def refine(
        self,
        actor: Params,
        behavior: Params,
        observation: Array,
        action: Array,
        key: Key,
        count: int,
    ) -> Refinement:
        """One reverse step from the noised data action (BDPO, equations 15 and 16).

        The network is evaluated once per row; the K samples share its prediction and differ only in
        the step's noise. Gradients reach `actor` through that prediction.
        """
        level_key, noise_key, step_key = jax.random.split(key, 3)
        rows = action.shape[0]
        if self.stratified:
            n = stratified_levels(rows, self.schedule.steps)
        else:
            n = jax.random.randint(level_key, (rows,), 1, self.schedule.steps + 1)
        eps = jax.random.normal(noise_key, action.shape, action.dtype)
        x = ddpm.noised(self.schedule, action, n, eps)
        predicted = self.net.apply(actor, x, observation, n)
        reference = jax.lax.stop_gradient(self.net.apply(behavior, x, observation, n))
        z = jax.random.normal(step_key, (rows, count, action.shape[-1]), action.dtype)
        samples = self.step(self.schedule, x[:, None], predicted[:, None], n[:, None], z)
        return Refinement(x, n, samples, ddpm.path_kl(self.schedule, predicted, reference, n))

    def _noise(self, observation: Array, key: Key, count: int) -> Array:
        shape = (observation.shape[0], count, self.action_dim)
        return jax.random.normal(key, shape, observation.dtype)


def stratified_levels(batch_size: int, steps: int) -> Array:
    """Levels 1..T in sorted blocks whose lengths differ by at most one row: [B]."""
    return 1 + jnp.arange(batch_size) * steps // batch_size
