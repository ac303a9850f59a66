"""DAC: guidance and loss in closed form, eta's dual ascent, one update, and training."""

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
from jaxrl_prefs.methods import dac
from jaxrl_prefs.ops import ddpm, schedules
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.types import Net, Spec
from tests import probes
from tests.exact import batch_of, compiled, filled, fixed, normal_net, row

SPEC = Spec(1, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(1)] * 4)
SMALL = dac.Config(
    eta=0.3,
    eta_rate=0.0,
    rho=0.0,
    q_samples=2,
    actor_hidden=(32, 32),
    critic_ensemble_size=2,
    critic_hidden=(32,),
    diffusion_steps=5,
    actor_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    decays=False,
    clip_norm=0.0,
    tau=0.05,
    average_start=0,
    average_interval=1,
    batch_size=64,
    candidates=5,
)


def test_defaults_are_the_paper_s():
    config = dac.Config()
    assert (config.eta, config.eta_rate, config.bc_threshold, config.rho) == (1.0, 0.001, 1.0, 1.0)
    assert (config.q_samples, config.critic_ensemble_size, config.candidates) == (10, 10, 10)
    assert (config.diffusion_steps, config.schedule, config.tau) == (5, "vp", 0.005)
    assert config.actor_hidden == config.critic_hidden == (256, 256, 256)
    assert config.actor_learning_rate == config.critic_learning_rate == 3e-4
    assert (config.average_start, config.average_interval, config.clip_norm) == (1_000, 5, 1.0)
    assert (config.temperature, config.batch_size, config.train_steps) == (0.0, 256, 2_000_000)


def test_the_activation_is_that_of_both_networks():
    def outputs(activation):
        parts = dac.build(replace(SMALL, activation=activation), SPEC)
        a, s, n = np.ones((2, 2), "f"), np.ones((2, 1), "f"), np.ones(2, np.int32)
        for net, inputs in ((parts.policy.net, (a, s, n)), (parts.critic, (s, a))):
            yield net.apply(filled(net.init, *inputs), *inputs)

    for mish, gelu in zip(outputs("mish"), outputs("gelu"), strict=True):
        assert np.abs(mish - gelu).max() > 1e-3
    with pytest.raises(ValueError, match="activation"):
        dac.make(replace(SMALL, activation="relu"), SPEC)


# ---------------------------------------------------------------------------- losses, by hand

SLOPES = np.array([[1.0, 0.0], [3.0, -1.0]], "f")  # of the two critics; (2, -0.5) on average


def closed_form(config):
    """Parts whose network is that of data N(m, I), and whose Q_k are linear."""
    schedule = schedules.vp(config.diffusion_steps)
    linear = Net(lambda key, *_: 0.0, lambda slope, s, a: jnp.sum(a * row(slope, a), -1))
    policy = DiffusionPolicy(normal_net(schedule), schedule, ddpm.ancestral(), 2)
    opt = optax.sgd(1.0)
    return dac.Parts(config, policy, nets.ensemble(linear, 2), SPEC.action_box, opt, opt)


ACTION = np.array([[0.1, -0.2], [0.4, 0.3], [0.0, 0.9], [-1.0, 0.5]], "f")


@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_is_regression_on_noise_that_points_uphill(normalize):
    """Up to a constant it is eta |eps_pi - (eps - sigma_n g / (2 eta))|^2, and so is its slope."""
    parts = closed_form(replace(SMALL, normalize_q=normalize))
    batch, eta, m = batch_of(ACTION), 0.3, np.array([0.5, -0.25], "f")

    def both(m):
        x, n, eps = parts.policy.noised(batch.action, jax.random.key(1))
        uphill = dac.guidance(jnp.asarray(SLOPES), x, n, parts=parts, batch=batch)
        noised = dac.Noised(x, n, eps, uphill)
        given = {"eta": jnp.float32(eta), "parts": parts, "batch": batch}
        loss = jax.value_and_grad(lambda m: dac.actor_loss(m, noised, **given)[0])(m)
        return *loss, noised, parts.policy.net.apply(m, x, batch.observation, n)

    loss, slope, noised, predicted = compiled(both, m)
    abar = schedules.vp(SMALL.diffusion_steps).alpha_bar[noised.level][:, None]
    size = np.abs(np.einsum("ea,ba->eb", SLOPES, ACTION)).mean() if normalize else 1.0
    uphill = np.sqrt(1 - abar) * np.array([2.0, -0.5]) / size
    np.testing.assert_allclose(noised.guidance, uphill, rtol=1e-5)
    target = noised.eps - uphill / (2 * eta)
    constant = eta * (noised.eps**2 - target**2).mean()
    assert loss == pytest.approx(eta * ((predicted - target) ** 2).mean() + constant, rel=1e-4)
    in_m = -np.sqrt(abar * (1 - abar))  # of eps_pi
    expected = (2 * eta * (predicted - target) * in_m).mean(0) / 2
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def test_eta_rises_where_cloning_is_worse_than_the_threshold():
    config = replace(SMALL, eta_rate=0.5, bc_threshold=1.0)
    cases = {(1.0, 1.4): 1.2, (1.0, 9.0): 1.5, (0.2, 0.0): 0.001, (99.9, 2.0): 100.0}
    for (eta, error), expected in cases.items():
        found = compiled(lambda a, b: dac.dual_ascent(a, b, config), np.float32(eta), error)
        assert found == pytest.approx(expected, rel=1e-6)
    still = dac.dual_ascent(jnp.float32(1e-5), jnp.float32(3), replace(config, eta_rate=0.0))
    assert float(still) == pytest.approx(1e-5)  # outside the range of an eta that moves


@pytest.mark.parametrize("best", [False, True])
def test_the_target_is_a_lower_bound_over_critics(best):
    samples = np.random.default_rng(0).normal(size=(3, 2, 2)).astype("f")

    def sample(params, observation, key, count):
        assert params == "average" and count == 2
        return jnp.asarray(samples)

    parts = closed_form(replace(SMALL, max_backup=best, rho=0.7))
    parts = parts._replace(policy=SimpleNamespace(sample=sample))
    state = dac.State(fixed("policy", "average"), fixed(0 * SLOPES, jnp.asarray(SLOPES)), None)
    batch = batch_of(np.zeros((3, 2), "f"), reward=[1.0, 2.0, 3.0], discount=[0.5, 0.9, 0.0])
    found = compiled(lambda: dac.critic_target(state, parts=parts, batch=batch, key=None))
    q = np.einsum("ea,bka->ebk", SLOPES, samples)
    q = q.max(-1) if best else q.mean(-1)
    bound = q.mean(0) - 0.7 * q.std(0)
    np.testing.assert_allclose(found, [1, 2, 3] + np.array([0.5, 0.9, 0]) * bound, rtol=1e-5)


# -------------------------------------------------------------------------------- one update


def test_the_policy_sees_the_new_target_network_and_eta_the_new_policy(tiny):
    config = replace(SMALL, actor_hidden=(8,), critic_hidden=(8,), eta_rate=0.1, eta=1.0)
    opt = optax.sgd(0.1)
    parts = dac.build(config, Spec.of(tiny))._replace(actor_optimizer=opt, critic_optimizer=opt)
    start = filled(lambda key: dac.init(key, tiny, parts=parts)).replace(eta=np.float32(1))

    def both(key, batch, old):
        after, metrics = dac.update(old, batch, key, 0, parts=parts)
        x, n, eps = parts.policy.noised(batch.action, jax.random.split(key)[1])
        uphill = dac.guidance(after.critic.target, x, n, parts=parts, batch=batch)
        noised, given = dac.Noised(x, n, eps, uphill), {"parts": parts, "batch": batch}
        loss, _ = dac.actor_loss(old.actor.params, noised, eta=old.eta, **given)
        error, _ = dac.cloning_error(after.actor.params, noised, **given)
        return after, metrics["actor_loss"][0], loss, error

    after, found, loss, error = compiled(both, jax.random.key(0), tiny, start)
    assert found == pytest.approx(loss, rel=1e-5)
    assert after.eta == pytest.approx(1 + 0.1 * np.clip(error - 1, -1, 1), rel=1e-5)
    for old, new in ((start.actor, after.actor), (start.critic, after.critic)):
        trees = old.params, old.target, new.params, new.target
        for first, before, params, now in zip(*map(jax.tree.leaves, trees), strict=True):
            assert np.abs(params - first).max() > 0
            np.testing.assert_allclose(now, 0.95 * before + 0.05 * params, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------ a moment of training


@pytest.fixture(scope="module")
def trained():
    """trained(probe) -> Q on the data, and actions; one program for all."""
    size = 256
    example = jax.tree.map(lambda x: x[:1], probes.constant_reward(size).data)
    parts = dac.build(SMALL, Spec.of(example))
    drawn = filled(lambda key: dac.init(key, example, parts=parts), scale=0.3)

    @jax.jit
    def program(data, key):
        opt = parts.actor_optimizer
        start = dac.State(
            actor=learner.init(drawn.actor.params, opt, target=True),
            critic=learner.init(drawn.critic.params, opt, target=True),
            eta=jnp.float32(SMALL.eta),
        )

        def body(step, state):
            rows = uniform(jax.random.key(7), step, size, SMALL.batch_size)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            key = jax.random.fold_in(jax.random.key(8), step)
            return dac.update(state, batch, key, step, parts=parts)[0]

        state = jax.lax.fori_loop(0, 1_000, body, start)
        q = parts.critic.apply(state.critic.params, data.observation, data.action)
        return q, dac.act(state, data.observation, key, parts=parts)

    return lambda probe: map(np.asarray, program(probe(size).data, jax.random.key(0))), size


@pytest.mark.parametrize("probe", [probes.two_steps, probes.joint_reward])
def test_probes_are_solved(trained, probe):
    """The values, and the best action by the best of five samples, on average."""
    run, size = trained
    data, q, best = probe(size)
    found, action = run(probe)
    assert np.sqrt(np.mean((found - q(data.observation, data.action)[None]) ** 2)) < 0.1
    if best is not None:
        assert np.abs(action - best(data.observation)).mean() < 0.15  # a single sample: 0.28
