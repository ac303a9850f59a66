"""Diffusion-QL: its losses on networks in closed form, one update, how it acts, and training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import learner, nets
from jaxrl_prefs.method import uniform
from jaxrl_prefs.methods import dql
from jaxrl_prefs.ops import ddpm, schedules
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.types import Net, Spec
from tests import probes
from tests.exact import batch_of, column, compiled, filled, fixed, row

SPEC = Spec(1, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(1)] * 4)
SMALL = dql.Config(
    actor_hidden=(32, 32),
    critic_hidden=(32,),
    diffusion_steps=3,
    actor_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    clip_norm=0.0,
    tau=0.05,
    average_start=0,
    average_interval=1,
    batch_size=64,
    candidates=5,
)


def test_defaults_are_the_paper_s():
    config = dql.Config()
    assert (config.eta, config.max_backup, config.tau) == (1.0, False, 0.005)
    assert (config.diffusion_steps, config.schedule) == (5, "vp")
    assert config.actor_hidden == config.critic_hidden == (256, 256, 256)
    assert config.actor_learning_rate == config.critic_learning_rate == 3e-4
    assert (config.average_start, config.average_interval) == (1_000, 5)
    assert (config.candidates, config.temperature) == (50, 1.0)
    assert (config.batch_size, config.train_steps) == (256, 2_000_000)


# ---------------------------------------------------------------------------- losses, by hand


def test_one_critic_is_maximised_and_the_other_only_divides():
    q = np.array([[1.0, 3.0], [-2.0, -6.0]], "f")
    loss = jax.value_and_grad(lambda q, swapped: dql.improvement_loss(q, swapped))
    for swapped, value, slope in (
        (False, -2 / 4, [[-1 / 8, -1 / 8], [0, 0]]),
        (True, 4 / 2, [[0, 0], [-1 / 4, -1 / 4]]),
    ):
        found, gradient = compiled(loss, q, np.asarray(swapped))
        assert found == pytest.approx(value)
        np.testing.assert_allclose(gradient, slope, rtol=1e-6)


SLOPES = np.array([[1.0, 0.0], [3.0, -1.0]], "f")  # of the two critics


def closed_form(config):
    """Parts whose chain ends in m from any noise, and whose Q_k are linear."""
    schedule = schedules.vp(config.diffusion_steps)

    def point(m, x, s, n):
        abar = column(schedule.alpha_bar, n, x)
        return (x - jnp.sqrt(abar) * row(m, x)) / jnp.sqrt(1 - abar)

    none = lambda key, *inputs: 0.0  # noqa: E731
    linear = Net(none, lambda slope, s, a: jnp.sum(a * row(slope, a), -1))
    opt = optax.sgd(1.0)
    policy = DiffusionPolicy(Net(none, point), schedule, ddpm.ancestral(), 2)
    return dql.Parts(config, policy, nets.ensemble(linear, 2), SPEC.action_box, opt, opt)


def test_q_is_maximised_through_the_whole_chain():
    """The chain ends in m, so Q's gradient in m is its slope; L_d has its own, in closed form."""
    m, action = np.array([0.5, 0.25], "f"), np.array([[0.1, -0.2], [0.4, 0.3], [0.0, 0.9]], "f")

    def both(m, action, eta):
        parts, batch = closed_form(replace(SMALL, eta=eta)), batch_of(action)
        given = {"critic": jnp.asarray(SLOPES), "parts": parts, "batch": batch}
        key = jax.random.key(3)
        noise_key, _, swap_key = jax.random.split(key, 3)
        swapped = jax.random.bernoulli(swap_key)
        n = parts.policy.noised(action, noise_key)[1]
        loss = jax.value_and_grad(lambda m: dql.actor_loss(m, **given, key=key)[0])(m)
        return *loss, swapped, n

    for eta in (0.0, 2.0):
        loss, slope, swapped, n = compiled(lambda *args, eta=eta: both(*args, eta), m, action)
        abar = schedules.vp(SMALL.diffusion_steps).alpha_bar[n][:, None]
        ratio, gap = abar / (1 - abar), m - action
        i, j = (1, 0) if swapped else (0, 1)
        size = abs(SLOPES[j] @ m)
        assert loss == pytest.approx((ratio * gap**2).mean() - eta * SLOPES[i] @ m / size, rel=1e-4)
        expected = (2 * ratio * gap).mean(0) / 2 - eta * SLOPES[i] / size
        np.testing.assert_allclose(slope, expected, rtol=1e-4)


@pytest.mark.parametrize("best", [False, True])
def test_the_target_is_the_smaller_critic_s_mean_or_best_of_ten(best):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(3, 10 if best else 1, 2)).astype("f")

    def sample(params, observation, key, count):
        assert params == "average" and count == samples.shape[1]
        return jnp.asarray(samples)

    parts = closed_form(replace(SMALL, max_backup=best))
    parts = parts._replace(policy=SimpleNamespace(sample=sample))
    state = dql.State(fixed("policy", "average"), fixed(0 * SLOPES, jnp.asarray(SLOPES)))
    batch = batch_of(np.zeros((3, 2), "f"), reward=[1.0, 2.0, 3.0], discount=[0.5, 0.9, 0.0])
    found = compiled(lambda: dql.critic_target(state, parts=parts, batch=batch, key=None))
    q = np.einsum("ea,bka->ebk", SLOPES, samples)
    next_value = (q.max(-1) if best else q[..., 0]).min(0)
    np.testing.assert_allclose(found, [1, 2, 3] + np.array([0.5, 0.9, 0]) * next_value, rtol=1e-5)


# ------------------------------------------------------------------------ updates and acting


def test_the_policy_sees_the_new_critics_and_both_averages_the_new_networks(tiny):
    config = replace(SMALL, actor_hidden=(8,), critic_hidden=(8,))
    opt = optax.sgd(0.1)
    parts = dql.build(config, Spec.of(tiny))._replace(actor_optimizer=opt, critic_optimizer=opt)
    start = filled(lambda key: dql.init(key, tiny, parts=parts))

    def both(key, batch, old):
        after, metrics = dql.update(old, batch, key, 0, parts=parts)
        loss, _ = dql.actor_loss(
            old.actor.params,
            critic=after.critic.params,
            parts=parts,
            batch=batch,
            key=jax.random.split(key)[1],
        )
        return after, metrics["actor_loss"][0], loss

    after, found, loss = compiled(both, jax.random.key(0), tiny, start)
    assert found == pytest.approx(loss, rel=1e-5)
    for old, new in ((start.actor, after.actor), (start.critic, after.critic)):
        trees = old.params, old.target, new.params, new.target
        for first, before, params, now in zip(*map(jax.tree.leaves, trees), strict=True):
            assert np.abs(params - first).max() > 0
            np.testing.assert_allclose(now, 0.95 * before + 0.05 * params, rtol=1e-5, atol=1e-6)


def test_it_acts_by_the_smaller_target_critic(tiny):
    config = replace(SMALL, temperature=0.0, actor_hidden=(8,), critic_hidden=(8,))
    parts, key = dql.build(config, Spec.of(tiny)), jax.random.key(1)
    state = filled(lambda key: dql.init(key, tiny, parts=parts))

    def both(batch, state):
        s = batch.observation
        sample_key, _ = jax.random.split(key)
        samples = parts.policy.sample(state.actor.params, s, sample_key, 5)
        q = parts.critic.apply(state.critic.target, s[:, None], samples)
        return samples, q, dql.act(state, s, key, parts=parts)

    samples, q, action = compiled(both, tiny, state)
    best = q.min(0).argmax(-1)
    assert len(set(best)) > 2
    np.testing.assert_allclose(action, samples[np.arange(len(best)), best], rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------ a moment of training


@pytest.fixture(scope="module")
def trained():
    """trained(probe) -> Q on the data, and actions; one program for all."""
    size = 256
    example = jax.tree.map(lambda x: x[:1], probes.constant_reward(size).data)
    parts = dql.build(replace(SMALL, eta=30.0), Spec.of(example))
    drawn = filled(lambda key: dql.init(key, example, parts=parts), scale=0.3)

    @jax.jit
    def program(data, key):
        opt = parts.actor_optimizer
        start = dql.State(
            actor=learner.init(drawn.actor.params, opt, target=True),
            critic=learner.init(drawn.critic.params, opt, target=True),
        )

        def body(step, state):
            rows = uniform(jax.random.key(7), step, size, SMALL.batch_size)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            key = jax.random.fold_in(jax.random.key(8), step)
            return dql.update(state, batch, key, step, parts=parts)[0]

        state = jax.lax.fori_loop(0, 1_000, body, start)
        q = parts.critic.apply(state.critic.params, data.observation, data.action)
        return q, dql.act_sample(state, data.observation, key, parts=parts)

    return lambda probe: map(np.asarray, program(probe(size).data, jax.random.key(0))), size


@pytest.mark.parametrize("probe", [probes.two_steps, probes.joint_reward])
def test_probes_are_solved(trained, probe):
    """With a large weight of Q, every noise leads to the best action."""
    run, size = trained
    data, q, best = probe(size)
    found, action = run(probe)
    assert np.sqrt(np.mean((found - q(data.observation, data.action)[None]) ** 2)) < 0.1
    if best is not None:
        assert np.abs(action - best(data.observation)).max() < 0.25
