"""Each kind of broken method is found, and the message says which check and what to do."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import testing
from jaxrl_prefs.method import Method, Policy
from jaxrl_prefs.methods import bc
from jaxrl_prefs.testing import check_method
from jaxrl_prefs.testing.random_data import random_data
from jaxrl_prefs.types import Spec
from tests import probes

CONFIG = probes.Config(model_steps=4, train_steps=4)
CHANGES = {"model": {"model"}, "guess": set(), "train": {"critic", "actor"}}
Update = Callable[..., tuple]


def broken(change: Callable[[Method], Method]) -> Any:
    """The probe with a fault."""
    return SimpleNamespace(
        __name__="broken",
        Config=probes.Config,
        State=probes.State,
        make=lambda config, spec: change(probes.make(config, spec)),
    )


def first_update(wrap: Callable[[Update], Update]) -> Callable[[Method], Method]:
    def change(method: Method) -> Method:
        first, *others = method.phases
        return method._replace(phases=(first._replace(update=wrap(first.update)), *others))

    return change


def outside(method: Method) -> Method:
    return method._replace(
        policies={"wild": Policy(lambda state, s, key: 2 * jnp.ones((len(s), 2)), 1, "two")}
    )


def draws_twice(update: Update) -> Update:
    def twice(state: Any, batch: Any, key: Any, step: Any) -> tuple:
        state, metrics, *_ = update(state, batch, key, step)
        draw = jax.random.uniform(key) + jax.random.normal(key)
        return state, metrics | {"draw": (draw, jnp.float32(1))}

    return twice


def moves_the_actor(update: Update) -> Update:
    def moved(*arguments: Any) -> tuple:
        state, metrics = update(*arguments)
        return state.replace(actor=jax.tree.map(lambda x: x * 0.9, state.actor)), metrics

    return moved


def calls_back(update: Update) -> Update:
    def loud(state: Any, batch: Any, key: Any, step: Any) -> tuple:
        jax.debug.callback(lambda _: None, step)
        return update(state, batch, key, step)

    return loud


def holds_the_data(update: Update) -> Update:
    data = jnp.asarray(testing.episodes(24, 6, 3, 2).observation)

    def held(state: Any, batch: Any, key: Any, step: Any) -> tuple:
        state, metrics = update(state, batch, key, step)
        return state, metrics | {"mean": (data[step].sum(), jnp.float32(1))}

    return held


def acting(act: Callable[..., Any], **more: Any) -> Callable[[Method], Method]:
    """A method whose only policy is `act(state, observation, key)`."""
    return lambda method: method._replace(policies={"wrong": Policy(act, 1, "one", **more)})


def with_density(density: Callable[[int], Any]) -> Callable[[Method], Method]:
    """A method whose only policy has this log-density of so many actions."""
    return acting(sorts, log_density=lambda state, observation, action: density(len(action)))


def draws_once(state: Any, observation: Any, key: Any) -> Any:
    """Draws while it is compiled, and not from the key."""
    draw = np.random.default_rng().uniform(-1, 1, (1, 2)).astype(np.float32)
    return jnp.broadcast_to(draw, (len(observation), 2))


def sorts(state: Any, observation: Any, key: Any) -> Any:
    return jnp.tanh(jnp.sort(observation)[:, :2])


def knows_few_states(state: Any, observation: Any, key: Any) -> Any:
    return jnp.tanh(jnp.log(observation[:, :2]))


def doubles_what_is_swept(config: Any, spec: Spec) -> Method:
    """Behaviour cloning that takes a number of a sweep for another one."""
    if not isinstance(rate := config.actor_learning_rate, float):
        config = dataclasses.replace(config, actor_learning_rate=2 * rate)
    return bc.make(config, spec)


def test_a_sweep_that_trains_otherwise_is_found() -> None:
    module = SimpleNamespace(**vars(bc) | {"make": doubles_what_is_swept})
    name = "a_sweep_side_by_side_on_one_device_is_the_same"
    with pytest.raises(AssertionError, match=rf"bc fails the check {name}: [\s\S]*Remedy: "):
        check_method(module, only=[name])


def test_what_is_not_installed_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    name = "an_onnx_file_acts_as_the_policy"
    with pytest.warns(UserWarning, match=f"not checked for {name}: it needs onnx: pip install"):
        check_method(broken(acting(sorts)), CONFIG, only=[name])


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("an_exported_policy_acts_as_the_policy", acting(draws_once)),
        ("an_onnx_file_acts_as_the_policy", acting(sorts)),
        ("off_policy_evaluation_takes_every_policy", acting(knows_few_states)),
        (
            "off_policy_evaluation_takes_every_policy",
            with_density(lambda rows: jnp.full(rows, jnp.nan)),
        ),
        (
            "off_policy_evaluation_takes_every_policy",
            with_density(lambda rows: jnp.zeros((rows, 1))),
        ),
        ("policies_act_inside_the_bounds_and_repeat_themselves", outside),
        ("no_key_is_used_twice", first_update(draws_twice)),
        ("gradients_stay_in_the_fields_of_their_phase", first_update(moves_the_actor)),
        ("everything_is_pure", first_update(calls_back)),
        ("the_dataset_is_an_argument", first_update(holds_the_data)),
    ],
)
def test_a_fault_is_found(check: str, change: Callable[[Method], Method]) -> None:
    with pytest.raises(AssertionError, match=rf"broken fails the check {check}: [\s\S]*Remedy: "):
        check_method(broken(change), CONFIG, changes=CHANGES, only=[check])


def test_every_fault_is_told() -> None:
    names = ["phases_have_names_of_their_own", "a_config_is_a_flat_hashable_value"]
    module = broken(lambda method: method._replace(phases=(method.phases[0], *method.phases)))
    module.Config = bc.Config
    with pytest.raises(AssertionError, match=rf"{names[0]}[\s\S]*{names[1]}"):
        check_method(module, CONFIG, only=names)


def test_a_config_that_trains_for_hours_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes \[1000000\] updates .* at most 200 in all"):
        check_method(bc, bc.Config(train_steps=1_000_000))
    with pytest.raises(ValueError, match="no check"):
        check_method(bc, only=["everything"])


def test_a_small_config_and_the_users_own_spec() -> None:
    """No config given; sizes and bounds of another task."""
    low, high = np.float32([-2, 0, 1]), np.float32([2, 1, 5])
    zeros = np.zeros(3, np.float32)
    spec = Spec(5, 3, 10**6, low, high, zeros, zeros, zeros, zeros)
    check_method(bc, None, spec, only=["policies_act_inside_the_bounds_and_repeat_themselves"])
    data, found = random_data(spec)
    assert data.observation.shape == (24, 5) and found.size == 24
    assert (data.action >= low).all() and (data.action <= high).all()
    assert np.ptp(np.asarray(data.action), axis=0) == pytest.approx(high - low, rel=0.2)
