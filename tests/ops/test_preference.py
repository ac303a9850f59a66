"""BPR's paired regression in closed form: A discrete, B Gaussian, C invariances (spec letters)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import preference
from tests.exact import compiled

pytestmark = pytest.mark.usefixtures("x64")

Q = np.array([1.0, 0.0, 2.0, -1.0])
E = np.array([0.5, 0.0, 3.0, 1.0])
OPTIMA = {
    0.5: (0.48353, 0.48353, 0.00886, 0.02407),
    1.0: (0.52308, 0.31727, 0.11672, 0.04294),
    1.5: (0.47085, 0.24174, 0.24174, 0.04566),
    2.0: (0.42435, 0.20045, 0.33048, 0.04473),
    0.01: (0, 1, 0, 0),
    100.0: (0.24064, 0.08897, 0.63798, 0.03240),
}
FIRST, SECOND = (x.ravel() for x in np.meshgrid(range(4), range(4), indexing="ij"))
LOGITS = np.array([0.3, -0.4, 0.1, 0.8])


def pair_loss(log_pi, lam, first=FIRST, second=SECOND):
    """Equation 7 for pairs of arms, by the public functions: [pairs]."""
    arms = np.stack([first, second], -1)
    g = preference.residual(log_pi[arms], jnp.asarray(Q)[arms], jnp.asarray(E)[arms], lam)
    return preference.all_pairs(g)


def expected_loss(logits, lam):
    """Self-play: all 16 pairs, with the probabilities of drawing them held."""
    log_pi = jax.nn.log_softmax(logits)
    held = jax.lax.stop_gradient(jnp.exp(log_pi))
    return jnp.sum(held[FIRST] * held[SECOND] * pair_loss(log_pi, lam))


def kl(logits, lam):
    log_pi = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_pi) * (log_pi - jax.nn.log_softmax(jnp.asarray(Q - E / lam))))


# ---------------------------------------------------------------------------------- A: four arms


@pytest.mark.parametrize("lam", OPTIMA)
def test_every_pair_agrees_at_the_optimum_and_only_there(lam):
    """The table's policy has zero loss, so it is pi*, and lam's direction is pinned."""
    exact = jax.nn.log_softmax(jnp.asarray(Q - E / lam))
    np.testing.assert_allclose(jnp.exp(exact), OPTIMA[lam], atol=6e-6)
    np.testing.assert_allclose(pair_loss(exact, lam), 0, atol=1e-24)
    assert expected_loss(jnp.asarray(LOGITS), lam) > 1e-3


def test_equation_7_to_the_letter():
    """[(E2 - E1) - lam ((log pi1 - Q1) - (log pi2 - Q2))]^2, arm by arm."""
    log_pi, lam = np.log([0.4, 0.1, 0.3, 0.2]), 1.7
    for i, j in zip(FIRST, SECOND, strict=True):
        printed = (E[j] - E[i]) - lam * ((log_pi[i] - Q[i]) - (log_pi[j] - Q[j]))
        found = pair_loss(jnp.asarray(log_pi), lam, np.array([i]), np.array([j]))
        assert found[0] == pytest.approx(printed**2, rel=1e-12, abs=1e-24)


@pytest.mark.parametrize("lam", [0.5, 1.0, 2.0])
def test_expected_loss_is_twice_the_variance_of_the_gap(lam):
    log_pi = jax.nn.log_softmax(jnp.asarray(LOGITS))
    pi, gap = np.exp(log_pi), np.asarray(log_pi) - (Q - E / lam)
    variance = pi @ gap**2 - (pi @ gap) ** 2
    found = expected_loss(jnp.asarray(LOGITS), lam)
    assert found == pytest.approx(2 * lam**2 * variance, rel=1e-14)


@pytest.mark.parametrize("lam", [0.5, 1.0, 2.0])
def test_expected_gradient_is_that_of_the_reverse_kl(lam):
    """4 lam^2 grad KL(pi || pi*), to machine precision, at a policy far from the optimum."""
    found = compiled(jax.grad(lambda x: expected_loss(x, lam)), LOGITS)
    expected = compiled(jax.grad(lambda x: kl(x, lam)), LOGITS)
    np.testing.assert_allclose(found, 4 * lam**2 * expected, rtol=1e-12, atol=1e-15)
    assert np.abs(found).max() > 0.1


def test_without_holding_the_draws_it_is_another_gradient():
    def leaking(logits):
        log_pi = jax.nn.log_softmax(logits)
        pi = jnp.exp(log_pi)
        return jnp.sum(pi[FIRST] * pi[SECOND] * pair_loss(log_pi, 1.0))

    found = compiled(jax.grad(leaking), LOGITS)
    assert np.abs(found - 4 * compiled(jax.grad(lambda x: kl(x, 1.0)), LOGITS)).max() > 0.1


def test_more_samples_have_the_same_expectation():
    arms = np.stack(np.meshgrid(*[range(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    log_pi = jax.nn.log_softmax(jnp.asarray(LOGITS))
    g = preference.residual(log_pi[arms], jnp.asarray(Q)[arms], jnp.asarray(E)[arms], 1.5)
    weight = np.exp(np.asarray(log_pi)[arms].sum(-1))
    found = np.sum(weight * preference.all_pairs(g))
    expected = float(expected_loss(jnp.asarray(LOGITS), 1.5))
    assert found == pytest.approx(expected, rel=1e-12)


def test_all_pairs_and_against_first_by_the_pair():
    g = np.random.default_rng(0).normal(size=(3, 5))
    squares = np.square(g[:, :, None] - g[:, None, :])
    expected = squares.sum((1, 2)) / 20
    np.testing.assert_allclose(preference.all_pairs(jnp.asarray(g)), expected, rtol=1e-12)
    np.testing.assert_allclose(
        preference.against_first(jnp.asarray(g)), squares[:, 0, 1:].mean(-1), rtol=1e-12
    )
    np.testing.assert_allclose(
        preference.spread(jnp.asarray(g)[..., None]), np.sqrt(squares).sum((1, 2)) / 20, rtol=1e-12
    )
    assert preference.spread(jnp.array([[0.0, 4.0], [3.0, 0.0]])) == 5
    two = jnp.asarray(g[:, :2])
    np.testing.assert_allclose(preference.all_pairs(two), preference.against_first(two))


# ---------------------------------------------------------------------------------- B: a Gaussian

GAUSSIANS = {1.0: (-1 / 3, 1 / 6), 0.5: (-0.6, 0.1), 2.0: (0.0, 0.25)}


def bowls(a):
    return -((a - 1) ** 2), 2 * (a + 1) ** 2  # k = 2, m = 1; b = -1, s = .5


@pytest.mark.parametrize("lam", GAUSSIANS)
def test_a_quadratic_problem_has_a_gaussian_optimum(lam):
    mean, variance = GAUSSIANS[lam]
    a = np.random.default_rng(0).normal(size=(50, 4))
    log_pi = -((a - mean) ** 2) / (2 * variance) - 0.5 * np.log(2 * np.pi * variance)
    q, energy = bowls(a)
    g = preference.residual(*(jnp.asarray(x) for x in (log_pi, q, energy)), lam)
    np.testing.assert_allclose(preference.all_pairs(g), 0, atol=1e-22)
    q, energy = bowls(a)
    g = preference.residual(*(jnp.asarray(x) for x in (0.9 * log_pi, q, energy)), lam)
    assert preference.all_pairs(g).mean() > 0.1


def test_self_play_by_sampled_descent_finds_it():
    def loss(params, z):
        mean, log_std = params
        a = jax.lax.stop_gradient(mean + jnp.exp(log_std) * z)
        log_pi = -0.5 * jnp.square((a - mean) / jnp.exp(log_std)) - log_std
        return preference.all_pairs(preference.residual(log_pi, *bowls(a), 1.0)).mean()

    def gradient_descent(start):
        def step(i, params):
            z = jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (256, 2))
            rate = 0.02 / (1 + i / 100)
            return params - rate * jax.grad(loss)(params, z)

        return jax.lax.fori_loop(0, 2_000, step, start)

    mean, log_std = compiled(gradient_descent, np.zeros(2))
    assert mean == pytest.approx(-1 / 3, abs=0.01)
    assert np.exp(2 * log_std) == pytest.approx(1 / 6, abs=0.01)


# -------------------------------------------------------------------------------- C: invariances


@pytest.fixture
def terms():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(6, 2)) for name in ("log_density", "q", "energy")}


def losses(terms, lam=1.3):
    return preference.all_pairs(preference.residual(**terms, lam=lam))


@pytest.mark.parametrize("name", ["q", "energy", "log_density"])
def test_a_function_of_the_state_changes_nothing(terms, name):
    shift = np.random.default_rng(1).normal(size=(6, 1))
    moved = {**terms, name: terms[name] + shift}
    np.testing.assert_allclose(losses(moved), losses(terms), rtol=1e-9)


def test_order_in_a_pair_changes_nothing(terms):
    swapped = {name: x[:, ::-1] for name, x in terms.items()}
    np.testing.assert_allclose(losses(swapped), losses(terms), rtol=1e-12)


def test_a_pair_of_one_action_teaches_nothing():
    def loss(logits):
        return pair_loss(jax.nn.log_softmax(logits), 1.0, np.arange(4), np.arange(4)).sum()

    value, slope = compiled(jax.value_and_grad(loss), LOGITS)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)


def test_without_an_energy_lam_only_scales(terms):
    free = {**terms, "energy": 0 * terms["energy"]}
    np.testing.assert_allclose(losses(free, 1.7), 1.7**2 * losses(free, 1.0), rtol=1e-12)
