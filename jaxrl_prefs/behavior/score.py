"""A score model of the behaviour: denoising score matching, sampling, log-densities.

The diffusion is over standardised actions y, conditioned on standardised observations; both maps
are part of the model. The network f predicts minus the noise: score(y, t) = f(y, c, t) / std(t).
Parameters have a first axis of members, and the score is the members' mean (ARQ's ensembles).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs import learner, nets
from jaxrl_prefs.ops import vpsde
from jaxrl_prefs.ops.samplers import Noise
from jaxrl_prefs.ops.shapes import expand_rank
from jaxrl_prefs.ops.vpsde import Score
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec

FIRST_TIME = 1e-5  # of training
SMALLEST_STD = 0.05  # standard deviations between 0 and this are raised to it (ARQ's code)


class Standard(NamedTuple):
    """Standardisation of the last axis; a dimension that never varies is mapped to 0 and back."""

    mean: np.ndarray
    scale: np.ndarray  # 0 for a dimension that never varies

    @classmethod
    def of(cls, mean: np.ndarray, std: np.ndarray) -> Standard:
        """From the data's mean and population standard deviation."""
        raised = np.where(std > 0, np.maximum(std, SMALLEST_STD), 0)
        return cls(np.asarray(mean, np.float32), np.asarray(raised, np.float32))

    def apply(self, x: Array) -> Array:
        """To mean 0 and standard deviation 1."""
        varies = self.scale > 0
        factor = np.where(varies, 1 / np.where(varies, self.scale, 1), 0).astype(np.float32)
        return (x - expand_rank(self.mean, x.ndim)) * expand_rank(factor, x.ndim)

    def invert(self, y: Array) -> Array:
        """Back to the data's units."""
        return y * expand_rank(self.scale, y.ndim) + expand_rank(self.mean, y.ndim)

    @property
    def log_volume(self) -> float:
        """log |d standardised / d raw|: raw log-density minus standardised log-density."""
        return -float(np.log(self.scale[self.scale > 0]).sum())


class Model(NamedTuple):
    """The network, how many members it has, and the maps to and from standardised data."""

    net: Net  # (y, standardised observation, t) -> [..., A]
    members: int
    observation: Standard
    action: Standard


def model(net: Net, members: int, spec: Spec) -> Model:
    """Binds a network to the data's moments."""
    return Model(
        net,
        members,
        Standard.of(spec.observation_mean, spec.observation_std),
        Standard.of(spec.action_mean, spec.action_std),
    )


def init(model: Model, key: Key, observation: Array, action: Array) -> Params:
    """Parameters [M, ...]; the inputs are read for shapes only."""
    t = jnp.zeros(())
    return nets.ensemble(model.net, model.members).init(key, action, observation, t)


def denoising_loss(
    params: Params, *, model: Model, observation: Array, action: Array, key: Key
) -> tuple[Array, Metrics]:
    """Sum over dimensions of (f + z)^2; the mean over rows, then the sum over members: a scalar.

    It is (score std + z)^2 without the division, which loses digits at small t. The rows [M B, ...]
    are split into consecutive shares, one for each member. Source: Song et al. 2021, equation 7,
    weighted by the marginal variance; ARQ's code.
    """
    chex.assert_rank([observation, action], 2)
    chex.assert_equal_shape_prefix([observation, action], 1)
    time_key, noise_key = jax.random.split(key)
    y, context = model.action.apply(action), model.observation.apply(observation)
    t = jax.random.uniform(time_key, y.shape[:-1], y.dtype, FIRST_TIME, 1.0)
    z = jax.random.normal(noise_key, y.shape, y.dtype)
    inputs = (vpsde.noised(y, t, z), context, t, z)
    shares = [x.reshape(model.members, -1, *x.shape[1:]) for x in inputs]

    def member(part: tuple) -> Array:
        params, noised, context, t, z = part
        error = jnp.square(model.net.apply(params, noised, context, t) + z)
        return jnp.mean(jnp.sum(error, -1))

    losses = nets.over_members(member, (params, *shares))
    return jnp.sum(losses), learner.measured(score_loss=losses)


def score_at(model: Model, params: Params, context: Array) -> Score:
    """The members' mean score as a function of (y, t), for standardised observations."""

    def score(y: Array, t: Array) -> Array:
        def member(params: Params) -> Array:
            return model.net.apply(params, y, context, t)

        if model.members == 1:
            mean = member(jax.tree.map(lambda leaf: leaf[0], params))
        else:
            mean = nets.over_members(member, params).mean(0)
        return mean / vpsde.std(t)

    return score


class Solver(NamedTuple):
    """A sampler or a log-density: `solve(score, y [..., A], noise)`, on all items or on each."""

    solve: Callable[[Score, Array, Noise], Array]
    itemwise: bool  # solve each item [A] by itself, with its own step size


def solved(
    model: Model, params: Params, observation: Array, y: Array, noise: Noise, solver: Solver
) -> Array:
    """Runs a solver for standardised y [B, K, A] under the raw observations [B, O]."""
    context = model.observation.apply(observation)
    if not solver.itemwise:
        return solver.solve(score_at(model, params, context[:, None]), y, noise)

    def one(context: Array, y: Array) -> Array:
        return solver.solve(score_at(model, params, context), y, noise)

    return jax.vmap(jax.vmap(one, (None, 0)))(context, y)


def sample(
    model: Model, params: Params, observation: Array, row_keys: Key, count: int, sampler: Solver
) -> Array:
    """Samples `count` standardised actions for each observation [B, O]: [B, K, A].

    Each row has its own key in `row_keys` [B], so its samples do not depend on the rest of the
    batch, except through Langevin steps with batch norms.
    """
    shape = (count, len(model.action.mean))

    def noise(n: Array) -> Array:
        keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, n + 1)
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

    start = noise(jnp.int32(-1))
    return solved(model, params, observation, start, noise, sampler)


def log_density(
    model: Model, params: Params, observation: Array, y: Array, density: Solver
) -> Array:
    """Log-densities [B, K] of standardised actions y [B, K, A] under observations [B, O].

    In standardised units, like ARQ's threshold. Add `model.action.log_volume` for the log-density
    of the raw action.
    """
    return solved(model, params, observation, y, lambda n: y, density)
