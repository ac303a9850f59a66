"""Methods on images: what their encoders follow, and the contract on a set of tiny images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import encoded, nets, testing
from jaxrl_prefs.encoded import EncoderConfig, on_images
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Encoder, Method
from jaxrl_prefs.methods import METHODS, iql
from jaxrl_prefs.rows import gathered, on_host
from jaxrl_prefs.runs.config import RunConfig
from jaxrl_prefs.runs.methods import bound
from jaxrl_prefs.testing import Subject
from jaxrl_prefs.types import ImageSpec, Spec, Transition
from jaxrl_prefs.values import td3
from tests import probes
from tests.test_contract import TINY

IMAGE = ImageSpec("image", 16, 16, 2)
# Method -> for each phase, the encoders that it trains. Each follows the loss of the part of the
# state that has its name.
TAKERS = {
    "bc": {"train": ["actor"]},
    "td3_bc": {"train": ["critic", "actor"]},
    "iql": {"train": ["critic", "actor"]},
    "bpr": {"behavior": ["behavior"], "train": ["critic", "actor"]},
}
SMALL = EncoderConfig("two_layers", features=4)
SEPARATE = SMALL._replace(sharing="separate")
SUBJECTS = {  # of the contract: a method and its encoders
    "bc": ("bc", EncoderConfig()),
    "bpr": ("bpr", EncoderConfig()),
    "iql": ("iql", SMALL),
    "td3_bc": ("td3_bc", SMALL),
    "separate": ("td3_bc", SEPARATE),  # not all encoders take a step in every update
}
VECTORS = Spec.of(probes.episodes(size=24, length=6, observation_dim=4 + 2, action_dim=2))


def _spec(vector: int = 2) -> Spec:
    data = probes.episodes(size=24, length=6, observation_dim=vector, action_dim=2)
    return Spec.of(data)._replace(images=(IMAGE,))


def _subject(name: str, encoder: EncoderConfig = SMALL) -> Subject:
    return Subject(METHODS[name], METHODS[name].Config(**TINY[name]), _spec(), encoder=encoder)


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return _subject(*SUBJECTS[request.param])


@pytest.fixture(scope="module")
def batch() -> Transition:
    return gathered(_subject("bc").data, np.arange(8), on_host)


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
    """One gradient step on an encoder's loss is the step in `update` of what reads it."""
    module = METHODS[name]
    method = module.make(module.Config(**TINY[name]), Spec.of(tiny))
    batch = gathered(tiny, np.arange(24), on_host)
    state = jax.jit(method.init)(jax.random.key(0), batch)
    for phase in method.phases:
        assert [of.encoder for of in phase.encoder_losses] == TAKERS[name][phase.name]
        after, _ = jax.jit(phase.update)(state, batch, jax.random.key(3), jnp.int32(0))
        for part, loss, _ in phase.encoder_losses:

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
    config = EncoderConfig("two_layers", shift=0, learning_rate=1e-3)
    method = on_images(made, subject.spec, config)
    batch = gathered(subject.data, np.arange(8), on_host)
    state = jax.jit(method.init)(jax.random.key(1), batch)
    key = jax.random.key(2)
    after, _ = jax.jit(method.phases[0].update)(state, batch, key, jnp.int32(0))
    parts = method.phases[0].update.keywords["parts"]  # type: ignore[attr-defined]
    bare = made(encoded.feature_spec(subject.spec, method.encoders, config))
    _, loss, _ = bare.phases[0].encoder_losses[0]

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


@pytest.mark.parametrize("name", ["td3_bc", "iql"])
def test_separate_encoders_move_as_in_joint_training(name: str, batch: Transition) -> None:
    """By hand: every network and its encoder are one tree of parameters under one optimiser."""
    config, init, update = _separate(name)
    state = init(jax.random.key(1), batch)
    start = state.encoders
    joint = {
        part: _joint(start[part].params, getattr(state.method, part))
        for part in ("critic", "actor")
    }
    if name == "iql":
        joint["value"] = state.method.value
    by_hand = jax.jit(partial({"td3_bc": _td3_bc, "iql": _iql}[name], config))
    for step in range(3):
        key = jax.random.key(step)
        before, (state, _) = state, update(state, batch, key, jnp.int32(step))
        moved = by_hand(joint, batch, key)
        if name == "td3_bc" and step == 1:  # the critics alone move
            moved["actor"] = joint["actor"]
            moved["critic"] = moved["critic"].replace(target=joint["critic"].target)
            chex.assert_trees_all_equal(state.encoders["actor"], before.encoders["actor"])
        joint = moved
    for part in ("critic", "actor"):
        moved = jax.tree.map(jnp.subtract, joint[part].params["encoder"], start[part].params)
        assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(moved)) > 1e-2
        found = _joint(state.encoders[part].params, getattr(state.method, part))
        for each in ("params", "target"):
            chex.assert_trees_all_close(
                getattr(found, each), getattr(joint[part], each), rtol=1e-5, atol=1e-6
            )


ADAM = optax.adam(1e-2)


@functools.cache
def _separate(name: str) -> tuple[Any, Any, Any]:
    """A method's config, and its functions on unshifted images; all rates are Adam's above."""
    rates = dict.fromkeys(("actor_learning_rate", "critic_learning_rate"), 1e-2)
    config = METHODS[name].Config(actor_hidden=(8,), critic_hidden=(8,), **rates)
    encoder = SEPARATE._replace(shift=0, learning_rate=1e-2)
    method = on_images(partial(METHODS[name].make, config), _spec(), encoder)
    return config, jax.jit(method.init), jax.jit(method.phases[0].update)


def _joint(encoder: Any, head: Trainable) -> Trainable:
    """A network with its encoder; the target network is the network's alone."""
    params = {"encoder": encoder, "head": head.params}
    return Trainable(params, head.target, ADAM.init(params))


def _seen(params: Any, observation: Any) -> jax.Array:
    """Features of an encoder, and the vector."""
    net = nets.ENCODERS["two_layers"](4)
    features = net.apply(params["image"], observation["image"])
    return jnp.concatenate([features, observation["state"]], -1)


def _td3_bc(config: Any, joint: Any, batch: Transition, key: Any) -> Any:
    """Critics, policy and both targets."""
    parts = td3.from_config(config, VECTORS)
    q, pi = parts.critic.apply, parts.policy.act
    actor, critic = joint["actor"], joint["critic"]
    old = {part: each.params["encoder"] for part, each in joint.items()}
    noise = jnp.clip(0.2 * jax.random.normal(key, batch.action.shape), -0.5, 0.5)
    next_action = pi(actor.target, _seen(old["actor"], batch.next_observation)) + noise
    next_action = jnp.clip(next_action, -1, 1)
    next_q = q(critic.target, _seen(old["critic"], batch.next_observation), next_action)
    target = batch.reward + batch.discount * next_q.min(0)

    def critic_loss(params: Any) -> Any:
        found = q(params["head"], _seen(params["encoder"], batch.observation), batch.action)
        return jnp.square(found - target[None]).mean(1).sum()

    critic = _descended(critic, critic_loss)

    def actor_loss(params: Any) -> Any:
        action = pi(params["head"], _seen(params["encoder"], batch.observation))
        first = q(critic.params["head"], _seen(old["critic"], batch.observation), action)[0]
        size = jax.lax.stop_gradient(jnp.abs(first).mean())
        return jnp.square(action - batch.action).mean() - config.alpha * first.mean() / size

    actor = _descended(actor, actor_loss)
    return {"critic": _averaged(critic), "actor": _averaged(actor)}


def _iql(config: Any, joint: Any, batch: Transition, key: Any) -> Any:
    """V on the features of the critics, without a gradient; critics; policy."""
    parts = iql.build(config, VECTORS)
    q, v = parts.iql.critic.apply, parts.iql.value.apply
    actor, critic, value = joint["actor"], joint["critic"], joint["value"]
    features = _seen(critic.params["encoder"], batch.observation)
    least = q(critic.target, features, batch.action).min(0)
    advantage = least - v(value.params, features)

    def value_loss(params: Any) -> Any:
        error = least - v(params, features)
        return jnp.mean(jnp.where(error > 0, 0.7, 0.3) * error**2)

    value = _descended(value, value_loss)
    following = _seen(critic.params["encoder"], batch.next_observation)
    target = batch.reward + batch.discount * v(value.params, following)

    def critic_loss(params: Any) -> Any:
        found = q(params["head"], _seen(params["encoder"], batch.observation), batch.action)
        return jnp.square(found - target[None]).mean(1).sum()

    def actor_loss(params: Any) -> Any:
        shown = _seen(params["encoder"], batch.observation)
        density = parts.policy.log_density(params["head"], shown, batch.action)
        return -jnp.mean(jnp.minimum(jnp.exp(3 * advantage), 100) * density)

    critic, actor = _descended(critic, critic_loss), _descended(actor, actor_loss)
    return {"critic": _averaged(critic), "actor": actor, "value": value}


def _descended(trainable: Trainable, loss: Any) -> Trainable:
    updates, opt_state = ADAM.update(jax.grad(loss)(trainable.params), trainable.opt_state)
    params = jax.tree.map(jnp.add, trainable.params, updates)
    return trainable.replace(params=params, opt_state=opt_state)


def _averaged(trainable: Trainable) -> Trainable:
    rate = 0.005
    target = jax.tree.map(
        lambda new, old: rate * new + (1 - rate) * old, trainable.params["head"], trainable.target
    )
    return trainable.replace(target=target)


def test_a_separate_encoder_of_the_policy_leaves_the_values_alone(batch: Transition) -> None:
    """IQL's values do not depend on the policy, so neither does their encoder on the policy's."""
    _, init, update = _separate("iql")
    state = init(jax.random.key(0), batch)
    other = state.encoders["actor"]
    other = other.replace(params=jax.tree.map(lambda leaf: leaf + 0.1, other.params))
    changed = state.replace(encoders=state.encoders | {"actor": other})
    (after, _), (apart, _) = (
        update(each, batch, jax.random.key(1), jnp.int32(0)) for each in (state, changed)
    )
    chex.assert_trees_all_equal(after.encoders["critic"], apart.encoders["critic"])
    for part in ("critic", "value"):
        chex.assert_trees_all_equal(getattr(after.method, part), getattr(apart.method, part))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(after.method.actor, apart.method.actor)


@pytest.mark.parametrize(
    ("name", "shared", "separate"),
    [
        ("bc", ["actor"], ["actor"]),
        ("td3_bc", ["critic"], ["critic", "actor"]),
        ("iql", ["critic"], ["critic", "actor"]),
        ("bpr", ["critic", "behavior"], ["critic", "behavior", "actor"]),
    ],
)
def test_which_encoders_are_made(name: str, shared: list[str], separate: list[str]) -> None:
    for sharing, expected in (("shared", shared), ("separate", separate)):
        made = partial(METHODS[name].make, METHODS[name].Config(**TINY[name]))
        method = on_images(made, _spec(), SEPARATE._replace(sharing=sharing))
        state = jax.eval_shape(method.init, jax.random.key(0), _spec().example())
        assert set(state.encoders) == set(expected)


def test_each_network_reads_its_own_encoder() -> None:
    """The features of each encoder that is made, in turn, and behind them the vector."""
    shared = SMALL._replace(features=3)
    assert _views("td3_bc", shared) == {"critic": None, "actor": None}  # the whole
    critic, behavior = [0, 1, 2, 6, 7], [3, 4, 5, 6, 7]
    assert _views("bpr", shared) == {"critic": critic, "actor": critic, "behavior": behavior}
    assert _views("bpr", shared._replace(sharing="separate")) == {
        "critic": [0, 1, 2, 9, 10],
        "behavior": [3, 4, 5, 9, 10],
        "actor": [6, 7, 8, 9, 10],
    }


def _views(name: str, config: EncoderConfig) -> dict[str, list[int] | None]:
    """Which numbers of an observation each encoder's networks read; None where they read all."""
    encoders = METHODS[name].make(METHODS[name].Config(), _spec()).encoders
    spec = encoded.feature_spec(_spec(), encoders, config)
    views = {each.name: spec.view(each.name) for each in encoders}
    row = np.arange(spec.observation_dim)
    return {each: view and view(row).tolist() for each, view in views.items()}


def test_what_is_refused() -> None:
    """Names that a method's author mistypes, which would otherwise train nothing."""

    def mistyped(spec: Spec) -> Method:
        made = METHODS["bc"].make(METHODS["bc"].Config(), spec)
        return made._replace(encoders=(Encoder("critic"), Encoder("value", shared_with="critics")))

    with pytest.raises(ValueError, match=r"no encoder \['actor', 'critics'\].*critic, value"):
        on_images(mistyped, _spec(), EncoderConfig())
    wrong: Any = "both"
    with pytest.raises(ValueError, match="encoder_sharing must be shared or separate, not both"):
        on_images(mistyped, _spec(), EncoderConfig(sharing=wrong))
