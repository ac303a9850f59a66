"""FQL: its losses on networks in closed form, one update, and a moment of training."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import learner, nets
from jaxrl_prefs.method import uniform
from jaxrl_prefs.methods import fql
from jaxrl_prefs.ops import flow
from jaxrl_prefs.policies.flow import FlowPolicy, OneStepPolicy
from jaxrl_prefs.types import Net, Spec
from tests import probes
from tests.exact import batch_of, compiled, filled, fixed

SPEC = Spec(1, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(1)] * 4)
SMALL = fql.Config(
    actor_hidden=(32,),
    critic_hidden=(32,),
    flow_steps=4,
    flow_sampler="midpoint",
    behavior_learning_rate=3e-3,
    actor_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    tau=0.05,
    batch_size=64,
)


def test_defaults_are_the_paper_s():
    config = fql.Config()
    assert (config.alpha, config.q_agg, config.normalize_q_loss) == (10.0, "mean", False)
    assert (config.flow_steps, config.flow_sampler, config.tau) == (10, "euler", 0.005)
    assert config.actor_hidden == config.critic_hidden == (512, 512, 512, 512)
    assert config.critic_layer_norm and not config.actor_layer_norm
    rates = config.behavior_learning_rate, config.actor_learning_rate, config.critic_learning_rate
    assert rates == (3e-4, 3e-4, 3e-4)
    assert (config.batch_size, config.train_steps) == (256, 1_000_000)


@pytest.mark.parametrize("field", ["batch_size", "flow_steps"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        fql.make(fql.Config(**{field: 0}), SPEC)


# ---------------------------------------------------------------------------- losses, by hand

SLOPES = np.array([[1.0, 0.0], [3.0, 0.0]], "f")  # of the two critics: Q = 2 a_1 on average
NOISE = np.array([[0.1, 0.2], [0.4, -0.3], [2.0, 0.0]], "f")


def closed_form(config):
    """Parts whose flow carries z to z / 2, whose mu is z + c, and whose Q_k are linear."""
    halving = Net(
        lambda key, *inputs: 0.0, lambda p, s, x, t: -0.5 * p * x / (1 - 0.5 * t[..., 0])
    )  # d x / d t of x = (1 - t / 2) z: Euler's steps are exact
    shifted = Net(lambda key, *inputs: 0.0, lambda c, s, z: z + c)
    linear = Net(
        lambda key, *inputs: 0.0,
        lambda slope, s, a: jnp.sum(a * slope.reshape((1,) * (a.ndim - 1) + (2,)), -1),
    )
    box, opt = SPEC.action_box, optax.sgd(1.0)
    return fql.Parts(
        config=config,
        behavior=FlowPolicy(halving, box, flow.euler, config.flow_steps),
        policy=OneStepPolicy(shifted, box),
        critic=nets.ensemble(linear, 2),
        behavior_optimizer=opt,
        actor_optimizer=opt,
        critic_optimizer=opt,
    )


def state_at(shift):
    return fql.State(
        behavior=fixed(jnp.float32(1.0)),
        actor=fixed(jnp.float32(shift)),
        critic=fixed(jnp.asarray(SLOPES), 2 * jnp.asarray(SLOPES)),
    )


@pytest.mark.parametrize("q_agg", ["mean", "min"])
def test_the_target_is_of_one_step_actions_by_the_target_network(q_agg):
    parts = closed_form(replace(SMALL, q_agg=q_agg))
    batch = batch_of(np.zeros((3, 2), "f"), reward=[1.0, 2.0, 3.0], discount=[0.5, 0.5, 0.0])
    found = compiled(
        lambda: fql.critic_target(state_at(-0.25), parts=parts, batch=batch, noise=NOISE)
    )
    first = np.array([-0.15, 0.15, 1.0])  # of the actions; the last one is clipped
    q = 2 * (first[None] * SLOPES[:, :1])
    expected = {"mean": q.mean(0), "min": q.min(0)}[q_agg]
    np.testing.assert_allclose(found, [1, 2, 3] + np.array([0.5, 0.5, 0]) * expected, rtol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_policy_s_loss_and_its_gradient(normalize):
    """Distance and Q are a mean each; beyond the box only the distance has a slope."""
    config = replace(SMALL, alpha=3.0, normalize_q_loss=normalize)
    parts, batch = closed_form(config), batch_of(np.zeros((3, 2), "f"))

    def loss(shift):
        at = {"state": state_at(0.0), "parts": parts, "batch": batch, "noise": NOISE}
        return fql.actor_loss(shift, **at)[0]

    found, slope = compiled(jax.value_and_grad(loss), 0.25)
    gap = NOISE + 0.25 - np.clip(NOISE / 2, -1, 1)
    q = 2 * np.clip(NOISE[:, 0] + 0.25, -1, 1)
    size = np.abs(q).mean() if normalize else 1.0
    assert found == pytest.approx(3 * (gap**2).mean() - q.mean() / size, rel=1e-5)
    inside = 2 / 3  # of the actions' first dimension
    assert slope == pytest.approx(3 * 2 * gap.mean() - 2 * inside / size, rel=1e-5)


# -------------------------------------------------------------------------------- one update


def test_an_update_starts_from_the_state_as_it_was(tiny):
    """The target network moves towards the old critics; mu and the critics read old networks."""
    config = replace(SMALL, actor_hidden=(8,), critic_hidden=(8,), behavior_learning_rate=1.0)
    parts = fql.build(config, Spec.of(tiny))
    start = filled(lambda key: fql.init(key, tiny, parts=parts))

    def both(key, batch, old):
        draws = fql.draw(key, batch)
        after, metrics = fql.update_with(old, batch, draws, parts=parts)
        expected = fql.critic_target(old, parts=parts, batch=batch, noise=draws.next_noise)
        loss, _ = fql.actor_loss(
            old.actor.params, state=old, parts=parts, batch=batch, noise=draws.noise
        )
        return after.critic, metrics, jnp.mean(expected), loss

    after, metrics, target, loss = compiled(both, jax.random.key(0), tiny, start)
    for before, params, now in zip(
        *map(jax.tree.leaves, (start.critic.target, start.critic.params, after.target)), strict=True
    ):
        np.testing.assert_allclose(now, 0.95 * before + 0.05 * params, rtol=1e-5, atol=1e-6)
    assert metrics["critic_target"][0] == pytest.approx(target, rel=1e-5)
    assert metrics["actor_loss"][0] == pytest.approx(loss, rel=1e-5)


# ------------------------------------------------------------------------ a moment of training


@pytest.fixture(scope="module")
def trained():
    """trained(probe, alpha) -> Q on the data, samples of actor and flow; one program for all."""
    size = 512
    row = jax.tree.map(lambda x: x[:1], probes.constant_reward(size).data)
    parts = fql.build(SMALL, Spec.of(row))
    drawn = filled(lambda key: fql.init(key, row, parts=parts))

    @jax.jit
    def program(data, alpha, key):
        trained, opt = parts._replace(config=replace(SMALL, alpha=alpha)), parts.actor_optimizer
        start = fql.State(
            behavior=learner.init(drawn.behavior.params, opt),
            actor=learner.init(drawn.actor.params, opt),
            critic=learner.init(drawn.critic.params, opt, target=True),
        )

        def body(step, state):
            rows = uniform(jax.random.key(7), step, size, SMALL.batch_size)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            key = jax.random.fold_in(jax.random.key(8), step)
            return fql.update(state, batch, key, step, parts=trained)[0]

        state = jax.lax.fori_loop(0, 1_500, body, start)
        q = parts.critic.apply(state.critic.params, data.observation, data.action)
        return q, *(
            act(state, data.observation, key, parts=parts) for act in (fql.act, fql.act_behavior)
        )

    def run(probe, alpha):
        return map(np.asarray, program(probe(size).data, alpha, jax.random.key(0)))

    return run, size


@pytest.mark.parametrize("probe", probes.PROBES, ids=lambda probe: probe.__name__)
def test_probes_are_solved(trained, probe):
    """With a weak pull to the flow, every noise leads to the best action."""
    run, size = trained
    data, q, best = probe(size)
    found, action, _ = run(probe, 0.01)
    assert np.sqrt(np.mean((found - q(data.observation, data.action)[None]) ** 2)) < 0.1
    if best is not None:
        assert np.abs(action - best(data.observation)).max() < 0.2


def test_a_strong_pull_clones_the_flow_and_the_flow_the_data(trained):
    """Uniform actions: the standard deviation of both is that of the data."""
    run, size = trained
    data = probes.action_reward(size).data
    _, action, flowed = run(probes.action_reward, 100.0)
    for found in (action, flowed):
        assert found.mean() == pytest.approx(data.action.mean(), abs=0.1)
        assert found.std() == pytest.approx(data.action.std(), rel=0.15)
    assert np.abs(np.sort(action[:, 0]) - np.sort(flowed[:, 0])).mean() < 0.1
