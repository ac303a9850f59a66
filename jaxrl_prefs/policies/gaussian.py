"""Policies that draw an action at once: a diagonal Gaussian, and a deterministic map.

They serve BDPO's ablation of the policy class (spec: appendix E of the paper). The paper does not
say how they are bounded; ours is a tanh on the mean, and samples clipped to the action box.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs import learner
from jaxrl_prefs.ops import gaussian
from jaxrl_prefs.ops.shapes import clip_to_box, expand_rank, squashed
from jaxrl_prefs.policies.family import Family, Refinement
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params

LOG_STD_MIN, LOG_STD_MAX = -5.0, 1.0  # ours: e^-5 is finer than the data's clip, e covers the box

Head = Callable[[Array], tuple[Array, Array]]  # network output -> (mean, std), both [..., A]


def gaussian_head(low: np.ndarray, high: np.ndarray) -> Head:
    """Splits an output [..., 2A] into a mean inside the box and a standard deviation."""

    def head(output: Array) -> tuple[Array, Array]:
        mean, log_std = jnp.split(output, 2, -1)
        log_std = jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)
        return squashed(mean, low, high), jnp.exp(log_std)

    return head


def point_head(low: np.ndarray, high: np.ndarray) -> Head:
    """Reads an output [..., A] as a deterministic action inside the box.

    The standard deviation is 0 for drawing; the divergence of two points, half their squared
    distance, is that of Gaussians of unit deviation.
    """

    def head(output: Array) -> tuple[Array, Array]:
        mean = squashed(output, low, high)
        return mean, jnp.zeros_like(mean)

    return head


def shared_deviation(net: Net, action_dim: int) -> Net:
    """A network of means [..., A] with one free log-deviation [A] for all observations: [..., 2A].

    The deviation starts at 1. Source: the policy of IQL's published code.
    """

    def init(key: Key, observation: Array) -> Params:
        return {"mean": net.init(key, observation), "log_std": jnp.zeros(action_dim)}

    def apply(params: Params, observation: Array) -> Array:
        mean = net.apply(params["mean"], observation)
        log_std = jnp.broadcast_to(expand_rank(params["log_std"], mean.ndim), mean.shape)
        return jnp.concatenate([mean, log_std], -1)

    return Net(init, apply)


def drawn(mean: Array, std: Array, key: Key, low: np.ndarray, high: np.ndarray) -> Array:
    """One normal draw for each mean, clipped to the box: [..., A]."""
    return clip_to_box(mean + std * jax.random.normal(key, mean.shape, mean.dtype), low, high)


def fit_gaussian(mean: Array, std: Array, action: Array) -> Array:
    """The negative log-likelihood, averaged over the batch: scalar."""
    return -jnp.mean(gaussian.log_density(action, mean, std))


def fit_point(mean: Array, std: Array, action: Array) -> Array:
    """The squared error, averaged over batch and dimensions: scalar."""
    del std
    return jnp.mean(jnp.square(mean - action))


def _kl(actor: tuple[Array, Array], behavior: tuple[Array, Array]) -> Array:
    return gaussian.kl(*actor, *behavior)


def _half_squared_distance(actor: tuple[Array, Array], behavior: tuple[Array, Array]) -> Array:
    return 0.5 * jnp.sum(jnp.square(actor[0] - behavior[0]), -1)


def _family(
    net: Net,
    head: Head,
    error: Callable[[Array, Array, Array], Array],
    divergence: Callable[[tuple[Array, Array], tuple[Array, Array]], Array],
    low: np.ndarray,
    high: np.ndarray,
) -> Family:
    def distribution(params: Params, observation: Array) -> tuple[Array, Array]:
        return head(net.apply(params, observation))

    def sample(mean: Array, std: Array, key: Key, count: int) -> Array:
        z = jax.random.normal(key, (mean.shape[0], count, mean.shape[-1]), mean.dtype)
        return clip_to_box(mean[:, None] + std[:, None] * z, low, high)

    def init(key: Key, observation: Array, action: Array) -> Params:
        del action
        return net.init(key, observation)

    def fit(params: Params, observation: Array, action: Array, key: Key) -> tuple[Array, Metrics]:
        del key
        loss = error(*distribution(params, observation), action)
        return loss, learner.measured(behavior_loss=loss)

    def draw(params: Params, observation: Array, key: Key, count: int) -> Array:
        return sample(*distribution(params, observation), key, count)

    def step(
        actor: Params, behavior: Params, observation: Array, key: Key, count: int
    ) -> tuple[Array, Array]:
        policy = distribution(actor, observation)
        reference = jax.lax.stop_gradient(distribution(behavior, observation))
        return sample(*policy, key, count), divergence(policy, reference)

    def paths(
        actor: Params, behavior: Params, observation: Array, key: Key, count: int
    ) -> tuple[Array, Array]:
        samples, penalty = step(actor, behavior, observation, key, count)
        return samples, jnp.broadcast_to(penalty[:, None], samples.shape[:2])

    def refine(
        actor: Params, behavior: Params, observation: Array, action: Array, key: Key, count: int
    ) -> Refinement:
        samples, penalty = step(actor, behavior, observation, key, count)
        return Refinement(action, jnp.ones(action.shape[0], jnp.int32), samples, penalty)

    return Family(net, init, 1, fit, draw, paths, refine)


def diagonal(net: Net, low: np.ndarray, high: np.ndarray) -> Family:
    """Diagonal Gaussians fitted by likelihood and compared by their analytic KL."""
    return _family(net, gaussian_head(low, high), fit_gaussian, _kl, low, high)


def deterministic(net: Net, low: np.ndarray, high: np.ndarray) -> Family:
    """Points fitted by squared error and compared by half their squared distance."""
    head = point_head(low, high)
    return _family(net, head, fit_point, _half_squared_distance, low, high)
