"""ARQ's losses, columns, policies and phases; backups by hand are in tests/ops/test_support.py."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import nets
from jaxrl_prefs.behavior import score, support_threshold
from jaxrl_prefs.methods import arq
from jaxrl_prefs.ops import gaussian, vpsde
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import prepare
from jaxrl_prefs.runs.config import RunConfig
from jaxrl_prefs.training import loop, sweep
from jaxrl_prefs.types import Net, Spec, Transition
from tests.exact import compiled, fixed

SMALL = {
    "behavior_width": 8,
    "behavior_blocks": 1,
    "behavior_batch_size": 8,
    "pretrain_steps": 3,
    "candidates": 3,
    "candidate_batch_size": 16,
    "sampler": "few_step",
    "sampler_steps": 4,
    "density": "fixed",
    "density_nodes": 6,
    "kth": 2,
    "critic_hidden": (8,),
    "actor_hidden": (8,),
    "batch_size": 8,
    "train_steps": 3,
    "actor_steps": 3,
}
ONE = np.ones(1, np.float32)
SPEC = Spec(1, 1, 6, -ONE, ONE, 0 * ONE, ONE, 0 * ONE, ONE)


def small(**changes):
    return arq.Config(**{**SMALL, **changes})


def line_critic(offsets=(0.0, 0.0)):
    """Q_k(s, a) = 10 a + offset_k."""

    def apply(offset, observation, action):
        return 10 * action[..., 0] + offset

    return nets.ensemble(Net(lambda key, *inputs: jnp.zeros(()), apply), len(offsets))


def parts_of(**changes):
    return arq.build(small(candidates=5, **changes), SPEC)._replace(critic=line_critic())


def transition(**changes):
    """One row; the recorded next action has Q 1, the candidates 5, 4, 3, 2, .5."""
    zero = jnp.zeros((1, 1))
    columns = {
        "next_candidates": jnp.float16([[[0.5], [0.4], [0.3], [0.2], [0.05]]]),
        "next_log_density": jnp.float16([[0.0, 0, 0, 0, 0]]),
        "candidates": jnp.float16([[[0.1], [0.3], [0.9], [0.0], [0.2]]]),
        "log_density": jnp.float16([[0.0, 0, -9, 0, -4.9]]),
    }
    row = {
        "observation": zero,
        "action": zero + 0.5,
        "reward": jnp.float32([2.0]),
        "discount": jnp.float32([0.9]),
        "next_observation": zero,
        "next_action": zero + 0.1,
        "has_next_action": jnp.float32([1.0]),
        "index": jnp.int32([0]),
        "next_index": jnp.int32([0]),
        "columns": columns,
    }
    return Transition(**{**row, **changes})


# ------------------------------------------------------------------------------------ the critic


def target(batch, offsets=(0.0, 0.0), **changes):
    parts = parts_of(**changes)._replace(critic=line_critic(offsets))
    return float(arq.critic_target(jnp.float32(offsets), parts=parts, batch=batch)[0])


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"kth": 1}, 5.0),
        ({"kth": 3}, 3.0),
        ({"kth": 6}, 1.0),
        ({"kth": 6, "floor": False}, 0.5),
        ({"kth": 5, "floor": False, "data_candidate": False}, 0.5),
        ({"kth": 4, "data_candidate": False}, 2.0),
        ({"q_target": "sarsa"}, 1.0),
        ({"kth": 1, "threshold": 1.0}, 1.0),  # all samples rejected
        ({"kth": 3, "threshold": 1.0, "floor": False}, 1.0),
    ],
)
def test_targets_by_hand(changes, value):
    assert target(transition(), **changes) == pytest.approx(2 + 0.9 * value, rel=1e-3)


def test_the_least_critic_before_the_kth_or_after():
    """Critics that disagree by a number; by candidate, and by order."""
    assert target(transition(), (0.0, -1.0), kth=1) == pytest.approx(2 + 0.9 * 4, rel=1e-3)

    def slanted(slope, observation, action):
        return slope * action[..., 0]

    critic = nets.ensemble(Net(lambda key, *inputs: jnp.zeros(()), slanted), 2)
    for first, value in ((True, -0.5), (False, 5.0)):
        parts = parts_of(kth=1, min_first=first, data_candidate=False, floor=False)
        parts = parts._replace(critic=critic)
        after = transition()
        columns = after.columns | {
            "next_candidates": jnp.float16([[[0.5], [-0.5], [0.05]] + [[0.2]] * 2])
        }
        found = arq.critic_target(
            jnp.float32([10.0, -10.0]), parts=parts, batch=after._replace(columns=columns)
        )
        # least of +-10 a: -10 |a|, best -.5; the best of each critic is 5, at either end
        assert found[0] == pytest.approx(2 + 0.9 * value, rel=1e-3)


def test_no_successor_is_read_at_the_end():
    """Discount 0: whatever stands in the columns, the target is the reward."""
    nothing = transition().columns | {
        "next_candidates": jnp.full((1, 5, 1), jnp.nan, jnp.float16),
        "next_log_density": jnp.full((1, 5), -jnp.inf, jnp.float16),
    }
    end = transition(discount=jnp.zeros(1), columns=nothing, has_next_action=jnp.zeros(1))
    assert target(end) == 2


def test_rows_cut_short_do_not_teach_the_critic():
    """Two rows, one without a known successor: the gradient is the other's alone."""
    both = jax.tree.map(lambda x: jnp.concatenate([x, x]), transition())
    both = both._replace(has_next_action=jnp.float32([1, 0]), reward=jnp.float32([2, 1e6]))
    parts = parts_of()
    state = arq.State(fixed(()), fixed(jnp.zeros(2)), None)
    state = state.replace(
        critic=state.critic.replace(opt_state=parts.critic_optimizer.init(jnp.zeros(2)))
    )
    _, metrics = arq.update_critic(state, both, jax.random.key(0), 0, parts=parts)
    second = 10 * float(np.float16(0.4))  # K = 2; Q of the recorded action is 5
    assert metrics["critic_loss"][0] == pytest.approx((2 + 0.9 * second - 5) ** 2 / 2, rel=1e-5)


def test_half_precision_hardly_moves_the_target():
    """Candidates rounded to float16 (4.9e-4 apart near 1): |dQ| <= slope * 2.5e-4."""
    rng = np.random.default_rng(0)
    exact = jnp.float32(rng.uniform(-1, 1, (200, 5, 1)))
    rows = jax.tree.map(lambda x: jnp.concatenate([x] * 200), transition())
    found = []
    for kind in (jnp.float16, jnp.float32):
        batch = rows._replace(columns=rows.columns | {"next_candidates": exact.astype(kind)})
        found.append(arq.critic_target(jnp.zeros(2), parts=parts_of(), batch=batch))
    change = np.abs(found[0] - found[1])
    assert 0 < change.max() <= 0.9 * 10 * 2.5e-4


# ------------------------------------------------------------------------------------ the policies


def test_the_advantage_is_over_the_recorded_action_and_the_kept():
    """Q 5 of the recorded action; kept 1, 3, 0, 2 and it: mean 2.2."""
    found = arq.advantage(jnp.zeros(2), parts=parts_of(), batch=transition())
    assert found[0] == pytest.approx(5 - 2.2, rel=1e-3)


def test_weights_are_limited():
    """exp(alpha A) up to 100, from alpha A = log 100 on; 1 at alpha 0."""
    state = trained_policy(parts_of())
    cases = {0.0: 1.0, 1.0: np.exp(2.8), np.log(100) / 2.7: 100.0, 50.0: 100.0}

    def weights(state):
        each = [parts_of(actor_alpha=alpha) for alpha in cases]
        key = jax.random.key(0)
        metrics = [arq.update_policy(state, transition(), key, 0, parts=p)[1] for p in each]
        return jnp.stack([m["weight"][0] for m in metrics])

    np.testing.assert_allclose(compiled(weights, state), list(cases.values()), rtol=2e-3)


def trained_policy(parts):
    params = {"net": parts.policy.init(jax.random.key(0), jnp.zeros((1, 1)))}
    params["log_std"] = jnp.zeros((1, 1))
    opt_state = parts.policy_optimizer.init(params)
    policy = dataclasses.replace(fixed(params), target=None, opt_state=opt_state)
    return arq.State(fixed(()), fixed(jnp.zeros(2)), policy)


@pytest.mark.parametrize(
    ("decays", "shares"), [(True, [1.0, 0.75, 0.25]), (False, [1.0, 1.0, 1.0])]
)
def test_the_policys_rate_decays_to_nothing(decays, shares):
    """Of constant gradients Adam moves by the rate; the cosine over three updates is by hand."""
    parts = parts_of(actor_decays=decays, actor_steps=3, actor_learning_rate=0.1)
    params = jnp.zeros(())
    state, moves = parts.policy_optimizer.init(params), []
    for _ in range(3):
        move, state = parts.policy_optimizer.update(jnp.ones(()), state, params)
        moves.append(float(-move / 0.1))
    np.testing.assert_allclose(moves, shares, rtol=1e-4)


def test_layer_normalisation_makes_the_critics_blind_to_scale():
    """One hidden layer, whose biases begin at 0: normalised, it cannot tell 2x from x."""
    spec, x = SPEC, jnp.ones((1, 1))
    for norm in (False, True):
        net = arq.build(small(critic_layer_norm=norm), spec).critic
        params = net.init(jax.random.key(0), x, x)
        near, far = (net.apply(params, n * x, n * x) for n in (1e3, 2e3))
        assert bool(jnp.allclose(near, far, rtol=1e-3)) == norm


def test_alpha_zero_is_behaviour_cloning():
    """The weighted loss with weights 1 is minus the mean log-likelihood, by hand."""
    parts = parts_of(actor_alpha=0.0)
    params = trained_policy(parts).policy.params | {"log_std": jnp.full((1, 1), 9.0)}
    batch = transition()
    found = arq.policy_loss(params, parts=parts, batch=batch, weight=jnp.ones(1))
    mean = jnp.tanh(parts.policy.apply(params["net"], batch.observation))
    std = np.full((1, 1), np.exp(2.0))  # clipped
    assert found == pytest.approx(
        -float(gaussian.log_density(batch.action, mean, std)[0]), rel=1e-5
    )


@pytest.mark.parametrize("policy", ["deterministic", "residual"])
def test_deterministic_policies_are_not_squashed(policy):
    parts = parts_of(policy=policy)
    params = {
        "net": jax.tree.map(lambda x: 0 * x + 1.0, trained_policy(parts).policy.params["net"])
    }
    batch = transition()
    mean = parts.policy.apply(params["net"], batch.observation)
    assert mean[0, 0] > 1
    found = arq.policy_loss(params, parts=parts, batch=batch, weight=jnp.float32([3.0]))
    assert found == pytest.approx(0.5 * 3 * float((mean[0, 0] - 0.5) ** 2), rel=1e-5)
    state = arq.State(fixed(()), None, fixed(params))
    assert arq.act_explicit(state, batch.observation, jax.random.key(0), parts=parts) == 1


def test_the_implicit_policy_takes_good_actions_inside_the_support():
    """Behaviour N(0, 1), threshold at |a| < .8, greedy: the best kept sample, near .8."""
    parts = arq.build(
        small(
            candidates=40,
            alpha=1e4,
            sampler_steps=24,
            density_nodes=32,
            threshold=-0.5 * 0.64 - 0.919,
        ),
        SPEC,
    )
    parts = normal_behavior(parts._replace(critic=line_critic()))
    state = arq.State(fixed(jnp.ones(1)), fixed(jnp.zeros(2)), None)
    action = compiled(
        lambda key: arq.act_implicit(state, jnp.zeros((50, 1)), key, parts=parts), jax.random.key(0)
    )
    assert (action < 0.81).all() and action.mean() > 0.6
    rejecting = state.replace(threshold=jnp.float32(0))  # in place of the config's
    action = compiled(
        lambda key: arq.act_implicit(rejecting, jnp.zeros((50, 1)), key, parts=parts),
        jax.random.key(0),
    )
    assert np.abs(action).max() < 0.2  # the densest sample


# ------------------------------------------------------------------------------- the threshold


def normal_behavior(parts):
    """With the exact score of N(0, 1)."""
    net = Net(lambda *a: jnp.ones(()), lambda p, y, c, t: -y * expand_last(vpsde.std(t), y.ndim))
    return parts._replace(model=parts.model._replace(net=net))


def expand_last(x, rank):
    return x.reshape(x.shape + (1,) * (rank - x.ndim))


def normal_rows(count):
    """Rows whose actions are exact quantiles of N(0, 1), in a random order."""
    levels = np.random.default_rng(0).permutation((np.arange(count) + 0.5) / count)
    rows = jax.tree.map(lambda x: jnp.repeat(x, count, 0), transition())
    action = jax.scipy.special.ndtri(jnp.float32(levels))[:, None]
    return rows._replace(action=action, index=jnp.arange(count, dtype=jnp.int32))


def test_the_threshold_is_the_quantile_of_recorded_actions():
    """Above it are the actions |a| < z, with P(|a| > z) = q; log-densities are those of N(0, 1).

    Of the behaviour's own samples it keeps 1 - q too, within 4 standard deviations.
    """
    q, z, rows = 0.3, 1.0364334, normal_rows(1_024)
    changes = {"sampler_steps": 24, "density_nodes": 12, "threshold_quantile": q}
    parts = normal_behavior(parts_of(**changes))
    start = jnp.float32(support_threshold.UNMEASURED)
    state = arq.State(fixed(jnp.ones(1)), fixed(jnp.zeros(2)), None, threshold=start)

    def measured(key):
        after, metrics = arq.update_threshold(state, rows, key, 0, parts=parts)
        return (
            after.threshold,
            metrics["threshold"],
            [arq.diagnose(s, rows, key, parts=parts)["candidates_kept"] for s in (state, after)],
        )

    threshold, metric, (before, after) = compiled(measured, jax.random.key(0))
    assert threshold == pytest.approx(-0.5 * np.log(2 * np.pi) - z**2 / 2, abs=0.01)
    assert metric[0] == threshold and threshold.dtype == np.float32
    assert before[1] == 0 and after[1] == 1  # nothing is measured before the threshold is
    assert after[0] == pytest.approx(1 - q, abs=4 * np.sqrt(q * (1 - q) / arq.SAMPLED_ROWS))


def test_backups_and_advantages_take_the_measured_threshold():
    """Log-densities 0 to -4 of the candidates of Q 5, 4, 3, 2, .5, and of Q 1, 3, 9, 0, 2."""
    levels = jnp.float16([[0.0, -1, -2, -3, -4]])
    columns = transition().columns | {"next_log_density": levels, "log_density": levels}
    batch, parts = transition(columns=columns), parts_of(kth=2, actor_alpha=0.01)
    state, key = trained_policy(parts), jax.random.key(0)
    opt_state = parts.critic_optimizer.init(jnp.zeros(2))
    state = state.replace(critic=state.critic.replace(opt_state=opt_state))

    def measured(threshold):
        at = state.replace(threshold=threshold)
        _, critic = arq.update_critic(at, batch, key, 0, parts=parts)
        _, policy = arq.update_policy(at, batch, key, 0, parts=parts)
        return critic["critic_loss"][0], policy["advantage"][0]

    cases = {-9.0: (4.0, (5 + 1 + 3 + 9 + 0 + 2) / 6), -0.5: (1.0, (5 + 1) / 2)}
    found = compiled(jax.vmap(measured), jnp.float32(list(cases)))
    for loss, advantage, (value, mean) in zip(*found, cases.values(), strict=True):
        assert loss == pytest.approx((2 + 0.9 * value - 5) ** 2 / 2, rel=5e-3)
        assert advantage == pytest.approx(5 - mean, rel=1e-3)


def test_a_quantile_adds_a_phase_of_one_update():
    """Only where a policy needs Q; `test_golden` has the run without."""
    method = arq.make(small(threshold_quantile=0.1, threshold_rows=4), SPEC)
    _, phase, *_ = method.phases
    assert (phase.name, phase.steps, phase.batch_size) == ("threshold", 1, 4)
    assert "0.1 quantile" in method.policies["implicit"].rule
    all_rows = arq.make(small(threshold_quantile=0.1), SPEC).phases[1]
    assert all_rows.batch_size == SPEC.size
    assert phases(policies=("behavior",), threshold_quantile=0.1)[0] == ["behavior"]


# ------------------------------------------------------------------------------------ the phases


def phases(**changes):
    method = arq.make(small(**changes), SPEC)
    return [phase.name for phase in method.phases], list(method.policies)


def test_only_needed_phases_are_trained():
    everything = ["behavior", "candidates", "critic", "policy"]
    assert phases() == (everything, ["explicit", "implicit", "behavior"])
    assert phases(policies=("behavior",)) == (["behavior"], ["behavior"])
    implicit = phases(policies=("implicit", "behavior"), q_target="sarsa")
    assert implicit == (["behavior", "critic"], ["implicit", "behavior"])
    assert phases(policies=("explicit",), q_target="sarsa")[0] == everything


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kth": 5}, "kth .5. cannot exceed the number of candidates .4."),
        ({"kth": 4, "data_candidate": False}, "cannot exceed"),
        ({"policies": ("greedy",)}, "policies must be one of"),
        ({"policies": ()}, "policies must be one or more"),
        ({"policies": ("behavior", "behavior")}, "each once"),
        ({"sampler": "euler"}, "sampler must be one of"),
        ({"sampler_steps": 1}, "sampler_steps must be at least 2"),
        ({"norms": "all"}, "norms must be one of"),
        ({"density": "exact"}, "density must be one of"),
        ({"density_nodes": 4}, "density_nodes must be at least 6"),
        ({"trace": "random"}, "trace must be one of"),
        ({"q_target": "max"}, "q_target must be one of"),
        ({"policy": "gmm"}, "policy must be one of"),
        ({"policy": "residual", "actor_hidden": (8, 9)}, "equal widths"),
        ({"critic_ensemble_size": 0}, "critic_ensemble_size must be at least 1"),
        ({"alpha": -1.0}, "alpha must not be negative"),
        ({"threshold_quantile": 1.0}, "threshold_quantile must be at least 0 and below 1"),
        ({"threshold_quantile": -0.1}, "threshold_quantile must be at least 0"),
        ({"threshold_rows": 0}, "threshold_rows must be at least 1"),
        ({"batches": "all"}, "batches must be one of"),
    ],
)
def test_configs_that_no_field_allows(changes, message):
    with pytest.raises(ValueError, match=message):
        arq.make(small(**changes), SPEC)


def test_a_shared_behaviour_is_one_model_and_one_set(tiny: Transition):
    """What each seed has its own is in the contract suite."""
    method = arq.make(
        small(policies=("implicit",), train_steps=0, share_behavior=True, threshold_quantile=0.2),
        Spec.of(tiny),
    )
    mesh = seed_axis.seed_mesh(jax.devices()[:1])
    log_point = list(loop.run(method, tiny, (0, 1), mesh, every=100))[-1]
    found, density = log_point.columns["candidates"], log_point.columns["log_density"]
    assert found.shape == (96, 3, 2) and density.shape == (96, 3)
    assert found.dtype == density.dtype == np.float16
    assert len(np.unique(found.reshape(-1, 2), axis=0)) > 0.9 * found.size / 2

    def differ(part):
        return any((np.asarray(x)[0] != np.asarray(x)[1]).any() for x in jax.tree.leaves(part))

    assert differ(log_point.state.critic) and not differ(log_point.state.behavior)
    threshold = log_point.state.threshold
    assert (threshold > support_threshold.UNMEASURED).all() and not differ(threshold)
    assert all("for all seeds" in policy.rule for policy in method.policies.values())


def test_broken_samples_are_rejected():
    """Not finite: the mean action, never kept."""
    parts = parts_of()
    nan = Net(lambda *a: jnp.ones(()), lambda p, y, c, t: jnp.full_like(y, jnp.nan))
    parts = parts._replace(model=parts.model._replace(net=nan))
    keys = jax.random.split(jax.random.key(0), 2)
    action, density = compiled(
        lambda keys: arq.candidates(jnp.ones(1), jnp.zeros((2, 1)), keys, parts=parts, clip=False),
        keys,
    )
    np.testing.assert_array_equal(action, 0)
    np.testing.assert_array_equal(density, -np.inf)


def test_stored_densities_do_not_overflow():
    np.testing.assert_array_equal(
        arq.stored(jnp.float32([-1e6, -np.inf, -5.0])), [-np.inf, -np.inf, -5]
    )


def test_the_published_sampler_and_log_density_run():
    """Corrector with own norms, adaptive steps of each item, random signs, three members."""
    changes = {
        "behavior_ensemble_size": 3,
        "sampler": "predictor_corrector",
        "sampler_steps": 3,
        "density": "adaptive",
        "tolerance": 1e-2,
        "trace": "hutchinson",
    }
    parts = arq.build(small(**changes), SPEC)

    def draw(key):
        params = score.init(parts.model, key, jnp.zeros((1, 1)), jnp.zeros((1, 1)))
        keys = jax.random.split(key, 2)
        return arq.candidates(params, jnp.zeros((2, 1)), keys, parts=parts, clip=False)

    action, density = compiled(draw, jax.random.key(0))
    assert action.shape == (2, 3, 1) and density.shape == (2, 3)
    assert np.isfinite(action).all() and np.isfinite(density).all()
    assert len(np.unique(density)) == 6


def test_members_may_differ_in_numbers():
    """Strengths, rates and the threshold are numbers of one program."""
    names = ("alpha", "actor_alpha", "threshold", "critic_learning_rate", "actor_learning_rate")
    varied = sweep.vary(arq.make, small(), SPEC, names)
    first, *others = varied.phases
    assert first.update.identical and not others[-1].update.identical
    quantiles = sweep.vary(arq.make, small(threshold_quantile=0.1), SPEC, ("threshold_quantile",))
    assert [phase.update.identical for phase in quantiles.phases[:2]] == [True, False]
    with pytest.raises(sweep.NotSweepable, match="which phases there are"):
        sweep.vary(arq.make, small(), SPEC, ("threshold_quantile",))
    mixed, data = [{"threshold_quantile": x} for x in (0.1, 0.0)], SimpleNamespace(spec=SPEC)
    with pytest.raises(sweep.NotSweepable, match="which phases there are"):
        prepare._make(arq, small(), data, mixed, RunConfig())
