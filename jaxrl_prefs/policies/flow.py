"""Flow policies: a velocity network integrated from noise, and its one-step counterpart.

Both work in the unit box: the action box scales actions to [-1, 1], so that noise N(0, I) fits
actions of any unit; for actions in [-1, 1] that changes no bit. Sources: Lipman et al. 2023 (arXiv
2210.02747); Park, Li and Levine 2025 (arXiv 2502.02538).
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxrl_prefs import nets
from jaxrl_prefs.ops import flow
from jaxrl_prefs.ops.schedules import Schedule
from jaxrl_prefs.ops.shapes import from_unit, to_unit
from jaxrl_prefs.types import Array, Box, Key, Net, Params, Spec


class FlowPolicy(NamedTuple):
    """The flow of a velocity network v(s, x, t) as a policy; actions are clipped to the box."""

    net: Net  # (observation, x [..., A], t [..., 1]) -> velocity [..., A]
    box: Box
    sampler: flow.Sampler
    steps: int  # of the sampler

    def init(self, key: Key, observation: Array) -> Params:
        """Initial parameters; the observation is read for its shape only."""
        x = jnp.zeros((*observation.shape[:-1], len(self.box.low)), observation.dtype)
        return self.net.init(key, observation, x, x[..., :1])

    def velocity_fn(self, params: Params, observation: Array) -> flow.VelocityFn:
        """The network as a function of (x, t), at fixed parameters and observation."""
        return lambda x, t: self.net.apply(params, observation, x, t[..., None])

    def transport(self, params: Params, observation: Array, noise: Array) -> Array:
        """Where the flow carries noise [..., A], in the unit box and clipped to it: [..., A]."""
        velocity = self.velocity_fn(params, observation)
        return jnp.clip(self.sampler(velocity, noise, self.steps), -1, 1)

    def sample(self, params: Params, observation: Array, key: Key, count: int) -> Array:
        """Samples `count` actions for each observation [B, O]: [B, K, A]."""
        noise = standard_normal(key, observation, count, self.box)
        return from_unit(self.transport(params, observation[:, None], noise), self.box)

    def bc_loss(self, params: Params, observation: Array, action: Array, key: Key) -> Array:
        """The flow-matching loss: mean squared error of the velocity, for actions [B, A].

        A scalar, the mean over batch and dimensions, at times uniform in [0, 1].
        """
        chex.assert_shape(action, (len(observation), len(self.box.low)))
        noise_key, time_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, action.shape, action.dtype)
        t = jax.random.uniform(time_key, action.shape[:-1], action.dtype)
        return self.matching_loss(params, observation, action, noise, t)

    def matching_loss(
        self, params: Params, observation: Array, action: Array, noise: Array, t: Array
    ) -> Array:
        """`bc_loss` at given noise [B, A] and times [B]."""
        data = to_unit(action, self.box)
        chex.assert_equal_shape([data, noise])
        found = self.velocity_fn(params, observation)(flow.interpolate(noise, data, t), t)
        return jnp.mean(jnp.square(found - flow.conditional_velocity(noise, data)))


def noise_prediction(velocity: Net, schedule: Schedule) -> Net:
    """A velocity network as the noise prediction eps(x, s, n) of a diffusion's chain.

    `velocity` is v(s, x, t) as in `FlowPolicy`, but of actions that are not scaled to the unit box.
    """

    def apply(params: Params, x: Array, observation: Array, n: Array) -> Array:
        def at(x: Array, t: Array) -> Array:
            return velocity.apply(params, observation, x, t[..., None])

        return flow.predicted_noise(at, schedule, x, n)

    def init(key: Key, x: Array, observation: Array, n: Array) -> Params:
        del n
        return velocity.init(key, observation, x, x[..., :1])

    return Net(init, apply)


class OneStepPolicy(NamedTuple):
    """A network mu(s, z) from noise to action in one evaluation; actions are clipped to the box.

    It is trained on the pairs (noise, action) of a flow, and so has no cloning loss of its own.
    """

    net: Net  # (observation, z [..., A]) -> [..., A], in the unit box but not clipped
    box: Box

    def init(self, key: Key, observation: Array) -> Params:
        """Initial parameters; the observation is read for its shape only."""
        noise = jnp.zeros((*observation.shape[:-1], len(self.box.low)), observation.dtype)
        return self.net.init(key, observation, noise)

    def transport(self, params: Params, observation: Array, noise: Array) -> Array:
        """mu(s, z) for noise [..., A], not clipped: [..., A]."""
        return self.net.apply(params, observation, noise)

    def action(self, transported: Array) -> Array:
        """The action of what `transport` returned, clipped to the box: [..., A]."""
        return from_unit(jnp.clip(transported, -1, 1), self.box)

    def sample(self, params: Params, observation: Array, key: Key, count: int) -> Array:
        """Samples `count` actions for each observation [B, O]: [B, K, A]."""
        noise = standard_normal(key, observation, count, self.box)
        return self.action(self.transport(params, observation[:, None], noise))


def distillation_error(transported: Array, target: Array) -> Array:
    """Squared distance of a one-step policy from the flow at the same noise, [B, A]: a scalar.

    The mean over batch and dimensions; the target carries no gradient.
    """
    chex.assert_rank(target, 2)
    chex.assert_equal_shape([transported, target])
    return jnp.mean(jnp.square(transported - jax.lax.stop_gradient(target)))


def standard_normal(key: Key, observation: Array, count: int, box: Box) -> Array:
    """`count` noises for each observation [B, O]: [B, K, A]."""
    shape = (len(observation), count, len(box.low))
    return jax.random.normal(key, shape, observation.dtype)


def gelu_net(hidden: tuple[int, ...], spec: Spec, *, layer_norm: bool = False) -> Net:
    """A GELU perceptron with A outputs over the concatenation of its inputs, as in FQL's code.

    Kernels are Glorot-uniform; a layer is normalised after its activation. Time is a plain input.
    """
    return nets.mlp(
        hidden,
        spec.action_dim,
        activation="gelu",
        layer_norm=layer_norm,
        norm_after=True,
        initialiser="glorot",
    )
