"""Members that differ in numbers of their config, in one compiled program."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.method import Method, Phase, sequential
from jaxrl_prefs.methods import bdpo, dac, iql_bst, td3_bst
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.training import chunk, loop, sweep
from jaxrl_prefs.types import Spec, Transition
from tests import probes

CONFIG = probes.Config(model_steps=3, train_steps=5)
SHARED = dataclasses.replace(CONFIG, shared=True)
SEEDS = (3, 4)
RATES = (0.05, 0.2)


@pytest.fixture(scope="module")
def data() -> Transition:
    return probes.episodes(size=24, length=6, observation_dim=3, action_dim=2)


def end(method: Any, data: Transition, seeds: tuple[int, ...], **more: Any) -> Any:
    mesh = seed_axis.seed_mesh(jax.devices()[:2])
    *_, last = loop.run(method, data, seeds, mesh, every=100, **more)
    return seed_axis.trim(last.state, len(seeds))


def begin(method: Any, data: Transition, seeds: tuple[int, ...]) -> Any:
    placement = chunk.SeedPlacement(seeds, seed_axis.seed_mesh(jax.devices()[:2]))
    return seed_axis.trim(loop.init_members(method, data, placement), len(seeds))


def test_a_member_with_its_settings_is_the_plain_method_with_them(data: Transition) -> None:
    spec, seeds = Spec.of(data), SEEDS * 2
    method = sweep.vary(probes.make, CONFIG, spec, ("learning_rate", "exploration"))
    fields = {"learning_rate": np.repeat(RATES, 2), "exploration": [0, 0, 1, 1]}
    start = sweep.assign(begin(method, data, seeds), fields)
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
        one = seed_axis.one(varied, member)
        a, b = (act(one, data.observation[:4], jax.random.key(seed)) for seed in (0, 1))
        assert bool(np.abs(a - b).max() > 0) == moves


def test_bdpo_can_vary_the_strengths_of_its_objective(data: Transition) -> None:
    """The behaviour model reads none of them but the rate of its average."""
    config = bdpo.Config(actor_hidden=(8,), critic_hidden=(8,), critic_ensemble_size=2)
    for names, identical in ((("eta", "rho", "actor_learning_rate"), True), (("tau",), False)):
        phases = sweep.vary(bdpo.make, config, Spec.of(data), names).phases
        assert [phase.update.identical for phase in phases] == [identical, False, False]


@flax.struct.dataclass
class Walker:
    place: jax.Array
    scaled: jax.Array


def counting(runs: list[tuple[str, float]]) -> Any:
    """A method in three phases, each of which notes who runs: `first`, `fill`, `second`."""

    def make(config: Any, spec: Spec) -> Method:
        def note(name: str, state: Walker) -> None:
            jax.debug.callback(lambda place: runs.append((name, float(place))), state.place)

        def init(key: jax.Array, batch: Transition) -> Walker:
            del batch
            return Walker(jax.random.normal(key), jnp.zeros(()))

        def first(state: Walker, batch: Transition, key: jax.Array, step: jax.Array) -> tuple:
            note("first", state)
            state = state.replace(place=state.place + jax.random.normal(key) + batch.reward.mean())
            return state, {"place": (state.place, jnp.ones(()))}

        def fill(state: Walker, batch: Transition, key: jax.Array, step: jax.Array) -> tuple:
            note("fill", state)
            return state, {}, {"sum": state.place + batch.reward}

        def second(state: Walker, batch: Transition, key: jax.Array, step: jax.Array) -> tuple:
            note("second", state)
            gain = config.rate * (state.place + batch.columns["sum"].mean())
            return state.replace(scaled=state.scaled + gain), {"gain": (gain, jnp.ones(()))}

        column = {"sum": jax.ShapeDtypeStruct((), np.dtype(np.float32))}
        phases = (
            Phase("first", 4, first, 8),
            Phase("fill", spec.size // 8, fill, 8, sampler=sequential, columns=column),
            Phase("second", 2, second, 8),
        )
        return Method(init, phases, {})

    return make


@dataclasses.dataclass(frozen=True)
class Rate:
    """A config whose number only the last phase reads."""

    rate: float = 1.0


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
def test_members_of_one_seed_are_trained_once_until_a_setting_is_read(
    data: Transition, mapping: str
) -> None:
    runs: list[tuple[str, float]] = []
    mesh, spec, rates = seed_axis.seed_mesh(jax.devices()[:2]), Spec.of(data), (0.5, 2.0, 3.0)
    method = sweep.vary(counting(runs), Rate(), spec, ("rate",))
    assert [phase.update.identical for phase in method.phases] == [True, True, False]
    seeds = SEEDS * len(rates)
    start = sweep.assign(begin(method, data, seeds), {"rate": np.repeat(rates, 2)})
    log_points = {}
    for log_point in loop.run(method, data, seeds, mesh, every=3, state=start, mapping=mapping):
        jax.effects_barrier()
        log_points[log_point.step] = (
            log_point.metrics,
            seed_axis.trim(log_point.state, len(seeds)).inner,
        )
    counts = collections.Counter(name for name, _ in runs)
    once, each = len(SEEDS), len(seeds)
    trained = once if mapping == "loop" else each  # side by side another member costs nothing
    assert counts == {"first": 4 * trained, "fill": 3 * trained, "second": 2 * each}
    for i, rate in enumerate(rates):
        plain_ticks = loop.run(
            counting([])(Rate(rate), spec), data, SEEDS, mesh, every=3, mapping=mapping
        )
        for plain in plain_ticks:
            metrics, state = log_points[plain.step]
            own = slice(2 * i, 2 * i + 2)
            chex.assert_trees_all_close(
                {k: v[own] for k, v in metrics.items()}, plain.metrics, rtol=1e-6
            )
            one = jax.tree.map(lambda x, own=own: x[own], state)
            chex.assert_trees_all_close(one, seed_axis.trim(plain.state, 2), rtol=1e-6)


def test_seeds_may_share_a_phase_that_reads_no_setting(data: Transition) -> None:
    seeds, spec = SEEDS * 2, Spec.of(data)
    method = sweep.vary(probes.make, SHARED, spec, ("exploration",))
    start = sweep.assign(begin(method, data, seeds), {"exploration": [0, 0, 1, 1]})
    varied = end(method, data, seeds, state=start)
    plain = end(probes.make(SHARED, spec), data, SEEDS)
    for own in (slice(0, 2), slice(2, 4)):
        members = jax.tree.map(lambda x, own=own: x[own], varied.inner)
        chex.assert_trees_all_close(members, plain, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Lengths:
    """A config whose integer is the length of a phase."""

    first_steps: int = dataclasses.field(default=4, metadata=sweep.length_of("first"))
    rate: float = 1.0


def walking(config: Lengths, spec: Spec) -> Method:
    """Two phases, whose random steps depend on the phase's key and step."""

    def init(key: jax.Array, batch: Transition) -> Walker:
        del batch
        return Walker(jax.random.normal(key), jnp.zeros(()))

    def first(state: Walker, batch: Transition, key: jax.Array, step: jax.Array) -> tuple:
        place = state.place + jax.random.normal(key) + batch.reward.mean()
        return state.replace(place=place), {"place": (place, jnp.ones(()))}

    def second(state: Walker, batch: Transition, key: jax.Array, step: jax.Array) -> tuple:
        gain = config.rate * (state.place + jax.random.normal(key))
        return state.replace(scaled=state.scaled + gain), {"gain": (gain, jnp.ones(()))}

    phases = Phase("first", config.first_steps, first, 8), Phase("second", 2, second, 8)
    return Method(init, phases, {})


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
def test_members_may_differ_in_the_length_of_a_phase(data: Transition, mapping: str) -> None:
    """A member that ends its phase early is the plain method with that length, bit for bit."""
    spec, points = Spec.of(data), ({"first_steps": 1.0}, {"first_steps": 5.0})
    config = sweep.longest(Lengths(), points)
    assert config == Lengths(first_steps=5) and isinstance(config.first_steps, int)
    method = sweep.vary(walking, config, spec, ("first_steps",))
    assert [phase.steps for phase in method.phases] == [5, 2]
    assert not any(phase.update.identical for phase in method.phases)
    start = sweep.assign(begin(method, data, SEEDS * 2), {"first_steps": [1, 1, 5, 5]})
    mesh = seed_axis.seed_mesh(jax.devices()[:2])
    found = list(loop.run(method, data, SEEDS * 2, mesh, every=100, state=start, mapping=mapping))
    metrics, last = found[0].metrics["place"], seed_axis.trim(found[-1].state, 4).inner
    for place, point in enumerate(points):
        plain = walking(sweep.with_settings(Lengths(), point), spec)
        own, only = slice(2 * place, 2 * place + 2), None
        for log_point in loop.run(plain, data, SEEDS, mesh, every=100, mapping=mapping):
            if log_point.phase == "first":  # a mean over the updates that were made
                only = log_point.metrics["place"]
            state = seed_axis.trim(log_point.state, 2)
        np.testing.assert_allclose(metrics[own], only, rtol=1e-6)
        chex.assert_trees_all_equal(jax.tree.map(lambda x, own=own: x[own], last), state)


def test_the_length_of_the_morse_network_s_phase_is_declared() -> None:
    for module in (td3_bst, iql_bst):
        assert sweep.lengths(module.Config) == {"pretrain_steps": "morse"}
    assert sweep.lengths(bdpo.Config) == {}


def test_a_field_that_shapes_the_program_is_refused(data: Transition) -> None:
    spec, config = Spec.of(data), bdpo.Config(actor_hidden=(8,), critic_hidden=(8,))
    with pytest.raises(sweep.NotSweepable, match="candidates"):
        sweep.vary(bdpo.make, config, spec, ("candidates",))
    with pytest.raises(sweep.NotSweepable, match="depends on a setting"):
        sweep.vary(bdpo.make, config, spec, ("clip_norm",))
    with pytest.raises(sweep.NotSweepable, match="'model' is shared"):
        sweep.vary(probes.make, SHARED, spec, ("learning_rate",))


def test_a_first_state_of_the_settings_is_refused(data: Transition) -> None:
    """DAC's eta is where its dual ascent begins: one state cannot begin at several."""
    few = dict.fromkeys(("critic_ensemble_size", "q_samples", "diffusion_steps"), 2)
    config = dac.Config(actor_hidden=(8,), critic_hidden=(8,), **few)
    sweep.vary(dac.make, config, Spec.of(data), ("rho",))
    with pytest.raises(sweep.NotSweepable, match="the first state depends on a setting"):
        sweep.vary(dac.make, config, Spec.of(data), ("eta",))


def test_settings_fit_the_members_and_the_fields(data: Transition) -> None:
    method = sweep.vary(probes.make, CONFIG, Spec.of(data), ("learning_rate",))
    state = begin(method, data, SEEDS)
    assigned = sweep.assign(state, {"learning_rate": [1, 2]})
    assert assigned.settings["learning_rate"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="needs 2 values"):
        sweep.assign(state, {"learning_rate": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"settings are \['learning_rate'\]"):
        sweep.assign(state, {"rho": [1, 2]})
