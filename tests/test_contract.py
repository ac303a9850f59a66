"""One suite over every method: what the runner, and anybody else's loop, may rely on.

A new method needs two entries: a tiny config in TINY, and in CHANGES the fields of its state that
each phase may change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import chunk, ensemble, train
from jaxrl_prefs.method import Method, walk
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.types import Key, Metrics, Spec, Transition
from tests import probes

SUBJECTS: dict[str, Any] = {**METHODS, "probe": probes}

# Fields of Config that make a method small; every phase takes a few steps.
TINY: dict[str, dict[str, Any]] = {
    "bdpo": {
        "pretrain_steps": 4,
        "train_steps": 8,
        "warmup_steps": 4,
        "batch_size": 8,
        "diffusion_steps": 2,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
        "ensemble_size": 2,
        "q_samples": 2,
        "v_samples": 2,
        "actor_samples": 2,
        "candidates": 2,
        "actor_interval": 3,
    },
    "probe": {"model_steps": 4, "train_steps": 4},
}

# Phase -> fields of the state that it may change; every other field keeps its bits.
CHANGES: dict[str, dict[str, set[str]]] = {
    "bdpo": {
        "behavior": {"behavior"},
        "critic": {"critic", "value"},
        "train": {"critic", "value", "actor", "behavior"},
    },
    "probe": {"model": {"model"}, "guess": set(), "train": {"critic", "actor"}},
}

# Phase -> fields that its `enter` may change; not listed: none.
ENTERS: dict[str, dict[str, set[str]]] = {
    "bdpo": {"critic": {"actor"}},
    "probe": {"train": {"critic"}},
}

SEEDS = (3, 4, 5)


def make(name: str, data: Transition) -> Method:
    config = SUBJECTS[name].Config(**TINY[name])
    return SUBJECTS[name].make(config, Spec.of(data))


@pytest.fixture(scope="module")
def data() -> Transition:
    return probes.episodes(size=24, length=6, observation_dim=3, action_dim=2)


@pytest.fixture(scope="module", params=list(SUBJECTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def method(name: str, data: Transition) -> Method:
    return make(name, data)


# --- One seed, driven by hand: no runner ----------------------------------------------------------


class Step(NamedTuple):
    phase: int
    before: Any
    after: Any
    metrics: Metrics
    columns: dict[str, Any]


class Walk(NamedTuple):
    """A short training of one seed: all steps, and the states around each enter."""

    steps: list[Step]
    enters: list[tuple[Any, Any, Any]]  # before, after, after once more
    columns: dict[str, np.ndarray]  # what phases filled
    traces: list[str]  # names of the phases, as often as they were traced


def _traced(traces: list[str], name: str, update: Any, *args: Any) -> Any:
    traces.append(name)
    return update(*args)


def keys_of(method: Method, seed: int = 3) -> list[tuple[Key, Key, Key]]:
    keys = ensemble.seed_keys([seed])
    derived = [chunk.phase_keys(keys, index) for index in range(len(method.phases))]
    return [tuple(key[0] for key in keys) for keys in derived]  # type: ignore[misc]


def initial(method: Method, data: Transition) -> Any:
    return method.init(jax.random.key(3), jax.tree.map(lambda x: x[:1], data))


@pytest.fixture(scope="module")
def walked(method: Method, data: Transition) -> Walk:
    state = jax.jit(partial(initial, method))(data)
    walk_through = Walk([], [], {}, [])
    for index, (phase, keys) in enumerate(zip(method.phases, keys_of(method), strict=True)):
        enter_key, rows_key, update_key = keys
        entered, again = (phase.enter(state, enter_key) for _ in range(2))
        walk_through.enters.append((state, entered, again))
        state = entered
        update = jax.jit(partial(_traced, walk_through.traces, phase.name, phase.update))
        for name, row in phase.columns.items():
            walk_through.columns[name] = np.zeros((len(data.reward), *row.shape), row.dtype)
        for step in range(phase.steps):
            rows = phase.rows(rows_key, jnp.int32(step), len(data.reward), phase.batch_size)
            held = {k: v for k, v in walk_through.columns.items() if k not in phase.columns}
            batch = chunk.take(data, rows, held)
            key = update_key if phase.columns else jax.random.fold_in(update_key, step)
            after, metrics, *filled = update(state, batch, key, jnp.int32(step))
            walk_through.steps.append(Step(index, state, after, metrics, dict(*filled)))
            for name, values in dict(*filled).items():
                walk_through.columns[name][rows] = values
            state = after
    return walk_through


def test_every_method_is_declared() -> None:
    assert set(TINY) == set(CHANGES) == set(ENTERS) == set(SUBJECTS)


def test_phases_have_names_of_their_own(method: Method, name: str) -> None:
    names = [phase.name for phase in method.phases]
    assert len(set(names)) == len(names)
    assert set(names) == set(CHANGES[name])
    assert set(ENTERS[name]) <= set(names)


def test_a_config_is_a_flat_hashable_value(name: str) -> None:
    config = SUBJECTS[name].Config(**TINY[name])
    assert config == SUBJECTS[name].Config(**TINY[name])
    assert isinstance(hash(config), int)
    assert not any(dataclasses.is_dataclass(value) for value in vars(config).values())


def test_updates_are_traced_once(walked: Walk, method: Method) -> None:
    assert walked.traces == [phase.name for phase in method.phases]


def test_updates_keep_structure_shapes_and_dtypes(walked: Walk) -> None:
    for step in walked.steps:
        assert jax.tree.structure(step.before) == jax.tree.structure(step.after)
        chex.assert_trees_all_equal_shapes_and_dtypes(step.before, step.after)
    for before, after, _ in walked.enters:
        assert jax.tree.structure(before) == jax.tree.structure(after)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)


def test_states_hold_arrays_of_finite_numbers(walked: Walk) -> None:
    for step in walked.steps:
        for leaf in jax.tree.leaves(step.after):
            assert isinstance(leaf, jax.Array)
            assert not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        chex.assert_tree_all_finite((step.after, step.metrics, step.columns))


def test_two_makes_have_one_structure(name: str, data: Transition) -> None:
    one, two = (jax.eval_shape(initial, make(name, data), data) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)


def test_metrics_are_named_sums_and_counts_and_the_same_at_every_step(
    walked: Walk, method: Method
) -> None:
    for index in range(len(method.phases)):
        metrics = [step.metrics for step in walked.steps if step.phase == index]
        assert len({tuple(sorted(found)) for found in metrics}) == 1
        for found in metrics:
            for total, count in found.values():
                chex.assert_shape((total, count), ())
                assert float(count) >= 0
                assert float(count) > 0 or float(total) == 0


def changed(before: Any, after: Any) -> set[str]:
    names = [field.name for field in dataclasses.fields(before)]
    pairs = {
        k: (jax.tree.leaves(getattr(before, k)), jax.tree.leaves(getattr(after, k))) for k in names
    }
    return {
        name
        for name, (old, new) in pairs.items()
        if any(not np.array_equal(a, b) for a, b in zip(old, new, strict=True))
    }


def test_gradients_stay_in_the_fields_of_their_phase(
    walked: Walk, method: Method, name: str
) -> None:
    """What may change does, in some step; the rest keeps its bits in every step."""
    for index, phase in enumerate(method.phases):
        found = [changed(s.before, s.after) for s in walked.steps if s.phase == index]
        assert set().union(*found) == CHANGES[name][phase.name], phase.name
        before, after, _ = walked.enters[index]
        assert changed(before, after) <= ENTERS[name].get(phase.name, set()), phase.name


def test_enter_is_deterministic(walked: Walk) -> None:
    for _, once, again in walked.enters:
        chex.assert_trees_all_equal(once, again)


def test_filling_phases_walk_and_fill_what_they_declare(walked: Walk, method: Method) -> None:
    for step in walked.steps:
        phase = method.phases[step.phase]
        assert set(step.columns) == set(phase.columns)
        assert phase.rows is walk or not phase.columns
        for name, row in phase.columns.items():
            chex.assert_shape(step.columns[name], (phase.batch_size, *row.shape))
            assert step.columns[name].dtype == row.dtype


def test_a_method_trains_inside_anybodys_scan(
    walked: Walk, method: Method, data: Transition
) -> None:
    """vmap over two seeds, scan over steps: plain functions of plain arrays."""
    phase, (_, rows_key, update_key) = method.phases[0], keys_of(method)[0]
    state = walked.enters[0][1]

    def one(state: Any, key: Key) -> Any:
        def body(state: Any, step: Any) -> tuple:
            rows = phase.rows(rows_key, step, len(data.reward), phase.batch_size)
            batch = chunk.take(jax.tree.map(jnp.asarray, data), rows, {})
            after, metrics = phase.update(state, batch, jax.random.fold_in(key, step), step)
            return after, metrics

        return jax.lax.scan(body, state, jnp.arange(3))

    keys = jax.tree.map(lambda k: jnp.stack([k, k]), update_key)
    after, _ = jax.jit(jax.vmap(one, (None, 0)))(state, keys)
    third = [step.after for step in walked.steps if step.phase == 0][2]
    for member in range(2):
        chex.assert_trees_all_close(ensemble.one(after, member), third, rtol=1e-4, atol=1e-5)


# --- Policies -------------------------------------------------------------------------------------


def test_policies_act_inside_the_bounds_and_repeat_themselves(
    walked: Walk, method: Method, data: Transition
) -> None:
    spec = Spec.of(data)
    state = walked.steps[-1].after
    assert method.policies
    for name, policy in method.policies.items():
        act = jax.jit(policy.act)
        action = act(state, data.observation, jax.random.key(0))
        chex.assert_shape(action, data.action.shape)
        assert action.dtype == jnp.float32
        assert bool((action >= spec.action_low[None]).all()), name
        assert bool((action <= spec.action_high[None]).all()), name
        chex.assert_trees_all_equal(action, act(state, data.observation, jax.random.key(0)))
        assert policy.candidates >= 1
        assert policy.rule


def test_a_diagnosis_measures_finite_numbers(
    walked: Walk, method: Method, data: Transition
) -> None:
    metrics = jax.jit(method.diagnose)(walked.steps[-1].after, data, jax.random.key(0))
    for total, count in metrics.values():
        chex.assert_shape((total, count), ())
    chex.assert_tree_all_finite(metrics)


# --- Programs, looked at without running ----------------------------------------------------------


def programs(walked: Walk, method: Method, data: Transition) -> Iterator[tuple[str, Any, tuple]]:
    """Every update, policy, enter and the diagnosis, with arguments to trace them with."""
    key, step = jax.random.key(0), jnp.int32(0)
    held: dict[str, np.ndarray] = {}
    for phase, (before, state, _) in zip(method.phases, walked.enters, strict=True):
        batch = chunk.take(data, jnp.arange(phase.batch_size), held)
        yield f"update of {phase.name}", phase.update, (state, batch, key, step)
        yield f"enter of {phase.name}", phase.enter, (before, key)
        held |= {name: walked.columns[name] for name in phase.columns}
    for name, policy in method.policies.items():
        yield f"policy {name}", policy.act, (state, jnp.asarray(data.observation), key)
    yield "diagnosis", method.diagnose, (state, batch, key)


def test_no_key_is_used_twice(walked: Walk, method: Method, data: Transition) -> None:
    for what, fn, args in programs(walked, method, data):
        with jax.debug_key_reuse(True):
            try:
                jax.jit(fn).trace(*args)
            except jax.errors.KeyReuseError as error:
                pytest.fail(f"{what}: {error}")


def test_everything_is_pure(walked: Walk, method: Method, data: Transition) -> None:
    """No callback, no print, no transfer: safe inside anybody's jit, scan and vmap."""
    for what, fn, args in programs(walked, method, data):
        traced = jax.make_jaxpr(fn)(*args)
        assert not traced.effects, what
        for primitive in primitives(traced.jaxpr):
            assert "callback" not in primitive, what
            assert primitive not in {"infeed", "outfeed", "debug_print"}, what


def primitives(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from primitives(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_everything_lowers_for_accelerators(
    walked: Walk, method: Method, data: Transition, platform: str
) -> None:
    for what, fn, args in programs(walked, method, data):
        exported = jax.export.export(jax.jit(fn), platforms=[platform])(*args)
        assert exported.platforms == (platform,), what


# --- The ensemble ---------------------------------------------------------------------------------


class Run(NamedTuple):
    state: Any  # [S, ...]
    columns: dict[str, np.ndarray]
    step: int
    metrics: dict[str, np.ndarray]


def run(
    method: Method, data: Transition, seeds: tuple[int, ...] = SEEDS, devices: int = 4, **more: Any
) -> list[Run]:
    mesh = ensemble.seed_mesh(jax.devices()[:devices])
    more = {"every": 2, **more}
    return [
        Run(
            ensemble.trim(tick.state, len(seeds)),
            {name: column.copy() for name, column in tick.columns.items()},
            tick.step,
            tick.metrics,
        )
        for tick in train.run(method, data, seeds, mesh, **more)
    ]


@pytest.fixture(scope="module")
def whole(method: Method, data: Transition) -> list[Run]:
    """All phases, three seeds on four devices, ticks every other step."""
    return run(method, data)


def test_the_runner_does_what_the_hand_does(whole: list[Run], walked: Walk) -> None:
    """But for the initial state, whose key the hand chose; so only shapes are compared."""
    chex.assert_trees_all_equal_shapes_and_dtypes(
        ensemble.one(whole[-1].state, 0), walked.steps[-1].after
    )


def test_chunk_length_changes_nothing(method: Method, data: Transition, whole: list[Run]) -> None:
    last = run(method, data, every=100)[-1]
    chex.assert_trees_all_equal(last.state, whole[-1].state)
    chex.assert_trees_all_equal(last.columns, whole[-1].columns)


def test_resumes_bit_for_bit(method: Method, data: Transition, whole: list[Run]) -> None:
    """From the second tick of each phase, or its last."""
    ends = np.cumsum([phase.steps for phase in method.phases])
    for end in ends[:-1]:
        for tick in (t for t in whole if t.step in (end, end + 2)):
            last = run(method, data, state=tick.state, columns=tick.columns, start=tick.step)[-1]
            chex.assert_trees_all_equal(last, whole[-1])


def close(mine: Any, theirs: Any) -> None:
    """Equal but for the order of additions, after a dozen Adam steps."""
    chex.assert_trees_all_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_a_seed_alone_on_one_device_is_the_same(
    method: Method, data: Transition, whole: list[Run]
) -> None:
    """Seed 4 of three on four devices against seed 4 by itself."""
    last = run(method, data, (4,), devices=1)[-1]
    close(ensemble.one(last.state, 0), ensemble.one(whole[-1].state, 1))


def test_side_by_side_on_one_device_is_the_same(
    method: Method, data: Transition, whole: list[Run]
) -> None:
    """The accelerators' mapping, on one device, against the CPU's on four."""
    close(run(method, data, devices=1, mapping="vmap")[-1].state, whole[-1].state)


@pytest.fixture(scope="module")
def chunks(method: Method, data: Transition, whole: list[Run]) -> list[tuple[chunk.Chunk, Any]]:
    """Every phase's program for three seeds on four devices, with a state to call it on."""
    crew = chunk.Ensemble(SEEDS, ensemble.seed_mesh())
    state = ensemble.pad(whole[-1].state, crew.mesh)
    indices = range(len(method.phases))
    columns = whole[-1].columns
    return [
        (chunk.compile_chunk(method, i, data, crew, state=state, columns=columns), state)
        for i in indices
    ]


def test_no_collective_is_compiled(chunks: list[tuple[chunk.Chunk, Any]]) -> None:
    for compiled, _ in chunks:
        text = compiled.compiled.as_text()
        assert "ENTRY" in text
        for word in ("all-gather", "all-reduce", "all-to-all", "collective", "reduce-scatter"):
            assert word not in text, (compiled.phase.name, word)


def test_the_dataset_is_an_argument(chunks: list[tuple[chunk.Chunk, Any]]) -> None:
    """Not a constant of the program: it may be large."""
    for compiled, state in chunks:
        text = compiled.function.lower(*compiled.arguments(state, 0, 1)).as_text()
        constants = [line for line in text.splitlines() if "stablehlo.constant" in line]
        assert not any("24x3xf32" in line or "24x2xf32" in line for line in constants)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_chunks_lower_for_accelerators(
    method: Method, data: Transition, whole: list[Run], platform: str
) -> None:
    """With the accelerators' mapping, sharded over four devices."""
    crew = chunk.Ensemble(SEEDS, ensemble.seed_mesh(), "vmap")
    state = ensemble.pad(whole[-1].state, crew.mesh)
    for index in range(len(method.phases)):
        program = chunk.build_chunk(method, index, data, crew, whole[-1].columns)
        args = program.arguments(state, 0, 1)
        exported = jax.export.export(program.function, platforms=[platform])(*args)
        assert exported.nr_devices == 4
