"""Energy-based models of a behaviour: E(s, a) = -log pi_beta(a | s) + c(s), fitted by contrast.

The default contrasts data actions with draws of a known proposal q and subtracts log q from every
logit, so that differences of the fitted energy are differences of log-density. Langevin negatives
(Florence et al. 2022, "Implicit behavioral cloning") follow the model instead: their density is not
known, nothing is subtracted, and the scale of the energy is not calibrated. They come with that
paper's gradient penalty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.nets import spectral_residual
from jaxrl_prefs.nets.spectral_residual import Residual, Vectors
from jaxrl_prefs.ops import contrastive, gaussian
from jaxrl_prefs.ops.shapes import clip_to_box, expand_rank, uniform_in
from jaxrl_prefs.policies.gaussian import gaussian_head
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Transition

HELD_OUT = 20  # every 20th row is measured and not trained on: ours

# Langevin chain of Florence et al. 2022, in units of half the action box
FIRST_STEP, LAST_STEP, POWER = 0.5, 1e-5, 2.0  # step sizes
NOISE = 0.5  # of a move, as a share of the step size
LONGEST_MOVE = 0.5

# Derivative-free search of the same paper
SEARCH_NOISE, SHRINK = 0.33, 0.5  # of the first perturbation, in half boxes; factor per round

EnergyFn = Callable[[Array, Array], Array]  # (observation [..., O], action [..., A]) -> [...]


class Proposal(NamedTuple):
    """A density that can be drawn from, over actions in every state."""

    draw: Callable[[Array, Key, int], Array]  # (observation [B, O], key, n) -> [B, n, A]
    log_density: EnergyFn


def uniform(low: np.ndarray, high: np.ndarray) -> Proposal:
    """The uniform density on the box between `low` and `high`, [A] each."""
    level = -float(np.sum(np.log(np.asarray(high, np.float64) - low)))

    def draw(observation: Array, key: Key, count: int) -> Array:
        shape = (len(observation), count, len(low))
        return uniform_in(low, high, key, shape, jnp.dtype(jnp.float32))

    def log_density(observation: Array, action: Array) -> Array:
        del observation
        return jnp.full(action.shape[:-1], level, action.dtype)

    return Proposal(draw, log_density)


def normal(
    law: Callable[[Array], tuple[Array, Array]], low: np.ndarray, high: np.ndarray
) -> Proposal:
    """Diagonal Gaussians, cut off at the box.

    Args:
        law: observation [..., O] -> mean, inside the box, and standard deviation, [..., A] each.
        low: [A].
        high: [A].
    """

    def bounds(mean: Array, std: Array) -> tuple[Array, Array]:
        return (expand_rank(low, mean.ndim) - mean) / std, (
            expand_rank(high, mean.ndim) - mean
        ) / std

    def draw(observation: Array, key: Key, count: int) -> Array:
        mean, std = (x[:, None] for x in law(observation))
        shape = (len(observation), count, len(low))
        z = jax.random.truncated_normal(key, *bounds(mean, std), shape, mean.dtype)
        return clip_to_box(mean + std * z, low, high)

    def log_density(observation: Array, action: Array) -> Array:
        mean, std = law(observation)
        least, most = (jax.scipy.stats.norm.cdf(x) for x in bounds(mean, std))
        return gaussian.log_density(action, mean, std) - jnp.sum(jnp.log(most - least), -1)

    return Proposal(draw, log_density)


def half_and_half(one: Proposal, other: Proposal) -> Proposal:
    """Draws either with probability 1/2."""

    def draw(observation: Array, key: Key, count: int) -> Array:
        one_key, other_key, coin_key = jax.random.split(key, 3)
        first, second = (
            law.draw(observation, k, count) for law, k in ((one, one_key), (other, other_key))
        )
        return jnp.where(
            jax.random.bernoulli(coin_key, 0.5, first.shape[:2])[..., None], first, second
        )

    def log_density(observation: Array, action: Array) -> Array:
        densities = one.log_density(observation, action), other.log_density(observation, action)
        return jnp.logaddexp(*densities) - math.log(2)

    return Proposal(draw, log_density)


def held_out(index: Array) -> Array:
    """1 for the rows that are kept out of the loss, else 0: [B] -> [B]."""
    return (index % HELD_OUT == 0).astype(jnp.float32)


def contrast(energy: EnergyFn, log_q: EnergyFn, observation: Array, candidates: Array) -> Array:
    """Logits -E - log q of candidates [B, 1 + n, A], the data's first: [B, 1 + n]."""
    context = observation[:, None]
    return -energy(context, candidates) - log_q(context, candidates)


def split_loss(loss: Array, index: Array) -> tuple[Array, Metrics]:
    """The mean loss of the rows that are trained on, [B] -> scalar; and metrics of both parts.

    `behavior_loss` is of those rows, `held_out_loss` of the others; one counts 0 in a batch that
    has none of its rows.
    """
    apart = held_out(index)
    kept = 1 - apart
    total = jnp.sum(kept * loss)
    metrics = {
        "behavior_loss": (total, kept.sum()),
        "held_out_loss": (jnp.sum(apart * loss), apart.sum()),
    }
    return total / jnp.maximum(kept.sum(), 1), metrics


def contrasted(
    energy: EnergyFn, log_q: EnergyFn, batch: Transition, negatives: Array
) -> tuple[Array, Metrics]:
    """InfoNCE of a batch's actions against negatives [B, n, A] of density q, and metrics."""
    candidates = jnp.concatenate([batch.action[:, None], negatives], 1)
    logits = contrast(energy, log_q, batch.observation, candidates)
    loss, metrics = split_loss(contrastive.infonce(logits), batch.index)
    apart, ranks = held_out(batch.index), contrastive.rank_accuracy(logits)
    return loss, metrics | {"rank_accuracy": (jnp.sum(apart * ranks), apart.sum())}


class EnergyModel(NamedTuple):
    """An energy network with the box of its actions and the way its negatives are made."""

    net: Residual
    low: np.ndarray  # [A]
    high: np.ndarray  # [A]
    negatives: int  # n
    proposal: Proposal
    langevin_steps: int  # 0: the proposal's draws as they are; else chains that start in them
    candidates: int  # K of the search by which the model acts
    rounds: int  # of that search

    @property
    def rule(self) -> tuple[int, str]:
        """How many candidates the model acts by, and how one is chosen."""
        return self.candidates, f"lowest energy of {self.rounds} rounds"

    def init(self, key: Key, observation: Array, action: Array) -> tuple[Params, Vectors]:
        """Parameters and power-iteration vectors; the arrays are read for shapes only."""
        net_key, vector_key = jax.random.split(key)
        params = self.net.init(net_key, observation, action)
        return params, self.net.start(vector_key, params)

    def advance(self, params: Params, vectors: Vectors) -> Vectors:
        """One power iteration, before each gradient step."""
        return self.net.advance(params, vectors)

    def energy(self, params: Params, vectors: Vectors) -> EnergyFn:
        """E(s, a) as a function, with parameters held."""
        return lambda observation, action: self.net.apply(params, vectors, observation, action)

    def act(self, params: Params, vectors: Vectors, observation: Array, key: Key) -> Array:
        """The lowest energy that the derivative-free search finds: [B, A]."""
        energy = self.energy(params, vectors)
        return lowest(
            *search(energy, observation, key, self.candidates, self.rounds, self.low, self.high)
        )

    def fit(
        self, params: Params, vectors: Vectors, batch: Transition, key: Key
    ) -> tuple[Array, Metrics]:
        """The contrastive loss of a batch; with Langevin negatives, plus the gradient penalty."""
        energy = self.energy(params, vectors)
        held = self.energy(jax.lax.stop_gradient(params), vectors)
        negatives = self.draw(held, batch.observation, key)
        loss, metrics = contrasted(energy, self.log_q, batch, negatives)
        metrics |= learner.measured(gain=spectral_residual.gain(params))
        if not self.langevin_steps:
            return loss, metrics
        candidates = jnp.concatenate([batch.action[:, None], negatives], 1)
        steepness = slopes(energy, batch.observation, candidates)
        penalty = jnp.mean(contrastive.slope_penalty(steepness))
        return loss + penalty, metrics | learner.measured(slope_penalty=penalty)

    def draw(self, energy: EnergyFn, observation: Array, key: Key) -> Array:
        """Negatives for each observation: [B, n, A]."""
        draw_key, chain_key = jax.random.split(key)
        start = self.proposal.draw(observation, draw_key, self.negatives)
        if not self.langevin_steps:
            return start
        return langevin(
            energy, observation, start, chain_key, self.langevin_steps, self.low, self.high
        )

    def log_q(self, observation: Array, action: Array) -> Array:
        """What is subtracted from the logits; 0 where the negatives' density is not known."""
        if self.langevin_steps:
            return jnp.zeros(action.shape[:-1], action.dtype)
        return self.proposal.log_density(observation, action)


class GaussianModel(NamedTuple):
    """A diagonal Gaussian fitted by likelihood, seen as an energy; it has no vectors.

    Its mean lies in the box (parts/gaussian.py). What the box cuts off depends on the state alone,
    so differences of the energy are those of the law inside the box too.
    """

    net: Net
    low: np.ndarray  # [A]
    high: np.ndarray  # [A]

    @property
    def rule(self) -> tuple[int, str]:
        """How many candidates the model acts by, and how one is chosen."""
        return 1, "the one drawn"

    def init(self, key: Key, observation: Array, action: Array) -> tuple[Params, Vectors]:
        """Parameters, and no vectors."""
        del action
        return self.net.init(key, observation), {}

    def advance(self, params: Params, vectors: Vectors) -> Vectors:
        """Nothing to move."""
        del params
        return vectors

    def energy(self, params: Params, vectors: Vectors) -> EnergyFn:
        """-log N(a; mean(s), std(s)^2)."""
        del vectors
        return lambda observation, action: (
            -gaussian.log_density(action, *self.law(params, observation))
        )

    def law(self, params: Params, observation: Array) -> tuple[Array, Array]:
        """Mean, inside the box, and standard deviation: [..., A] each."""
        return gaussian_head(self.low, self.high)(self.net.apply(params, observation))

    def act(self, params: Params, vectors: Vectors, observation: Array, key: Key) -> Array:
        """One draw, clipped to the box: [B, A]."""
        del vectors
        mean, std = self.law(params, observation)
        return clip_to_box(mean + std * jax.random.normal(key, mean.shape), self.low, self.high)

    def fit(
        self, params: Params, vectors: Vectors, batch: Transition, key: Key
    ) -> tuple[Array, Metrics]:
        """Minus the mean log-likelihood of a batch."""
        del key
        energy = self.energy(params, vectors)
        return split_loss(energy(batch.observation, batch.action), batch.index)


class TiltedModel(NamedTuple):
    """A Gaussian that a network corrects: E(s, a) = f(s, a) - log N(a; mean(s), std(s)^2).

    The Gaussian is fitted by likelihood, f by contrast: half of its negatives are uniform, half the
    Gaussian's, cut off at the box. Both densities are known, so the energy is as calibrated as with
    uniform ones (ops/contrastive.py). Where the behaviour is narrow and actions have several
    dimensions no uniform draw comes near it, and a network that is far too wide has next to no
    loss; between the data and the uniform draws nothing tells it where down is, while the Gaussian
    leads to the data from everywhere (docs/methods/bpr.md). Ours.

    Parameters are {"tilt": the network's, "gaussian": GaussianModel's}; vectors the network's.
    """

    net: Residual
    gaussian: GaussianModel
    negatives: int  # n
    candidates: int  # K draws, by the best of which the model acts

    @property
    def low(self) -> np.ndarray:
        """Of the action box, [A]."""
        return self.gaussian.low

    @property
    def high(self) -> np.ndarray:
        """Of the action box, [A]."""
        return self.gaussian.high

    @property
    def rule(self) -> tuple[int, str]:
        """How many candidates the model acts by, and how one is chosen."""
        return self.candidates, "lowest energy"

    def init(self, key: Key, observation: Array, action: Array) -> tuple[Params, Vectors]:
        """Parameters and power-iteration vectors; the arrays are read for shapes only."""
        net_key, vector_key, gaussian_key = jax.random.split(key, 3)
        tilt = self.net.init(net_key, observation, action)
        gaussian, _ = self.gaussian.init(gaussian_key, observation, action)
        return {"tilt": tilt, "gaussian": gaussian}, self.net.start(vector_key, tilt)

    def advance(self, params: Params, vectors: Vectors) -> Vectors:
        """One power iteration, before each gradient step."""
        return self.net.advance(params["tilt"], vectors)

    def energy(self, params: Params, vectors: Vectors) -> EnergyFn:
        """E(s, a) as a function; gradients reach the network alone."""
        base = self.gaussian.energy(jax.lax.stop_gradient(params["gaussian"]), {})
        return lambda observation, action: (
            self.net.apply(params["tilt"], vectors, observation, action) + base(observation, action)
        )

    def act(self, params: Params, vectors: Vectors, observation: Array, key: Key) -> Array:
        """Of draws of the proposal the one of lowest energy: [B, A].

        The steps of `search`, a sixth of the box in the end, are wider than such behaviour.
        """
        drawn = self.proposal(params).draw(observation, key, self.candidates)
        return lowest(drawn, self.energy(params, vectors)(observation[:, None], drawn))

    def fit(
        self, params: Params, vectors: Vectors, batch: Transition, key: Key
    ) -> tuple[Array, Metrics]:
        """The contrastive loss of a batch, plus the Gaussian's own: neither moves the other."""
        energy, proposal = self.energy(params, vectors), self.proposal(params)
        negatives = proposal.draw(batch.observation, key, self.negatives)
        loss, metrics = contrasted(energy, proposal.log_density, batch, negatives)
        own, found = self.gaussian.fit(params["gaussian"], {}, batch, key)
        metrics |= learner.measured(gain=spectral_residual.gain(params["tilt"]))
        return loss + own, metrics | {"gaussian_loss": found["behavior_loss"]}

    def proposal(self, params: Params) -> Proposal:
        """Half uniform, half the Gaussian, held."""
        held = jax.lax.stop_gradient(params["gaussian"])
        near = normal(partial(self.gaussian.law, held), self.low, self.high)
        return half_and_half(uniform(self.low, self.high), near)


Model = EnergyModel | GaussianModel | TiltedModel


def train(
    part: Trainable,
    vectors: Vectors,
    model: Model,
    opt: optax.GradientTransformation,
    batch: Transition,
    key: Key,
) -> tuple[Trainable, Vectors, Metrics]:
    """One power iteration and one gradient step of a model on a batch."""
    vectors = model.advance(part.params, vectors)

    def loss(params: Params) -> tuple[Array, Metrics]:
        return model.fit(params, vectors, batch, key)

    part, metrics = learner.gradient_step(part, opt, loss)
    return part, vectors, metrics


def ranks(model: Model, params: Params, vectors: Vectors, batch: Transition, key: Key) -> Array:
    """Whether each data action has a lower energy than a uniform one: [B], of 0, 1/2, 1."""
    energy = model.energy(params, vectors)
    shape, dtype = batch.action.shape, batch.action.dtype
    other = uniform_in(model.low, model.high, key, shape, dtype)
    pair = [-energy(batch.observation, action) for action in (batch.action, other)]
    return contrastive.rank_accuracy(jnp.stack(pair, -1))


def slopes(energy: EnergyFn, observation: Array, action: Array) -> Array:
    """dE / da at actions [B, K, A]: [B, K, A]."""
    context = observation[:, None]
    return jax.grad(lambda a: jnp.sum(energy(context, a)))(action)


def langevin(
    energy: EnergyFn,
    observation: Array,
    start: Array,
    key: Key,
    steps: int,
    low: np.ndarray,
    high: np.ndarray,
) -> Array:
    """Noisy descent on the energy from `start` [B, K, A], inside the box; constants to a gradient.

    The step size falls from .5 to 1e-5 by a polynomial of power 2, and no move exceeds half the
    half box (Florence et al. 2022, in whose code the noise is multiplied by the step size).
    """
    radius = expand_rank((high - low) / 2, 3)
    share = np.arange(steps) / max(steps - 1, 1)
    sizes = LAST_STEP + (FIRST_STEP - LAST_STEP) * (1 - share) ** POWER

    def move(action: Array, inputs: tuple[Array, Key]) -> tuple[Array, None]:
        size, key = inputs
        noise = NOISE * jax.random.normal(key, action.shape, action.dtype)
        step = size * (noise - 0.5 * radius * slopes(energy, observation, action))
        step = jnp.clip(step, -LONGEST_MOVE, LONGEST_MOVE)
        return clip_to_box(action + radius * step, low, high), None

    inputs = (jnp.asarray(sizes, start.dtype), jax.random.split(key, steps))
    return jax.lax.stop_gradient(jax.lax.scan(move, start, inputs)[0])


def search(
    energy: EnergyFn,
    observation: Array,
    key: Key,
    count: int,
    rounds: int,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[Array, Array]:
    """Derivative-free search for likely actions: candidates [B, K, A] and energies [B, K].

    Uniform candidates; then `rounds` - 1 times K of them by weight exp(-E), with replacement,
    perturbed by Gaussian noise that halves from round to round (Florence et al. 2022).
    """
    start_key, *keys = jax.random.split(key, rounds)
    radius, context = expand_rank((high - low) / 2, 3), observation[:, None]
    action = uniform(low, high).draw(observation, start_key, count)
    for i, round_key in enumerate(keys):
        choice_key, noise_key = jax.random.split(round_key)
        action = resampled(action, -energy(context, action), choice_key)
        noise = SEARCH_NOISE * SHRINK**i * jax.random.normal(noise_key, action.shape, action.dtype)
        action = clip_to_box(action + radius * noise, low, high)
    return action, energy(context, action)


def resampled(action: Array, logits: Array, key: Key) -> Array:
    """K of each row's K actions [B, K, A], with replacement and weights softmax(logits [B, K])."""

    def rows(key: Key, weight: Array) -> Array:
        return jax.random.choice(key, weight.shape[0], weight.shape, p=weight)

    chosen = jax.vmap(rows)(jax.random.split(key, action.shape[0]), jax.nn.softmax(logits))
    return jnp.take_along_axis(action, chosen[..., None], 1)


def lowest(action: Array, energy: Array) -> Array:
    """Of candidates [B, K, A] with energies [B, K], the one of lowest energy: [B, A]."""
    best = jnp.argmin(energy, -1)
    return jnp.take_along_axis(action, best[:, None, None], 1)[:, 0]
