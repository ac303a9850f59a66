"""Members that differ in numbers of their config, in one compiled program."""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import numpy as np
import pytest

from jaxrl_prefs import chunk, ensemble, settings, train
from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.types import Spec, Transition
from tests import probes

CONFIG = probes.Config(model_steps=3, train_steps=5)
SEEDS = (3, 4)
RATES = (0.05, 0.2)


@pytest.fixture(scope="module")
def data() -> Transition:
    return probes.episodes(size=24, length=6, observation_dim=3, action_dim=2)


def end(method: Any, data: Transition, seeds: tuple[int, ...], **more: Any) -> Any:
    mesh = ensemble.seed_mesh(jax.devices()[:2])
    *_, last = train.run(method, data, seeds, mesh, every=100, **more)
    return ensemble.trim(last.state, len(seeds))


def begin(method: Any, data: Transition, seeds: tuple[int, ...]) -> Any:
    crew = chunk.Ensemble(seeds, ensemble.seed_mesh(jax.devices()[:2]))
    return ensemble.trim(train.begin(method, data, crew), len(seeds))


def test_a_member_with_its_settings_is_the_plain_method_with_them(data: Transition) -> None:
    spec, seeds = Spec.of(data), SEEDS * 2
    method = settings.vary(probes.make, CONFIG, spec, ("learning_rate", "exploration"))
    settings.check(method, data)
    fields = {"learning_rate": np.repeat(RATES, 2), "exploration": [0, 0, 1, 1]}
    start = settings.assign(begin(method, data, seeds), fields)
    varied = end(method, data, seeds, state=start)
    for place, rate in enumerate(RATES):
        config = dataclasses.replace(CONFIG, learning_rate=rate)
        plain = end(probes.make(config, spec), data, SEEDS)
        members = jax.tree.map(lambda x, i=2 * place: x[i : i + 2], varied.inner)
        chex.assert_trees_all_close(members, plain, rtol=1e-5)
    # The two points part: the same seed with another setting learned something else.
    weights = varied.inner.actor.params["w"]
    assert np.abs(weights[0] - weights[2]).max() > 0.01
    # Policies read the settings too: without exploration a policy does not depend on the key.
    act = method.policies["noisy"].act
    for member, moves in ((0, False), (2, True)):
        one = ensemble.one(varied, member)
        a, b = (act(one, data.observation[:4], jax.random.key(seed)) for seed in (0, 1))
        assert bool(np.abs(a - b).max() > 0) == moves


def test_bdpo_can_vary_the_strengths_of_its_objective(data: Transition) -> None:
    config = bdpo.Config(actor_hidden=(8,), critic_hidden=(8,), ensemble_size=2)
    names = ("eta", "rho", "actor_learning_rate", "tau")
    settings.check(settings.vary(bdpo.make, config, Spec.of(data), names), data)


def test_a_field_that_shapes_the_program_is_refused(data: Transition) -> None:
    spec, config = Spec.of(data), bdpo.Config(actor_hidden=(8,), critic_hidden=(8,))
    with pytest.raises(settings.Fixed, match="candidates"):
        settings.vary(bdpo.make, config, spec, ("candidates",))
    with pytest.raises(settings.Fixed, match="depends on a setting"):
        settings.check(settings.vary(bdpo.make, config, spec, ("clip_norm",)), data)
    with pytest.raises(settings.Fixed, match="'model' is shared"):
        shared = dataclasses.replace(CONFIG, shared=True)
        settings.vary(probes.make, shared, spec, ("learning_rate",))


def test_settings_fit_the_members_and_the_fields(data: Transition) -> None:
    method = settings.vary(probes.make, CONFIG, Spec.of(data), ("learning_rate",))
    state = begin(method, data, SEEDS)
    assigned = settings.assign(state, {"learning_rate": [1, 2]})
    assert assigned.settings["learning_rate"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="needs 2 values"):
        settings.assign(state, {"learning_rate": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"settings are \['learning_rate'\]"):
        settings.assign(state, {"rho": [1, 2]})
