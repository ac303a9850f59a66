"""BDPO's view of a policy: the reverse path from noise to action, and its KL from the behaviour.

Only BDPO needs this. Its diffusion policy is in diffusion.py; policies that sample an action in one
step, which BDPO's ablation compares, are wrapped here as paths of length 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrl_prefs.ops import gaussian
from jaxrl_prefs.policies.deterministic import Deterministic
from jaxrl_prefs.policies.gaussian import DiagonalGaussian, clipped_sample
from jaxrl_prefs.policies.interface import PolicyNetwork
from jaxrl_prefs.types import Array, Key, Params

Moments = tuple[Array, Array]  # mean and standard deviation, [B, A] each


class Refinement(NamedTuple):
    """One regularised step of a policy towards an action: what the actor and V are trained on.

    For a diffusion policy this is one reverse step from a noised data action. For a policy that
    samples in one step it is that sample (level 1, and `source` is not used).
    """

    source: Array  # [B, A] a^n
    level: Array  # [B] int, n
    samples: Array  # [B, K, A] a^{n-1}
    penalty: Array  # [B] divergence of this step from the behaviour's


class PathPolicy(PolicyNetwork, Protocol):
    """A policy network with a path; the actor and the behaviour are two parameters of it.

    Gradients flow through the actor's parameters only, and only where the caller asks.
    """

    @property
    def steps(self) -> int:
        """Steps from noise to action; 1 where an action is sampled in one step."""
        ...

    def paths(
        self, actor: Params, behavior: Params, observation: Array, key: Key, count: int
    ) -> tuple[Array, Array]:
        """Samples of the actor, each with its whole divergence: [B, K, A], [B, K]."""
        ...

    def refine(
        self,
        actor: Params,
        behavior: Params,
        observation: Array,
        action: Array,
        key: Key,
        count: int,
    ) -> Refinement:
        """One step towards the data's action."""
        ...


class SingleStep(NamedTuple):
    """A policy that samples its action in one step, as a path of length 1."""

    policy: DiagonalGaussian | Deterministic
    divergence: Callable[[Moments, Moments], Array]  # of the actor from the behaviour, [B]

    @property
    def steps(self) -> int:
        """Always 1."""
        return 1

    def init(self, key: Key, observation: Array) -> Params:
        """The policy's own initial parameters."""
        return self.policy.init(key, observation)

    def sample(self, params: Params, observation: Array, key: Key, count: int) -> Array:
        """The policy's own samples: [B, K, A]."""
        return self.policy.sample(params, observation, key, count)

    def bc_loss(self, params: Params, observation: Array, action: Array, key: Key) -> Array:
        """The policy's own cloning loss."""
        return self.policy.bc_loss(params, observation, action, key)

    def paths(
        self, actor: Params, behavior: Params, observation: Array, key: Key, count: int
    ) -> tuple[Array, Array]:
        """Samples of the actor, each with the divergence at its state: [B, K, A], [B, K]."""
        samples, penalty = self._step(actor, behavior, observation, key, count)
        return samples, jnp.broadcast_to(penalty[:, None], samples.shape[:2])

    def refine(
        self,
        actor: Params,
        behavior: Params,
        observation: Array,
        action: Array,
        key: Key,
        count: int,
    ) -> Refinement:
        """The same samples and divergence, at level 1."""
        samples, penalty = self._step(actor, behavior, observation, key, count)
        return Refinement(action, jnp.ones(action.shape[0], jnp.int32), samples, penalty)

    def _step(
        self, actor: Params, behavior: Params, observation: Array, key: Key, count: int
    ) -> tuple[Array, Array]:
        moments = self.policy.moments(actor, observation)
        reference = jax.lax.stop_gradient(self.policy.moments(behavior, observation))
        samples = clipped_sample(*moments, key, count, self.policy.box)
        return samples, self.divergence(moments, reference)


def gaussian_path(policy: DiagonalGaussian) -> SingleStep:
    """A Gaussian policy, whose divergence is the analytic KL."""
    return SingleStep(policy, lambda actor, behavior: gaussian.kl(*actor, *behavior))


def deterministic_path(policy: Deterministic) -> SingleStep:
    """A deterministic policy, whose divergence is half the squared distance of the two actions.

    That is the KL of two Gaussians with these means and unit standard deviation.
    """
    return SingleStep(
        policy,
        lambda actor, behavior: 0.5 * jnp.sum(jnp.square(actor[0] - behavior[0]), -1),
    )
