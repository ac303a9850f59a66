"""Optimisers, gradient steps, moving averages, delayed steps."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import learner
from jaxrl_prefs.types import Array

PARAMS = {"w": jnp.array([3.0, -4.0])}


def square(params: dict[str, Array]) -> tuple[Array, Array]:
    loss = 0.5 * jnp.sum(params["w"] ** 2)
    return loss, loss


def test_the_first_adam_step_is_the_rate_against_the_gradients_sign() -> None:
    opt = learner.optimizer(0.1)
    part, loss = learner.gradient_step(learner.init(PARAMS, opt), opt, square)
    assert float(loss) == 12.5  # at the old parameters
    np.testing.assert_allclose(part.params["w"], [2.9, -3.9], rtol=1e-6)


def test_descent_reaches_the_minimum() -> None:
    opt = learner.optimizer(0.1)
    part = learner.init(PARAMS, opt)
    step = jax.jit(lambda part: learner.gradient_step(part, opt, square)[0])
    for _ in range(300):
        part = step(part)
    np.testing.assert_allclose(part.params["w"], 0.0, atol=1e-2)


def test_known_gradients_take_the_same_step() -> None:
    opt = learner.optimizer(0.1)
    part = learner.init(PARAMS, opt, target=True)
    descended, _ = learner.gradient_step(part, opt, square)
    chex.assert_trees_all_equal(
        learner.apply_gradients(part, opt, PARAMS), descended
    )  # their own slope


def test_clipping_bounds_the_norm_that_adam_sees() -> None:
    """The gradient (3, -4) has norm 5; clipped to 1 it is (.6, -.8), and Adam's mean a tenth."""
    opt = learner.optimizer(0.1, clip_norm=1.0)
    part, _ = learner.gradient_step(learner.init(PARAMS, opt), opt, square)
    leaves = [x for x in jax.tree.leaves(part.opt_state) if x.shape == (2,)]
    np.testing.assert_allclose(leaves[0], [0.06, -0.08], rtol=1e-5)


def test_weight_decay_pulls_to_zero_besides_adam_s_step() -> None:
    """AdamW: Adam's first step is the rate; the decay takes rate * 0.5 * params more."""
    opt = learner.optimizer(0.1, weight_decay=0.5)
    part, _ = learner.gradient_step(learner.init(PARAMS, opt), opt, square)
    np.testing.assert_allclose(part.params["w"], [2.9 - 0.15, -3.9 + 0.2], rtol=1e-6)


def test_a_cosine_decay_ends_at_zero() -> None:
    opt = learner.optimizer(0.1, decay_steps=4)
    part = learner.init(PARAMS, opt)
    moves = []
    for _ in range(6):
        after, _ = learner.gradient_step(part, opt, square)
        moves.append(float(part.params["w"][0] - after.params["w"][0]))
        part = after
    # rates .1 (1 + cos(pi t / 4)) / 2 at t = 0 ... 4, then 0
    expected = [0.05 * (1 + np.cos(np.pi * t / 4)) for t in range(4)] + [0.0, 0.0]
    np.testing.assert_allclose(moves, expected, atol=2e-3)


def test_fresh_copies_the_target() -> None:
    opt = learner.optimizer(0.1)
    assert learner.init(PARAMS, opt).target is None
    part = learner.init(PARAMS, opt, target=True)
    chex.assert_trees_all_equal(part.target, part.params)
    # One buffer for both could not be donated twice.
    assert part.target["w"] is not part.params["w"]


def test_two_trainables_have_one_structure() -> None:
    one, two = (learner.init(PARAMS, learner.optimizer(0.1), target=True) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)


def test_polyak_moves_the_target_towards_the_parameters() -> None:
    part = learner.init(PARAMS, learner.optimizer(0.1), target=True)
    part = learner.polyak(part.replace(params={"w": jnp.array([7.0, 0.0])}), 0.25)
    np.testing.assert_allclose(part.target["w"], [4.0, -3.0])
    np.testing.assert_allclose(part.params["w"], [7.0, 0.0])


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_every_applies_at_multiples(interval: int) -> None:
    def run(step: Array, total: Array) -> Array:
        return learner.every(interval, step, lambda x: x + 1, total)

    total = jax.lax.fori_loop(0, 7, run, jnp.int32(0))
    assert int(total) == -(-7 // interval)


def test_every_stays_a_branch_when_seeds_are_mapped() -> None:
    def update(x: Array, step: Array) -> Array:
        return learner.every(3, step, jnp.sin, x)

    shared = jax.make_jaxpr(jax.vmap(update, (0, None)))(jnp.zeros(4), jnp.int32(0))
    assert any(eqn.primitive.name == "cond" for eqn in shared.eqns)
    own = jax.make_jaxpr(jax.vmap(update))(jnp.zeros(4), jnp.zeros(4, jnp.int32))
    assert not any(eqn.primitive.name == "cond" for eqn in own.eqns)  # the reason for the rule


def test_measured_counts_once_and_unmeasured_not_at_all() -> None:
    metrics = learner.measured(loss=jnp.float32(2), spread=jnp.array([1.0, 3.0]))
    assert {k: (float(s), float(c)) for k, (s, c) in metrics.items()} == {
        "loss": (2.0, 1.0),
        "spread": (2.0, 1.0),
    }
    nothing = learner.unmeasured("loss", "spread")
    assert {k: (float(s), float(c)) for k, (s, c) in nothing.items()} == {
        "loss": (0.0, 0.0),
        "spread": (0.0, 0.0),
    }
    chex.assert_trees_all_equal_shapes_and_dtypes(metrics, nothing)


def test_an_average_that_starts_late_moves_at_every_interval_from_then_on() -> None:
    opt = learner.optimizer(0.1)
    part = learner.init(PARAMS, opt, target=True)
    part = part.replace(target={"w": jnp.zeros(2)})

    @jax.jit
    def after(step: Array) -> Array:
        moved = learner.polyak_every(part, 0.5, step, interval=3, start=4)
        return moved.target["w"]

    for step in range(10):
        expected = 0.5 * PARAMS["w"] if step in (6, 9) else jnp.zeros(2)
        np.testing.assert_array_equal(after(jnp.int32(step)), expected)
