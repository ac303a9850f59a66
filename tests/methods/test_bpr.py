"""BPR on problems whose answers are known. Letters are those of the known answers: A lam's
direction, D no leak, G critics; the rest are tested where the parts are."""

from __future__ import annotations

import dataclasses
import typing
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import bpr
from jaxrl_prefs.ops import gaussian
from jaxrl_prefs.policies.tanh_gaussian import TanhGaussian
from jaxrl_prefs.training import sweep
from jaxrl_prefs.types import Box, Net, Spec
from tests import probes
from tests.exact import batch_of, compiled, filled

DATA = probes.episodes(size=24, length=6, observation_dim=3, action_dim=2)
SPEC = Spec.of(DATA)
SMALL = bpr.Config(
    actor_hidden=(8,),
    critic_hidden=(8,),
    behavior_width=8,
    behavior_blocks=1,
    negative_samples=3,
    search_samples=8,
    samples=3,
    lam=0.7,
    alpha=0.3,
)
KEY = jax.random.key(0)


CHOICES = {
    name: typing.get_args(kind)
    for name, kind in typing.get_type_hints(bpr.Config).items()
    if typing.get_origin(kind) is typing.Literal
}


def built(**changes):
    """Parts of a small method, and a state full of numbers."""
    parts = bpr.build(dataclasses.replace(SMALL, **changes), SPEC)
    return parts, filled(partial(bpr.init, parts=parts), DATA)


# ---------------------------------------------------------------------------------- the config


@pytest.mark.parametrize("field", CHOICES)
def test_unknown_choices_are_refused_by_name_with_the_options(field):
    with pytest.raises(ValueError, match=f"{field} must be one of .* not 'misspelt'"):
        bpr.make(bpr.Config(**{field: "misspelt"}), SPEC)
    for option in CHOICES[field]:
        bpr.make(bpr.Config(**{field: option}), SPEC)


@pytest.mark.parametrize(("field", "least"), [("samples", 2), *((f, 1) for f in bpr.AT_LEAST_ONE)])
def test_counts_that_are_too_small_are_refused(field, least):
    with pytest.raises(ValueError, match=f"{field} must be at least {least}, not {least - 1}"):
        bpr.make(bpr.Config(**{field: least - 1}), SPEC)
    bpr.make(bpr.Config(**{field: least}), SPEC)


@pytest.mark.parametrize("field", bpr.NONNEGATIVE)
def test_negative_strengths_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must not be negative"):
        bpr.make(bpr.Config(**{field: -1}), SPEC)
    bpr.make(bpr.Config(**{field: 0}), SPEC)


def test_lam_must_be_positive():
    with pytest.raises(ValueError, match="lam must be above 0"):
        bpr.make(bpr.Config(lam=0.0), SPEC)


@pytest.mark.parametrize("behavior", ["tilted", "gaussian"])
def test_langevin_negatives_are_the_plain_energy_s(behavior):
    with pytest.raises(ValueError, match="negatives=langevin needs behavior=energy"):
        bpr.make(bpr.Config(negatives="langevin", behavior=behavior), SPEC)


def test_the_numbers_of_its_objective_may_differ_between_members():
    """What a sweep over lam needs: no program depends on them."""
    for critic in ("sac", "ensemble"):
        config = dataclasses.replace(SMALL, critic=critic)
        names = ("lam", "q_weight", "omega", "alpha", "actor_learning_rate", "tau")
        behavior, train = sweep.vary(bpr.make, config, SPEC, names).phases
        # The energy is trained once per seed.
        assert behavior.update.identical and not train.update.identical


def test_defaults_are_the_paper_s_where_it_gives_any():
    config = bpr.Config()
    assert (config.lam, config.samples, config.sampling) == (1, 2, "selfplay")
    assert (config.critic_ensemble_size, config.omega, config.spread) == (4, 2, "variance")
    behavior, train = bpr.make(config, SPEC).phases
    assert (behavior.name, behavior.steps, behavior.batch_size) == ("behavior", 100_000, 512)
    assert (train.name, train.steps, train.batch_size) == ("train", 1_000_000, 256)


@pytest.mark.parametrize(("critic", "members"), [("sac", 2), ("onestep", 2), ("ensemble", 4)])
def test_critics_have_their_members(critic, members):
    parts = bpr.build(bpr.Config(critic=critic), SPEC)
    shapes = jax.eval_shape(partial(bpr.init, parts=parts), KEY, DATA)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(shapes.critic.params)} == {members}


def test_rules_say_how_actions_are_chosen():
    policies = bpr.make(SMALL, SPEC).policies
    assert list(policies) == ["actor", "behavior"]
    assert policies["behavior"].candidates == 8
    assert policies["behavior"].rule == "lowest energy of 3 rounds"
    gaussian = bpr.make(dataclasses.replace(SMALL, behavior="gaussian"), SPEC).policies
    assert (gaussian["behavior"].candidates, gaussian["behavior"].rule) == (1, "single sample")
    tilted = bpr.make(dataclasses.replace(SMALL, behavior="tilted"), SPEC).policies
    assert (tilted["behavior"].candidates, tilted["behavior"].rule) == (8, "lowest energy")


@pytest.mark.parametrize("field", CHOICES)
def test_every_choice_trains_acts_and_keeps_the_state_s_structure(field):
    """Traced, not run: shapes and types of whatever a choice builds."""
    for option in CHOICES[field]:
        more = {"critic": "ensemble"} if field == "spread" else {}
        method = bpr.make(dataclasses.replace(SMALL, **{field: option}, **more), SPEC)

        def whole(key, data, method=method):
            state = method.init(key, data)
            for phase in method.phases:
                state, _ = phase.update(state, data, key, jnp.int32(0))
            acts = [policy.act(state, data.observation, key) for policy in method.policies.values()]
            return state, acts, method.diagnose(state, data, key)

        before = jax.eval_shape(method.init, KEY, DATA)
        after, acts, _ = jax.eval_shape(whole, KEY, jax.tree.map(jnp.asarray, DATA))
        assert jax.tree.structure(after) == jax.tree.structure(before)
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            assert (old.shape, old.dtype) == (new.shape, new.dtype)
        assert {action.shape for action in acts} == {(24, 2)}


# ---------------------------------------------------------------------------------- D: no leak


@pytest.mark.parametrize("sampling", ["selfplay", "reference"])
def test_gradients_reach_the_log_density_at_held_actions_alone(sampling):
    """Equation 7 with the actions and their values passed in as constants, and nothing else."""
    parts, state = built(sampling=sampling, critic="ensemble", behavior="energy")
    policy, config = parts.policy, parts.config

    def loss(actor, state):
        return bpr.actor_loss(actor, state=state, parts=parts, batch=DATA, key=KEY)[0]

    def draws(state):
        of = bpr.compare(state.actor.params, state=state, parts=parts, batch=DATA, key=KEY)
        own = 3 if sampling == "selfplay" else 2
        u = policy.sample_pre_tanh(state.actor.params, DATA.observation, KEY, own)
        if sampling == "reference":
            u = jnp.concatenate([policy.unsquash(DATA.action)[:, None], u], 1)
        return of, u

    of, u = compiled(draws, state)

    def by_constants(actor):
        g = (
            config.lam * (policy.log_density_pre_tanh(actor, DATA.observation, u) - of.q)
            + of.energy
        )
        pairs = [(0, 1), (0, 2), (1, 2)] if sampling == "selfplay" else [(0, 1), (0, 2)]
        return sum(jnp.mean(jnp.square(g[:, i] - g[:, j])) for i, j in pairs) / len(pairs)

    grads = jax.value_and_grad(loss, argnums=(0, 1), allow_int=True)
    value, (by_actor, by_state) = compiled(grads, state.actor.params, state)
    expected, slopes = compiled(jax.value_and_grad(by_constants), state.actor.params)
    assert value == pytest.approx(float(expected), rel=1e-4)
    for mine, theirs in zip(jax.tree.leaves(by_actor), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=1e-4 * np.abs(theirs).max())
        assert np.abs(theirs).max() > 0
    for part in (by_state.behavior.params, by_state.vectors, by_state.critic.params):
        assert jax.tree.leaves(part)
        for leaf in jax.tree.leaves(part):
            np.testing.assert_array_equal(leaf, 0)


def test_the_reference_is_the_data_s_action_and_self_play_never_sees_it():
    for sampling in ("reference", "selfplay"):
        parts, state = built(sampling=sampling)
        of = compiled(
            lambda s, parts=parts: bpr.compare(
                s.actor.params, state=s, parts=parts, batch=DATA, key=KEY
            ),
            state,
        )
        assert of.action.shape == (24, 3, 2)
        close = np.abs(of.action - np.asarray(DATA.action)[:, None]).max(-1) < 1e-5
        assert close[:, 0].all() == (sampling == "reference")
        assert not close[:, 1:].any()


# ---------------------------------------------------------------------- what the actor is told


def test_values_are_scaled_to_nats():
    q = jnp.array([[1.0, -3.0], [2.0, 2.0]])
    raw = dataclasses.replace(SMALL, q_scale="raw")
    np.testing.assert_array_equal(bpr.scaled(q, config=raw), q)
    scaled = dataclasses.replace(SMALL, q_scale="mean_abs", q_weight=6.0)
    np.testing.assert_allclose(bpr.scaled(q, config=scaled), 3 * q, rtol=1e-6)


def test_the_ensemble_s_value_is_of_its_kind():
    """G: members 1, 2, 3, 4 and omega 2 give 2.5 - 2 * 1.25 = 0, the minimum is 1."""
    members = jnp.array([[1.0], [2.0], [3.0], [4.0]])
    expected = {"sac": 1.0, "onestep": 1.0, "ensemble": 0.0}
    for critic, value in expected.items():
        config = dataclasses.replace(SMALL, critic=critic, omega=2.0)
        assert bpr.ensemble_value(members, config=config)[0] == pytest.approx(value, abs=1e-6)
    config = dataclasses.replace(SMALL, critic="ensemble", omega=2.0, spread="std")
    assert bpr.ensemble_value(members, config=config)[0] == pytest.approx(
        2.5 - 2 * np.sqrt(1.25), abs=1e-6
    )


def test_magnitudes_stand_side_by_side():
    action = jnp.array([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 2.0]]])
    one = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    of = bpr.Comparison(action, one, 10 * one, 100 * one)
    found = {name: float(x) for name, (x, _) in bpr.magnitudes(of, 4.0).items()}
    expected = {"pair_distance": 3, "density_gap": 2, "q_gap": 20, "energy_gap": 50}
    assert found == pytest.approx(expected)


# ----------------------------------------------------------- A, B: a Gaussian, trained end to end

# B's bowls, over the u before the tanh; the energy also holds the tanh's slope, so that the best
# policy is a tanh-Gaussian to the letter and both kinds of sampling must find it.
OPTIMA = {0.5: (-0.6, 0.1), 1.0: (-1 / 3, 1 / 6), 2.0: (0.0, 0.25)}
TABLE = Net(lambda key, s: jnp.zeros(2), lambda p, s: jnp.broadcast_to(p, (*s.shape[:-1], 2)))
LOW, HIGH = np.float32([-1]), np.float32([1])


class Bowl(NamedTuple):
    """E = 2 (u + 1)^2 + lam log d tanh / du."""

    lam: float

    def energy(self, params, vectors):
        def level(s, a):
            u = jnp.arctanh(a)
            return 2 * jnp.square(u[..., 0] + 1) + self.lam * gaussian.log_tanh_slope(u)

        return level


def bowl_parts(config):
    def q(params, s, a):
        return params - jnp.square(jnp.arctanh(a[..., 0]) - 1)

    return bpr.Parts(
        config=config,
        spec=SPEC._replace(action_dim=1),
        model=Bowl(config.lam),
        policy=TanhGaussian(TABLE, Box(LOW, HIGH)),
        critic=nets.ensemble(Net(lambda key, s, a: jnp.zeros(()), q), 2),
        behavior_optimizer=optax.sgd(0.0),
        actor_optimizer=optax.adam(0.01),
        critic_optimizer=optax.sgd(0.1),
    )


@pytest.mark.parametrize("sampling", ["selfplay", "reference"])
@pytest.mark.parametrize("lam", OPTIMA)
def test_the_actor_finds_the_product_of_value_and_behaviour(lam, sampling):
    """pi* ~ exp(Q) pi_beta^(1/lam): a large lam follows Q, whose best u is 1."""
    config = bpr.Config(lam=lam, q_scale="raw", samples=4, sampling=sampling)
    parts = bowl_parts(config)
    state = bpr.State(
        behavior=Trainable(jnp.zeros(()), None, ()),
        vectors={},
        actor=learner.init(jnp.array([0.2, 0.0]), parts.actor_optimizer),
        critic=Trainable(jnp.array([0.0, 1e3]), jnp.zeros(2), ()),  # the least one counts
    )
    batch = batch_of(np.tanh(np.random.default_rng(0).normal(-1, 0.5, (256, 1))).astype("f"))

    def train(state):
        def step(i, state):
            key = jax.random.fold_in(KEY, i)
            return bpr.update_actor(state, batch, key, parts=parts)[0]

        return jax.lax.fori_loop(0, 800, step, state)

    mean, log_std = np.asarray(jax.jit(train)(state).actor.params)
    assert mean == pytest.approx(OPTIMA[lam][0], abs=0.01)
    assert np.exp(2 * log_std) == pytest.approx(OPTIMA[lam][1], rel=0.03)


# ----------------------------------------------------------------------------------- G: critics


def test_sac_targets_are_the_least_value_less_the_entropy_paid():
    parts, state = built(critic="sac")
    target = compiled(lambda s: bpr.critic_target(s, parts=parts, batch=DATA, key=KEY), state)

    def by_hand(state):
        s = DATA.next_observation
        u = parts.policy.sample_pre_tanh(state.actor.params, s, KEY, 1)
        paid = parts.policy.log_density_pre_tanh(state.actor.params, s, u)[:, 0]
        return parts.critic.apply(state.critic.target, s, parts.policy.squash(u)[:, 0]), paid

    q, paid = compiled(by_hand, state)
    expected = DATA.reward + DATA.discount * (q.min(0) - 0.3 * paid)
    assert target.shape == (2, 24)
    for member in target:
        np.testing.assert_allclose(member, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(bpr.critic_weight(DATA, parts=parts), 1)


@pytest.mark.parametrize("critic", ["onestep", "ensemble"])
def test_one_step_targets_take_the_data_s_next_action(critic):
    """Whatever the actor; an ensemble's members bootstrap from their own averages alone."""
    parts, state = built(critic=critic)
    target = compiled(lambda s: bpr.critic_target(s, parts=parts, batch=DATA, key=KEY), state)
    q = compiled(parts.critic.apply, state.critic.target, DATA.next_observation, DATA.next_action)
    q = q if critic == "ensemble" else np.broadcast_to(q.min(0), q.shape)
    np.testing.assert_allclose(target, DATA.reward + DATA.discount * q, rtol=1e-4, atol=1e-5)
    spread = np.ptp(target[:, DATA.discount > 0], axis=0).max()
    assert (spread > 0.01) == (critic == "ensemble")
    cut = DATA._replace(has_next_action=np.where(np.arange(24) == 2, 0, DATA.has_next_action))
    weight = bpr.critic_weight(jax.tree.map(jnp.asarray, cut), parts=parts)
    assert np.flatnonzero(np.asarray(weight) == 0).tolist() == [2]  # terminals do count


@pytest.mark.parametrize("critic", ["onestep", "ensemble"])
@pytest.mark.parametrize("pull", [-3.0, 3.0])
def test_a_loop_is_worth_r_over_one_less_gamma_whatever_the_policy(critic, pull):
    config = bpr.Config(critic=critic, tau=0.2, alpha=0.7)
    members = 4 if critic == "ensemble" else 2
    table = Net(lambda key, s, a: jnp.zeros(()), lambda q, s, a: jnp.full(a.shape[:-1], q))
    parts = bowl_parts(config)._replace(critic=nets.ensemble(table, members))
    batch = batch_of(np.zeros((8, 1), np.float32), reward=3.0, discount=0.75)
    batch = batch._replace(has_next_action=jnp.ones(8))
    start = jnp.linspace(-5, 5, members)
    state = bpr.State(
        behavior=Trainable(jnp.zeros(2), None, ()),
        vectors={},
        actor=Trainable(jnp.array([pull, 0.0]), None, ()),
        critic=learner.init(start, parts.critic_optimizer, target=True),
    )

    def train(state):
        def step(i, state):
            return bpr.update_critic(state, batch, jax.random.fold_in(KEY, i), parts=parts)[0]

        return jax.lax.fori_loop(0, 500, step, state)

    np.testing.assert_allclose(jax.jit(train)(state).critic.target, 12.0, rtol=1e-4)


def test_rows_that_were_cut_off_teach_a_one_step_critic_nothing():
    parts, state = built(critic="onestep")
    state = bpr.State(
        behavior=state.behavior,
        vectors=state.vectors,
        actor=state.actor,
        critic=learner.init(state.critic.params, parts.critic_optimizer, target=True),
    )
    cut = DATA._replace(has_next_action=np.zeros(24, np.float32), discount=np.ones(24, np.float32))
    after, metrics = compiled(lambda s: bpr.update_critic(s, cut, KEY, parts=parts), state)
    assert metrics["critic_loss"][0] == 0
    for mine, theirs in zip(
        jax.tree.leaves(after.critic.params), jax.tree.leaves(state.critic.params), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
