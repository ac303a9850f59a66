"""BDPO's targets and losses against closed forms and a plain numpy reference.

Letters are those of the known answers: C linear Q, E equal policies, G fixed points, H the bound.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import nets
from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.ops import ddpm, schedules
from jaxrl_prefs.policies.paths import Refinement
from jaxrl_prefs.types import Box, Net, Spec
from tests.exact import (
    ETA,
    OFFSETS,
    M,
    batch_of,
    compiled,
    filled,
    fixed,
    linear_parts,
    linear_state,
    members,
    quiet,
    replaced,
)

pytestmark = pytest.mark.usefixtures("x64")

STEPS = 5
ABAR = schedules.vp(STEPS).alpha_bar
BETA = schedules.vp(STEPS).beta
SHARE = ABAR[:-1] * BETA[1:]  # abar_{n-1} beta_n, n = 1..N


def config(**changes):
    return bdpo.Config(**{"eta": ETA, "rho": 0.0, "diffusion_steps": STEPS, **changes})


def actions(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 2))


# ------------------------------------------------------------------------ C: the linear optimum


@pytest.mark.parametrize(
    ("levels", "steps", "rho"),
    [("uniform", 5, 0.7), ("uniform", 50, 0.0), ("stratified", 5, 0.0), ("stratified", 50, 0.7)],
)
def test_the_optimum_leaves_no_residual_at_any_level(levels, steps, rho):
    parts = linear_parts(
        config(levels=levels, diffusion_steps=steps, rho=rho), quiet(ddpm.ancestral())
    )
    rows = 5 * steps

    def both(state, a):
        target, step = bdpo.step_value(
            state.actor.target, state, parts, batch_of(a), jax.random.key(0), 1
        )
        return target, parts.value.apply(state.value.target, a, step.source, step.level), step.level

    target, value, level = compiled(both, linear_state(), actions(rows))
    assert len(set(level)) > 0.9 * steps
    # the members differ by constants whose mean is 0
    np.testing.assert_allclose(target + rho * OFFSETS.std(), value.mean(0), atol=1e-12)
    assert value.std() > 0.1


def test_the_residual_averages_to_nothing_with_the_sampler_s_noise():
    parts, rows, samples = linear_parts(config()), 5_000, 8

    def residual(state, a):
        target, step = bdpo.step_value(
            state.actor.target, state, parts, batch_of(a), jax.random.key(1), samples
        )
        value = parts.value.apply(state.value.target, a, step.source, step.level)
        return target - value.mean(0), step.level

    found, level = compiled(residual, linear_state(), actions(rows))
    for n in range(1, STEPS + 1):
        at = found[level == n]
        if n == 1:  # the last step adds no noise
            np.testing.assert_allclose(at, 0, atol=1e-12)
            continue
        variance = ETA**2 * SHARE[n - 1] * 2.5 / samples
        assert abs(at.mean()) < 5 * np.sqrt(variance / len(at))
        assert abs(at.var() / variance - 1) < 5 * np.sqrt(2 / len(at))


def slope_of(parts, actor, *, state=None, rows=20):
    """Gradient of the actor's loss at N(actor, I), behaviour N(0, I)."""

    def loss(m, state, a):
        return bdpo.actor_loss(
            m, state=state, parts=parts, batch=batch_of(a), key=jax.random.key(2)
        )[0]

    return compiled(jax.grad(loss), np.asarray(actor), state or linear_state(), actions(rows))


@pytest.mark.parametrize("levels", ["uniform", "stratified"])
def test_the_optimum_has_no_actor_gradient(levels):
    # V is linear, so the samples' noise does not enter the gradient
    parts = linear_parts(config(levels=levels, actor_samples=3))
    np.testing.assert_allclose(slope_of(parts, M), 0, atol=1e-14)


@pytest.mark.parametrize("actor", [(0.0, 0.0), (3.0, 1.0), (1.5, 0.5)])
def test_away_from_the_optimum_the_actor_gradient_is_known(actor):
    """-eta mean_n(abar_{n-1} beta_n) (m - m'): value and penalty weighed against each other."""
    parts = linear_parts(config(levels="stratified"))
    expected = -ETA * SHARE.mean() * (M - np.array(actor))
    np.testing.assert_allclose(slope_of(parts, actor), expected, rtol=1e-10, atol=1e-14)


def test_eta_scales_the_penalty_alone():
    parts = linear_parts(config(levels="stratified", eta=2 * ETA))
    actor = np.array([0.5, 0.8])
    expected = -ETA * SHARE.mean() * (M - 2 * actor)
    np.testing.assert_allclose(slope_of(parts, actor), expected, rtol=1e-10)


def test_where_the_clean_action_is_clipped_only_the_penalty_pulls():
    parts = linear_parts(
        config(levels="stratified"), ddpm.ancestral(Box(np.array(1e3), np.array(1e3 + 1)))
    )
    actor = np.array([0.5, 0.8])
    np.testing.assert_allclose(slope_of(parts, actor), ETA * SHARE.mean() * actor, rtol=1e-10)


def test_pessimism_enters_the_actor_s_gradient():
    """Members of different slopes: the bound's deviation is differentiated too."""
    parts = linear_parts(config(levels="stratified", rho=0.7, actor_samples=2))
    slopes = np.array([[1.5, -0.5], [0.2, 0.9], [-1.0, 0.4]])
    different = fixed({"m": jnp.asarray(slopes), "offset": jnp.asarray(OFFSETS)})
    state = linear_state().replace(critic=different, value=different)
    actor, rows, h = np.array([0.5, 0.8]), 20, 1e-5

    def loss(m, state):
        return bdpo.actor_loss(
            m, state=state, parts=parts, batch=batch_of(actions(rows)), key=jax.random.key(2)
        )[0]

    def differences(state):
        shifts = actor + h * np.concatenate([np.eye(2), -np.eye(2)])
        up, down = jnp.split(jax.vmap(lambda m: loss(m, state))(shifts), 2)
        return (up - down) / (2 * h)

    found, expected = compiled(lambda s: (jax.grad(loss)(actor, s), differences(s)), state)
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    calm = slope_of(linear_parts(config(levels="stratified", actor_samples=2)), actor, state=state)
    assert np.abs(found - calm).max() > 0.01


def test_soft_value_of_a_state_is_the_mean_of_the_highest_level():
    """E_pi[Q] - eta pathKL = eta (1 - abar_N) |m|^2 / 2: equation 13 against C's closed form."""
    rows, samples = 4_000, 10
    parts = linear_parts(config(q_samples=samples))
    batch = batch_of(actions(rows), reward=0.25, discount=0.9)

    def target(state):
        return bdpo.critic_target(state, parts=parts, batch=batch, key=jax.random.key(3))

    found = compiled(target, linear_state())
    soft = ETA * (1 - ABAR[-1]) * 2.5 / 2
    variance = (0.9 * ETA) ** 2 * 2.5 * (1 - BETA[1]) / samples
    assert abs(found.mean() - (0.25 + 0.9 * soft)) < 5 * np.sqrt(variance / rows)
    assert abs(found.var() / variance - 1) < 5 * np.sqrt(2 / rows)


def test_stratified_levels_have_the_expectation_of_uniform_ones():
    rows, actor = 20_000, np.array([0.5, 0.8])
    found = {}
    for levels in ("uniform", "stratified"):
        parts = linear_parts(config(levels=levels))

        def gain(state, a, parts=parts):
            return bdpo.step_value(actor, state, parts, batch_of(a), jax.random.key(4), 1)[0]

        found[levels] = compiled(gain, linear_state(), actions(rows))
    error = found["uniform"].mean() - found["stratified"].mean()
    assert abs(error) < 5 * np.sqrt(2 / rows) * found["uniform"].std()


# --------------------------------------------------------------------- E: actor is the behaviour


def test_equal_policies_pay_nothing_whatever_eta(tiny):
    """E: with eta = 1e6 the target is still reward + discount * Q, to the last bit."""
    tiny = jax.tree.map(lambda x: x[:16], tiny)
    small = {
        "actor_hidden": (8, 8),
        "critic_hidden": (8,),
        "critic_ensemble_size": 2,
        "q_samples": 3,
    }
    with jax.enable_x64(False):
        free, strict = (bdpo.build(config(eta=eta, **small), Spec.of(tiny)) for eta in (0.0, 1e6))
        state = filled(partial(bdpo.init, parts=free), tiny)
        nu = state.behavior.target
        state = state.replace(actor=state.actor.replace(target=nu))

        def targets(state, parts):
            key = jax.random.key(1)
            y = bdpo.critic_target(state, parts=parts, batch=tiny, key=key)
            v, step = bdpo.step_value(state.actor.target, state, parts, tiny, key, 2)
            return y, v, step.penalty

        one, other = compiled(lambda s: (targets(s, free), targets(s, strict)), state)
    for calm, paid in zip(one, other, strict=True):
        np.testing.assert_array_equal(calm, paid)
    np.testing.assert_array_equal(one[2], 0)
    assert np.std(one[0]) > 0 and np.std(one[1]) > 0


# ------------------------------------------------------------------------ G: fixed points of Q


def constant_critic(size):
    """Q_k(s, a) = q_k, whatever s and a."""

    def apply(q, observation, action):
        return q + jnp.zeros(jnp.broadcast_shapes(observation.shape[:-1], action.shape[:-1]))

    return nets.ensemble(Net(lambda key, *inputs: jnp.zeros(()), apply), size)


def iterate(parts, state, batch, times):
    """Q under repeated backups: every member takes the target of the one state."""

    def backup(_, q):
        now = state.replace(critic=fixed(q))
        target = bdpo.critic_target(now, parts=parts, batch=batch, key=jax.random.key(0))
        return jnp.full_like(q, target[0])

    return compiled(lambda q: jax.lax.fori_loop(0, times, backup, q), np.array([3.0, -1.0]))


@pytest.mark.parametrize("rho", [0.0, 1.0])
@pytest.mark.parametrize("actor", [(0.0, 0.0), tuple(M)], ids=["equal", "shifted"])
def test_a_self_loop_is_worth_its_discounted_soft_reward(actor, rho):
    """r / (1 - gamma) for equal policies; (r - gamma eta c) / (1 - gamma) for a path KL of c."""
    gamma, reward, eta = 0.9, 1.7, 0.2
    parts = linear_parts(config(eta=eta, rho=rho, q_samples=2))._replace(critic=constant_critic(2))
    state = linear_state(actor)
    q = iterate(parts, state, batch_of(np.zeros((1, 2)), reward=reward, discount=gamma), 400)
    path = np.sum(np.square(actor)) / 2 * (1 - np.exp(-5.05))
    np.testing.assert_allclose(q, (reward - gamma * eta * path) / (1 - gamma), rtol=1e-9)


def test_a_terminal_transition_is_worth_exactly_its_reward():
    parts = linear_parts(config(eta=1e6, rho=3.0))
    batch = batch_of(actions(4), reward=np.array([1.5, -2.0, 0.0, 0.1]), discount=0.0)
    found = compiled(
        lambda s: bdpo.critic_target(s, parts=parts, batch=batch, key=jax.random.key(0)),
        linear_state(10 * M),
    )
    np.testing.assert_array_equal(found, [1.5, -2.0, 0.0, 0.1])


def test_without_samples_the_target_is_the_reward_and_no_path_is_drawn():
    def refused(*inputs):
        raise AssertionError("a bandit has no next state")

    parts = linear_parts(config(q_samples=0))
    parts = parts._replace(policy=replaced(parts.policy, paths=refused))
    batch = batch_of(actions(3), reward=np.array([1.0, 2.0, 3.0]))
    found = bdpo.critic_target(linear_state(), parts=parts, batch=batch, key=jax.random.key(0))
    np.testing.assert_array_equal(found, [1.0, 2.0, 3.0])


# ------------------------------------------------------------------- the targets, in plain numpy


def bound(per_member, rho):
    """Equation 18 over axis 0, with the population deviation."""
    mean = per_member.sum(0) / len(per_member)
    spread = np.sqrt(((per_member - mean) ** 2).sum(0) / len(per_member))
    return mean - rho * spread


def random_members(seed):
    rng = np.random.default_rng(seed)
    return {"m": rng.normal(size=(3, 2)), "offset": rng.normal(size=3)}


NAN = jax.tree.map(lambda x: np.full_like(x, np.nan), random_members(0))
ROWS, SAMPLES = 7, 4


def stubbed(settings, step=None):
    """A policy that returns its input plus the actor it got; and a state of target networks.

    Everything that is not a target network is NaN.
    """
    rng = np.random.default_rng(1)
    path_actions = rng.normal(size=(ROWS, SAMPLES, 2))
    path_penalties = rng.uniform(1, 3, size=(ROWS, SAMPLES))

    def paths(actor, behavior, observation, key, count):
        assert count == SAMPLES
        return path_actions + actor, path_penalties * behavior

    def refine(actor, behavior, observation, action, key, count):
        assert count == SAMPLES
        return step._replace(samples=step.samples + actor, penalty=step.penalty * behavior)

    parts = linear_parts(settings)
    parts = parts._replace(policy=replaced(parts.policy, paths=paths, refine=refine))
    state = bdpo.State(
        behavior=fixed(np.nan, 3.0),
        actor=fixed(np.nan, 0.2),
        critic=fixed(NAN, random_members(2)),
        value=fixed(NAN, random_members(3)),
    )
    return parts, state, path_actions + 0.2, path_penalties * 3


@pytest.mark.parametrize("max_backup", [False, True])
@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_critic_target_is_equation_13_with_the_averages(max_backup, rho):
    """H for Q: best or mean over samples first, then the bound; the penalty's mean in any case."""
    settings = config(rho=rho, max_backup=max_backup, q_samples=SAMPLES)
    parts, state, action, penalty = stubbed(settings)
    rng = np.random.default_rng(4)
    reward, discount = rng.normal(size=ROWS), rng.uniform(size=ROWS) * (np.arange(ROWS) % 3 > 0)
    batch = batch_of(actions(ROWS), reward=reward, discount=discount)
    found = compiled(
        lambda s: bdpo.critic_target(s, parts=parts, batch=batch, key=jax.random.key(0)), state
    )
    q = random_members(2)
    each = ETA * np.einsum("bja,ka->kbj", action, q["m"]) + q["offset"][:, None, None]
    over_samples = each.max(2) if max_backup else each.mean(2)
    soft = bound(over_samples, rho) - ETA * penalty.mean(1)
    np.testing.assert_allclose(found, reward + discount * soft, rtol=1e-12)
    if max_backup and rho:
        other_order = bound(each, rho).max(1) - ETA * penalty.mean(1)
        assert np.abs(found - (reward + discount * other_order)).max() > 0.01


def refinement(level):
    rng = np.random.default_rng(5)
    return Refinement(
        source=rng.normal(size=(ROWS, 2)),
        level=np.asarray(level, np.int32),
        samples=rng.normal(size=(ROWS, SAMPLES, 2)),
        penalty=rng.uniform(size=ROWS),
    )


@pytest.mark.parametrize("levels", ["uniform", "stratified"])
@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_step_value_is_equation_15_with_the_averages(levels, rho):
    """H for V: Q below level 1 and V_{n-1} elsewhere, mean over samples, then the bound."""
    # what stratified levels look like for 7 rows and 5 steps; uniform ones need no order
    level = {"uniform": [3, 1, 5, 1, 2, 4, 2], "stratified": [1, 1, 2, 3, 3, 4, 5]}[levels]
    step = refinement(level)
    parts, state, *_ = stubbed(config(rho=rho, levels=levels), step)

    def gain(state):
        batch = batch_of(actions(ROWS))
        return bdpo.step_value(state.actor.target, state, parts, batch, jax.random.key(0), SAMPLES)[
            0
        ]

    found = compiled(gain, state)
    q, v, samples = random_members(2), random_members(3), step.samples + 0.2
    each = np.zeros((3, ROWS, SAMPLES))
    for b, n in enumerate(level):
        for k in range(3):
            for j in range(SAMPLES):
                if n == 1:
                    each[k, b, j] = ETA * samples[b, j] @ q["m"][k] + q["offset"][k]
                else:
                    slope = np.sqrt(ABAR[n - 1]) * samples[b, j] @ v["m"][k]
                    square = (1 - ABAR[n - 1]) * v["m"][k] @ v["m"][k] / 2
                    each[k, b, j] = ETA * (slope + square) + v["offset"][k]
    expected = bound(each.mean(2), rho) - ETA * 3 * step.penalty
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_actor_loss_is_minus_the_mean_gain_of_the_given_actor():
    step = refinement([3, 1, 5, 1, 2, 4, 2])
    parts, state, *_ = stubbed(config(actor_samples=SAMPLES, rho=0.5), step)
    batch, actor = batch_of(actions(ROWS)), 0.9

    def both(state):
        key = jax.random.key(0)
        loss, metrics = bdpo.actor_loss(actor, state=state, parts=parts, batch=batch, key=key)
        return loss, metrics, bdpo.step_value(actor, state, parts, batch, key, SAMPLES)[0]

    loss, metrics, gain = compiled(both, state)
    assert loss == pytest.approx(-gain.mean(), rel=1e-12)
    assert metrics["actor_loss"] == (np.float32(loss), 1)
    assert metrics["step_penalty"][0] == pytest.approx(3 * step.penalty.mean(), rel=1e-6)


def test_regression_is_on_one_target_for_all_members():
    prediction, target = actions(4).T, np.array([1.0, -1.0, 0.5, 2.0])  # [2, 4]
    expected = sum((prediction[k, b] - target[b]) ** 2 for k in range(2) for b in range(4)) / 8
    assert bdpo.regression_loss(prediction, jnp.asarray(target)) == pytest.approx(expected)


def test_members_may_be_told_apart_by_the_bound():
    """H by the numbers: members 1, 2, 3 and rho = 1 give 1.183503."""
    parts = linear_parts(config(rho=1.0, eta=0.0, q_samples=2))
    state = linear_state().replace(critic=fixed(members((0.0, 0.0), (1.0, 2.0, 3.0))))
    batch = batch_of(actions(2), discount=1.0)
    found = compiled(
        lambda s: bdpo.critic_target(s, parts=parts, batch=batch, key=jax.random.key(0)), state
    )
    np.testing.assert_allclose(found, 1.183503, atol=1e-6)
