"""Critics: ensembles of Q(s, a), their SARSA target, their regression and their diagnostics.

The values of an ensemble are [E, B]. Targets carry no gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.types import Array, Metrics, Net, Params, Transition


def twin(hidden: tuple[int, ...], *, layer_norm: bool = False, initialiser: str = "lecun") -> Net:
    """Two independent critics with ReLU: (observation, action) -> [2, ...]."""
    member = nets.scalar_mlp(
        hidden, activation="relu", layer_norm=layer_norm, initialiser=initialiser
    )
    return nets.ensemble(member, 2)


def gelu_value(hidden: tuple[int, ...], *, layer_norm: bool = True) -> Net:
    """A value network with GELU, as in FQL's code: Q(s, a) or V(s) -> [...].

    Kernels are Glorot-uniform; a layer is normalised after its activation. `nets.ensemble` makes
    several critics of it.
    """
    return nets.scalar_mlp(
        hidden, activation="gelu", layer_norm=layer_norm, norm_after=True, initialiser="glorot"
    )


def first_q(critic: Net, params: Params, observation: Array, action: Array) -> Array:
    """Q_1(s, a) of the first member, [B]: the critic that TD3's policy maximises."""
    return critic.apply(jax.tree.map(lambda leaf: leaf[:1], params), observation, action)[0]


# --------------------------------------------------------------------------------- targets


def sarsa_target(critic: Net, params: Params, batch: Transition) -> Array:
    """r + discount * mean_k Q_k(s', a') with the data's own next action: [B].

    Valid only where `has_sarsa_target` is 1; elsewhere a' is a placeholder of zeros.
    """
    q = critic.apply(params, batch.next_observation, batch.next_action)
    return jax.lax.stop_gradient(batch.reward + batch.discount * q.mean(0))


def sampled_target(
    critic: Net,
    params: Params,
    batch: Transition,
    next_action: Array,
    *,
    best: bool,
    over_members: Callable[[Array], Array],
) -> Array:
    """r + discount * over_members(agg_M Q_k(s', a'_M)) for actions a' [B, M, A]: [B].

    The aggregate over the M actions, their mean or with `best` their maximum, is taken for each
    member; `over_members` then maps [E, B] to [B].
    """
    chex.assert_rank([batch.reward, batch.discount], 1)
    chex.assert_equal_shape([batch.reward, batch.discount])
    chex.assert_shape(next_action, (*batch.reward.shape, None, batch.action.shape[-1]))
    q = critic.apply(params, batch.next_observation[:, None], next_action)
    next_value = over_members(q.max(-1) if best else q.mean(-1))
    chex.assert_equal_shape([next_value, batch.reward])
    return jax.lax.stop_gradient(batch.reward + batch.discount * next_value)


def has_sarsa_target(batch: Transition) -> Array:
    """0 where the episode was cut before the next action, else 1: [B].

    A terminal row counts although it has no next action: its target is its reward.
    """
    return jnp.where(batch.discount > 0, batch.has_next_action, 1)


# ------------------------------------------------------------------------------ regression


def squared_error(prediction: Array, target: Array, weight: Array | None = None) -> Array:
    """Mean over the batch of weight * (prediction - target)^2, all [B]; weight 1 if not given.

    The weights are divided by their sum, or by 1 if the sum is smaller, so that rows of weight 0 do
    not dilute the others.
    """
    error = jnp.square(prediction - target)
    if weight is None:
        return jnp.mean(error)
    return jnp.sum(weight * error) / jnp.maximum(jnp.sum(weight), 1)


def regress(
    trainable: Trainable,
    opt: optax.GradientTransformation,
    critic: Net,
    batch: Transition,
    target: Array,
    error: Callable[[Array, Array], Array] = squared_error,
    *,
    mean: bool = False,
) -> tuple[Trainable, Metrics]:
    """One gradient step of every member of a critic on `error(prediction [B], target [B])`.

    `target` is [B], one for all members, or [E, B], one for each. The loss is the sum over members,
    or their mean with `mean`, which matters where gradients are clipped. Members are differentiated
    one by one, so that only one member's activations are in memory. The target network does not
    move (`learner.polyak` moves it).

    Metrics: `critic_loss`, the mean error over members, and `q`, the mean prediction.
    """
    chex.assert_rank(target, {1, 2})
    chex.assert_shape(target, (..., len(batch.action)))

    def member(inputs: tuple[Params, Array]) -> tuple[Params, tuple[Array, Array]]:
        params, own_target = inputs if target.ndim == 2 else (inputs[0], target)

        def loss(params: Params) -> tuple[Array, tuple[Array, Array]]:
            single = jax.tree.map(lambda leaf: leaf[None], params)
            prediction = critic.apply(single, batch.observation, batch.action)[0]
            chex.assert_equal_shape([prediction, own_target])
            value = error(prediction, own_target)
            return value, (value, jnp.mean(prediction))

        return jax.grad(loss, has_aux=True)(params)

    own = target if target.ndim == 2 else ()
    grads, (value, prediction) = nets.over_members(member, (trainable.params, own))
    metrics = learner.measured(critic_loss=value, q=prediction)
    if mean:
        grads = jax.tree.map(lambda leaf: leaf / len(value), grads)
    return learner.apply_gradients(trainable, opt, grads), metrics


def regression_loss(
    critic: Net,
    params: Params,
    batch: Transition,
    target: Array,
    error: Callable[[Array, Array], Array] = squared_error,
    *,
    mean: bool = False,
) -> Array:
    """The loss of `regress`, a scalar, for its gradient in the observations of the batch."""
    prediction = critic.apply(params, batch.observation, batch.action)
    errors = jax.vmap(error)(prediction, jnp.broadcast_to(target, prediction.shape))
    return errors.mean() if mean else errors.sum()


# --------------------------------------------------------------------------------- diagnosis


def q_diagnostics(
    critic: Net, params: Params, batch: Transition, policy_action: Array, uniform_action: Array
) -> Metrics:
    """Mean Q of data, policy and uniform actions [B, A]; and the members' standard deviation.

    If Q is far higher for uniform actions than for data actions, the critic diverges.
    """
    chex.assert_equal_shape([batch.action, policy_action, uniform_action])

    def q(action: Array) -> Array:
        return critic.apply(params, batch.observation, action)

    on_policy = q(policy_action)
    return learner.measured(
        q_data=q(batch.action),
        q_policy=on_policy,
        q_uniform=q(uniform_action),
        q_spread=on_policy.std(0),
    )
