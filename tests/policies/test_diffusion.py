"""Diffusion policies with the exact networks of Gaussian data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import nets
from jaxrl_prefs.ops import ddpm, schedules
from jaxrl_prefs.policies import diffusion
from jaxrl_prefs.types import Box, Net
from tests.exact import M, column, compiled, filled, normal_net

pytestmark = pytest.mark.usefixtures("x64")

STEPS = 5


def policy(step=None, *, stratified=False, net=None, action_dim=2):
    schedule = schedules.vp(STEPS)
    net = net or normal_net(schedule)
    return diffusion.DiffusionPolicy(
        net, schedule, step or ddpm.ancestral(), action_dim, stratified=stratified
    )


def data(rows, action_dim=2, seed=0):
    rng = np.random.default_rng(seed)
    return np.zeros((rows, 1)), rng.normal(size=(rows, action_dim))


# ------------------------------------------------------------------------------ whole chains


def test_path_kl_of_a_shifted_gaussian_is_the_same_on_every_path():
    """Check B through the policy: |m|^2 / 2 (1 - abar_N), not the marginal's 1.25."""
    observation, _ = data(6)
    action, penalty = compiled(
        lambda s: policy().paths(M, np.zeros(2), s, jax.random.key(0), 4), observation
    )
    assert action.shape == (6, 4, 2) and penalty.shape == (6, 4)
    np.testing.assert_allclose(penalty, 1.2419883, atol=5e-8)


def test_actions_have_the_sampler_s_moments_and_are_independent():
    rows, count = 20_000, 3
    observation, _ = data(rows)
    drawn = compiled(lambda s: policy().sample(M, s, jax.random.key(1), count), observation)
    paths, _ = compiled(
        lambda s: policy().paths(M, np.zeros(2), s, jax.random.key(2), count), observation
    )
    variance = 1 - 0.195875
    for action in (drawn, paths):
        error = np.abs(action.mean(0) - (1 - np.exp(-5.05)) * M)
        assert (error < 5 * np.sqrt(variance / rows)).all()
        flat = action.reshape(rows, count * 2)
        covariance = np.cov(flat.T)
        assert np.abs(np.diag(covariance) / variance - 1).max() < 5 * np.sqrt(2 / rows)
        apart = covariance - np.diag(np.diag(covariance))
        assert np.abs(apart).max() < 5 * variance / np.sqrt(rows)


def test_penalty_is_paid_where_the_actor_walks():
    """eps_pi - eps_nu = c x makes l_n = w_n c^2 |x_n|^2 with x_n from the actor's own chain."""
    schedule, c, rows = schedules.vp(STEPS), 0.4, 20_000

    def apply(scale, x, observation, n):
        abar = column(schedule.alpha_bar, n, x)
        return (jnp.sqrt(1 - abar) + scale) * x

    net = Net(lambda key, *inputs: 0.0, apply)
    observation, _ = data(rows)
    _, penalty = compiled(
        lambda s: policy(net=net).paths(c, 0.0, s, jax.random.key(3), 1), observation
    )
    second, expected = 1.0, 0.0  # E[x_n^2] per dimension, by the affine recursion of the kernel
    for n in range(STEPS, 0, -1):
        beta, alpha, abar = schedule.beta[n], 1 - schedule.beta[n], schedule.alpha_bar[n]
        expected += beta / (2 * alpha * (1 - abar)) * c**2 * second * 2
        slope = (1 - beta / np.sqrt(1 - abar) * (np.sqrt(1 - abar) + c)) / np.sqrt(alpha)
        second = slope**2 * second + (beta if n > 1 else 0)
    assert abs(penalty.mean() - expected) < 5 * penalty.std() / np.sqrt(rows)
    assert penalty.std() > 0.1 * expected


def test_a_policy_pays_nothing_against_itself():
    """Check E: exactly 0, for networks in general, along the chain and in one step."""
    net = nets.stepped_mlp((16, 16), 2, steps=5, step_size=8)
    chain = policy(net=net, step=ddpm.ancestral(Box(-np.ones(2), np.ones(2))))
    observation, action = (x.astype("f") for x in data(32))
    params = filled(net.init, action, observation, np.ones(32, np.int32))

    def both(s, a):
        _, path = chain.paths(params, params, s, jax.random.key(1), 5)
        return path, chain.refine(params, params, s, a, jax.random.key(2), 5).penalty

    for penalty in compiled(both, observation, action):
        np.testing.assert_array_equal(penalty, 0)


def test_clipped_chains_end_inside_the_box():
    low, high = np.array([-1.0, -0.2]), np.array([0.5, 1.0])
    chain = policy(ddpm.ancestral(Box(low, high)))
    observation, _ = data(200)
    action = compiled(lambda s: chain.sample(3 * M, s, jax.random.key(0), 5), observation)
    assert (action >= low - 1e-12).all() and (action <= high + 1e-12).all()


# --------------------------------------------------------------------------------- one step


@pytest.fixture(scope="module")
def refined():
    """Many rows of one action, refined by the actor N(m, I) against the behaviour N(0, I)."""
    with jax.enable_x64(True):
        rows, count = 20_000, 2
        action = np.tile([0.8, -0.3], (rows, 1))

        def refine(a):
            chain = policy()
            return chain.refine(M, np.zeros(2), jnp.zeros((rows, 1)), a, jax.random.key(4), count)

        return action, compiled(refine, action)


def test_levels_are_uniform(refined):
    _, step = refined
    assert set(step.level) == {1, 2, 3, 4, 5}
    share = np.bincount(step.level, minlength=6)[1:] / len(step.level)
    assert np.abs(share - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / len(step.level))


def test_sources_are_the_noised_actions(refined):
    action, step = refined
    schedule = schedules.vp(STEPS)
    for n in range(1, 6):
        x, abar = step.source[step.level == n], schedule.alpha_bar[n]
        error = np.abs(x.mean(0) - np.sqrt(abar) * action[0])
        assert (error < 5 * np.sqrt((1 - abar) / len(x))).all()
        assert (np.abs(x.var(0) / (1 - abar) - 1) < 5 * np.sqrt(2 / len(x))).all()


def test_samples_are_draws_of_the_actor_s_kernel(refined):
    _, step = refined
    schedule = schedules.vp(STEPS)
    for n in range(1, 6):
        x, samples = step.source[step.level == n], step.samples[step.level == n]
        beta, alpha, abar = schedule.beta[n], schedule.alpha[n], schedule.alpha_bar[n]
        eps = np.sqrt(1 - abar) * (x - np.sqrt(abar) * M)
        noise = samples - ((x - beta / np.sqrt(1 - abar) * eps) / np.sqrt(alpha))[:, None]
        if n == 1:
            np.testing.assert_allclose(noise, 0, atol=1e-12)
            continue
        z = noise.reshape(len(x), -1) / np.sqrt(beta)  # two samples of two dimensions
        assert np.abs(z.mean(0)).max() < 5 / np.sqrt(len(x))
        gram = z.T @ z / len(x)
        assert np.abs(np.diag(gram) - 1).max() < 5 * np.sqrt(2 / len(x))
        assert np.abs(gram - np.diag(np.diag(gram))).max() < 5 / np.sqrt(len(x))
        # the step's noise is not that of the source
        assert np.abs(np.corrcoef(z[:, 0], x[:, 0])[0, 1]) < 5 / np.sqrt(len(x))


def test_step_penalty_is_the_closed_form_at_its_level(refined):
    _, step = refined
    schedule = schedules.vp(STEPS)
    expected = schedule.alpha_bar[step.level - 1] * schedule.beta[step.level] * 2.5 / 2
    np.testing.assert_allclose(step.penalty, expected, rtol=1e-9)


@pytest.mark.parametrize(("rows", "steps"), [(10, 5), (256, 5), (7, 5), (3, 5), (5, 1), (64, 50)])
def test_stratified_levels_are_sorted_blocks_of_equal_length(rows, steps):
    n = np.asarray(diffusion.stratified_levels(rows, steps))
    assert (np.diff(n) >= 0).all() and n[0] == 1 and n[-1] <= steps
    counts = np.bincount(n, minlength=steps + 1)[1:]
    assert counts.sum() == rows and counts.max() - counts.min() <= 1
    assert counts[0] == counts.max() == -(-rows // steps)  # how the critic finds its block


def test_stratified_refinement_takes_its_levels_from_the_blocks():
    observation, action = data(10)
    chain = policy(stratified=True)
    step = compiled(
        lambda s, a: chain.refine(M, np.zeros(2), s, a, jax.random.key(0), 3), observation, action
    )
    assert step.level.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_gradients_reach_the_actor_by_samples_and_penalty_and_never_the_behaviour():
    observation, action = data(10)
    schedule, chain = schedules.vp(STEPS), policy(stratified=True)

    def sums(actor, behavior):
        step = chain.refine(actor, behavior, observation, action, jax.random.key(0), 3)
        return jnp.stack([step.samples.mean(1).sum(), step.penalty.sum()])

    by_actor, by_behavior = compiled(jax.jacobian(sums, argnums=(0, 1)), M, np.zeros(2))
    np.testing.assert_array_equal(by_behavior, 0)
    # d mean / d m = beta_n sqrt(abar_{n-1}); d l_n / d m = abar_{n-1} beta_n m; two rows per level
    slope = 2 * np.sum(schedule.beta[1:] * np.sqrt(schedule.alpha_bar[:-1]))
    np.testing.assert_allclose(by_actor[0], [slope, slope], rtol=1e-10)
    share = 2 * np.sum(schedule.beta[1:] * schedule.alpha_bar[:-1])
    np.testing.assert_allclose(by_actor[1], share * M, rtol=1e-10)


# ------------------------------------------------------------------------------ denoising loss


def test_noise_of_a_point_mass_is_predicted_without_error():
    schedule = schedules.vp(STEPS)

    def apply(mean, x, observation, n):
        abar = column(schedule.alpha_bar, n, x)
        return (x - jnp.sqrt(abar) * mean.reshape(1, -1)) / jnp.sqrt(1 - abar)

    chain = policy(net=Net(lambda key, *inputs: M, apply))
    observation, _ = data(64)
    loss = compiled(
        lambda s: chain.bc_loss(jnp.asarray(M), s, jnp.tile(M, (64, 1)), jax.random.key(0)),
        observation,
    )
    assert loss < 1e-24


def test_denoising_loss_of_the_exact_network_is_the_posterior_variance():
    """Var(eps | x_n) = abar_n for data N(m, I): the loss is their mean over n = 1..N."""
    rows = 100_000
    observation, action = data(rows, seed=5)
    errors = []
    for seed in range(2):
        loss = compiled(
            lambda s, a, seed=seed: policy().bc_loss(M, s, a, jax.random.key(seed)),
            observation,
            action + M,
        )
        errors.append(loss - schedules.vp(STEPS).alpha_bar[1:].mean())
    # one squared error has variance E[2 abar^2] + Var(abar)
    abar = schedules.vp(STEPS).alpha_bar[1:]
    deviation = np.sqrt((2 * np.mean(abar**2) + np.var(abar)) / (2 * rows))
    # rows share n between their two dimensions
    assert np.abs(errors).max() < 5 * np.sqrt(2) * deviation
