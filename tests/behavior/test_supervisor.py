"""The clone beside a Morse network: what it measures, when training stops, where negatives lie."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import learner
from jaxrl_prefs.behavior import morse, supervisor
from jaxrl_prefs.behavior.supervisor import Supervisor
from jaxrl_prefs.methods import iql_bst, td3_bst
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Box, Net, Spec
from tests import modes
from tests.exact import batch_of, compiled

pytestmark = pytest.mark.usefixtures("x64")

BOX = Box(np.full(2, -1.0), np.full(2, 1.0))
SIGMA = np.array([0.1, 0.02])
SPEC = Spec(1, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(1)] * 4)


@dataclasses.dataclass
class State:
    """The fields that a method's state has for its supervisor."""

    morse: Any
    clone: Any
    stopped_at: Any


jax.tree_util.register_dataclass(State, ["morse", "clone", "stopped_at"], [])


def clone(mean: float = 0.0) -> DiagonalGaussian:
    """N(mean, SIGMA^2) in every state, whatever its parameters."""
    output = np.concatenate([np.full(2, np.arctanh(mean)), np.log(SIGMA)])

    def apply(params: Any, observation: Any) -> Any:
        return jnp.broadcast_to(output.reshape(1, 4), (len(observation), 4))

    return DiagonalGaussian(Net(lambda key, *inputs: (), apply), BOX)


def made(network: morse.Morse, **fields: Any) -> Supervisor:
    values: dict[str, Any] = {
        "morse_optimizer": optax.sgd(0.1),
        "negatives": 2,
        "clone": clone(),
        "clone_optimizer": optax.sgd(0.1),
        "near_width": 2.0,
        "stop_uncertainty": 0.0,
    }
    return Supervisor(network, **values | fields)


def state_of(params: Any = ()) -> State:
    part = learner.init(params, optax.sgd(0.1))
    return State(part, learner.init((), optax.sgd(0.1)), jnp.int32(-1))


def to_origin(scale: float) -> morse.Morse:
    """f = 0: M(a) = exp(-scale^2 |a|^2 / 2)."""
    zero = Net(lambda key, *inputs: (), lambda params, s, a: jnp.zeros_like(a))
    return modes.shifted([0.0, 0.0], scale)._replace(net=zero)


# ---------------------------------------------------------------------------- in the objective


def test_distances_are_measured_in_the_clone_s_standard_deviations():
    data = batch_of(np.zeros((3, 2)))
    found = supervisor.clone_std(state_of(), data, supervisor=made(to_origin(1.0)))
    np.testing.assert_allclose(found, np.tile(SIGMA, (3, 1)), rtol=1e-12)
    alone = made(to_origin(1.0), clone=None)
    assert supervisor.clone_std(state_of(), data, supervisor=alone) is None


@pytest.mark.parametrize("module", [td3_bst, iql_bst])
def test_a_distance_in_standard_deviations_needs_a_clone(module):
    with pytest.raises(ValueError, match="distance=standardised needs a clone: set clone_steps"):
        module.make(module.Config(distance="standardised"), SPEC)


# --------------------------------------------------------------------------------- measuring


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0])
def test_uncertainty_away_from_the_clone_is_its_formula(distance):
    """The clone's mean is the origin, where M = 1; t deviations away |a|^2 = t^2 |sigma|^2."""
    known = made(to_origin(4.0))
    found = compiled(
        lambda: supervisor.uncertainty_at(
            distance, state_of(), batch_of(np.zeros((5, 2))), jax.random.key(0), supervisor=known
        )
    )
    expected = 1 - np.exp(-8 * distance**2 * (SIGMA**2).sum())
    np.testing.assert_allclose(found, np.full(5, expected), rtol=1e-9, atol=1e-15)


def test_the_diagnosis_adds_what_the_clone_knows():
    known, zero = made(to_origin(4.0)), np.zeros((5, 2))
    policy = np.tile(SIGMA * [3.0, -4.0], (5, 1))
    found = compiled(
        lambda: supervisor.diagnosis(
            state_of(), batch_of(zero), jax.random.key(0), policy, zero, supervisor=known
        )
    )
    mean = {name: total / count for name, (total, count) in found.items()}
    assert mean["uncertainty_clone"] == 0
    assert mean["uncertainty_one_std"] == pytest.approx(1 - np.exp(-8 * (SIGMA**2).sum()))
    assert mean["policy_clone_distance"] == pytest.approx(np.sqrt((9 + 16) / 2))
    assert mean["certainty_data"] == 1
    without = known._replace(clone=None)
    fewer = compiled(
        lambda: supervisor.diagnosis(
            state_of(), batch_of(zero), jax.random.key(0), policy, zero, supervisor=without
        )
    )
    assert set(found) - set(fewer) == {
        "uncertainty_clone",
        "uncertainty_one_std",
        "policy_clone_distance",
    }


def test_a_step_function_is_named_and_a_slope_is_not():
    """Rows that were measured on halfcheetah/medium-v0 (docs/methods/td3_bst.md)."""

    def told(clone: float, away: float, uniform: float = 0.01) -> int:
        found = {"uncertainty_clone": clone, "uncertainty_one_std": away}
        return len(supervisor.warnings(found | {"certainty_uniform": uniform}))

    assert told(0.007, 0.013) == told(0.016, 0.030) == told(0.005, 0.009) == 1
    assert told(0.031, 0.073) == told(0.286, 0.529) == told(0.051, 0.237) == 0
    assert told(0.001, 0.002, uniform=0.9) == 0  # certain everywhere: no step
    without = [{"certainty_data": x, "certainty_uniform": 0.01} for x in (0.974, 0.939)]
    assert [len(supervisor.warnings(found)) for found in without] == [1, 0]
    assert supervisor.warnings({}) == ()
    (text,) = supervisor.warnings(without[0])
    assert "step function" in text and "pretrain_steps" in text


@pytest.mark.parametrize("radius", [0.6, 0.41])
def test_without_a_clone_a_plateau_is_one_that_a_small_step_does_not_leave(radius):
    """f(a) = a clipped to the radius: M is 1 inside, and exp(-scale^2 d^2 / 2) at d outside.

    Actions are corners (+-.4, +-.4): a step of .05 * .4 in each dimension ends inside the larger
    radius. It leaves the smaller one by .01 in each dimension where it leads outward, half of them.
    """
    plateau = Net(lambda key, *inputs: (), lambda params, s, a: jnp.clip(a, -radius, radius))
    known = made(modes.shifted([0.0, 0.0], 100.0)._replace(net=plateau), clone=None)
    action = np.random.default_rng(0).permutation(np.tile([[0.4, 0.4], [-0.4, -0.4]], (2_000, 1)))
    far = np.full_like(action, 0.9)
    found = compiled(
        lambda: supervisor.diagnosis(
            state_of(), batch_of(action), jax.random.key(0), action, far, supervisor=known
        )
    )
    mean = {name: total / count for name, (total, count) in found.items()}
    each = (1 + np.exp(-0.5 * (100 * min(0.0, radius - 0.42)) ** 2)) / 2
    assert mean["certainty_data"] == 1 and mean["certainty_uniform"] < 1e-6
    assert mean["uncertainty_near_data"] == pytest.approx(1 - each**2, abs=0.015)
    assert len(supervisor.warnings(mean)) == (radius == 0.6)


# ---------------------------------------------------------------------------------- stopping


def missing() -> morse.Morse:
    """f(s, a) = a + the parameters: C = 1 - exp(-|parameters|^2 / 2) everywhere. Negatives weigh
    nothing, so a step of sgd(0.1) multiplies the parameters by 0.9."""

    def apply(params: Any, observation: Any, action: Any) -> Any:
        return action + params.reshape((1,) * (action.ndim - 1) + (2,))

    net = Net(lambda key, *inputs: jnp.zeros(2), apply)
    return modes.shifted([0.0, 0.0], 1.0)._replace(net=net, negative_weight=0.0)


def test_training_stops_where_one_deviation_away_is_certain_enough():
    """|parameters| = 0.9^n: C falls to .2 where .81^n <= -2 log .8 = .446, at n = 4."""
    known = made(missing(), stop_uncertainty=0.2)
    batch = batch_of(np.zeros((4, 2)))._replace(index=jnp.array([1, 2, 3, 4], jnp.int32))

    def run(steps: int) -> Any:
        def step(i: Any, carry: Any) -> Any:
            state, total, count = carry
            state, metrics = supervisor.update_morse(
                state, batch, jax.random.key(0), i, supervisor=known
            )
            more = metrics["uncertainty_one_std"]
            return state, total + more[0], count + more[1]

        zero = jnp.float32(0)
        return jax.lax.fori_loop(0, steps, step, (state_of(jnp.array([1.0, 0.0])), zero, zero))

    state, _, count = compiled(lambda: run(3))
    assert state.stopped_at == -1 and count == 3
    state, total, count = compiled(lambda: run(9))
    assert state.stopped_at == 4 and count == 4  # nothing is measured after the stop
    np.testing.assert_allclose(state.morse.params, [0.9**4, 0], rtol=1e-10, atol=1e-15)
    expected = sum(1 - np.exp(-0.5 * 0.81**n) for n in (1, 2, 3, 4))
    assert total == pytest.approx(expected, rel=1e-5)


def test_without_the_rule_every_update_trains():
    known = made(missing())
    batch = batch_of(np.zeros((4, 2)))._replace(index=jnp.array([1, 2, 3, 4], jnp.int32))
    state, metrics = compiled(
        lambda: supervisor.update_morse(
            state_of(jnp.array([1e-3, 0.0])), batch, jax.random.key(0), 0, supervisor=known
        )
    )
    np.testing.assert_allclose(state.morse.params, [9e-4, 0], rtol=1e-10)
    assert state.stopped_at == -1 and set(metrics) == set(supervisor.METRICS)


# ---------------------------------------------------------------------- negatives, the clone


def test_near_negatives_are_the_clone_s_widened():
    """All negatives near: f = 0, so their certainty is E exp(-scale^2 |a|^2 / 2), a Gaussian
    integral: prod_d (1 + scale^2 width^2 sigma_d^2)^-1/2."""
    network = to_origin(5.0)._replace(near=1.0)
    known = made(network, negatives=4_000, near_width=3.0)
    batch = batch_of(np.zeros((4, 2)))._replace(index=jnp.arange(1, 5, dtype=jnp.int32))
    proposal = supervisor._near(state_of(), known)
    samples = compiled(lambda: proposal.sample(batch.observation, jax.random.key(1), 4_000))
    np.testing.assert_allclose(samples.std((0, 1)), 3 * SIGMA, rtol=0.03)
    _, metrics = compiled(
        lambda: supervisor.update_morse(state_of(), batch, jax.random.key(0), 0, supervisor=known)
    )
    assert metrics["certainty_uniform"] == (0, 0)  # no negative is uniform
    expected = np.prod((1 + 25 * 9 * SIGMA**2) ** -0.5)
    assert metrics["morse_loss"][0] == pytest.approx(expected, rel=0.01)


def test_a_share_of_the_negatives_is_near():
    network = modes.shifted([0.0, 0.0], 1.0)._replace(near=0.3)
    known = made(network, negatives=5_000)
    batch = batch_of(np.zeros((4, 2)))._replace(index=jnp.arange(1, 5, dtype=jnp.int32))
    _, metrics = compiled(
        lambda: supervisor.update_morse(state_of(), batch, jax.random.key(0), 0, supervisor=known)
    )
    assert metrics["certainty_uniform"][1] / 20_000 == pytest.approx(0.7, abs=0.02)


def test_the_clone_descends_its_likelihood_on_rows_that_are_trained_on():
    """A Gaussian whose parameters are mean (before the tanh) and log std, by hand at 0: d/dm of
    -log N(a; tanh m, 1) is -a, d/d log std is 1 - a^2."""

    def apply(params: Any, observation: Any) -> Any:
        return jnp.broadcast_to(params[None], (len(observation), 4))

    gaussian = DiagonalGaussian(Net(lambda key, *inputs: jnp.zeros(4), apply), BOX)
    known = made(to_origin(1.0), clone=gaussian)
    action = np.random.default_rng(0).uniform(-1, 1, (3, 2))
    batch = batch_of(action)._replace(index=jnp.array([1, 2, 20], jnp.int32))
    state = state_of()
    state.clone = learner.init(jnp.zeros(4), known.clone_optimizer)
    after, metrics = compiled(
        lambda: supervisor.update_clone(state, batch, jax.random.key(0), 0, supervisor=known)
    )
    kept = action[:2]
    expected = -0.1 * np.concatenate([-kept.mean(0), (1 - kept**2).mean(0)])
    np.testing.assert_allclose(after.clone.params, expected, rtol=1e-9)
    nll = (action**2).sum(1) / 2 + np.log(2 * np.pi)
    assert metrics["clone_loss"][0] == pytest.approx(nll[:2].sum(), rel=1e-6)
    assert metrics["clone_held_out_loss"][0] == pytest.approx(nll[2], rel=1e-6)


# -------------------------------------------------------------------------------- input noise


def test_with_noise_on_its_input_the_network_learns_a_denoiser():
    """f(a) = g a on data N(0, s^2) with noise of variance n^2: the loss is least at
    g = s^2 / (s^2 + n^2), and C then rises from the mean on."""
    s, n, scale = 0.2, 0.1, 6.0
    rng = np.random.default_rng(0)
    action, noise = s * rng.normal(size=(40_000, 1)), n * rng.normal(size=(40_000, 1))
    net = Net(lambda key, *inputs: jnp.ones(()), lambda g, state, a: g * a)
    network = modes.shifted([0.0], scale)._replace(net=net, negative_weight=0.0)

    def slope(g: Any, noise: Any) -> Any:
        return jax.grad(
            lambda x: morse.loss(
                x,
                morse=network,
                batch=batch_of(action),
                negatives=jnp.zeros((len(action), 1, 1)),
                weight=jnp.ones(len(action)),
                noise=noise,
            )[0]
        )(g)

    best = s**2 / (s**2 + n**2)
    found = compiled(lambda: (slope(best, noise), slope(best + 0.1, noise), slope(1.0, None)))
    assert abs(found[0]) < 0.05 * found[1] and found[2] == 0  # without noise the identity is best
    by_hand = scale**2 * np.mean((best * (action + noise) - action) * (action + noise))
    assert found[0] == pytest.approx(by_hand, rel=1e-9)
    at = np.array([[0.0], [s]])
    certain = compiled(lambda: morse.certainty(network, jnp.array(best), np.zeros((2, 1)), at))
    share = n**2 / (n**2 + s**2)
    np.testing.assert_allclose(certain, np.exp(-0.5 * (scale * share * at[:, 0]) ** 2), rtol=1e-12)


def test_the_update_draws_noise_in_halves_of_the_box():
    """f = 0 on actions of 0: the loss does not see the noise. f(a) = a sees it alone:
    E = scale^2 |z|^2 / 2, whose mean is scale^2 n^2 radius^2 / 2 in one dimension."""
    identity = Net(lambda key, *inputs: (), lambda params, s, a: a)
    network = modes.shifted([0.0], 2.0)._replace(
        net=identity, box=Box(np.full(1, -3.0), np.full(1, 3.0)), input_noise=0.1
    )
    network = network._replace(negative_weight=0.0)
    batch = batch_of(np.zeros((20_000, 1)))._replace(index=jnp.ones(20_000, jnp.int32))
    opt = optax.sgd(0.1)
    _, metrics = compiled(
        lambda: morse.update(
            learner.init((), opt), batch, jax.random.key(0), morse=network, opt=opt, negatives=1
        )
    )
    assert metrics["morse_loss"][0] == pytest.approx(2 * 0.09, rel=0.05)


# ------------------------------------------------------------------------------------ configs


@pytest.mark.parametrize("module", [td3_bst, iql_bst])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"near": 0.5}, "near needs a clone: set clone_steps too"),
        ({"stop_uncertainty": 0.3}, "stop_uncertainty needs a clone"),
        ({"near": 1.5, "clone_steps": 1}, "near must be in 0 to 1"),
        ({"stop_uncertainty": -0.1, "clone_steps": 1}, "stop_uncertainty must be in 0 to 1"),
        ({"near_width": 0.0}, "near_width must be above 0"),
        ({"input_noise": -1.0}, "input_noise must not be negative"),
        ({"behavior_weight_decay": -1.0}, "behavior_weight_decay must not be negative"),
        ({"weight_floor": -0.1}, "weight_floor must not be negative"),
        ({"clone_steps": -1}, "clone_steps must not be negative"),
    ],
)
def test_options_that_cannot_be_are_refused(module, fields, message):
    with pytest.raises(ValueError, match=message):
        module.make(module.Config(**fields), SPEC)


@pytest.mark.parametrize("module", [td3_bst, iql_bst])
def test_a_clone_has_a_phase_of_its_own_and_only_then(module):
    plain = module.make(module.Config(), SPEC)
    assert [phase.name for phase in plain.phases] == ["morse", "train"]
    method = module.make(module.Config(clone_steps=7), SPEC)
    assert [(p.name, p.steps) for p in method.phases][:2] == [("clone", 7), ("morse", 100_000)]
    for each in (plain, method):
        assert each.warn({"certainty_data": 0.99, "certainty_uniform": 0.01})


def test_weight_decay_reaches_the_morse_network_alone():
    config = td3_bst.Config(behavior_weight_decay=0.5, behavior_learning_rate=0.1)
    parts = td3_bst.build(config, SPEC)
    zero, one = jnp.zeros(2), jnp.ones(2)
    known = parts.supervisor
    for opt, expected in ((known.morse_optimizer, 0.95), (known.clone_optimizer, 1)):
        updates, _ = opt.update(zero, opt.init(one), one)
        np.testing.assert_allclose(optax.apply_updates(one, updates), expected, rtol=1e-6)
