"""Reverse kernels, sampler and path KL against Gaussian closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import ddpm, gaussian, schedules
from jaxrl_prefs.types import Box
from tests.exact import M, compiled

pytestmark = pytest.mark.usefixtures("x64")

STEPS = (5, 50)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def eps_of(mean, std, schedule):
    """The exact noise prediction for data N(mean, std^2): E[eps | x_n]."""

    def eps_fn(x, n):
        abar = jnp.asarray(schedule.alpha_bar)[n]
        abar = abar.reshape(abar.shape + (1,) * (x.ndim - abar.ndim))
        shift = jnp.sqrt(abar) * jnp.reshape(mean, (1,) * (x.ndim - 1) + (-1,))
        return jnp.sqrt(1 - abar) * (x - shift) / (abar * std**2 + 1 - abar)

    return eps_fn


# ------------------------------------------------------------------------------ conversions


@pytest.mark.parametrize("n", [1, 2, 5])
def test_conversions_invert_each_other(n):
    schedule = schedules.vp(5)
    x0, eps = normal(0, 4, 3), normal(1, 4, 3)

    def there_and_back(x0, eps):
        x = ddpm.noised(schedule, x0, n, eps)
        score = ddpm.score_from_eps(schedule, eps, n)
        return (
            ddpm.x0_from_eps(schedule, x, eps, n),
            ddpm.eps_from_x0(schedule, x, x0, n),
            ddpm.eps_from_score(schedule, score, n),
        )

    for found, expected in zip(compiled(there_and_back, x0, eps), (x0, eps, eps), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_noising_keeps_the_printed_shares_of_signal_and_noise():
    schedule, one, zero = schedules.vp(5), np.ones((1, 1)), np.zeros((1, 1))
    n = [(one, 2, zero), (zero, 2, one), (3 * one, 0, one)]
    signal, noise, clean = (
        found.item()
        for found in compiled(lambda: [ddpm.noised(schedule, x, n, z) for x, n, z in n])
    )
    assert signal**2 == pytest.approx(0.435178, abs=5e-7)
    assert signal**2 + noise**2 == pytest.approx(1, abs=1e-12)
    assert clean == 3  # step 0 is clean data


def test_score_is_the_gradient_of_the_noised_log_density():
    schedule, n = schedules.vp(5), 3
    abar = schedule.alpha_bar[n]
    mean, std = np.sqrt(abar) * M, np.full(2, np.sqrt(abar * 0.25 + 1 - abar))

    def both(x):
        slope = jax.grad(lambda y: gaussian.log_density(y, mean, std))(x)
        return ddpm.score_from_eps(schedule, eps_of(M, 0.5, schedule)(x, n), n), slope

    np.testing.assert_allclose(*compiled(both, normal(2, 2)), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_every_op_keeps_the_dtype_of_its_inputs(dtype):
    schedule = schedules.vp(5)
    x = jax.ShapeDtypeStruct((2, 3), dtype)
    n = jax.ShapeDtypeStruct((2,), jnp.int32)
    box = Box(-np.ones(3), np.ones(3))

    def ops(x, n):
        key = jax.random.key(0)
        return (
            ddpm.noised(schedule, x, n, x),
            ddpm.x0_from_eps(schedule, x, x, n),
            ddpm.eps_from_x0(schedule, x, x, n),
            ddpm.score_from_eps(schedule, x, n),
            ddpm.eps_from_score(schedule, x, n),
            ddpm.posterior_mean(schedule, x, x, n),
            ddpm.ancestral(box)(schedule, x, x, n, x),
            ddpm.ddim(box)(schedule, x, x, n, x),
            ddpm.path_kl(schedule, x, x, n),
            ddpm.reverse(schedule, lambda y, n: y, x, key, ddpm.ancestral())[0],
        )

    assert {y.dtype for y in jax.eval_shape(ops, x, n)} == {jnp.dtype(dtype)}


OPS = {
    "noised": lambda s, x, y, n: ddpm.noised(s, x, n, y),
    "x0_from_eps": ddpm.x0_from_eps,
    "eps_from_x0": ddpm.eps_from_x0,
    "score_from_eps": lambda s, x, y, n: ddpm.score_from_eps(s, x, n),
    "eps_from_score": lambda s, x, y, n: ddpm.eps_from_score(s, x, n),
    "posterior_mean": ddpm.posterior_mean,
    "ancestral": lambda s, x, y, n: ddpm.ancestral(Box(np.array(-1.0), np.array(1.0)))(
        s, x, y, n, jnp.ones_like(x)
    ),
    "ddim": lambda s, x, y, n: ddpm.ddim()(s, x, y, n, x),
    "path_kl": ddpm.path_kl,
}


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_a_step_number_may_be_scalar_or_have_leading_axes(op):
    schedule = schedules.vp(5)
    n = np.array([1, 3, 5])

    def ways(x, y):
        alone = jnp.stack([op(schedule, x[i], y[i], int(n[i])) for i in range(3)])
        of_rows = jnp.stack([op(schedule, x[:, k], y[:, k], jnp.asarray(n)) for k in range(4)], 1)
        shared = op(schedule, x, y, jnp.asarray(n)[:, None])
        full = op(schedule, x, y, jnp.tile(jnp.asarray(n)[:, None], (1, 4)))
        return alone, of_rows, shared, full

    alone, *others = compiled(ways, normal(0, 3, 4, 2), normal(1, 3, 4, 2))
    assert len(np.unique(alone)) == alone.size
    for other in others:
        np.testing.assert_allclose(other, alone, rtol=1e-13)


# ------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_ancestral_mean_is_the_product_of_two_gaussians(n):
    """q(x_{n-1} | x_n, x_0) by adding precisions, and the noise-prediction form of Ho et al."""
    schedule = schedules.vp(5)
    beta, alpha = schedule.beta[n], 1 - schedule.beta[n]
    before, abar = np.prod(1 - schedule.beta[1:n]), np.prod(1 - schedule.beta[1 : n + 1])
    x, eps, zero = normal(3, 6, 2), normal(4, 6, 2), np.zeros((6, 2))
    x0 = (x - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
    steps = ddpm.ancestral(), ddpm.ancestral(Box(np.array(-0.4), np.array(0.3)))
    found, clip_to_box = compiled(
        lambda *of: tuple(s(schedule, *of, n, zero) for s in steps), x, eps
    )
    by_eps = (x - beta / np.sqrt(1 - abar) * eps) / np.sqrt(alpha)
    np.testing.assert_allclose(found, by_eps, rtol=1e-11)
    if n == 1:
        np.testing.assert_allclose(found, x0, rtol=1e-11)
        return
    precision = 1 / (1 - before) + alpha / beta
    product = (np.sqrt(before) * x0 / (1 - before) + np.sqrt(alpha) * x / beta) / precision
    np.testing.assert_allclose(found, product, rtol=1e-11)
    clipped = np.clip(x0, -0.4, 0.3)
    product = (np.sqrt(before) * clipped / (1 - before) + np.sqrt(alpha) * x / beta) / precision
    np.testing.assert_allclose(clip_to_box, product, rtol=1e-11)


def test_ancestral_noise_has_variance_beta_and_vanishes_at_the_last_step():
    schedule, n = schedules.vp(5), np.arange(1, 6)
    step = ddpm.ancestral(Box(np.array(-1.0), np.array(1.0)))
    quiet, noisy = compiled(
        lambda x: [step(schedule, x, x, jnp.asarray(n), c * jnp.ones_like(x)) for c in (0, 1)],
        normal(5, 5, 2),
    )
    expected = np.sqrt([0.0, *schedule.beta[2:]])
    np.testing.assert_allclose(noisy - quiet, np.tile(expected[:, None], 2), atol=1e-12)
    np.testing.assert_array_equal(noisy[0], quiet[0])


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_exact_variance_keeps_the_marginals_of_a_point(n):
    """x_n ~ N(sqrt(abar_n) m, 1 - abar_n) goes to the same at n - 1; beta_n is too much noise."""
    schedule, m, x = schedules.vp(5), np.array([0.7]), normal(3, 6, 1)
    eps_fn, zero, one = eps_of(m, 0.0, schedule), np.zeros((6, 1)), np.ones((6, 1))

    def moved(x):
        step = ddpm.ancestral(exact_variance=True)
        eps = eps_fn(x, n)
        return step(schedule, x, eps, n, zero), step(schedule, x, eps, n, one)

    mean, noisy = compiled(moved, x)
    now, before = schedule.alpha_bar[n], schedule.alpha_bar[n - 1]
    gap, shift = mean - np.sqrt(before) * m, x - np.sqrt(now) * m
    slope = gap / shift
    np.testing.assert_allclose(slope, slope[0, 0], rtol=1e-10)
    spread = noisy - mean
    np.testing.assert_allclose(slope**2 * (1 - now) + spread**2, 1 - before, rtol=1e-12)
    assert (spread**2 < 0.98 * schedule.beta[n]).all()


def test_clipping_a_step_bounds_its_noise_too():
    schedule, x, z = schedules.vp(5), normal(0, 50, 2), 3 * normal(1, 50, 2)
    low, high = np.array([-1.0, -0.2]), np.array([0.5, 1.0])
    free, bounded = ddpm.ancestral(), ddpm.clipped(ddpm.ancestral(), Box(low, high))
    inner, found = compiled(lambda x, z: [f(schedule, x, x, 3, z) for f in (free, bounded)], x, z)
    assert (inner < low).any() and (inner > high).any()
    np.testing.assert_array_equal(found, np.clip(inner, low, high))


def test_box_per_dimension_holds_after_the_last_step():
    schedule, low, high = schedules.vp(5), np.array([-1.0, 0.0]), np.array([0.5, 2.0])
    x, eps = 9 * normal(6, 50, 2), normal(7, 50, 2)
    for step in (ddpm.ancestral(Box(low, high)), ddpm.ddim(Box(low, high))):
        x0 = compiled(lambda *of, step=step: step(schedule, *of, 1, of[1]), x, eps)
        np.testing.assert_allclose(x0.min(0), low, atol=1e-12)
        np.testing.assert_allclose(x0.max(0), high, atol=1e-12)


@pytest.mark.parametrize("make", [ddpm.ancestral, ddpm.ddim])
@pytest.mark.parametrize("n", [1, 4])
def test_no_gradient_passes_where_the_clean_data_is_clipped(make, n):
    schedule, step = schedules.vp(5), make(Box(np.array(-1.0), np.array(1.0)))
    free = make()
    x, z = np.zeros(2), np.zeros(2)
    # x_0 = -sqrt((1 - abar) / abar) eps: inside the box for the first entry, outside for the other
    edge = np.sqrt(schedule.alpha_bar[n] / (1 - schedule.alpha_bar[n]))
    eps = np.array([0.5, -2.0]) * edge
    slope, open_slope = (
        compiled(jax.jacobian(lambda e, s=s: s(schedule, x, e, n, z)), eps) for s in (step, free)
    )
    assert slope[0, 0] == pytest.approx(open_slope[0, 0], rel=1e-12)
    direct = np.sqrt(1 - schedule.alpha_bar[n - 1]) if make is ddpm.ddim else 0.0
    np.testing.assert_array_equal(slope[0, 1] + slope[1, 0], 0)
    assert slope[1, 1] == pytest.approx(direct, abs=1e-15)
    assert abs(open_slope[1, 1] - direct) > 0.05


def test_ddim_step_is_the_formula_of_the_paper():
    schedule, n = schedules.vp(5), 4
    x, eps = normal(8, 3, 2), normal(9, 3, 2)
    alpha, abar = 1 - schedule.beta[n], np.prod(1 - schedule.beta[1 : n + 1])
    before = np.prod(1 - schedule.beta[1:n])
    expected = (x - np.sqrt(1 - abar) * eps) / np.sqrt(alpha) + np.sqrt(1 - before) * eps
    found = compiled(lambda *of: ddpm.ddim()(schedule, *of, n, of[1]), x, eps)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


# --------------------------------------------------------------------------------- the chain


def chain(schedule, eps_fn, start, step, seed=0, visit=lambda x, eps, n: None):
    return compiled(
        lambda x: ddpm.reverse(schedule, eps_fn, x, jax.random.key(seed), step, visit), start
    )


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("make", [ddpm.ancestral, ddpm.ddim])
def test_chain_finds_a_point_mass_from_anywhere(steps, make):
    schedule = schedules.vp(steps)
    start = 2 * normal(10, 7, 2)
    action, _ = chain(schedule, eps_of(M, 0.0, schedule), start, make())
    np.testing.assert_allclose(action, np.tile(M, (7, 1)), atol=1e-12)


def test_ddim_ignores_the_key_and_ancestral_does_not():
    schedule, start = schedules.vp(5), normal(11, 7, 2)
    eps_fn = eps_of(M, 1.0, schedule)

    def final(step, seed):
        return chain(schedule, eps_fn, start, step, seed)[0]

    np.testing.assert_array_equal(final(ddpm.ddim(), 0), final(ddpm.ddim(), 1))
    assert (final(ddpm.ancestral(), 0) != final(ddpm.ancestral(), 1)).all()


def test_visits_see_every_state_on_the_way_down():
    schedule, start = schedules.vp(5), normal(12, 3, 2)
    eps_fn = eps_of(M, 1.0, schedule)
    action, (path, noise, level) = chain(
        schedule, eps_fn, start, ddpm.ddim(), visit=lambda x, eps, n: (x, eps, n)
    )
    assert level.tolist() == [5, 4, 3, 2, 1]
    np.testing.assert_array_equal(path[0], start)
    states = np.concatenate([path, action[None]])
    n = np.arange(5, 0, -1)

    def again(x):
        n_ = jnp.asarray(n)[:, None]
        eps = eps_fn(x, n_)
        return eps, ddpm.ddim()(schedule, x, eps, n_, x)

    eps, below = compiled(again, path)
    np.testing.assert_allclose(noise, eps, rtol=1e-12)
    np.testing.assert_allclose(states[1:], below, rtol=1e-10)


def test_noise_of_one_chain_is_standard_normal_and_fresh_at_every_step():
    schedule, samples = schedules.vp(5), 40_000

    def noise_alone(schedule, x, eps, n, z):
        return z

    start = np.zeros((samples, 1))
    last, seen = chain(
        schedule, lambda x, n: x, start, noise_alone, seed=3, visit=lambda x, eps, n: x
    )
    z = np.concatenate([seen[1:], last[None]])[..., 0]  # [5, samples]
    assert np.abs(z.mean(1)).max() < 5 / np.sqrt(samples)
    covariance = z @ z.T / samples
    assert np.abs(np.diag(covariance) - 1).max() < 5 * np.sqrt(2 / samples)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 5 / np.sqrt(samples)


@pytest.mark.parametrize("steps", STEPS)
def test_sampler_bias_of_the_exact_network(steps):
    """Check D: mean (1 - abar_N) m, variance 1 - beta_1, because the last step adds no noise."""
    schedule, samples = schedules.vp(steps), 100_000
    start, variance = normal(20, samples, 2), 1 - schedule.beta[1]
    action, _ = chain(schedule, eps_of(M, 1.0, schedule), start, ddpm.ancestral(), seed=2)
    error = np.abs(action.mean(0) - (1 - np.exp(-5.05)) * M)
    assert (error < 5 * np.sqrt(variance / samples)).all()
    assert (np.abs(action.var(0) / variance - 1) < 5 * np.sqrt(2 / samples)).all()


def moments(schedule, step, mean, std):
    """Mean and variance of the chain's output, exactly: every step is affine in x and z."""
    n = np.arange(1, schedule.steps + 1)
    zero, one = np.zeros((len(n), 1)), np.ones((len(n), 1))

    def final(x, z):
        eps = eps_of(mean, std, schedule)(x, jnp.asarray(n))
        return step(schedule, x, eps, jnp.asarray(n), z)

    shift, slope, spread = compiled(lambda: (final(zero, zero), final(one, zero), final(zero, one)))
    slope, spread = slope - shift, spread - shift
    abar = schedule.alpha_bar[-1]
    average, variance = np.sqrt(abar) * mean, abar * std**2 + 1 - abar  # of x_T itself
    for i in reversed(range(len(n))):
        average = slope[i, 0] * average + shift[i, 0]
        variance = slope[i, 0] ** 2 * variance + spread[i, 0] ** 2
    return average, variance


@pytest.mark.parametrize("make", [ddpm.ancestral, ddpm.ddim])
def test_sampler_converges_at_first_order_in_the_number_of_steps(make):
    errors = []
    for steps in (100, 200, 400, 800):
        average, variance = moments(schedules.vp(steps), make(), 0.7, 0.4)
        assert average == pytest.approx(0.7, abs=1e-9)  # the mean is exact for every T
        errors.append(abs(variance - 0.16))
    ratios = np.divide(errors[:-1], errors[1:])
    assert (ratios > 1.8).all() and (ratios < 2.2).all(), errors


# ----------------------------------------------------------------------------------- path KL

WEIGHTS = [0.621794, 0.750509, 1.037196, 1.602045, 2.547205]


def test_weights_match_the_printed_table():
    def weights(steps, n):
        one = np.ones((len(n), 1))
        return compiled(lambda: ddpm.path_kl(schedules.vp(steps), one, 0 * one, jnp.asarray(n)))

    assert weights(5, [1, 2, 3, 4, 5]).round(6).tolist() == WEIGHTS
    assert weights(50, [1, 50]).round(6).tolist() == [0.501994, 0.110200]


@pytest.mark.parametrize("make", schedules.SCHEDULES.values(), ids=schedules.SCHEDULES)
def test_path_kl_is_the_kl_of_the_two_kernels(make):
    schedule, n, step = make(7), np.arange(1, 8), ddpm.ancestral()
    std = np.tile(np.sqrt(schedule.beta[1:])[:, None], (1, 3))

    def both(x, eps, other):
        at = jnp.asarray(n)
        one, two = (step(schedule, x, e, at, jnp.zeros_like(x)) for e in (eps, other))
        return ddpm.path_kl(schedule, eps, other, at), gaussian.kl(one, std, two, std)

    found, expected = compiled(both, normal(13, 7, 3), normal(14, 7, 3), normal(15, 7, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("steps", STEPS)
def test_path_kl_of_shifted_gaussians(steps):
    """Check B: l_n = abar_{n-1} beta_n |m|^2 / 2 at every x; the sum is |m|^2 / 2 (1 - abar_N)."""
    schedule = schedules.vp(steps)
    actor, behavior = eps_of(M, 1.0, schedule), eps_of(np.zeros(2), 1.0, schedule)

    def penalty(x, eps, n):
        return ddpm.path_kl(schedule, eps, behavior(x, n), n)

    start = 3 * normal(16, 9, 2)
    _, penalties = chain(schedule, actor, start, ddpm.ancestral(), visit=penalty)
    by_step = (schedule.alpha_bar[:-1] * schedule.beta[1:])[::-1] * 2.5 / 2
    np.testing.assert_allclose(penalties, np.tile(by_step[:, None], (1, 9)), rtol=1e-9)
    np.testing.assert_allclose(penalties.sum(0), 1.2419883, atol=5e-8)


def test_path_kl_of_equal_predictions_is_exactly_zero():
    found = compiled(
        lambda e: ddpm.path_kl(schedules.vp(5), e, e, jnp.arange(1, 6)), normal(17, 5, 3)
    )
    np.testing.assert_array_equal(found, 0)
