"""Methods on images: what their encoders follow, and the contract on a set of tiny images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import encoded, testing
from jaxrl_prefs.encoded import EncoderConfig, on_images
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.rows import gathered, on_host
from jaxrl_prefs.runs.config import RunConfig
from jaxrl_prefs.runs.methods import bound
from jaxrl_prefs.testing import Subject
from jaxrl_prefs.types import ImageSpec, Spec, Transition
from tests import probes
from tests.test_contract import TINY

IMAGE = ImageSpec("image", 16, 16, 2)
TAKERS = {  # method -> for each phase, the encoder and the part of the state that share a loss
    "bc": {"train": ("actor", "actor")},
    "td3_bc": {"train": ("critic", "critic")},
    "iql": {"train": ("critic", "critic")},
    "bpr": {"behavior": ("behavior", "behavior"), "train": ("critic", "critic")},
}


def _spec(vector: int = 2) -> Spec:
    data = probes.episodes(size=24, length=6, observation_dim=vector, action_dim=2)
    return Spec.of(data)._replace(images=(IMAGE,))


def _subject(name: str) -> Subject:
    return Subject(METHODS[name], METHODS[name].Config(**TINY[name]), _spec())


@pytest.fixture(scope="module", params=TAKERS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return _subject(request.param)


@pytest.mark.parametrize("check", testing.CHECKS.values(), ids=testing.CHECKS)
def test_contract(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)


def test_who_takes_images() -> None:
    data = probes.episodes(size=24, length=6, observation_dim=3, action_dim=2)
    spec = Spec.of(data)
    takers = {name for name, each in METHODS.items() if each.make(each.Config(), spec).encoders}
    assert takers == set(TAKERS)
    with pytest.raises(encoded.NoEncoder):
        on_images(partial(METHODS["bdpo"].make, METHODS["bdpo"].Config()), _spec(), EncoderConfig())
    small = _spec()._replace(images=(IMAGE._replace(height=8),))
    with pytest.raises(ConfigError, match="'image' have 8x16 pixels, too few for an encoder"):
        bound(METHODS["bc"], METHODS["bc"].Config(), small, vars(RunConfig()))


@pytest.mark.parametrize("name", TAKERS)
def test_an_encoder_follows_the_loss_of_the_update(name: str, tiny: Transition) -> None:
    """One gradient step of the named part on `encoder_loss` is that part's step in `update`."""
    module = METHODS[name]
    method = module.make(module.Config(**TINY[name]), Spec.of(tiny))
    batch = gathered(tiny, np.arange(24), on_host)
    state = jax.jit(method.init)(jax.random.key(0), batch)
    for phase in method.phases:
        assert phase.encoder_loss is not None
        encoder, loss = phase.encoder_loss
        expected, part = TAKERS[name][phase.name]
        assert encoder == expected
        key = jax.random.key(3)
        after, _ = jax.jit(phase.update)(state, batch, key, jnp.int32(0))

        def value(params: Any, state: Any = state, part: str = part, loss: Any = loss) -> Any:
            own = getattr(state, part).replace(params=params)
            return loss(state.replace(**{part: own}), batch, jax.random.key(3), jnp.int32(0))

        own = getattr(state, part)
        gradient = jax.jit(jax.grad(value))(own.params)
        # Adam's first step is the gradient's sign times the rate, where it is not tiny.
        moved = jax.tree.map(jnp.subtract, getattr(after, part).params, own.params)
        for step, slope in zip(jax.tree.leaves(moved), jax.tree.leaves(gradient), strict=True):
            clear = np.abs(slope) > 1e-4
            assert clear.any()
            np.testing.assert_array_equal(np.sign(step)[clear], -np.sign(slope)[clear])
        state = after


def test_one_gradient_over_encoder_and_critic_is_the_encoder_s_step() -> None:
    """By hand, for TD3+BC: the encoder's parameters move as in a joint training."""
    subject = _subject("td3_bc")
    made = partial(METHODS["td3_bc"].make, METHODS["td3_bc"].Config(**TINY["td3_bc"]))
    config = EncoderConfig(shift=0, learning_rate=1e-3)
    method = on_images(made, subject.spec, config)
    batch = gathered(subject.data, np.arange(8), on_host)
    state = jax.jit(method.init)(jax.random.key(1), batch)
    key = jax.random.key(2)
    after, _ = jax.jit(method.phases[0].update)(state, batch, key, jnp.int32(0))
    parts = method.phases[0].update.keywords["parts"]  # type: ignore[attr-defined]
    _, loss = made(encoded.feature_spec(subject.spec, method.encoders, 50)).phases[0].encoder_loss  # type: ignore[misc]

    def joint(params: Any) -> Any:
        seen = encoded._features(params, batch.observation, parts)
        following = encoded._features(encoded._params(state), batch.next_observation, parts)
        whole = batch._replace(observation=seen, next_observation=following)
        return loss(state.method, whole, key, jnp.int32(0))

    gradient = jax.jit(jax.grad(joint))(encoded._params(state))["critic"]
    updates, _ = parts.optimizer.update(gradient, state.encoders["critic"].opt_state)
    expected = jax.tree.map(jnp.add, state.encoders["critic"].params, updates)
    chex.assert_trees_all_close(after.encoders["critic"].params, expected, rtol=1e-5, atol=1e-7)
    moved = jax.tree.map(jnp.subtract, expected, state.encoders["critic"].params)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(moved)) > 1e-4


def test_each_network_reads_its_own_encoder() -> None:
    """BPR's behaviour model does not see the critics' features, nor they its own."""
    spec = encoded.feature_spec(
        _spec(), METHODS["bpr"].make(METHODS["bpr"].Config(), _spec()).encoders, 3
    )
    assert spec.observation_dim == 3 + 3 + 2
    critic, behavior = spec.view("critic"), spec.view("behavior")
    assert critic is not None
    assert behavior is not None
    row = jnp.arange(8)
    np.testing.assert_array_equal(critic(row), [0, 1, 2, 6, 7])
    np.testing.assert_array_equal(behavior(row), [3, 4, 5, 6, 7])
