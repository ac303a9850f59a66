"""InfoNCE on four atoms, where the loss can be summed out (E of BPR's known answers)."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl_prefs.ops import contrastive
from tests.exact import compiled

pytestmark = pytest.mark.usefixtures("x64")

P = np.array([0.5, 0.3, 0.15, 0.05])
BEST = np.log(4 * P)


def exact_loss(f, n, log_q=None):
    """The expectation over the data atom and n uniform draws, all 4^(1 + n) cases summed."""
    atoms = np.array(list(itertools.product(range(4), repeat=1 + n)))
    weight = P[atoms[:, 0]] * 0.25**n
    return jnp.sum(weight * contrastive.infonce(f[atoms]))


def test_loss_at_the_optimum():
    assert exact_loss(jnp.asarray(BEST), 1) == pytest.approx(0.5708799, abs=1e-7)


def loss_given_counts(counts, atom):
    """An atom that is drawn c times is one logit that is log c higher."""
    with np.errstate(divide="ignore"):
        logits = np.concatenate([BEST[atom][:, None], BEST + np.log(counts)], 1)
    return compiled(contrastive.infonce, logits)


def test_loss_at_the_optimum_with_eight_draws():
    counts = np.array([c for c in itertools.product(range(9), repeat=4) if sum(c) == 8])
    share = scipy.stats.multinomial(8, [0.25] * 4).pmf(counts)
    losses = [loss_given_counts(counts, np.full(len(counts), atom)) for atom in range(4)]
    assert P @ (np.array(losses) @ share) == pytest.approx(1.979, abs=5e-4)


def test_loss_at_the_optimum_with_256_draws():
    rng = np.random.default_rng(0)
    atom, counts = rng.choice(4, 40_000, p=P), rng.multinomial(256, [0.25] * 4, 40_000)
    losses = loss_given_counts(counts, atom)
    assert losses.std() / 200 < 4e-3
    assert losses.mean() == pytest.approx(5.306, abs=0.016)  # four deviations


@pytest.mark.parametrize(("n", "expected"), [(1, 0.693147), (8, 2.197225), (256, 5.549076)])
def test_a_constant_energy_knows_nothing(n, expected):
    assert contrastive.infonce(jnp.full(1 + n, 3.0)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_optimum_is_log_density_for_every_number_of_draws(n):
    slope = compiled(jax.grad(lambda f: exact_loss(f, n)), BEST + 0.7)  # any constant will do
    np.testing.assert_allclose(slope, 0, atol=1e-14)  # a sum of up to 1024 terms
    moved = compiled(jax.grad(lambda f: exact_loss(f, n)), BEST + np.array([0.1, 0, 0, 0]))
    assert np.abs(moved).max() > 1e-3


def test_fitted_energies_reproduce_log_density_differences():
    step = jax.value_and_grad(lambda f: exact_loss(f, 2))

    def fit(f):
        return jax.lax.fori_loop(0, 3_000, lambda _, f: f - 4 * step(f)[1], f)

    energy = -compiled(fit, np.zeros(4))
    assert energy[3] - energy[0] == pytest.approx(2.302585, abs=1e-6)
    np.testing.assert_allclose(energy - energy[0], np.log(P[0] / P), atol=1e-6)


def test_rank_accuracy_by_hand():
    logits = jnp.array([[2.0, 1.0, 0.0, -1.0], [0.0, 1.0, 0.0, -1.0]])
    np.testing.assert_allclose(contrastive.rank_accuracy(logits), [1, 0.5])
    assert contrastive.rank_accuracy(jnp.zeros(9)) == 0.5


def test_slopes_are_free_up_to_the_limit():
    slope = jnp.array([[0.9, -1.0], [-3.0, 2.0], [0.0, 1.5]])
    np.testing.assert_allclose(contrastive.slope_penalty(slope), [0, 4, 0.25])
    np.testing.assert_allclose(contrastive.slope_penalty(slope, 2), [0, 1, 0])
