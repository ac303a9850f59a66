"""Policy losses of TD3+BC and TD3-BST against numpy: checks T5 to T9."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.values import actor_losses
from tests import modes
from tests.exact import batch_of, compiled

pytestmark = pytest.mark.usefixtures("x64")

GRADIENTS = ("full", "detached")


# ----------------------------------------------------------- a problem in numpy: two dimensions

STATE = np.random.default_rng(0).normal(size=(7, 3))
ACTION = np.random.default_rng(1).uniform(-1, 1, (7, 2))
WEIGHT = np.random.default_rng(2).normal(size=(3, 2))
GOAL = np.array([0.3, -0.6])
CRITIC = np.array([1.7, -5.0])  # the second member must not be used


def linear(w, s):
    """pi(s) = tanh(s W)."""
    return jnp.tanh(s @ w)


def quadratic():
    """Q_k = j_k (2 - |a - g|^2): of both signs."""
    return modes.critic_of(lambda a: 2 - jnp.sum(jnp.square(a - GOAL.reshape(1, 2)), -1))


def batch():
    return batch_of(ACTION)._replace(observation=jnp.asarray(STATE))


def td3_bc_by_hand(weight, alpha, scale=1.0):
    """Loss and gradient of TD3+BC in numpy; mean|Q| is a number, not a function."""
    pi = np.tanh(STATE @ weight)
    q = scale * CRITIC[0] * (2 - ((pi - GOAL) ** 2).sum(-1))
    z = np.abs(q).mean()
    loss = -alpha * q.mean() / z + ((pi - ACTION) ** 2).mean()
    dq = -2 * scale * CRITIC[0] * (pi - GOAL) / len(pi)
    dpi = -alpha * dq / z + 2 * (pi - ACTION) / pi.size
    return loss, STATE.T @ (dpi * (1 - pi**2))


def of_bc(weight, alpha, scale=1.0):
    return actor_losses.td3_bc_loss(
        weight,
        policy=linear,
        critic=quadratic(),
        critic_params=scale * CRITIC,
        batch=batch(),
        alpha=alpha,
    )


def of_bst(
    weight, network, mu=1.0, gradient="full", distance="mean", scale=1.0, floor=0.0, std=None
):
    return actor_losses.td3_bst_loss(
        weight,
        policy=linear,
        critic=quadratic(),
        critic_params=scale * CRITIC,
        morse=network,
        morse_params=(),
        batch=batch(),
        mu=mu,
        gradient=gradient,
        distance=distance,
        std=std,
        floor=floor,
    )


def slope_of(loss, *args, **more):
    (value, metrics), slope = compiled(
        lambda w: jax.value_and_grad(lambda x: loss(x, *args, **more), has_aux=True)(w), WEIGHT
    )
    return value, metrics, slope


@pytest.mark.parametrize("alpha", [2.5, 0.0, 40.0])
def test_td3_bc_s_loss_and_gradient_are_those_by_hand(alpha):
    value, metrics, slope = slope_of(of_bc, alpha)
    expected, gradient = td3_bc_by_hand(WEIGHT, alpha)
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(slope, gradient, rtol=1e-10, atol=1e-14)
    gap = ((np.tanh(STATE @ WEIGHT) - ACTION) ** 2).mean()
    assert metrics["bc_error"][0] == pytest.approx(gap, rel=1e-6)


@pytest.mark.parametrize("over", ["mean", "sum"])
def test_distances_are_means_or_sums_over_the_action(over):
    found = compiled(lambda a: actor_losses.squared_distance(a, ACTION, over), np.zeros((7, 2)))
    np.testing.assert_allclose(found, getattr((ACTION**2), over)(-1), rtol=1e-12)


# ----------------------------------------------------------------------------- T6: the weight


@pytest.mark.parametrize("mu", [0.25, 0.5, 1.0, 2.0])
def test_the_weight_falls_with_certainty_at_the_known_rate(mu):
    certain = np.linspace(0, 1, 11)

    def weight(m):
        return actor_losses.tuning_weight(1 - m, mu)

    found, slope = compiled(lambda m: (weight(m), jax.vmap(jax.grad(weight))(m)), certain)
    np.testing.assert_allclose(found, np.exp((1 - certain) / mu) - 1, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(slope, -np.exp((1 - certain) / mu) / mu, rtol=1e-12)
    known = {0.25: (53.6, 0.492, 6.39), 0.5: (6.39, 0.221, 1.72), 1: (1.718, 0.105, 0.649)}
    known[2] = 0.649, 0.051, 0.284
    for uncertain, expected in zip((1.0, 0.1, 0.5), known[mu], strict=True):
        assert float(weight(1 - uncertain)) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_where_all_is_certain_only_the_value_has_a_gradient(gradient):
    """M = 1: weight 0, and no gradient of imitation."""
    _, metrics, slope = slope_of(of_bst, modes.shifted([0.0, 0.0], 4.0), gradient=gradient)
    assert metrics["bst_weight"] == (0, 1)
    value_only = td3_bc_by_hand(WEIGHT, 1e6)[1] / 1e6 - td3_bc_by_hand(WEIGHT, 0.0)[1] / 1e6
    np.testing.assert_allclose(slope, value_only, rtol=1e-8, atol=1e-12)


def test_where_nothing_is_certain_the_weight_is_largest():
    _, metrics, _ = slope_of(of_bst, modes.shifted([50.0, 0.0], 4.0))
    assert metrics["bst_weight"][0] == pytest.approx(np.e - 1, rel=1e-6)


# ------------------------------------------------------ T7, T8: TD3+BC as the constant case


@pytest.mark.parametrize("miss", [0.2, 0.5, 3.0])
@pytest.mark.parametrize("mu", [0.5, 2.0])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_constant_certainty_is_td3_bc_with_a_known_alpha(miss, mu, gradient):
    certain = np.exp(-2 * miss**2)
    w = np.exp((1 - certain) / mu) - 1
    network = modes.shifted([miss, 0.0], 2.0)
    value, _, slope = slope_of(of_bst, network, mu=mu, gradient=gradient)
    expected, by_hand = td3_bc_by_hand(WEIGHT, 1 / w)
    assert value == pytest.approx(w * expected, rel=1e-10)
    np.testing.assert_allclose(slope, w * by_hand, rtol=1e-9, atol=1e-14)
    _, _, total = slope_of(of_bst, network, mu=mu, gradient=gradient, distance="sum")
    assert np.abs(total - slope).max() > 1e-3  # the sum over two dimensions pulls harder


def test_a_standardised_distance_is_the_mean_in_standard_deviations():
    std = np.stack([np.full(7, 0.5), np.linspace(0.01, 2, 7)], 1)
    network = modes.shifted([0.3, 0.0], 2.0)
    value, metrics, _ = slope_of(of_bst, network, distance="standardised", std=std)
    gap = np.tanh(STATE @ WEIGHT) - ACTION
    expected = (gap[:, 0] ** 2 / 0.25 + gap[:, 1] ** 2 / std[:, 1] ** 2) / 2
    assert metrics["bc_error"][0] == pytest.approx(expected.mean(), rel=1e-6)  # in float32
    plain, _, _ = slope_of(of_bst, network)
    weight = np.expm1(1 - np.exp(-2 * 0.3**2))
    by_hand = weight * (expected.mean() - (gap**2).mean())
    assert value - plain == pytest.approx(by_hand, rel=1e-9)


def test_halving_the_standard_deviation_quadruples_the_pull():
    network = modes.shifted([0.3, 0.0], 2.0)
    _, _, free = slope_of(of_bst, modes.shifted([0.0, 0.0], 4.0))  # of the value alone
    for std, factor in ((1.0, 1), (0.5, 4)):
        deviations = np.full((7, 2), std)
        _, _, slope = slope_of(of_bst, network, distance="standardised", std=deviations)
        _, _, plain = slope_of(of_bst, network)
        np.testing.assert_allclose(slope - free, factor * (plain - free), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_floor_above_every_weight_is_td3_bc(gradient):
    """alpha = 1 / floor, whatever the Morse network says; a floor below every weight is none."""
    network, floor = modes.exact(4.0), 0.4
    least = np.exp(1 / 3.0) - 1  # of mu = 3: the largest weight is .396
    assert least < floor
    value, metrics, slope = slope_of(of_bst, network, mu=3.0, gradient=gradient, floor=floor)
    expected, by_hand = td3_bc_by_hand(WEIGHT, 1 / floor)
    assert value == pytest.approx(floor * expected, rel=1e-10)
    np.testing.assert_allclose(slope, floor * by_hand, rtol=1e-9, atol=1e-14)
    assert metrics["bst_weight"][0] == pytest.approx(floor)
    _, _, free = slope_of(of_bst, network, mu=3.0, gradient=gradient)
    _, _, low = slope_of(of_bst, modes.shifted([3.0, 0.0], 2.0), gradient=gradient, floor=0.1)
    _, _, none = slope_of(of_bst, modes.shifted([3.0, 0.0], 2.0), gradient=gradient)
    np.testing.assert_array_equal(low, none)
    assert np.abs(free - slope).max() > 1e-3


@pytest.mark.parametrize("scale", [1e-6, 7.0, 1e6])
def test_the_scale_of_the_value_changes_no_gradient(scale):
    network = modes.exact(2.0)
    for loss, args in ((of_bst, (network,)), (of_bc, (2.5,))):
        _, _, once = slope_of(loss, *args)
        _, _, scaled = slope_of(loss, *args, scale=scale)
        np.testing.assert_allclose(scaled, once, rtol=1e-9, atol=1e-14)
        assert np.abs(once).max() > 1e-3


def test_the_full_gradient_descends_through_the_weight_and_the_detached_does_not():
    """d/d pi of w(pi) gap(pi) by differences; detached, w is a number."""
    network, mu = modes.exact(2.0), 0.7
    # one state, one action, no value
    start, action = np.array([0.35, 0.3]), np.array([[-0.2, 0.5]])

    def loss(point, gradient):
        return actor_losses.td3_bst_loss(
            point,
            policy=modes.point,
            critic=modes.critic_of(lambda a: 0 * a[:, 0]),
            critic_params=np.ones(2),
            morse=network,
            morse_params=(),
            batch=batch_of(action),
            mu=mu,
            gradient=gradient,
            distance="sum",
        )[0]

    def weight(point):
        d = np.sqrt(((modes.CENTRES - point) ** 2).sum(-1)).min()
        return np.exp((1 - np.exp(-2 * max(0, d - modes.PLATEAU) ** 2)) / mu) - 1

    def gap(point):
        return ((point - action[0]) ** 2).sum()

    full, detached = (
        compiled(jax.grad(lambda p, kind=kind: loss(p, kind)), start) for kind in GRADIENTS
    )
    np.testing.assert_allclose(detached, weight(start) * 2 * (start - action[0]), rtol=1e-8)
    eye = 1e-6 * np.eye(2)
    products = [
        (weight(start + e) * gap(start + e), weight(start - e) * gap(start - e)) for e in eye
    ]
    np.testing.assert_allclose(full, [(a - b) / 2e-6 for a, b in products], rtol=1e-5)
    assert np.abs(full - detached).max() > 0.1


# --------------------------------------------------------------- T5: where policies end up

STARTS = np.random.default_rng(5).uniform(-1, 1, (60, 2))
ROWS = np.repeat(modes.CENTRES, 2, 0) + np.tile([[0.05, 0.0], [-0.05, 0.0]], (4, 1))


def ends(loss, *grids, steps=4_000, rate=1e-2):
    """Where gradient descent on `loss(point, *values)` ends from every start, for all values."""

    def gradient_descent(start, *args):
        slope = jax.grad(lambda point: loss(point, *args))
        return jax.lax.fori_loop(0, steps, lambda _, x: x - rate * slope(x), start)

    many = jax.vmap(gradient_descent, (0, *[None] * len(grids)))
    many = jax.vmap(many, (None, *[0] * len(grids)))
    with jax.enable_x64(False):
        return np.asarray(jax.jit(many)(np.float32(STARTS), *(np.float32(g) for g in grids)))


def imitation(point, scale, mu, gradient):
    """Behavioural supervisor tuning without a value."""
    return actor_losses.td3_bst_loss(
        point,
        policy=modes.point,
        critic=modes.critic_of(lambda a: 0 * a[:, 0]),
        critic_params=jnp.ones(2, point.dtype),
        morse=modes.exact(scale),
        morse_params=(),
        batch=batch_of(jnp.asarray(ROWS, point.dtype)),
        mu=mu,
        gradient=gradient,
        distance="mean",
    )[0]


def in_a_mode(points, slack=0.01):
    away = np.linalg.norm(points[..., None, :] - modes.CENTRES, axis=-1).min(-1)
    return (away < modes.PLATEAU + slack).mean(-1)


def at_the_centroid(points):
    return (np.linalg.norm(points, axis=-1) < 0.05).mean(-1)


def test_the_full_gradient_ends_inside_one_mode_from_every_start():
    scale, mu = (x.ravel() for x in np.meshgrid([1.0, 2.0, 4.0], [0.5, 1.0, 2.0]))
    found = ends(lambda p, s, m: imitation(p, s, m, "full"), scale, mu)
    np.testing.assert_array_equal(in_a_mode(found), 1)
    modes_found = np.linalg.norm(found[..., None, :] - modes.CENTRES, axis=-1).argmin(-1)
    assert all(set(row) == {0, 1, 2, 3} for row in modes_found)  # each start its own


def test_with_the_weight_detached_most_starts_end_between_the_modes():
    """Gated at lambda 2 and 4, distances as means over the action."""
    scale, mu = (x.ravel() for x in np.meshgrid([2.0, 4.0], [0.5, 1.0, 2.0]))
    found = ends(lambda p, s, m: imitation(p, s, m, "detached"), scale, mu)
    assert (at_the_centroid(found) > 0.7).all(), at_the_centroid(found)


def test_a_kernel_far_too_wide_does_not_get_there():
    found = ends(lambda p, s, m: imitation(p, s, m, "full"), np.array([0.2]), np.array([2.0]))
    assert in_a_mode(found)[0] < 0.1


def test_behaviour_cloning_ends_at_the_mean_of_the_modes():
    def loss(point, alpha):
        return actor_losses.td3_bc_loss(
            point,
            policy=modes.point,
            critic=modes.critic_of(lambda a: 0 * a[:, 0]),
            critic_params=jnp.ones(2, point.dtype),
            batch=batch_of(jnp.asarray(ROWS, point.dtype)),
            alpha=alpha,
        )[0]

    np.testing.assert_array_equal(at_the_centroid(ends(loss, np.zeros(1))), 1)


# ---------------------------------------------------------------- T9: a bandit with a goal


def bandit(point, goal, kind):
    """Q(a) = 1 - |a - goal|^2 on the four modes; the offset keeps mean|Q| from 0 at the goal."""
    shared = {
        "policy": modes.point,
        "critic": modes.critic_of(lambda a: 1 - jnp.sum(jnp.square(a - goal.reshape(1, 2)), -1)),
        "critic_params": jnp.ones(2, point.dtype),
        "batch": batch_of(jnp.asarray(ROWS, point.dtype)),
    }
    if kind == "td3_bc":
        return actor_losses.td3_bc_loss(point, **shared, alpha=2.5)[0]
    return actor_losses.td3_bst_loss(
        point,
        **shared,
        morse=modes.exact(4.0),
        morse_params=(),
        mu=0.5,
        gradient="full",
        distance="mean",
    )[0]


NEAR = np.linalg.norm(STARTS[:, None] - modes.CENTRES, axis=-1).argmin(-1) == 0  # to the goal's


def test_a_goal_inside_a_mode_is_reached_and_td3_bc_stays_biased():
    goal = np.array([[0.83, 0.04]])
    reached = ends(lambda p, g: bandit(p, g, "bst"), goal)[0][NEAR]
    assert NEAR.sum() > 5
    np.testing.assert_allclose(reached, np.tile(goal, (NEAR.sum(), 1)), atol=1e-3)
    biased = ends(lambda p, g: bandit(p, g, "td3_bc"), goal)[0]
    # the batch's mean is the origin: every start ends short of the goal, on the way to it
    assert (biased[:, 0] < goal[0, 0] - 0.05).all() and (biased[:, 0] > 0.05).all()


def test_a_goal_far_out_of_support_is_not_followed():
    goal = np.array([[1.6, 0.0]])
    found = ends(lambda p, g: bandit(p, g, "bst"), goal)[0][NEAR]
    edge = modes.CENTRES[0, 0] + modes.PLATEAU
    assert (found[:, 0] > edge).all() and (found[:, 0] < goal[0, 0] - 0.3).all()
    assert np.abs(found[:, 1]).max() < 0.05
