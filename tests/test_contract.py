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

from jaxrl_prefs.keys import phase_keys, seed_keys
from jaxrl_prefs.method import Method, Phase, sequential
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.training import chunk, loop, program
from jaxrl_prefs.types import Key, Spec, Transition
from tests import probes

SUBJECTS: dict[str, Any] = {**METHODS, "probe": probes}

# Fields of Config that make a method small; every phase takes a few steps.
TINY: dict[str, dict[str, Any]] = {
    "arq": {
        "behavior_width": 8,
        "behavior_blocks": 1,
        "behavior_batch_size": 8,
        "pretrain_steps": 4,
        "candidates": 3,
        "candidate_batch_size": 8,
        "sampler": "few_step",
        "sampler_steps": 4,
        "density": "fixed",
        "density_nodes": 6,
        "kth": 2,
        "critic_hidden": (8,),
        "actor_hidden": (8,),
        "batch_size": 8,
        "train_steps": 4,
        "actor_steps": 4,
    },
    "bdpo": {
        "pretrain_steps": 4,
        "train_steps": 8,
        "warmup_steps": 4,
        "batch_size": 8,
        "diffusion_steps": 2,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
        "critic_ensemble_size": 2,
        "q_samples": 2,
        "v_samples": 2,
        "actor_samples": 2,
        "candidates": 2,
        "actor_interval": 3,
    },
    "bpr": {
        "pretrain_steps": 4,
        "train_steps": 4,
        "batch_size": 8,
        "behavior_batch_size": 24,  # with `epoch`, the held-out rows are in every batch
        "batches": "epoch",
        "behavior_width": 8,
        "behavior_blocks": 1,
        "negative_samples": 3,
        "search_samples": 4,
        "search_rounds": 2,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
    },
    "ibc": {
        "train_steps": 4,
        "batch_size": 24,
        "batches": "epoch",
        "behavior_width": 16,
        "behavior_blocks": 1,
        "negative_samples": 8,  # fewer, and a unit may be active for all: a gradient of rounding
        "search_samples": 4,
        "search_rounds": 2,
    },
    "bc": {"policy": "gaussian", "train_steps": 4, "batch_size": 8, "actor_hidden": (8,)},
    "td3_bc": {"train_steps": 5, "batch_size": 8, "actor_hidden": (8,), "critic_hidden": (8,)},
    "td3_bst": {
        "pretrain_steps": 3,
        "train_steps": 5,
        "batch_size": 8,
        "behavior_batch_size": 128,  # every batch must hold some of the held-out rows
        "negative_samples": 2,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
        "behavior_hidden": (8,),
    },
    "iql": {"train_steps": 4, "batch_size": 8, "actor_hidden": (8,), "critic_hidden": (8,)},
    "one_step": {
        "pretrain_steps": 3,
        "train_steps": 3,
        "batch_size": 8,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
    },
    "iql_bst": {
        "pretrain_steps": 3,
        "train_steps": 3,
        "batch_size": 8,
        "behavior_batch_size": 128,
        "negative_samples": 2,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
        "behavior_hidden": (8,),
    },
    "probe": {"model_steps": 4, "train_steps": 4},
}

# Phase -> fields of the state that it may change; every other field keeps its bits.
CHANGES: dict[str, dict[str, set[str]]] = {
    "arq": {
        "behavior": {"behavior"},
        "candidates": set(),
        "critic": {"critic"},
        "policy": {"policy"},
    },
    "bdpo": {
        "behavior": {"behavior"},
        "critic": {"critic", "value"},
        "train": {"critic", "value", "actor", "behavior"},
    },
    "bpr": {"behavior": {"behavior", "vectors"}, "train": {"actor", "critic"}},
    "ibc": {"train": {"behavior", "vectors"}},
    "bc": {"train": {"actor"}},
    "td3_bc": {"train": {"actor", "critic"}},
    "td3_bst": {"morse": {"morse"}, "train": {"actor", "critic"}},
    "iql": {"train": {"actor", "critic", "value"}},
    "one_step": {"critic": {"critic"}, "train": {"actor"}},
    "iql_bst": {"morse": {"morse"}, "train": {"actor", "critic", "value"}},
    "probe": {"model": {"model"}, "guess": set(), "train": {"critic", "actor"}},
}

# Phase -> fields that its `enter` may change; not listed: none.
ENTERS: dict[str, dict[str, set[str]]] = {
    "arq": {},
    "bdpo": {"critic": {"actor"}},
    "bpr": {},
    "ibc": {},
    "bc": {},
    "td3_bc": {},
    "td3_bst": {},
    "iql": {},
    "one_step": {},
    "iql_bst": {},
    "probe": {"train": {"critic"}},
}

SEEDS = (3, 4, 5)
KEY = jax.random.key(0)


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
def traces() -> list[str]:
    """Names of the phases, as often as their updates were traced."""
    return []


@pytest.fixture(scope="module")
def method(name: str, data: Transition, traces: list[str]) -> Method:
    def counted(phase: Phase) -> Phase:
        return phase._replace(update=partial(_traced, traces, phase.name, phase.update))

    made = make(name, data)
    return made._replace(phases=tuple(counted(phase) for phase in made.phases))


def _traced(traces: list[str], name: str, update: Any, *args: Any) -> Any:
    traces.append(name)
    return update(*args)


class Run(NamedTuple):
    """One log point, copied."""

    phase: str
    step: int
    state: Any  # [S, ...]
    columns: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]


def run(
    method: Method, data: Transition, seeds: tuple[int, ...] = SEEDS, devices: int = 4, **more: Any
) -> list[Run]:
    mesh = seed_axis.seed_mesh(jax.devices()[:devices])
    more = {"every": 1, **more}
    return [
        Run(
            log_point.phase,
            log_point.step,
            seed_axis.trim(log_point.state, len(seeds)),
            {name: column.copy() for name, column in log_point.columns.items()},
            log_point.metrics,
        )
        for log_point in loop.run(method, data, seeds, mesh, **more)
    ]


@pytest.fixture(scope="module")
def whole(method: Method, data: Transition, traces: list[str]) -> list[Run]:
    """All phases, three seeds on four devices, a log point at every step."""
    traces.clear()
    log_points = run(method, data)
    traces.append("whole")  # later runs trace anew
    return log_points


class Step(NamedTuple):
    """One update of the first seed."""

    phase: int
    before: Any
    after: Any


class Walk(NamedTuple):
    """The first seed's way through the phases."""

    steps: list[Step]
    enters: list[tuple[Any, Any, Any]]  # around each phase's enter: before, after, after once more


@pytest.fixture(scope="module")
def walked(method: Method, data: Transition, whole: list[Run]) -> Walk:
    state = seed_axis.one(
        loop.begin(method, data, chunk.SeedPlacement(SEEDS, seed_axis.seed_mesh())), 0
    )
    walk_through, log_points = Walk([], []), iter(whole)
    for index, phase in enumerate(method.phases):
        enter_key = phase_keys(seed_keys(SEEDS[:1]), index)[0][0]
        enter = jax.jit(phase.enter)
        entered, again = (enter(state, enter_key) for _ in range(2))
        walk_through.enters.append((state, entered, again))
        state = entered
        for _ in range(phase.steps):
            after = seed_axis.one(next(log_points).state, 0)
            walk_through.steps.append(Step(index, state, after))
            state = after
    return walk_through


# --- Updates --------------------------------------------------------------------------------------


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


def test_updates_are_traced_once(whole: list[Run], method: Method, traces: list[str]) -> None:
    """However many chunks run; twice where columns are filled, whose shapes are asked for first."""
    counted = traces[: traces.index("whole")]
    for phase in method.phases:
        assert counted.count(phase.name) == (2 if phase.columns else 1), phase.name


def test_updates_keep_structure_shapes_and_dtypes(walked: Walk) -> None:
    for before, after in [step[1:] for step in walked.steps] + [e[:2] for e in walked.enters]:
        assert jax.tree.structure(before) == jax.tree.structure(after)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)


def test_states_hold_arrays_of_finite_numbers(walked: Walk) -> None:
    for leaf in jax.tree.leaves(walked.enters[0][0]):
        assert isinstance(leaf, jax.Array)
        assert not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    for step in walked.steps:
        chex.assert_tree_all_finite(step.after)


def test_two_makes_have_one_structure(name: str, data: Transition) -> None:
    row = jax.tree.map(lambda x: x[:1], data)
    one, two = (jax.eval_shape(make(name, data).init, KEY, row) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)


def test_metrics_are_named_sums_and_counts(
    updates: list[Program], whole: list[Run], method: Method
) -> None:
    """One set of names per phase, each scalar; every name is measured at some step."""
    for phase, (_, update, arguments) in zip(method.phases, updates, strict=True):
        _, metrics, *_ = jax.eval_shape(update, *arguments)
        chex.assert_shape(jax.tree.leaves(metrics), ())
        seen = {
            name
            for log_point in whole
            if log_point.phase == phase.name
            for name in log_point.metrics
        }
        assert seen == set(metrics), phase.name


def test_metrics_of_one_phase_are_finite_and_per_seed(whole: list[Run]) -> None:
    for log_point in whole:
        chex.assert_shape(list(log_point.metrics.values()), (len(SEEDS),))
        chex.assert_tree_all_finite(log_point.metrics)


def changed(before: Any, after: Any) -> set[str]:
    def bits(tree: Any, field: str) -> list[bytes]:
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(getattr(tree, field))]

    names = [field.name for field in dataclasses.fields(before)]
    return {
        name
        for name in names
        if any(a != b for a, b in zip(bits(before, name), bits(after, name), strict=True))
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


def test_filling_phases_walk_and_fill_what_they_declare(
    updates: list[Program], method: Method
) -> None:
    for phase, (_, update, arguments) in zip(method.phases, updates, strict=True):
        _, _, *filled = jax.eval_shape(update, *arguments)
        shapes = {k: (x.shape[1:], x.dtype) for found in filled for k, x in found.items()}
        assert shapes == {k: (x.shape, x.dtype) for k, x in phase.columns.items()}
        assert phase.sampler is sequential or not phase.columns


def test_a_method_trains_inside_anybodys_scan(
    walked: Walk, method: Method, data: Transition
) -> None:
    """vmap over two seeds, scan over steps, no runner: the same as with it."""
    phase = method.phases[0]
    _, rows_key, update_key = (key[0] for key in phase_keys(seed_keys(SEEDS[:1]), 0))

    def one(state: Any, key: Key) -> Any:
        def body(state: Any, step: Any) -> tuple:
            rows = phase.sampler(rows_key, step, len(data.reward), phase.batch_size)
            batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], data)
            return phase.update(state, batch, jax.random.fold_in(key, step), step)

        return jax.lax.scan(body, state, jnp.arange(3))

    keys = jnp.stack([update_key, update_key])
    after, _ = jax.jit(jax.vmap(one, (None, 0)))(walked.enters[0][1], keys)
    for member in range(2):
        close(seed_axis.one(after, member), walked.steps[2].after)


# --- Policies -------------------------------------------------------------------------------------


def test_policies_act_inside_the_bounds_and_repeat_themselves(
    walked: Walk, method: Method, data: Transition
) -> None:
    spec = Spec.of(data)
    state = walked.steps[-1].after
    assert method.policies
    for name, policy in method.policies.items():
        act = jax.jit(policy.act)
        action = act(state, data.observation, KEY)
        chex.assert_shape(action, data.action.shape)
        assert action.dtype == jnp.float32
        assert bool((action >= spec.action_low[None]).all()), name
        assert bool((action <= spec.action_high[None]).all()), name
        chex.assert_trees_all_equal(action, act(state, data.observation, KEY))
        assert policy.candidates >= 1
        assert policy.rule


def test_a_diagnosis_measures_finite_numbers(
    walked: Walk, method: Method, data: Transition
) -> None:
    metrics = jax.jit(method.diagnose)(walked.steps[-1].after, data, KEY)
    for total, count in metrics.values():
        chex.assert_shape((total, count), ())
    chex.assert_tree_all_finite(metrics)


# --- Programs, looked at without running ----------------------------------------------------------


class Program(NamedTuple):
    """A function under jit, which traces it once for all tests, and arguments for it."""

    what: str
    function: Any
    arguments: tuple


@pytest.fixture(scope="module")
def updates(walked: Walk, whole: list[Run], method: Method, data: Transition) -> list[Program]:
    """Every phase's update."""
    found, held = [], {}
    for phase, (_, state, _) in zip(method.phases, walked.enters, strict=True):
        batch = program.take(data, jnp.arange(phase.batch_size), held)
        arguments = (state, batch, KEY, jnp.int32(0))
        found.append(Program(f"update of {phase.name}", jax.jit(phase.update), arguments))
        held |= {name: whole[-1].columns[name][0] for name in phase.columns}
    return found


@pytest.fixture(scope="module")
def programs(
    updates: list[Program], walked: Walk, method: Method, data: Transition
) -> list[Program]:
    """Every update, enter, policy and the diagnosis."""
    found = list(updates)
    for phase, (before, _, _) in zip(method.phases, walked.enters, strict=True):
        found.append(Program(f"enter of {phase.name}", jax.jit(phase.enter), (before, KEY)))
    state, batch, *_ = updates[-1].arguments
    for name, policy in method.policies.items():
        arguments = (state, jnp.asarray(data.observation), KEY)
        found.append(Program(f"policy {name}", jax.jit(policy.act), arguments))
    return [*found, Program("diagnosis", jax.jit(method.diagnose), (state, batch, KEY))]


def test_no_key_is_used_twice(programs: list[Program]) -> None:
    for what, function, arguments in programs:
        with jax.debug_key_reuse(True):
            try:
                function.trace(*arguments)
            except jax.errors.KeyReuseError as error:
                pytest.fail(f"{what}: {error}")


def test_everything_is_pure(programs: list[Program]) -> None:
    """No callback, no print, no transfer: safe inside anybody's jit, scan and vmap."""
    for what, function, arguments in programs:
        traced = jax.make_jaxpr(function)(*arguments)
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


ACCELERATORS = ("tpu", "cuda")


def test_everything_lowers_for_accelerators(programs: list[Program]) -> None:
    for what, function, arguments in programs:
        exported = jax.export.export(function, platforms=ACCELERATORS)(*arguments)
        assert exported.platforms == ACCELERATORS, what


# --- The ensemble ---------------------------------------------------------------------------------


def test_chunk_length_changes_nothing(method: Method, data: Transition, whole: list[Run]) -> None:
    last = run(method, data, every=100)[-1]
    chex.assert_trees_all_equal(last.state, whole[-1].state)
    chex.assert_trees_all_equal(last.columns, whole[-1].columns)


def test_resumes_bit_for_bit(method: Method, data: Transition, whole: list[Run]) -> None:
    """From the end of the first phase, and from inside the second and the last."""
    ends = [0, *np.cumsum([phase.steps for phase in method.phases])]
    starts = [start for start in (ends[1], ends[1] + 1, ends[-2] + 2) if start < ends[-1]]
    assert starts
    for start in starts:
        log_point = whole[start - 1]
        rest = run(
            method,
            data,
            state=log_point.state,
            columns=log_point.columns,
            start=log_point.step,
            every=3,
        )
        for mine, theirs in zip(rest, (whole[r.step - 1] for r in rest), strict=True):
            chex.assert_trees_all_equal(mine.state, theirs.state)
        chex.assert_trees_all_equal(rest[-1].columns, whole[-1].columns)


def close(mine: Any, theirs: Any) -> None:
    """Equal but for the order of additions, after a dozen Adam steps."""
    chex.assert_trees_all_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_a_seed_alone_is_the_same(method: Method, data: Transition, whole: list[Run]) -> None:
    """Seed 4 of three, against seed 4 by itself, on the same devices."""
    last = run(method, data, (4,))[-1]
    close(seed_axis.one(last.state, 0), seed_axis.one(whole[-1].state, 1))


def test_side_by_side_on_one_device_is_the_same(
    method: Method, data: Transition, whole: list[Run]
) -> None:
    """The accelerators' mapping, on one device, against the CPU's on four.

    From the end of the first phase, which the scan above maps by vmap too.
    """
    log_point = whole[method.phases[0].steps - 1 if len(method.phases) > 1 else 0]
    rest = {"state": log_point.state, "columns": log_point.columns, "start": log_point.step}
    close(run(method, data, devices=1, mapping="vmap", **rest)[-1].state, whole[-1].state)


@pytest.fixture(scope="module")
def chunks(method: Method, data: Transition, whole: list[Run]) -> list[tuple[chunk.Chunk, Any]]:
    """Every phase's program for three seeds on four devices, with a state to call it on."""
    placement = chunk.SeedPlacement(SEEDS, seed_axis.seed_mesh())
    state = seed_axis.pad(whole[-1].state, placement.mesh)
    indices = range(len(method.phases))
    columns = whole[-1].columns
    return [
        (chunk.compile_chunk(method, i, data, placement, state=state, columns=columns), state)
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


def test_chunks_lower_for_accelerators(method: Method, data: Transition, whole: list[Run]) -> None:
    """With the accelerators' mapping, sharded over four devices."""
    placement = chunk.SeedPlacement(SEEDS, seed_axis.seed_mesh(), "vmap")
    state = seed_axis.pad(whole[-1].state, placement.mesh)
    for index in range(len(method.phases)):
        program = chunk.build_chunk(method, index, data, placement, whole[-1].columns)
        args = program.arguments(state, 0, 1)
        exported = jax.export.export(program.function, platforms=ACCELERATORS)(*args)
        assert exported.nr_devices == 4
