"""What BDPO's config builds, and what it refuses."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.types import Spec
from tests import probes
from tests.exact import filled

SPEC = Spec(
    observation_dim=17,
    action_dim=6,
    size=100,
    action_low=np.full(6, -1, np.float32),
    action_high=np.ones(6, np.float32),
    observation_mean=np.zeros(17),
    observation_std=np.ones(17),
    action_mean=np.zeros(6),
    action_std=np.ones(6),
)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("policy", ["diffusion", "flow", "gaussian", "deterministic"]),
        ("schedule", ["vp", "linear", "cosine"]),
        ("sampler", ["ddpm", "ddim"]),
        ("levels", ["uniform", "stratified"]),
        ("batches", ["epoch", "uniform"]),
        ("activation", ["mish", "gelu"]),
    ],
)
def test_unknown_choices_are_refused_by_name_with_the_options(field, options):
    with pytest.raises(ValueError, match=field) as refusal:
        bdpo.make(bdpo.Config(**{field: "misspelt"}), SPEC)
    assert all(option in str(refusal.value) for option in [*options, "misspelt"])
    for option in options:
        bdpo.make(bdpo.Config(**{field: option}), SPEC)


@pytest.mark.parametrize("policy", ["diffusion", "flow", "gaussian", "deterministic"])
def test_the_activation_is_that_of_all_networks(policy):
    def outputs(activation):
        config = bdpo.Config(policy=policy, activation=activation, actor_hidden=(8, 8))
        parts = bdpo.build(config, SPEC)
        a, s, n = np.ones((2, 6), np.float32), np.ones((2, 17), np.float32), np.ones(2, np.int32)
        path = policy in ("diffusion", "flow")
        actor = parts.policy if path else parts.policy.policy
        for net, inputs in (
            (actor.net, (a, s, n) if path else (s,)),
            (parts.critic, (s, a)),
            (parts.value, (s, a, n)),
        ):
            yield net.apply(filled(net.init, *inputs), *inputs)

    for mish, gelu in zip(outputs("mish"), outputs("gelu"), strict=True):
        assert np.abs(mish - gelu).max() > 1e-3


def test_a_warm_up_longer_than_training_is_refused():
    with pytest.raises(ValueError, match=r"warmup_steps \(6\).*train_steps \(5\)"):
        bdpo.make(bdpo.Config(warmup_steps=6, train_steps=5), SPEC)


@pytest.mark.parametrize("field", bdpo.AT_LEAST_ONE)
def test_counts_below_one_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1, not 0"):
        bdpo.make(bdpo.Config(**{field: 0}), SPEC)


@pytest.mark.parametrize("field", bdpo.NONNEGATIVE)
def test_negative_strengths_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must not be negative, it is -1"):
        bdpo.make(bdpo.Config(**{field: -1}), SPEC)
    bdpo.make(bdpo.Config(**{field: 0}), SPEC)


def test_phases_follow_the_paper():
    behavior, critic, train = bdpo.make(bdpo.Config(), SPEC).phases
    assert [phase.name for phase in (behavior, critic, train)] == ["behavior", "critic", "train"]
    assert (behavior.steps, critic.steps, train.steps) == (2_000_000, 50_000, 1_950_000)
    assert {phase.batch_size for phase in (behavior, critic, train)} == {256}


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, "argmax mean Q"),
        ({"temperature": 0.5}, "softmax(mean Q / 0.5)"),
        ({"candidates": 1, "temperature": 0.5}, "single sample"),
    ],
)
def test_the_rule_of_acting_is_printed_beside_every_score(settings, rule):
    policies = bdpo.make(bdpo.Config(**settings), SPEC).policies
    assert list(policies) == ["actor", "behavior"]
    assert policies["actor"].rule == rule
    assert policies["actor"].candidates == settings.get("candidates", 10)
    assert policies["behavior"].candidates == 1


def count(params):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def shapes(**settings):
    batch = probes.episodes(size=4, length=4, observation_dim=17, action_dim=6)
    return jax.eval_shape(bdpo.make(bdpo.Config(**settings), SPEC).init, jax.random.key(0), batch)


FEATURE = 2 * (64 * 64 + 64)  # the step's two dense layers
HIDDEN = 256 * 256 + 256


def test_networks_have_the_paper_s_sizes():
    """Halfcheetah: 17 observations, 6 actions; table 3."""
    state = shapes()
    eps = (6 + 64 + 17) * 256 + 256 + 3 * HIDDEN + 256 * 6 + 6 + FEATURE
    q = (17 + 6) * 256 + 256 + 2 * HIDDEN + 256 + 1
    v = (17 + 6 + 64) * 256 + 256 + 2 * HIDDEN + 256 + 1 + FEATURE + 3 * 2 * 256
    assert (eps, q, v) == (229_766, 137_985, 164_225)  # by hand
    for part, expected in [(state.behavior, eps), (state.actor, eps)]:
        assert count(part.params) == count(part.target) == expected
    assert count(state.critic.params) == count(state.critic.target) == 10 * q
    assert count(state.value.params) == count(state.value.target) == 10 * v


def test_antmaze_normalises_the_layers_of_q_as_well():
    plain, normal = shapes(), shapes(critic_layer_norm=True, actor_hidden=(512,) * 4)
    assert count(normal.critic.params) - count(plain.critic.params) == 10 * 3 * 2 * 256
    assert count(normal.value.params) == count(plain.value.params)
    eps = (6 + 64 + 17) * 512 + 512 + 3 * (512 * 512 + 512) + 512 * 6 + 6 + FEATURE
    assert count(normal.actor.params) == eps


def test_the_step_feature_of_v_may_have_the_newer_widths():
    plain, newer = shapes(), shapes(value_step_hidden=128)
    more = (64 * 128 + 128 + 128 * 64 + 64) - 2 * (64 * 64 + 64)
    assert count(newer.value.params) - count(plain.value.params) == 10 * more
    assert count(newer.actor.params) == count(plain.actor.params)


@pytest.mark.parametrize(("policy", "outputs"), [("gaussian", 12), ("deterministic", 6)])
def test_policies_that_sample_in_one_step_have_no_level_values(policy, outputs):
    state = shapes(policy=policy)
    assert state.value is None
    assert count(state.actor.params) == 17 * 256 + 256 + 3 * HIDDEN + 256 * outputs + outputs


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_clipping_keeps_every_action_in_the_data_s_box(sampler):
    low, high = np.array([-1.0, 0.0], "f"), np.array([0.5, 2.0], "f")
    spec = SPEC._replace(observation_dim=1, action_dim=2, action_low=low, action_high=high)
    settings = bdpo.Config(sampler=sampler, actor_hidden=(8,), diffusion_steps=2)
    for clips in (True, False):
        parts = bdpo.build(dataclasses.replace(settings, clip_sampler=clips), spec)
        state = np.zeros((200, 1), "f")
        params = filled(parts.policy.init, state)
        sample = jax.jit(parts.policy.sample, static_argnums=3)
        action = np.asarray(sample(params, state, jax.random.key(0), 3)).reshape(-1, 2)
        inside = (action >= low) & (action <= high)
        assert inside.all() == clips
