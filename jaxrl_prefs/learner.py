"""Parameters and their optimiser: init, gradient_step, apply_gradients, polyak, every."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs.types import Array, Metrics, Params

T = TypeVar("T")


@flax.struct.dataclass
class Trainable:
    """Parameters, their target network and their optimiser state; the optimiser is not state."""

    params: Params
    target: Params  # target network: exponential moving average of params; None without one
    opt_state: optax.OptState


def optimizer(
    learning_rate: float,
    *,
    decay_steps: int = 0,
    clip_norm: float = 0.0,
    weight_decay: float | Array = 0.0,
) -> optax.GradientTransformation:
    """Adam; with a cosine decay to 0 over `decay_steps` updates and a global-norm clip if given.

    Zero means "without" for all three: a rate that never decays, a gradient that is never clipped,
    parameters that are not pulled to 0. With `weight_decay` every step also subtracts
    learning_rate * weight_decay * params (AdamW).
    """
    rate = optax.cosine_decay_schedule(learning_rate, decay_steps) if decay_steps else learning_rate
    decays = isinstance(weight_decay, jax.Array) or weight_decay > 0
    adam = optax.adamw(rate, weight_decay=weight_decay) if decays else optax.adam(rate)
    return optax.chain(optax.clip_by_global_norm(clip_norm), adam) if clip_norm else adam


def init(params: Params, opt: optax.GradientTransformation, *, target: bool = False) -> Trainable:
    """Starts training from `params`; with `target`, the target network starts there too.

    Both are copies: a state whose leaves share a buffer could not be donated.
    """
    target_params = jax.tree.map(jnp.copy, params) if target else None
    return Trainable(jax.tree.map(jnp.copy, params), target_params, opt.init(params))


def gradient_step(
    trainable: Trainable,
    opt: optax.GradientTransformation,
    loss: Callable[[Params], tuple[Array, Any]],
) -> tuple[Trainable, Any]:
    """One gradient step on `loss(params) -> (scalar, aux)`: the new trainable, and `aux`."""
    grads, aux = jax.grad(loss, has_aux=True)(trainable.params)
    return apply_gradients(trainable, opt, grads), aux


def apply_gradients(
    trainable: Trainable, opt: optax.GradientTransformation, grads: Params
) -> Trainable:
    """One step of the optimiser along given gradients."""
    updates, opt_state = opt.update(grads, trainable.opt_state, trainable.params)
    params = optax.apply_updates(trainable.params, updates)
    return dataclasses.replace(trainable, params=params, opt_state=opt_state)


def polyak(trainable: Trainable, rate: float | Array) -> Trainable:
    """Moves the target network: target <- rate * params + (1 - rate) * target."""
    return dataclasses.replace(
        trainable, target=optax.incremental_update(trainable.params, trainable.target, rate)
    )


def polyak_every(
    trainable: Trainable, rate: float, step: Array | int, *, interval: int, start: int
) -> Trainable:
    """`polyak` at the steps 0, interval, 2 * interval, ... that are not before `start`.

    `step` must not be batched (see `every`).
    """

    def move(trainable: Trainable) -> Trainable:
        return polyak(trainable, jnp.where(jnp.asarray(step) >= start, rate, 0.0))

    return every(interval, step, move, trainable)


def every(interval: int, step: Array | int, fn: Callable[[T], T], operand: T) -> T:
    """Applies `fn` at steps 0, interval, 2 * interval, ...; returns `operand` as it is otherwise.

    `step` must not be batched, or both branches run. `fn` must keep the operand's structure: where
    it also measures, the operand contains its metrics with count 0 (`unmeasured`). A phase that
    reads its step here alone says so in `period`, and an accelerator has no branch.
    """
    if isinstance(step, int):  # known while tracing: no branch in the program
        return fn(operand) if step % interval == 0 else operand
    if interval == 1:
        return fn(operand)
    return jax.lax.cond(step % interval == 0, fn, lambda same: same, operand)


def measured(**values: Array) -> Metrics:
    """Metrics of one step, each counted once; an array counts by its mean."""
    return {name: (jnp.float32(jnp.mean(x)), jnp.float32(1)) for name, x in values.items()}


def unmeasured(*names: str) -> Metrics:
    """Metrics that a step did not measure: count 0, so that means do not change."""
    return {name: (jnp.float32(0), jnp.float32(0)) for name in names}
