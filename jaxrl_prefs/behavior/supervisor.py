"""The supervisor of TD3-BST and IQL-BST: a Morse network, and a Gaussian clone that measures it.

    N(c(s), sigma(s)^2)   the clone: a diagonal Gaussian fitted to the data's actions by likelihood
    C(t)                  mean of 1 - M(s, c(s) + t sigma(s) e) over states and signs e in {-1, 1}^k

TD3-BST pulls a policy back by a weight that grows with its uncertainty. It needs C(0) to be small,
and C(1), one standard deviation away, to be clearly larger: a slope. The optimum of the Morse loss
has none, as the certainty is 1 wherever the data are denser than the negatives (morse.py). The
clone has four uses, each an option that this library adds:

- it measures C(0) and C(1) at every evaluation, so that `warnings` can name a network without a
  slope (without a clone, a diagnosis moves recorded actions a little instead);
- training of the Morse network ends where C(1) of a batch has fallen to `stop_uncertainty`;
- negatives come from the clone widened by `near_width`, so that the optimum itself has a slope;
- the policy's distance to the data is in units of sigma(s) (`distance=standardised`).

The functions take any method's state with the fields `morse`, `clone` and `stopped_at`. The last
two are None without a clone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.behavior import morse, proposals
from jaxrl_prefs.behavior.energy import split_loss
from jaxrl_prefs.behavior.morse import Morse
from jaxrl_prefs.ops.shapes import clip_to_box
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Array, Key, Metrics, Params, Spec, Transition

FLAT = 0.05  # C(1) of a step function: up to there the certainty is above .95
# How far recorded actions are moved without a clone, in standard deviations of the data's actions.
# Those are over all states, and mostly far more than the noise of one state's actions.
NEAR_DATA = 0.05
METRICS = ("morse_loss", "certainty_data", "certainty_held_out", "certainty_uniform")


class Supervisor(NamedTuple):
    """Networks, optimisers and settings; no arrays that training changes."""

    morse: Morse
    morse_optimizer: optax.GradientTransformation
    negatives: int  # per row
    clone: DiagonalGaussian | None
    clone_optimizer: optax.GradientTransformation
    near_width: float | Array  # standard deviations of the clone
    stop_uncertainty: float | Array  # 0: never stops


def from_config(config: Any, spec: Spec) -> Supervisor:
    """Makes networks and optimisers from the fields that TD3-BST and IQL-BST share.

    Raises:
        ValueError: for a value that no field allows, and for an option that needs a clone where
            `clone_steps` is 0.
    """
    for name in ("near", "stop_uncertainty"):
        value = getattr(config, name)
        if not isinstance(value, jax.Array) and not 0 <= value <= 1:
            raise ValueError(f"{name} must be in 0 to 1, it is {value}")
    needing = [name for name in ("near", "stop_uncertainty") if _is_on(getattr(config, name))]
    if config.distance == "standardised":
        needing.append("distance=standardised")
    if needing and not config.clone_steps:
        raise ValueError(f"{needing[0]} needs a clone: set clone_steps too, to 2000 for example")
    sizes: Any = (config.behavior_hidden, 2 * spec.action_dim)
    net = nets.mlp(*sizes, activation="relu", initialiser="lecun")
    return Supervisor(
        morse=morse.network(
            config.behavior_hidden,
            spec,
            kernel=config.kernel,
            scale=config.kernel_scale,
            negative_weight=config.negative_weight,
            shuffled=config.shuffled,
            near=config.near,
            input_noise=config.input_noise,
        ),
        morse_optimizer=learner.optimizer(
            config.behavior_learning_rate, weight_decay=config.behavior_weight_decay
        ),
        negatives=config.negative_samples,
        clone=DiagonalGaussian(net, spec.action_box) if config.clone_steps else None,
        clone_optimizer=learner.optimizer(config.behavior_learning_rate),
        near_width=config.near_width,
        stop_uncertainty=config.stop_uncertainty,
    )


def _is_on(value: float | Array) -> bool:
    """Whether an option is used; one that a sweep varies always is."""
    return isinstance(value, jax.Array) or value > 0


def init(key: Key, batch: Transition, *, supervisor: Supervisor) -> dict[str, Any]:
    """The state's fields; the batch is read for shapes only."""
    params = supervisor.morse.net.init(key, batch.observation, batch.action)
    part = learner.init(params, supervisor.morse_optimizer)
    if supervisor.clone is None:
        return {"morse": part, "clone": None, "stopped_at": None}
    clone = supervisor.clone.init(jax.random.fold_in(key, 1), batch.observation)
    clone_part = learner.init(clone, supervisor.clone_optimizer)
    return {"morse": part, "clone": clone_part, "stopped_at": jnp.int32(-1)}


def pretraining(config: Any, supervisor: Supervisor) -> list[dict[str, Any]]:
    """Arguments of the phases before the policy's, from the fields that both methods share.

    The clone's phase exists only where there is a clone: phases choose the random numbers.
    """
    clone = {
        "name": "clone",
        "steps": config.clone_steps,
        "update": partial(update_clone, supervisor=supervisor),
        "batch_size": config.behavior_batch_size,
        "outputs": ("clone",),
    }
    network = {
        "name": "morse",
        "steps": config.pretrain_steps,
        "update": partial(update_morse, supervisor=supervisor),
        "batch_size": config.behavior_batch_size,
        "outputs": ("morse", "clone", "stopped_at") if config.clone_steps else ("morse",),
    }
    return [clone, network] if config.clone_steps else [network]


# ----------------------------------------------------------------------------------- updates


def update_clone(
    state: Any, batch: Transition, key: Key, step: Array, *, supervisor: Supervisor
) -> tuple[Any, Metrics]:
    """One step of the clone on the negative log-likelihood of the rows that are not held out."""
    del key, step
    assert supervisor.clone is not None
    clone = supervisor.clone

    def loss(params: Params) -> tuple[Array, Metrics]:
        log_density = clone.log_density(params, batch.observation, batch.action)
        value, metrics = split_loss(-log_density, batch.index)
        names = {"behavior_loss": "clone_loss", "held_out_loss": "clone_held_out_loss"}
        return value, {names[name]: x for name, x in metrics.items()}

    part, metrics = learner.gradient_step(state.clone, supervisor.clone_optimizer, loss)
    return replace(state, clone=part), metrics


def update_morse(
    state: Any, batch: Transition, key: Key, step: Array, *, supervisor: Supervisor
) -> tuple[Any, Metrics]:
    """One step of the Morse network; none once C(1) has fallen to `stop_uncertainty`.

    With that rule, `stopped_at` is the number of updates that the network took, or -1 while it
    trains, and the metrics contain C(1) of the batches as `uncertainty_one_std`.
    """

    def train(state: Any) -> tuple[Any, Metrics]:
        part, metrics = morse.update(
            state.morse,
            batch,
            key,
            morse=supervisor.morse,
            opt=supervisor.morse_optimizer,
            negatives=supervisor.negatives,
            near=_near(state, supervisor),
        )
        return replace(state, morse=part), metrics

    if supervisor.clone is None or not _is_on(supervisor.stop_uncertainty):
        return train(state)

    measuring_key = jax.random.fold_in(key, 3)

    def train_and_measure(state: Any) -> tuple[Any, Metrics]:
        state, metrics = train(state)
        away = jnp.mean(uncertainty_at(1.0, state, batch, measuring_key, supervisor=supervisor))
        stops = away <= supervisor.stop_uncertainty
        state = replace(state, stopped_at=jnp.where(stops, step + 1, -1).astype(jnp.int32))
        return state, metrics | learner.measured(uncertainty_one_std=away)

    def skip(state: Any) -> tuple[Any, Metrics]:
        return state, learner.unmeasured(*METRICS, "uncertainty_one_std")

    return jax.lax.cond(state.stopped_at < 0, train_and_measure, skip, state)


def _near(state: Any, supervisor: Supervisor) -> proposals.Proposal | None:
    """The clone widened by `near_width` and truncated to the box, if negatives come from it."""
    clone = supervisor.clone
    if clone is None or not _is_on(supervisor.morse.near):
        return None

    def moments(observation: Array) -> tuple[Array, Array]:
        mean, std = clone.moments(state.clone.params, observation)
        return mean, supervisor.near_width * std

    return proposals.truncated_normal(moments, clone.box)


# ---------------------------------------------------------------------------- in the objective


def clone_std(state: Any, batch: Transition, *, supervisor: Supervisor) -> Array | None:
    """The clone's standard deviations in the batch's states, [B, A]; None without a clone."""
    if supervisor.clone is None:
        return None
    return supervisor.clone.moments(state.clone.params, batch.observation)[1]


# --------------------------------------------------------------------------------- measuring


def uncertainty_at(
    distance: float, state: Any, batch: Transition, key: Key, *, supervisor: Supervisor
) -> Array:
    """1 - M at the clone's mean plus `distance` standard deviations in every dimension: [B].

    The direction is a corner of the cube, drawn for each row. Actions are clipped to the box.
    """
    assert supervisor.clone is not None
    mean, std = supervisor.clone.moments(state.clone.params, batch.observation)
    signs = jax.random.rademacher(key, mean.shape, mean.dtype)
    action = clip_to_box(mean + distance * signs * std, supervisor.clone.box)
    return morse.uncertainty(supervisor.morse, state.morse.params, batch.observation, action)


def uncertainty_near_data(
    state: Any, batch: Transition, key: Key, *, supervisor: Supervisor
) -> Array:
    """1 - M at recorded actions that are moved by `NEAR_DATA` in every dimension: [B].

    The unit is the standard deviation of the batch's actions in that dimension, and the direction
    is a corner of the cube, drawn for each row. Actions are clipped to the box.
    """
    std = jnp.std(batch.action, 0, keepdims=True)
    signs = jax.random.rademacher(key, batch.action.shape, batch.action.dtype)
    action = clip_to_box(batch.action + NEAR_DATA * signs * std, supervisor.morse.box)
    return morse.uncertainty(supervisor.morse, state.morse.params, batch.observation, action)


def diagnosis(
    state: Any,
    batch: Transition,
    key: Key,
    policy: Array,
    uniform: Array,
    *,
    supervisor: Supervisor,
) -> Metrics:
    """As `morse.diagnosis`; with a clone also C(0) and C(1), and how far the policy has gone.

    Without a clone `uncertainty_near_data` takes the place of C(1).

    `policy_clone_distance` is the root mean square, over rows and dimensions, of the distance
    between the policy's action and the clone's mean in standard deviations of the clone.
    """
    found = morse.diagnosis(supervisor.morse, state.morse.params, batch, policy, uniform)
    if supervisor.clone is None:
        near_key = jax.random.fold_in(key, 3)
        near = uncertainty_near_data(state, batch, near_key, supervisor=supervisor)
        return found | learner.measured(uncertainty_near_data=near)
    mean, std = supervisor.clone.moments(state.clone.params, batch.observation)
    here, away = (
        uncertainty_at(
            float(t), state, batch, jax.random.fold_in(key, t + 1), supervisor=supervisor
        )
        for t in (0, 1)
    )
    return found | learner.measured(
        uncertainty_clone=here,
        uncertainty_one_std=away,
        policy_clone_distance=jnp.sqrt(jnp.mean(jnp.square((policy - mean) / std))),
    )


def warnings(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Names a Morse network that is a step function, from the means that `diagnosis` measured.

    It is one where C(1) is below `FLAT` although at least half of a uniform action's certainty is
    gone. Without a clone the data's own actions, which are about one standard deviation from the
    behaviour's mean, and those that are moved a little take the place of C(1). Both have to be
    below `FLAT`: a network may be certain of the data alone and lose that within a small step.

    >>> warnings({"certainty_data": 0.7, "certainty_uniform": 0.1})
    ()
    """
    on_data = 1 - metrics.get("certainty_data", 0.0)
    near = max(on_data, metrics.get("uncertainty_near_data", 0.0))
    away = metrics.get("uncertainty_one_std", near)
    if not away < FLAT or not metrics.get("certainty_uniform", 1.0) < 0.5:
        return ()
    where = (
        "at the mean of the data's actions and one standard deviation away alike"
        if "uncertainty_one_std" in metrics
        else "on the data's own actions and close to them"
    )
    return (
        f"the Morse network is a step function: its certainty is above 0.95 {where}, so nothing "
        "pulls the policy until it has left the data. Where scores stay low, train it less "
        "(pretrain_steps, stop_uncertainty), narrow the kernel (kernel_scale=2k), or draw "
        "negatives near the data (near=0.5 with clone_steps=3000)",
    )
