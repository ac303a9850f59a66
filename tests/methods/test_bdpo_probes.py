"""BDPO trained for a moment on data with a known answer: one program for all of them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import learner
from jaxrl_prefs.method import uniform
from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.types import Spec
from tests import probes
from tests.exact import batch_of, filled

ROWS, ETA, SLOPE = 8_000, 0.3, 1.0
SETTINGS = bdpo.Config(
    eta=ETA,
    rho=0.0,
    q_samples=2,
    v_samples=2,
    actor_samples=2,
    clip_sampler=False,
    actor_hidden=(32, 32),
    critic_hidden=(32, 32),
    critic_ensemble_size=2,
    behavior_learning_rate=3e-3,
    actor_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    critic_decays=False,
    actor_decays=False,
    tau=0.03,
    value_tau=0.03,
    batch_size=64,
    batches="uniform",
    warmup_steps=0,
    actor_interval=1,
    behavior_continues=False,
)


@pytest.fixture(scope="module")
def trained():
    """trained(data, behaviour steps, training steps) -> state, and the method's parts."""
    spec = Spec.of(probes.constant_reward(ROWS).data)
    method, parts = bdpo.make(SETTINGS, spec), bdpo.build(SETTINGS, spec)
    behavior, critic, train = method.phases

    def run_phase(phase, key, data, state, steps):
        def update(step, state):
            rows = uniform(key, step, ROWS, phase.batch_size)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            return phase.update(state, batch, jax.random.fold_in(key, step), step)[0]

        return jax.lax.fori_loop(0, steps, update, phase.enter(state, key))

    @jax.jit
    def program(data, state, steps):
        state = run_phase(behavior, jax.random.key(1), data, state, steps[0])
        state = critic.enter(state, jax.random.key(2))
        return run_phase(train, jax.random.key(3), data, state, steps[1])

    def run(data, *steps):
        # normal weights of the same size as the orthogonal ones, which are slow to compile
        state = filled(partial(method.init, batch=jax.tree.map(lambda x: x[:1], data)), scale=0.25)
        regressed = parts.critic_optimizer
        state = state.replace(
            behavior=learner.init(state.behavior.params, parts.behavior_optimizer, target=True),
            critic=learner.init(state.critic.params, regressed, target=True),
            value=learner.init(state.value.params, regressed, target=True),
        )
        return program(data, state, jnp.asarray(steps))

    return run, parts


@pytest.mark.parametrize("probe", probes.PROBES, ids=lambda probe: probe.__name__)
def test_probes_are_solved(trained, probe):
    run, parts = trained
    data, q, best = probe(ROWS)
    state = run(data, 300, 600)

    @jax.jit
    def answers(state, s, a):
        found = parts.critic.apply(state.critic.target, s, a).mean(0)
        return found, bdpo.act(state, s, jax.random.key(9), parts=parts)

    s, a = data.observation[:500], data.action[:500]
    found, action = map(np.asarray, answers(state, s, a))
    assert np.sqrt(np.mean((found - q(s, a)) ** 2)) < 0.08
    if best is not None:  # ten candidates around it, chosen by a learned Q
        error = action - best(s)
        assert abs(error.mean()) < 0.1 and error.std() < 0.25


def test_linear_bandit_finds_the_closed_form(trained):
    """C end to end: reward eta m a on N(0, 1) data makes the policy N(m, 1)."""
    run, parts = trained
    action = np.random.default_rng(0).normal(size=(ROWS, 1)).astype(np.float32)
    data = batch_of(action, reward=ETA * SLOPE * action[:, 0])
    data = jax.tree.map(np.asarray, data)
    state = run(data, 2_000, 2_500)

    @jax.jit
    def measured(state, start):
        observation, key = jnp.zeros((len(start), 1)), jax.random.key(1)
        actor, behavior = state.actor.target, state.behavior.target
        drawn, path = parts.policy.paths(actor, behavior, observation, key, 1)
        before = parts.policy.sample(behavior, observation, key, 1)
        level = jnp.full(len(start), SETTINGS.diffusion_steps, jnp.int32)
        soft = parts.value.apply(state.value.target, observation, start, level)
        return drawn[:, 0, 0], before[:, 0, 0], path, soft

    drawn, before, path, soft = map(np.asarray, measured(state, action))
    half = (1 - np.exp(-5.05)) * SLOPE**2 / 2
    assert drawn.mean() - before.mean() == pytest.approx(2 * half / SLOPE, abs=0.1)
    assert drawn.var() == pytest.approx(1 - 0.195875, abs=0.12)
    assert path.mean() == pytest.approx(half, rel=0.12)
    assert soft.mean() == pytest.approx(ETA * half, rel=0.12)
    # the value of acting, E[Q] - eta pathKL, is what the highest level predicts
    assert ETA * (SLOPE * drawn - path).mean() == pytest.approx(soft.mean(), abs=0.03)
