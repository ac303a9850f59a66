"""Methods on images: encoders below a method that itself sees vectors of features.

    f_e(s)   = encoder_e(shift(image))                    [B, F] for every camera and encoder e
    method   sees (f_1, ..., f_n, vector), without a gradient
    encoder  follows the gradient of a loss that the phase names, `Phase.encoder_losses`

The default is DrQ-v2's arrangement (Yarats et al. 2021, arXiv 2107.09645): one encoder that the
critic's loss trains, features without gradient for the actor, and images that are shifted at random
in training, those of the next observation by draws of their own. With `sharing = "separate"` the
actor has an encoder of its own, which its own loss trains, as in OGBench's baselines.

An encoder's step is the one that a single gradient over the encoder and the network above it would
give, since both are taken at the same parameters. Encoders have an optimiser of their own. The next
observation passes through the current encoders; only the networks above have target networks.

A method says which encoders it needs (`Method.encoders`), and each network picks its own part of
the vector by `Spec.view`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Encoder, EncoderLoss, Method, Phase, Policy
from jaxrl_prefs.ops import images
from jaxrl_prefs.types import STATE, Array, Key, Metrics, Net, Params, Spec, Transition

SHIFTED, INITIAL = 0x51, 0x52  # folded into keys that the method uses itself


class EncoderConfig(NamedTuple):
    """The fields of a run that say how images are encoded."""

    encoder: str = "drq"  # a name in nets.ENCODERS
    features: int = 50  # F, numbers that stand for an image
    learning_rate: float = 3e-4  # Adam's rate for the encoders
    shift: int = 4  # pixels by which images are shifted at most in training
    # "separate" also makes those encoders in whose place others may serve (`Encoder.shared_with`)
    sharing: Literal["shared", "separate"] = "shared"


@flax.struct.dataclass
class State:
    """The method's own state, and the encoders by name."""

    encoders: dict[str, Trainable]
    method: Any


class Parts(NamedTuple):
    """What computes features; no arrays."""

    nets: dict[str, Net]  # of all cameras, by encoder
    optimizer: optax.GradientTransformation
    shift: int


class NoEncoder(ValueError):
    """The method takes no images."""


class TooSmall(ValueError):
    """Images have fewer pixels than an encoder needs."""


def on_images(make: Callable[[Spec], Method], spec: Spec, config: EncoderConfig) -> Method:
    """A method for observations with images.

    Args:
        make: makes the method for vectors of a Spec's size.
        spec: of the data, with images.
        config: of the encoders.

    Raises:
        NoEncoder: if the method takes no images.
        TooSmall: naming the camera whose images are.
        ValueError: for a bad field of `config`, and for an encoder that the method names and does
            not have.
    """
    _check(spec, config)
    bare = make(spec._replace(observation_dim=1, images=()))
    encoders = bare.encoders
    if not encoders:
        raise NoEncoder
    _check_names(bare)
    method = make(feature_spec(spec, encoders, config))
    parts = Parts(
        nets={
            each.name: nets.image_and_vector(
                nets.ENCODERS[config.encoder](config.features, spectral=each.spectral)
            )
            for each in _made(encoders, config)
        },
        optimizer=learner.optimizer(config.learning_rate),
        shift=config.shift,
    )
    return method._replace(
        init=partial(_init, init=method.init, parts=parts),
        phases=tuple(_phase(each, parts) for each in method.phases),
        policies={name: _policy(each, parts) for name, each in method.policies.items()},
        diagnose=partial(_diagnose, diagnose=method.diagnose, parts=parts),
    )


def _check(spec: Spec, config: EncoderConfig) -> None:
    for each in spec.images:
        if min(each.height, each.width) < nets.MIN_SIZE:
            raise TooSmall(
                f"the images {each.name!r} have {each.height}x{each.width} pixels, too few for an "
                f"encoder: resize them to {nets.MIN_SIZE}x{nets.MIN_SIZE} at least"
            )
    if config.shift < 0:
        raise ValueError(f"image_shift must be at least 0, not {config.shift}")
    if config.sharing not in ("shared", "separate"):
        raise ValueError(f"encoder_sharing must be shared or separate, not {config.sharing}")


def _check_names(method: Method) -> None:
    known = [each.name for each in method.encoders]
    named = [loss.encoder for phase in method.phases for loss in phase.encoder_losses]
    named += [each.shared_with for each in method.encoders if each.shared_with]
    if unknown := set(named) - set(known):
        raise ValueError(f"no encoder {sorted(unknown)}; the method's are {', '.join(known)}")


def _made(encoders: tuple[Encoder, ...], config: EncoderConfig) -> tuple[Encoder, ...]:
    """The encoders that are made; networks of the others read one of these."""
    separate = config.sharing == "separate"
    return tuple(each for each in encoders if separate or not each.shared_with)


def feature_spec(spec: Spec, encoders: tuple[Encoder, ...], config: EncoderConfig) -> Spec:
    """What the method is given of data whose images are replaced by features."""
    made = _made(encoders, config)
    each = config.features * len(spec.images)  # of one encoder
    width = each * len(made)
    vector = (width, width + spec.observation_dim)
    parts: dict[str, tuple[tuple[int, int], ...]] = {
        encoder.name: ((place * each, (place + 1) * each), vector)
        for place, encoder in enumerate(made)
    }
    views = {
        encoder.name: parts[encoder.name if encoder in made else encoder.shared_with]
        for encoder in encoders
    }
    return spec._replace(
        observation_dim=width + spec.observation_dim,
        observation_mean=np.append(np.zeros(width, np.float32), spec.observation_mean),
        observation_std=np.append(np.ones(width, np.float32), spec.observation_std),
        images=(),
        views=views if len(made) > 1 else {},
    )


def _features(params: dict[str, Params], observation: Any, parts: Parts) -> Array:
    """The features of all encoders and cameras, and the vector: [B, O]."""
    shown = {name: image for name, image in observation.items() if name != STATE}
    found = [net.apply(params[name], shown) for name, net in parts.nets.items()]
    vector = [observation[STATE]] if STATE in observation else []
    return jnp.concatenate([*found, *vector], -1)


def _params(state: State) -> dict[str, Params]:
    return {name: each.params for name, each in state.encoders.items()}


def _init(key: Key, batch: Transition, *, init: Any, parts: Parts) -> State:
    initial = jax.random.fold_in(key, INITIAL)
    params = {
        name: net.init(jax.random.fold_in(initial, place), batch.observation)
        for place, (name, net) in enumerate(parts.nets.items())
    }
    batch = batch._replace(
        observation=_features(params, batch.observation, parts),
        next_observation=_features(params, batch.next_observation, parts),
    )
    encoders = {name: learner.init(each, parts.optimizer) for name, each in params.items()}
    return State(encoders, init(key, batch))


# ---------------------------------------------------------------------------------- training


def _phase(phase: Phase, parts: Parts) -> Phase:
    if phase.columns or phase.shared:
        raise ValueError(f"phase {phase.name!r} fills columns or is shared, which takes no images")
    return phase._replace(
        update=partial(_update, phase=phase, parts=parts),
        enter=partial(_enter, enter=phase.enter),
        outputs=(),
    )


def _enter(state: State, key: Key, *, enter: Any) -> State:
    return replace(state, method=enter(state.method, key))


def _update(
    state: State, batch: Transition, key: Key, step: Array, *, phase: Phase, parts: Parts
) -> tuple[State, Metrics]:
    """The encoders' steps on the phase's losses, and the method's own update on their features."""
    before, after = (
        _shifted(shown, jax.random.fold_in(jax.random.fold_in(key, SHIFTED), place), parts.shift)
        for place, shown in enumerate((batch.observation, batch.next_observation))
    )
    params = _params(state)
    seen, pull_back = jax.vjp(lambda params: _features(params, before, parts), params)
    batch = batch._replace(observation=seen, next_observation=_features(params, after, parts))

    def trained(of: EncoderLoss) -> Trainable:
        def loss(seen: Array) -> Array:
            # The same draws as in the update, so that both are of one loss.
            same = jax.random.clone(key)
            return of.loss(state.method, batch._replace(observation=seen), same, step)

        def move(encoder: Trainable) -> Trainable:
            (gradient,) = pull_back(jax.grad(loss)(seen))
            return learner.apply_gradients(encoder, parts.optimizer, gradient[of.encoder])

        return learner.every(of.interval, step, move, state.encoders[of.encoder])

    steps = {of.encoder: trained(of) for of in phase.encoder_losses if of.encoder in parts.nets}
    method, metrics = phase.update(state.method, batch, key, step)
    return State(state.encoders | steps, method), metrics


def _shifted(observation: Any, key: Key, most: int) -> Any:
    if not most:
        return observation
    return {
        name: shown
        if name == STATE
        else images.random_shift(jax.random.fold_in(key, place), shown, most)
        for place, (name, shown) in enumerate(sorted(observation.items()))
    }


# ------------------------------------------------------------------------ acting, measuring


def _policy(policy: Policy, parts: Parts) -> Policy:
    density = policy.log_density and partial(_log_density, density=policy.log_density, parts=parts)
    return policy._replace(act=partial(_act, act=policy.act, parts=parts), log_density=density)


def _act(state: State, observation: Any, key: Key, *, act: Any, parts: Parts) -> Array:
    chosen: Array = act(state.method, _features(_params(state), observation, parts), key)
    return chosen


def _log_density(
    state: State, observation: Any, action: Array, *, density: Any, parts: Parts
) -> Array:
    seen = _features(_params(state), observation, parts)
    found: Array = density(state.method, seen, action)
    return found


def _diagnose(state: State, batch: Transition, key: Key, *, diagnose: Any, parts: Parts) -> Metrics:
    params = _params(state)
    batch = batch._replace(
        observation=_features(params, batch.observation, parts),
        next_observation=_features(params, batch.next_observation, parts),
    )
    found: Metrics = diagnose(state.method, batch, key)
    return found
