"""One training step of BDPO, followed by hand on a problem with five numbers for parameters.

Policy: the action p. Critics: Q_k = q_k a and V_k = v_k n a. Gradient descent in place of Adam.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.policies.paths import Refinement
from jaxrl_prefs.types import Net, Spec
from tests.exact import batch_of, compiled, filled

pytestmark = pytest.mark.usefixtures("x64")

ETA, RHO, TAU, VALUE_TAU, RATE, INTERVAL = 0.4, 0.6, 0.25, 0.4, 0.05, 3
LEVEL = np.array([1, 3, 2, 1, 2])
SOURCE = np.array([0.4, -1.0, 0.3, 0.8, 1.2])
ACTION = np.array([0.9, -0.3, 0.5, 1.4, -0.8])
REWARD = np.array([1.0, 0.2, -0.5, 0.3, 0.7])
DISCOUNT = np.array([0.9, 0.0, 0.9, 0.5, 0.9])
START = {
    "b": (0.3, 0.1),  # parameters and target network, apart from each other
    "p": (1.1, 0.7),
    "q": (np.array([1.0, -0.5]), np.array([0.8, 0.3])),
    "v": (np.array([0.2, 1.4]), np.array([0.6, -0.9])),
}


def policy():
    def paths(actor, behavior, observation, key, count):
        shape = (len(observation), count)
        return jnp.full((*shape, 1), actor), jnp.full(shape, jnp.square(actor - behavior))

    def refine(actor, behavior, observation, action, key, count):
        rows = len(observation)
        return Refinement(
            source=SOURCE[:, None],
            level=jnp.asarray(LEVEL, jnp.int32),
            samples=jnp.full((rows, count, 1), actor),
            penalty=jnp.full(rows, jnp.square(actor - behavior)),
        )

    return SimpleNamespace(
        init=lambda key, observation: jnp.zeros(()),
        levels=3,
        bc_loss=lambda params, observation, action, key: jnp.mean(jnp.square(params - action)),
        paths=paths,
        refine=refine,
    )


def parts_of(**changes):
    def critic(q, observation, action):
        return q * jnp.squeeze(action, -1)

    def value(v, observation, x, n):
        return v * n * jnp.squeeze(x, -1)

    settings = {
        "eta": ETA,
        "rho": RHO,
        "tau": TAU,
        "value_tau": VALUE_TAU,
        "actor_interval": INTERVAL,
        "q_samples": 2,
        "v_samples": 2,
        "actor_samples": 2,
    }
    descent = optax.sgd(RATE)
    return bdpo.Parts(
        config=bdpo.Config(**{**settings, **changes}),
        spec=None,
        policy=policy(),
        critic=nets.ensemble(Net(lambda key, *of: jnp.zeros(()), critic), 2),
        value=nets.ensemble(Net(lambda key, *of: jnp.zeros(()), value), 2),
        behavior_optimizer=descent,
        actor_optimizer=descent,
        critic_optimizer=descent,
    )


def state_of(numbers=START):
    def part(pair):
        params, target = jnp.asarray(pair[0]), jnp.asarray(pair[1])
        return Trainable(params, target, optax.sgd(RATE).init(params))

    names = {"behavior": "b", "actor": "p", "critic": "q", "value": "v"}
    return bdpo.State(**{field: part(numbers[name]) for field, name in names.items()})


BATCH = {"action": ACTION[:, None], "reward": REWARD, "discount": DISCOUNT}


def batch():
    return batch_of(**BATCH)


# ----------------------------------------------------------------------------- by hand, in numpy


def bound(members):
    return members.mean(0) - RHO * members.std(0)


def below(q, v):
    """What one unit of action is worth one level down, [members, rows]: V_0 = Q."""
    return np.where(LEVEL == 1, q[:, None], v[:, None] * (LEVEL - 1))


def averaged(params, target, rate=TAU):
    return params, rate * params + (1 - rate) * target


def critic_step(now):
    (q, q_mean), (v, v_mean) = now["q"], now["v"]
    p_mean, b_mean = now["p"][1], now["b"][1]
    toll = ETA * (p_mean - b_mean) ** 2
    y = REWARD + DISCOUNT * (bound(q_mean * p_mean) - toll)
    q_error = q[:, None] * ACTION - y
    z = bound(below(q_mean, v_mean) * p_mean) - toll
    v_error = v[:, None] * LEVEL * SOURCE - z
    q_new = q - RATE * 2 / q_error.size * (q_error * ACTION).sum(1)
    v_new = v - RATE * 2 / v_error.size * (v_error * LEVEL * SOURCE).sum(1)
    metrics = {
        "critic_loss": (q_error**2).mean(),
        "critic_target": y.mean(),
        "value_loss": (v_error**2).mean(),
        "value_target": z.mean(),
    }
    return {**now, "q": averaged(q_new, q_mean), "v": averaged(v_new, v_mean, VALUE_TAU)}, metrics


def behavior_step(now):
    b, b_mean = now["b"]
    return {**now, "b": averaged(b - RATE * 2 * (b - ACTION).mean(), b_mean)}, {
        "behavior_loss": ((b - ACTION) ** 2).mean()
    }


def actor_step(now, *, continues=True):
    (p, p_mean), b_mean = now["p"], now["b"][1]
    unit = below(now["q"][1], now["v"][1])
    gain = bound(unit * p) - ETA * (p - b_mean) ** 2
    slope = unit.mean(0) - RHO * np.sign(p) * unit.std(0) - 2 * ETA * (p - b_mean)
    metrics = {"actor_loss": -gain.mean(), "step_penalty": (p - b_mean) ** 2}
    now = {**now, "p": averaged(p + RATE * slope.mean(), p_mean)}
    if continues:
        now, more = behavior_step(now)
        metrics |= more
    return now, metrics


def assert_at(state, numbers, **tolerance):
    names = {"behavior": "b", "actor": "p", "critic": "q", "value": "v"}
    for field, name in names.items():
        part = getattr(state, field)
        np.testing.assert_allclose(part.params, numbers[name][0], err_msg=field, **tolerance)
        np.testing.assert_allclose(part.target, numbers[name][1], err_msg=field, **tolerance)


def means(metrics):
    return {name: float(total) for name, (total, count) in metrics.items() if count}


# --------------------------------------------------------------------------------------- steps


def step_of(update, **changes):
    """The state and metrics after one update, from the start."""
    parts = parts_of(**changes)
    return compiled(
        lambda s, n: update(s, batch(), jax.random.key(0), n, parts=parts), state_of(), 0
    )


def test_a_behaviour_step_moves_the_behaviour_alone():
    state, metrics = step_of(bdpo.update_behavior)
    numbers, expected = behavior_step(START)
    assert_at(state, numbers, rtol=1e-12)
    assert means(metrics) == pytest.approx(expected)


def test_a_critic_step_regresses_both_critics_on_targets_of_the_old_averages():
    state, metrics = step_of(bdpo.update_critic)
    numbers, expected = critic_step(START)
    assert_at(state, numbers, rtol=1e-12)
    assert means(metrics) == pytest.approx(expected)


@pytest.mark.parametrize("continues", [True, False])
def test_an_actor_step_climbs_the_averaged_critics(continues):
    state, metrics = step_of(bdpo.update_actor, behavior_continues=continues)
    numbers, expected = actor_step(START, continues=continues)
    assert_at(state, numbers, rtol=1e-12)
    assert means(metrics) == pytest.approx(expected)
    if not continues:
        assert (state.behavior.params, state.behavior.target) == START["b"]  # to the bit


@pytest.mark.parametrize("continues", [True, False])
def test_seven_steps_follow_the_reference_in_order(continues):
    """Critics first, then the actor by the critics' new averages, then the behaviour."""
    parts = parts_of(behavior_continues=continues)
    step = jax.jit(partial(bdpo.update_all, parts=parts))
    state, numbers = state_of(), START
    for i in range(7):
        state, metrics = step(state, batch(), jax.random.key(i), i)
        numbers, expected = critic_step(numbers)
        if i % INTERVAL == 0:
            numbers, more = actor_step(numbers, continues=continues)
            expected |= more
        assert_at(state, numbers, rtol=1e-10)
        assert means(metrics) == pytest.approx(expected)
        rare = {"actor_loss", "step_penalty"} | ({"behavior_loss"} if continues else set())
        idle = {name for name, (_, count) in metrics.items() if count == 0}
        assert idle == (set() if i % INTERVAL == 0 else rare)
        assert all(metrics[name][0] == 0 for name in idle)


def test_the_order_matters_to_this_reference():
    after, _ = critic_step(START)
    assert actor_step(after)[0]["p"][0] != pytest.approx(actor_step(START)[0]["p"][0], rel=1e-4)


def test_an_actor_update_at_every_step():
    state, _ = step_of(bdpo.update_all, actor_interval=1)
    assert_at(state, actor_step(critic_step(START)[0])[0], rtol=1e-12)


def test_entering_the_critic_phase_copies_the_behaviour_s_average():
    parts = parts_of()._replace(actor_optimizer=optax.adam(0.1))
    old = state_of()
    used = Trainable(jnp.float64(9.0), jnp.float64(8.0), optax.adam(0.1).init(jnp.float64(0)))
    _, opt_state = parts.actor_optimizer.update(jnp.float64(1), used.opt_state)
    old = old.replace(actor=used.replace(opt_state=opt_state))
    state = bdpo.enter_critic(old, jax.random.key(0), parts=parts)
    average = START["b"][1]
    assert state.actor.params == average and state.actor.target == average
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(state.actor.opt_state))
    for field in ("behavior", "critic", "value"):
        assert getattr(state, field) is getattr(old, field)


# ---------------------------------------------------------------------------------- isolation


def test_the_actor_loss_depends_on_averages_only(tiny):
    """Parameters of critics, behaviour and actor may be anything; the averages may not."""
    tiny = jax.tree.map(lambda x: x[:8], tiny)
    settings = bdpo.Config(
        actor_hidden=(8,),
        critic_hidden=(8,),
        critic_ensemble_size=2,
        diffusion_steps=2,
        actor_samples=2,
    )
    with jax.enable_x64(False):
        parts = bdpo.build(settings, Spec.of(tiny))

        def loss(params, state):
            return bdpo.actor_loss(
                params, state=state, parts=parts, batch=tiny, key=jax.random.key(1)
            )[0]

        state = filled(partial(bdpo.init, parts=parts), tiny)
        slopes = jax.grad(loss, argnums=(0, 1), allow_int=True)
        by_actor, by_state = compiled(slopes, state.actor.params, state)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(by_actor))
    for part in (by_state.behavior, by_state.actor, by_state.critic, by_state.value):
        for leaf in jax.tree.leaves((part.params, part.target)):
            np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("decays", [True, False])
def test_learning_rates_decay_to_nothing_where_asked(decays):
    settings = bdpo.Config(
        actor_learning_rate=0.1,
        critic_learning_rate=0.2,
        behavior_learning_rate=0.3,
        actor_decays=decays,
        critic_decays=decays,
        train_steps=10,
        warmup_steps=0,
    )
    spec = Spec(1, 1, 9, *(np.array([x]) for x in (-1.0, 1.0, 0.0, 1.0, 0.0, 1.0)))
    parts = bdpo.build(settings, spec)

    def rates(opt):
        def step(state, _):
            update, state = opt.update(jnp.ones(()), state)
            return state, -update

        return compiled(lambda: jax.lax.scan(step, opt.init(jnp.zeros(())), length=11)[1])

    cosine = (1 + np.cos(np.pi * np.arange(11) / 10)) / 2 if decays else np.ones(11)
    np.testing.assert_allclose(rates(parts.actor_optimizer), 0.1 * cosine, atol=1e-7)
    np.testing.assert_allclose(rates(parts.critic_optimizer), 0.2 * cosine, atol=1e-7)
    np.testing.assert_allclose(rates(parts.behavior_optimizer), 0.3, atol=1e-7)
