"""Methods on images: encoders below a method that itself sees vectors of features.

    f_e(s)   = encoder_e(shift(image))                    [B, F] for every camera and encoder e
    method   sees (f_1, ..., f_n, vector), without a gradient
    encoder  follows the gradient of the loss that the phase names, `Phase.encoder_loss`

This is DrQ-v2's arrangement (Yarats et al. 2021, arXiv 2107.09645): one encoder that the critic's
loss trains, features without gradient for the actor, and images that are shifted at random in
training, those of the next observation by draws of their own. The encoder's step is the one that a
single gradient over encoder and critic would give, since both are taken at the same parameters.
The next observation passes through the current encoder; only the critic has a target network.

A method says which encoders it needs (`Method.encoders`). With several, such as BPR's critic and
behaviour model, each network picks its own part of the vector by `Spec.view`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops import images
from jaxrl_prefs.types import STATE, Array, Key, Metrics, Net, Params, Spec, Transition

SHIFTED, INITIAL = 0x51, 0x52  # folded into keys that the method uses itself


class EncoderConfig(NamedTuple):
    """The fields of a run that say how images are encoded."""

    encoder: str = "drq"  # a name in nets.ENCODERS
    features: int = 50  # F, numbers that stand for an image
    learning_rate: float = 3e-4  # Adam's rate for the encoders
    shift: int = 4  # pixels by which images are shifted at most in training


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
        ValueError: for a bad field of `config`.
    """
    for each in spec.images:
        if min(each.height, each.width) < nets.MIN_SIZE:
            raise TooSmall(
                f"the images {each.name!r} have {each.height}x{each.width} pixels, too few for an "
                f"encoder: resize them to {nets.MIN_SIZE}x{nets.MIN_SIZE} at least"
            )
    encoders = make(spec._replace(observation_dim=1, images=())).encoders
    if not encoders:
        raise NoEncoder
    if config.shift < 0:
        raise ValueError(f"image_shift must be at least 0, not {config.shift}")
    method = make(feature_spec(spec, encoders, config.features))
    parts = Parts(
        nets={
            encoder.name: nets.image_and_vector(
                nets.ENCODERS[config.encoder](config.features, spectral=encoder.spectral)
            )
            for encoder in encoders
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


def feature_spec(spec: Spec, encoders: Any, features: int) -> Spec:
    """What the method is given of data whose images are replaced by features."""
    each = features * len(spec.images)  # of one encoder
    width = each * len(encoders)
    vector = (width, width + spec.observation_dim)
    views: dict[str, tuple[tuple[int, int], ...]] = {
        encoder.name: ((place * each, (place + 1) * each), vector)
        for place, encoder in enumerate(encoders)
    }
    return spec._replace(
        observation_dim=width + spec.observation_dim,
        observation_mean=np.append(np.zeros(width, np.float32), spec.observation_mean),
        observation_std=np.append(np.ones(width, np.float32), spec.observation_std),
        images=(),
        views=views if len(views) > 1 else {},
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
    """The encoder's step on the phase's loss, and the method's own update on its features."""
    before, after = (
        _shifted(shown, jax.random.fold_in(jax.random.fold_in(key, SHIFTED), place), parts.shift)
        for place, shown in enumerate((batch.observation, batch.next_observation))
    )
    params, encoders = _params(state), state.encoders
    batch = batch._replace(next_observation=_features(params, after, parts))
    if phase.encoder_loss is None:
        batch = batch._replace(observation=_features(params, before, parts))
    else:
        name, loss = phase.encoder_loss

        def value(own: Params) -> tuple[Array, Array]:
            seen = _features({**params, name: own}, before, parts)
            # The same draws as in the update, so that both are of one loss.
            same = jax.random.clone(key)
            return loss(state.method, batch._replace(observation=seen), same, step), seen

        trained, seen = learner.gradient_step(encoders[name], parts.optimizer, value)
        encoders, batch = {**encoders, name: trained}, batch._replace(observation=seen)
    method, metrics = phase.update(state.method, batch, key, step)
    return State(encoders, method), metrics


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
