"""IBC: implicit behavioural cloning.

Florence, Lynch, Zeng, Ramirez, Wahid, Downs, Wong, Lee, Mordatch, Tompson, CoRL 2021 (PMLR 164,
2022), arXiv 2109.00137.

An energy model of the behaviour is fitted by contrast; the policy searches for its lowest energy:

    E      <- minimise -log( exp(-E(s, a)) / (exp(-E(s, a)) + sum_j exp(-E(s, a_j))) )   (InfoNCE)
    a(s)    = argmin_a E(s, a), by derivative-free search

    symbol     name in code       shape
    E          energy             [B, K]
    a_j        negatives          [B, n, A]
    u          State.vectors      power-iteration vectors of E's spectral norms

Phases: `train` only. The model, its loss and the search are those of BPR (behavior/energy.py), so
that the two can be compared.

Deviations:
 1. Negatives are uniform by default, the paper's low-dimensional setting, and their (constant)
    log-density is subtracted. `negatives = "langevin"` is the paper's setting for D4RL, with its
    gradient penalty.
 2. The network ends in a learned positive gain, and every layer has a spectral norm (the paper: on
    D4RL). The learning rate falls by a cosine instead of by steps of .99. Both as in our BPR.
 3. Every 20th row is held out and measured: ours.
 4. The search has 256 candidates, the authors' code 16,384. As in theirs, it has three rounds and
    noise of .33 of half the box, halved each round. Uniform samples fill the action box, not the
    range of the data.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import flax.struct
import optax

from jaxrl_prefs import learner
from jaxrl_prefs.behavior import energy, proposals
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy, epoch, uniform
from jaxrl_prefs.nets import spectral_residual
from jaxrl_prefs.nets.spectral_residual import Vectors
from jaxrl_prefs.types import Array, Key, Metrics, Spec, Transition
from jaxrl_prefs.validation import require_choices, require_nonnegative, require_positive

BATCH_SAMPLERS = {"epoch": epoch, "uniform": uniform}
AT_LEAST_ONE = (
    "negative_samples",
    "langevin_steps",
    "search_samples",
    "search_rounds",
    "batch_size",
)
NONNEGATIVE = ("behavior_blocks", "train_steps")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates are those of our BPR; batch and steps are the paper's for D4RL."""

    behavior_width: int = 256  # of the energy network's hidden layers
    behavior_blocks: int = 4  # residual blocks of two layers each
    negatives: Literal["uniform", "langevin"] = "uniform"  # where negative actions come from
    negative_samples: int = 256  # n, negative actions per row
    langevin_steps: int = 100  # of the chain that makes a Langevin negative
    search_samples: int = 256  # candidates of the derivative-free search
    search_rounds: int = 3  # rounds of the search, the uniform one included
    behavior_learning_rate: float = 5e-4  # Adam's rate, a cosine to 0 over train_steps
    batch_size: int = 512  # rows per update
    # how rows are chosen: uniformly with replacement, or by shuffled passes over the data
    batches: Literal["epoch", "uniform"] = "uniform"
    train_steps: int = 100_000  # updates of the energy network


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    behavior: Trainable  # E
    vectors: Vectors


class Parts(NamedTuple):
    """What the loss is computed with; no arrays."""

    model: energy.EnergyModel
    optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the network and its optimiser."""
    box = spec.action_box
    model = energy.EnergyModel(
        net=spectral_residual.scalar(config.behavior_width, config.behavior_blocks),
        box=box,
        negatives=config.negative_samples,
        proposal=proposals.uniform(box),
        langevin_steps=config.langevin_steps if config.negatives == "langevin" else 0,
        candidates=config.search_samples,
        rounds=config.search_rounds,
    )
    return Parts(
        model, learner.optimizer(config.behavior_learning_rate, decay_steps=config.train_steps)
    )


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the energy."""
    del step
    behavior, vectors, metrics = energy.train(
        state.behavior, state.vectors, parts.model, parts.optimizer, batch, key
    )
    return replace(state, behavior=behavior, vectors=vectors), metrics


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The action of lowest energy that the search finds."""
    return parts.model.act(state.behavior.params, state.vectors, observation, key)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """How often a data action has a lower energy than a uniform one, and the gain."""
    ranks = energy.data_ranks(parts.model, state.behavior.params, state.vectors, batch, key)
    return learner.measured(rank_accuracy=ranks, gain=spectral_residual.gain(state.behavior.params))


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    params, vectors = parts.model.init(key, batch.observation, batch.action)
    return State(learner.init(params, parts.optimizer), vectors)


def make(config: Config, spec: Spec) -> Method:
    """Binds IBC to a config and to the data's sizes. Raises ValueError for a bad config."""
    require_choices(config)
    require_positive(config, *AT_LEAST_ONE)
    require_nonnegative(config, *NONNEGATIVE)
    parts = build(config, spec)
    step = partial(update, parts=parts)
    sampler = BATCH_SAMPLERS[config.batches]
    return Method(
        init=partial(init, parts=parts),
        phases=(Phase("train", config.train_steps, step, config.batch_size, sampler=sampler),),
        policies={"actor": Policy(partial(act, parts=parts), *parts.model.rule)},
        diagnose=partial(diagnose, parts=parts),
        uses_rewards=False,
    )
