"""Energies fitted by contrast, against densities that are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl_prefs import learner, nets
from jaxrl_prefs.behavior import energy, proposals
from jaxrl_prefs.nets import spectral_residual
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Box, Net
from tests.exact import batch_of, compiled

BOX = Box(np.array([-1.0], "f"), np.array([1.0], "f"))


def parabola(p, a):
    return p[0] * a + p[1] * a**2  # in every state


PARABOLA = spectral_residual.Residual(
    init=lambda key, s, a: {"p": jnp.zeros(2), "log_gain": jnp.zeros(())},
    start=lambda key, params: {},
    power_iteration=lambda params, vectors: vectors,
    apply=lambda params, vectors, s, a: (
        params["p"][0] * a[..., 0] + params["p"][1] * a[..., 0] ** 2
    ),
    blocks=0,
)


def truncated(size, seed=0):
    law = scipy.stats.truncnorm(-1.2 / 0.3, 0.8 / 0.3, 0.2, 0.3)
    return law.rvs((size, 1), random_state=seed).astype(np.float32)


def model_of(**changes):
    plain = energy.EnergyModel(PARABOLA, BOX, 8, proposals.uniform(BOX), 0, 256, 5)
    return plain._replace(**changes)


# --------------------------------------------------------------------------- what is trained on


def test_every_twentieth_row_is_held_out():
    each = np.random.default_rng(0).normal(size=45).astype(np.float32)
    index = np.arange(100, 145, dtype=np.int32)
    loss, metrics = energy.split_loss(jnp.asarray(each), jnp.asarray(index))
    apart = index % 20 == 0
    assert apart.sum() == 3
    assert loss == pytest.approx(each[~apart].mean(), rel=1e-5)
    sums = {name: (float(total), float(count)) for name, (total, count) in metrics.items()}
    assert sums["behavior_loss"] == pytest.approx((each[~apart].sum(), 42), rel=1e-5)
    assert sums["held_out_loss"] == pytest.approx((each[apart].sum(), 3), rel=1e-5)
    slope = jax.grad(lambda x: energy.split_loss(x, jnp.asarray(index))[0])(jnp.asarray(each))
    np.testing.assert_allclose(slope, ~apart / 42, rtol=1e-6)


def test_a_batch_without_held_out_rows_counts_none():
    _, metrics = energy.split_loss(jnp.ones(3), jnp.array([1, 2, 3]))
    assert metrics["held_out_loss"] == (0, 0)
    nothing, metrics = energy.split_loss(jnp.ones(2), jnp.array([0, 20]))
    assert nothing == 0 and metrics["behavior_loss"] == (0, 0)


def test_the_ranks_of_a_batch_are_those_of_its_held_out_rows():
    """E = a: data at -.5 rank above a uniform draw in 3 of 4 cases; rows that are trained on,
    at .5, do not enter."""
    params = {"p": jnp.array([1.0, 0.0]), "log_gain": jnp.zeros(())}
    rows = batch_of(jnp.where(jnp.arange(4_000) % 20 == 0, -0.5, 0.5)[:, None])
    model = model_of(negatives=64)

    def metrics():
        return model.loss(params, {}, rows, jax.random.key(0))[1]

    total, count = compiled(metrics)["rank_accuracy"]
    assert count == 200
    assert total / count == pytest.approx(0.75, abs=0.02)
    batch = batch_of(np.full((4_000, 1), 0.5, np.float32))
    every = compiled(lambda: energy.data_ranks(model, params, {}, batch, jax.random.key(1)))
    assert every.mean() == pytest.approx(0.25, abs=0.03)


# ------------------------------------------------------------------------- E: a known density


def fitted(model, steps=1_500, rate=0.05, rows=512):
    """Adam-free descent on fresh batches of the truncated normal; the mean of the last half."""
    data = truncated(40_000)

    def program(data):
        def loss(p, action, key):
            params = {"p": p, "log_gain": jnp.zeros(())}
            return model.loss(params, {}, batch_of(action), key)[0]

        def step(i, carry):
            p, total = carry
            rows_key, key = jax.random.split(jax.random.fold_in(jax.random.key(0), i))
            action = data[jax.random.randint(rows_key, (rows,), 0, len(data))]
            scale = jnp.array([4.0, 40.0])  # the square's coefficient has the smaller slope
            p = p - rate * scale * jax.grad(loss)(p, action, key)
            return p, total + jnp.where(i >= steps // 2, p, 0)

        return jax.lax.fori_loop(0, steps, step, (jnp.zeros(2), jnp.zeros(2)))[1] / (
            steps - steps // 2
        )

    return np.asarray(jax.jit(program)(data))


def line(mean, std):
    """A proposal that is not uniform, on the whole line."""
    return proposals.Proposal(
        lambda s, key, count: mean + std * jax.random.normal(key, (len(s), count, 1)),
        lambda s, a: jax.scipy.stats.norm.logpdf(a[..., 0], mean, std),
    )


EXACT = np.array([-0.4, 1.0]) / 0.18  # (a - .2)^2 / (2 .3^2), less a constant


def test_energies_are_minus_log_density_by_uniform_negatives():
    np.testing.assert_allclose(fitted(model_of()), EXACT, rtol=0.05)


def test_energies_are_minus_log_density_by_any_known_proposal():
    """log q is subtracted from every logit; without it the optimum is p / q."""
    # the data fill [-1, 1] to .4 %, so the untruncated normal is what is seen on the line
    proposal = line(0.0, 0.6)
    np.testing.assert_allclose(fitted(model_of(proposal=proposal)), EXACT, rtol=0.07)
    blind = proposal._replace(log_density=lambda s, a: jnp.zeros(a.shape[:-1]))
    ratio = EXACT - np.array([0, 1 / (2 * 0.6**2)])
    np.testing.assert_allclose(fitted(model_of(proposal=blind)), ratio, rtol=0.07)


def test_energies_are_minus_log_density_by_negatives_near_the_data():
    near = proposals.truncated_normal(lambda s: (0 * s + 0.1, 0 * s + 0.4), BOX)
    proposal = proposals.even_mixture(proposals.uniform(BOX), near)
    np.testing.assert_allclose(fitted(model_of(proposal=proposal)), EXACT, rtol=0.05)


def test_loss_at_the_optimum_is_the_bound_less_the_divergence():
    """log(n + 1) - KL(p || uniform), KL = .49757, for many draws."""
    rows, n = 4_000, 512
    model = model_of(negatives=n)
    params = {"p": jnp.asarray(EXACT, jnp.float32), "log_gain": jnp.zeros(())}
    trained, _ = compiled(
        lambda a: model.loss(params, {}, batch_of(a), jax.random.key(0)), truncated(rows)
    )
    assert trained == pytest.approx(np.log(n + 1) - 0.49757, abs=0.03)


def trained(model, states, data, steps, rate=1e-2):
    """The model after so many batches of 128 states [N, 1] and their actions [N, A]."""
    opt, data = learner.optimizer(rate, decay_steps=steps), jnp.asarray(data)
    states, index = jnp.asarray(states), 20 * jnp.arange(128, dtype=jnp.int32) + 1

    @jax.jit
    def program(key):
        def step(i, carry):
            rows_key, key = jax.random.split(jax.random.fold_in(jax.random.key(0), i))
            rows = jax.random.randint(rows_key, (128,), 0, len(data))
            batch = batch_of(data[rows])._replace(observation=states[rows], index=index)
            return energy.train(*carry, model, opt, batch, key)[:2]

        params, vectors = model.init(key, states, data)
        return jax.lax.fori_loop(0, steps, step, (learner.init(params, opt), vectors))

    part, vectors = program(jax.random.key(1))
    return part.params, vectors


def test_a_network_learns_the_shape():
    model = model_of(net=spectral_residual.scalar(32, 2), negatives=16)
    params, vectors = trained(model, np.zeros((20_000, 1), "f"), truncated(20_000), steps=600)
    a = np.linspace(-0.6, 1.0, 9, dtype="f")
    found = model.energy(params, vectors)(jnp.zeros((1, 1)), jnp.asarray(a[:, None]))
    exact = (a - 0.2) ** 2 / 0.18
    np.testing.assert_allclose(found - found[4], exact - exact[4], atol=0.45)
    assert spectral_residual.gain(params) > 1


# --------------------------------------------------------- a Gaussian fitted beside the network


def gaussian_of(size):
    net = nets.mlp((16,), 2 * size, activation="relu", initialiser="lecun", last_gain=0.01)
    box = Box(-np.ones(size, "f"), np.ones(size, "f"))
    return energy.GaussianModel(DiagonalGaussian(net, box))


def tilted_of(size, net=PARABOLA, negatives=8):
    return energy.TiltedModel(net, gaussian_of(size), negatives, 256)


def test_a_tilted_energy_is_the_gaussian_s_plus_the_network_s():
    model, key = tilted_of(1), jax.random.key(0)
    states, actions = jnp.zeros((5, 1)), jnp.linspace(-1, 1, 5)[:, None]
    params, vectors = model.init(key, states, actions)
    params["tilt"]["p"] = jnp.array([-4.0, 5.0])
    mean, std = model.gaussian.policy.moments(params["gaussian"], states)
    exact = parabola([-4.0, 5.0], actions) - scipy.stats.norm(mean, std).logpdf(actions)
    found = model.energy(params, vectors)(states, actions)
    np.testing.assert_allclose(found, exact[:, 0], rtol=1e-5)


def test_neither_the_tilt_nor_its_gaussian_moves_the_other():
    model, key = tilted_of(1), jax.random.key(0)
    batch = batch_of(truncated(60))._replace(observation=jnp.ones((60, 1)))
    params, vectors = model.init(key, batch.observation, batch.action)
    params["tilt"]["p"] = jnp.array([1.0, 2.0])

    def tilt_loss(tilt):
        proposal = model.proposal(params)
        found = model.energy(params | {"tilt": tilt}, vectors)
        negatives = proposal.sample(batch.observation, key, 8)
        return energy.contrastive_loss(found, proposal.log_density, batch, negatives)[0]

    @jax.jit
    def slopes():
        whole = jax.grad(lambda p: model.loss(p, vectors, batch, key)[0])(params)
        alone = {
            "tilt": jax.grad(tilt_loss)(params["tilt"]),
            "gaussian": jax.grad(lambda p: model.gaussian.loss(p, {}, batch, key)[0])(
                params["gaussian"]
            ),
        }
        return whole, alone

    whole, alone = slopes()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), whole, alone)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(whole["tilt"]["p"]))


def test_a_tilted_model_acts_by_the_best_sample_of_its_proposal():
    """Mean m, variance v: E = (a - m)^2 / 2v + 5 a^2 - 4 a + c, lowest where its slope is 0."""
    model, states = tilted_of(1), jnp.zeros((7, 1))
    params, vectors = model.init(jax.random.key(0), states, states)
    params["tilt"]["p"] = jnp.array([-4.0, 5.0])
    mean, std = model.gaussian.policy.moments(params["gaussian"], states)
    lowest = (4 + mean / std**2) / (10 + 1 / std**2)
    found = compiled(lambda: model.act(params, vectors, states, jax.random.key(0)))
    np.testing.assert_allclose(found, lowest, atol=0.03)
    assert model.rule == (256, "lowest energy")


def test_a_tilt_finds_what_its_gaussian_cannot_hold():
    """Two modes of deviation .2 at -.5 and .5: the middle is 2.43 nats below them, not above."""
    rng = np.random.default_rng(0)
    data = rng.choice([-0.5, 0.5], (20_000, 1)) + 0.2 * rng.normal(size=(20_000, 1))
    model = tilted_of(1, spectral_residual.scalar(32, 2), 16)
    params, vectors = trained(model, np.zeros((20_000, 1), "f"), data.astype("f"), steps=600)
    a = np.linspace(-0.75, 0.75, 7)
    found = model.energy(params, vectors)(jnp.zeros((1, 1)), jnp.asarray(a[:, None], jnp.float32))
    exact = -np.logaddexp(*(scipy.stats.norm(m, 0.2).logpdf(a) for m in (-0.5, 0.5)))
    np.testing.assert_allclose(found - found.mean(), exact - exact.mean(), atol=0.25)
    assert exact[3] - exact[1] == pytest.approx(2.43, abs=0.01)


def test_a_tilt_is_right_where_uniform_negatives_teach_nothing():
    """Deviation .05 about a curve in six dimensions: two deviations off it in one dimension cost 2
    nats. Eight uniform draws are all far away, and do not tell where the curve is."""
    rng, size, count = np.random.default_rng(0), 6, 20_000
    states = rng.uniform(-1, 1, (count, 1)).astype("f")

    def curve(states):
        return 0.5 * np.sin(3 * states + np.arange(size)).astype("f")

    data = curve(states) + 0.05 * rng.normal(size=(count, size)).astype("f")
    away = 0.1 * np.concatenate([np.eye(size), -np.eye(size)]).astype("f")
    new = np.linspace(-0.9, 0.9, 50, dtype="f")[:, None]
    box, net = Box(-np.ones(size, "f"), np.ones(size, "f")), spectral_residual.scalar(32, 2)
    plain = model_of(net=net, box=box, proposal=proposals.uniform(box))

    def error(model):
        found = model.energy(*trained(model, states, data, steps=1_000))
        context, centre = jnp.asarray(new)[:, None], curve(new)[:, None]
        rise = found(context, jnp.asarray(centre + away)) - found(context, jnp.asarray(centre))
        return np.abs(rise - 2).mean()

    tilted, uniform = error(tilted_of(size, net)), error(plain)
    assert tilted < 0.5 and uniform > 1, (tilted, uniform)


def test_langevin_negatives_come_with_the_gradient_penalty_and_no_log_q():
    steep = {"p": jnp.array([3.0, 0.0]), "log_gain": jnp.zeros(())}
    batch = batch_of(jnp.zeros((6, 1)))._replace(index=jnp.arange(1, 7))

    def losses(model, params):
        loss, metrics = model.loss(params, {}, batch, jax.random.key(0))
        return loss, {
            name: total / count
            for name, (total, count) in metrics.items()
            if name not in ("held_out_loss", "rank_accuracy")
        }

    chained = model_of(langevin_steps=3)
    loss, metrics = losses(chained, steep)
    assert metrics["slope_penalty"] == pytest.approx(4)  # (3 - 1)^2 at every action
    assert loss == pytest.approx(float(metrics["behavior_loss"]) + 4, rel=1e-6)
    _, plain = losses(model_of(), steep)
    assert "slope_penalty" not in plain
    np.testing.assert_array_equal(chained.log_q(None, jnp.zeros((2, 3, 1))), 0)
    np.testing.assert_allclose(model_of().log_q(None, jnp.zeros((2, 3, 1))), -np.log(2), rtol=1e-6)


def test_a_model_acts_by_the_search():
    """E = 5 a^2 - 4 a has its lowest point at .4."""
    params = {"p": jnp.array([-4.0, 5.0]), "log_gain": jnp.zeros(())}
    found = compiled(lambda: model_of().act(params, {}, jnp.zeros((7, 1)), jax.random.key(0)))
    np.testing.assert_allclose(found, np.full((7, 1), 0.4), atol=0.02)


# ----------------------------------------------------------------------------- the Gaussian


def gaussian_model():
    table = Net(lambda key, s: jnp.zeros(2), lambda p, s: jnp.broadcast_to(p, (*s.shape[:-1], 2)))
    return energy.GaussianModel(DiagonalGaussian(table, BOX))


def test_a_gaussian_is_an_energy():
    model, params = gaussian_model(), jnp.array([np.arctanh(0.2), np.log(0.3)])
    a = np.linspace(-1, 1, 5, dtype=np.float32)[None, :, None]
    found = compiled(lambda: model.energy(params, {})(jnp.zeros((1, 1, 1)), a))
    np.testing.assert_allclose(found[0], -scipy.stats.norm(0.2, 0.3).logpdf(a[0, :, 0]), rtol=1e-5)
    drawn = compiled(lambda: model.act(params, {}, jnp.zeros((20_000, 1)), jax.random.key(0)))
    assert drawn.shape == (20_000, 1) and np.abs(drawn).max() <= 1
    assert drawn.std() == pytest.approx(0.3, rel=0.03)


def test_it_is_fitted_by_likelihood_of_the_rows_that_are_trained_on():
    model, a = gaussian_model(), truncated(60)

    def loss(params):
        return model.loss(params, {}, batch_of(a), jax.random.key(0))[0]

    kept = a[np.arange(60) % 20 > 0]
    best = jnp.array([np.arctanh(kept.mean()), np.log(kept.std())])
    np.testing.assert_allclose(compiled(jax.grad(loss), best), 0, atol=1e-5)
    assert np.abs(compiled(jax.grad(loss), best + 0.1)).min() > 0.01
