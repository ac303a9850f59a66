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
    """What one optimiser trains, and its moving average. The optimiser itself is not state."""

    params: Params
    target: Params  # exponential moving average of params, or None where none is kept
    opt_state: optax.OptState


def optimizer(
    learning_rate: float, *, decay_steps: int = 0, clip_norm: float = 0.0
) -> optax.GradientTransformation:
    """Adam; with a cosine decay to 0 over `decay_steps` updates and a global-norm clip if given.

    Zero means "without" for both: a rate that never decays, a gradient that is never clipped.
    """
    rate = optax.cosine_decay_schedule(learning_rate, decay_steps) if decay_steps else learning_rate
    adam = optax.adam(rate)
    return optax.chain(optax.clip_by_global_norm(clip_norm), adam) if clip_norm else adam


def init(params: Params, opt: optax.GradientTransformation, *, target: bool = False) -> Trainable:
    """Starts training from `params`, with the moving average at the same place if one is kept.

    Both are copies: no two leaves of a state may share a buffer, or it could not be donated.
    """
    average = jax.tree.map(jnp.copy, params) if target else None
    return Trainable(jax.tree.map(jnp.copy, params), average, opt.init(params))


def gradient_step(
    part: Trainable, opt: optax.GradientTransformation, loss: Callable[[Params], tuple[Array, Any]]
) -> tuple[Trainable, Any]:
    """Takes one gradient step on `loss(params) -> (scalar, aux)`; returns the part and `aux`."""
    grads, aux = jax.grad(loss, has_aux=True)(part.params)
    return apply_gradients(part, opt, grads), aux


def apply_gradients(part: Trainable, opt: optax.GradientTransformation, grads: Params) -> Trainable:
    """Takes one step of the optimiser along gradients that are already known."""
    updates, opt_state = opt.update(grads, part.opt_state, part.params)
    params = optax.apply_updates(part.params, updates)
    return dataclasses.replace(part, params=params, opt_state=opt_state)


def polyak(part: Trainable, rate: float) -> Trainable:
    """Moves the average towards the parameters: target <- rate * params + (1 - rate) * target."""
    return dataclasses.replace(
        part, target=optax.incremental_update(part.params, part.target, rate)
    )


def every(interval: int, step: Array | int, fn: Callable[[T], T], operand: T) -> T:
    """Applies `fn` at steps 0, interval, 2 * interval, ... and hands `operand` back otherwise.

    `step` must not be batched, else both branches run. `fn` keeps the operand's structure, so a
    branch that also measures takes its metrics as part of the operand, with count 0.
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
    """Metrics of a step that did not measure them: count 0, so that no mean is touched."""
    return {name: (jnp.float32(0), jnp.float32(0)) for name in names}
