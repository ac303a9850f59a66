"""Energy-based models of a behaviour: E(s, a) = -log pi_beta(a | s) + c(s), fitted by contrast.

The default loss contrasts data actions with samples of a known proposal q and subtracts log q from
every logit, so that differences of the fitted energy are differences of log-density. Langevin
negatives (Florence et al. 2022, "Implicit behavioral cloning") follow the model instead. Their
density is not known, so nothing is subtracted and the scale of the energy is not calibrated; they
come with that paper's gradient penalty.

Every 20th row of the data is held out of all losses (held_out.py).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner
from jaxrl_prefs.behavior import energy_search, proposals
from jaxrl_prefs.behavior.energy_search import EnergyFn
from jaxrl_prefs.behavior.held_out import is_held_out
from jaxrl_prefs.behavior.proposals import Proposal
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.nets import spectral_residual
from jaxrl_prefs.nets.spectral_residual import Residual, Vectors
from jaxrl_prefs.ops import contrastive
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Array, Box, Key, Metrics, Params, Transition

# ---------------------------------------------------------------------------------- losses


def split_loss(loss: Array, index: Array) -> tuple[Array, Metrics]:
    """The mean of a loss [B] over the rows that are trained on, a scalar; and metrics.

    `behavior_loss` is over those rows, `held_out_loss` over the others. Each has count 0 in a batch
    without such rows.
    """
    chex.assert_rank(loss, 1)
    chex.assert_equal_shape([loss, index])
    held_out = is_held_out(index)
    kept = 1 - held_out
    total = jnp.sum(kept * loss)
    metrics = {
        "behavior_loss": (total, kept.sum()),
        "held_out_loss": (jnp.sum(held_out * loss), held_out.sum()),
    }
    return total / jnp.maximum(kept.sum(), 1), metrics


def contrastive_loss(
    energy: EnergyFn, log_q: EnergyFn, batch: Transition, negatives: Array
) -> tuple[Array, Metrics]:
    """InfoNCE with logits -E - log q: a scalar, and metrics.

    Args:
        energy: the model.
        log_q: log-density of the negatives, or 0 where it is not known.
        batch: [B] transitions, whose actions are the positives.
        negatives: [B, n, A].
    """
    chex.assert_rank([batch.action, negatives], [2, 3])
    chex.assert_shape(negatives, (len(batch.action), None, batch.action.shape[1]))
    candidates = jnp.concatenate([batch.action[:, None], negatives], 1)
    context = batch.observation[:, None]
    logits = -energy(context, candidates) - log_q(context, candidates)
    loss, metrics = split_loss(contrastive.infonce(logits), batch.index)
    held_out, ranks = is_held_out(batch.index), contrastive.rank_accuracy(logits)
    return loss, metrics | {"rank_accuracy": (jnp.sum(held_out * ranks), held_out.sum())}


# ---------------------------------------------------------------------------------- models


class EnergyModel(NamedTuple):
    """An energy network, the box of its actions, and how its negatives are made."""

    net: Residual
    box: Box
    negatives: int  # n
    proposal: Proposal
    langevin_steps: int  # 0 takes the proposal's samples; else Langevin chains start from them
    candidates: int  # K of the search by which the model acts
    rounds: int  # of that search

    @property
    def rule(self) -> tuple[int, str]:
        """How many candidates the model acts by, and how it chooses one."""
        return self.candidates, f"lowest energy of {self.rounds} rounds"

    def init(self, key: Key, observation: Array, action: Array) -> tuple[Params, Vectors]:
        """Parameters and power-iteration vectors; the arrays are read for shapes only."""
        net_key, vector_key = jax.random.split(key)
        params = self.net.init(net_key, observation, action)
        return params, self.net.start(vector_key, params)

    def power_iteration(self, params: Params, vectors: Vectors) -> Vectors:
        """One power iteration, before each gradient step."""
        return self.net.power_iteration(params, vectors)

    def energy(self, params: Params, vectors: Vectors) -> EnergyFn:
        """E(s, a) as a function, at fixed parameters."""
        return lambda observation, action: self.net.apply(params, vectors, observation, action)

    def act(self, params: Params, vectors: Vectors, observation: Array, key: Key) -> Array:
        """The action of lowest energy that the derivative-free search finds: [B, A]."""
        candidates, level = energy_search.search(
            self.energy(params, vectors),
            observation,
            key,
            count=self.candidates,
            rounds=self.rounds,
            box=self.box,
        )
        return energy_search.lowest(candidates, level)

    def loss(
        self, params: Params, vectors: Vectors, batch: Transition, key: Key
    ) -> tuple[Array, Metrics]:
        """The contrastive loss of a batch; with Langevin negatives, plus the gradient penalty."""
        energy = self.energy(params, vectors)
        fixed = self.energy(jax.lax.stop_gradient(params), vectors)
        negatives = self.sample_negatives(fixed, batch.observation, key)
        loss, metrics = contrastive_loss(energy, self.log_q, batch, negatives)
        metrics |= learner.measured(gain=spectral_residual.gain(params))
        if not self.langevin_steps:
            return loss, metrics
        candidates = jnp.concatenate([batch.action[:, None], negatives], 1)
        slopes = energy_search.slopes(energy, batch.observation, candidates)
        penalty = jnp.mean(contrastive.slope_penalty(slopes))
        return loss + penalty, metrics | learner.measured(slope_penalty=penalty)

    def sample_negatives(self, energy: EnergyFn, observation: Array, key: Key) -> Array:
        """Negatives for each observation: [B, n, A]."""
        sample_key, chain_key = jax.random.split(key)
        start = self.proposal.sample(observation, sample_key, self.negatives)
        if not self.langevin_steps:
            return start
        return energy_search.langevin(
            energy, observation, start, chain_key, steps=self.langevin_steps, box=self.box
        )

    def log_q(self, observation: Array, action: Array) -> Array:
        """The log-density of the negatives; 0 where it is not known."""
        if self.langevin_steps:
            return jnp.zeros(action.shape[:-1], action.dtype)
        return self.proposal.log_density(observation, action)


class GaussianModel(NamedTuple):
    """A diagonal Gaussian fitted by likelihood, as an energy; it has no power-iteration vectors.

    Its mean lies in the box. The probability that falls outside the box depends only on the state,
    so differences of the energy are also those of the Gaussian truncated to the box.
    """

    policy: DiagonalGaussian

    @property
    def box(self) -> Box:
        """The bounds of the actions."""
        return self.policy.box

    @property
    def rule(self) -> tuple[int, str]:
        """How many candidates the model acts by, and how it chooses one."""
        return 1, "single sample"

    def init(self, key: Key, observation: Array, action: Array) -> tuple[Params, Vectors]:
        """Parameters, and no vectors."""
        del action
        return self.policy.init(key, observation), {}

    def power_iteration(self, params: Params, vectors: Vectors) -> Vectors:
        """Returns the vectors as they are: there are none."""
        del params
        return vectors

    def energy(self, params: Params, vectors: Vectors) -> EnergyFn:
        """-log N(a; mean(s), std(s)^2)."""
        del vectors
        return lambda observation, action: -self.policy.log_density(params, observation, action)

    def act(self, params: Params, vectors: Vectors, observation: Array, key: Key) -> Array:
        """A single sample, clipped to the box: [B, A]."""
        del vectors
        return self.policy.sample(params, observation, key, 1)[:, 0]

    def loss(
        self, params: Params, vectors: Vectors, batch: Transition, key: Key
    ) -> tuple[Array, Metrics]:
        """The mean negative log-likelihood of a batch."""
        del key
        energy = self.energy(params, vectors)
        return split_loss(energy(batch.observation, batch.action), batch.index)


class TiltedModel(NamedTuple):
    """A Gaussian corrected by a network: E(s, a) = f(s, a) - log N(a; mean(s), std(s)^2).

    The Gaussian is fitted by likelihood, f by contrast. Half of the negatives are uniform and half
    come from the Gaussian, truncated to the box. Both densities are known, so the energy is as
    calibrated as with uniform negatives only (ops/contrastive.py).

    It serves narrow behaviour in several dimensions. There no uniform sample comes near the data: a
    network that is far too wide has almost no loss, and nothing teaches it the slope between the
    data and the uniform samples. The Gaussian has such a slope everywhere (docs/methods/bpr.md).
    Ours.

    Parameters are {"tilt": the network's, "gaussian": GaussianModel's}; the vectors are the
    network's.
    """

    net: Residual
    gaussian: GaussianModel
    negatives: int  # n
    candidates: int  # K samples; the model acts by the one of lowest energy

    @property
    def box(self) -> Box:
        """The bounds of the actions."""
        return self.gaussian.box

    @property
    def rule(self) -> tuple[int, str]:
        """How many candidates the model acts by, and how it chooses one."""
        return self.candidates, "lowest energy"

    def init(self, key: Key, observation: Array, action: Array) -> tuple[Params, Vectors]:
        """Parameters and power-iteration vectors; the arrays are read for shapes only."""
        net_key, vector_key, gaussian_key = jax.random.split(key, 3)
        tilt = self.net.init(net_key, observation, action)
        gaussian, _ = self.gaussian.init(gaussian_key, observation, action)
        return {"tilt": tilt, "gaussian": gaussian}, self.net.start(vector_key, tilt)

    def power_iteration(self, params: Params, vectors: Vectors) -> Vectors:
        """One power iteration, before each gradient step."""
        return self.net.power_iteration(params["tilt"], vectors)

    def energy(self, params: Params, vectors: Vectors) -> EnergyFn:
        """E(s, a) as a function; gradients reach the network only, not the Gaussian."""
        base = self.gaussian.energy(jax.lax.stop_gradient(params["gaussian"]), {})
        return lambda observation, action: (
            self.net.apply(params["tilt"], vectors, observation, action) + base(observation, action)
        )

    def act(self, params: Params, vectors: Vectors, observation: Array, key: Key) -> Array:
        """The sample of lowest energy among K of the proposal: [B, A].

        The derivative-free search would not do: even its last perturbations, a sixth of the box's
        radius, are wider than the behaviour that this model is for.
        """
        samples = self.proposal(params).sample(observation, key, self.candidates)
        level = self.energy(params, vectors)(observation[:, None], samples)
        return energy_search.lowest(samples, level)

    def loss(
        self, params: Params, vectors: Vectors, batch: Transition, key: Key
    ) -> tuple[Array, Metrics]:
        """The contrastive loss of the network plus the Gaussian's own; they share no gradient."""
        energy, proposal = self.energy(params, vectors), self.proposal(params)
        negatives = proposal.sample(batch.observation, key, self.negatives)
        loss, metrics = contrastive_loss(energy, proposal.log_density, batch, negatives)
        gaussian_loss, found = self.gaussian.loss(params["gaussian"], {}, batch, key)
        metrics |= learner.measured(gain=spectral_residual.gain(params["tilt"]))
        return loss + gaussian_loss, metrics | {"gaussian_loss": found["behavior_loss"]}

    def proposal(self, params: Params) -> Proposal:
        """Half uniform, half the Gaussian, which receives no gradient from it."""
        fixed = jax.lax.stop_gradient(params["gaussian"])
        near = proposals.truncated_normal(partial(self.gaussian.policy.moments, fixed), self.box)
        return proposals.even_mixture(proposals.uniform(self.box), near)


Model = EnergyModel | GaussianModel | TiltedModel


# ------------------------------------------------------------------------ training, measuring


def train(
    part: Trainable,
    vectors: Vectors,
    model: Model,
    opt: optax.GradientTransformation,
    batch: Transition,
    key: Key,
) -> tuple[Trainable, Vectors, Metrics]:
    """One power iteration and one gradient step of a model on a batch."""
    vectors = model.power_iteration(part.params, vectors)
    part, metrics = learner.gradient_step(
        part, opt, lambda params: model.loss(params, vectors, batch, key)
    )
    return part, vectors, metrics


def data_ranks(
    model: Model, params: Params, vectors: Vectors, batch: Transition, key: Key
) -> Array:
    """Whether each data action has a lower energy than a uniform one: [B], of 0, 1/2 or 1."""
    energy = model.energy(params, vectors)
    other = uniform_in(model.box, key, batch.action.shape, batch.action.dtype)
    logits = [-energy(batch.observation, action) for action in (batch.action, other)]
    return contrastive.rank_accuracy(jnp.stack(logits, -1))
