"""Checks of compiled programs and of whole runs: pure, the same in every mapping, resumable."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.testing.checks import check, close
from jaxrl_prefs.testing.subject import SEEDS, Subject, member
from jaxrl_prefs.training import chunk, sweep

FAR = 10**6  # periods, past what an update may wait for
ACCELERATORS = ("tpu", "cuda")


@check("split the key, or fold a number in, before every draw")
def no_key_is_used_twice(subject: Subject) -> None:
    """Draws from one key are equal, or worse, correlated."""
    for what, function, arguments in subject.programs:
        with jax.debug_key_reuse(True):
            try:
                function.trace(*arguments)
            except jax.errors.KeyReuseError as error:
                raise AssertionError(f"{what}: {error}") from error


@check("take callbacks and prints out; return a metric in their place")
def everything_is_pure(subject: Subject) -> None:
    """No callback, no print, no transfer: safe inside anybody's jit, scan and vmap."""
    for what, function, arguments in subject.programs:
        traced = jax.make_jaxpr(function)(*arguments)
        assert not traced.effects, f"{what} has effects {traced.effects}"
        for primitive in primitives(traced.jaxpr):
            assert "callback" not in primitive, f"{what} calls back to Python"
            assert primitive not in {"infeed", "outfeed", "debug_print"}, f"{what}: {primitive}"


def primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all operations of a program, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from primitives(getattr(inner, "jaxpr", inner))


@check("use operations that XLA has on every platform")
def everything_lowers_for_accelerators(subject: Subject) -> None:
    """Without having one."""
    for what, function, arguments in subject.programs:
        exported = jax.export.export(function, platforms=ACCELERATORS)(*arguments)
        assert exported.platforms == ACCELERATORS, what


@check("let an update depend only on its arguments, not on how many came before it in a call")
def chunk_length_changes_nothing(subject: Subject) -> None:
    """One compiled call of many updates, against one call each: bit for bit."""
    last, expected = subject.train(every=100)[-1], subject.whole[-1]
    chex.assert_trees_all_equal(last.state, expected.state)
    chex.assert_trees_all_equal(last.columns, expected.columns)


@check("read the step by `learner.every(period, ...)` alone, or leave the phase's period at 1")
def a_phase_repeats_after_its_period(subject: Subject) -> None:
    """Where it says that only the first step of a period differs from the others.

    An accelerator passes 0 or 1 in place of the step, known while tracing.
    """
    for phase, update in zip(subject.method.phases, subject.updates, strict=True):
        if phase.period > 1:
            state, batch, key, _ = update.arguments
            far = FAR * phase.period
            steps = (*range(phase.period), far, far + 1)
            after = {n: update.function(state, batch, key, jnp.int32(n)) for n in steps}
            for step in steps:
                chex.assert_trees_all_equal(after[step], after[min(step % phase.period, 1)])
            for due in (0, 1):
                known = functools.partial(lambda run, n, *a: run(*a, n), phase.update, due)
                found = jax.eval_shape(known, state, batch, key)
                chex.assert_trees_all_equal_shapes(found, after[0])


@check("keep everything that training changes in the state or in columns")
def resumes_bit_for_bit(subject: Subject) -> None:
    """From the end of the first phase, and from inside the second and the last."""
    whole = subject.whole
    ends = [0, *np.cumsum([phase.steps for phase in subject.method.phases])]
    starts = [start for start in (ends[1], ends[1] + 1, ends[-2] + 2) if start < ends[-1]]
    assert starts
    for start in starts:
        point = whole[start - 1]
        rest = subject.train(state=point.state, columns=point.columns, start=point.step, every=3)
        for mine, theirs in zip(rest, (whole[r.step - 1] for r in rest), strict=True):
            chex.assert_trees_all_equal(mine.state, theirs.state)
        chex.assert_trees_all_equal(rest[-1].columns, whole[-1].columns)


@check("let nothing in an update look across seeds")
def a_seed_alone_is_the_same(subject: Subject) -> None:
    """Seed 4 of three, against seed 4 by itself, on the same devices."""
    last = subject.train((4,))[-1]
    close(member(last.state, 0), member(subject.whole[-1].state, 1))


@check(
    "let an update depend only on its arguments, reduce over named axes of the batch, and use the "
    "numbers of the config that `make` is given in arithmetic alone"
)
def a_sweep_side_by_side_on_one_device_is_the_same(subject: Subject) -> None:
    """The accelerators' mapping, on one device, against the CPU's on several.

    The seeds are members of a sweep where a field can be swept. Their program is made with another
    value of it than theirs, and they end as the runs with their value do. From the end of the first
    phase, which the scan above maps by vmap too.
    """
    phases, whole = subject.method.phases, subject.whole
    point = whole[phases[0].steps - 1 if len(phases) > 1 else 0]
    method, state = subject.method, point.state
    if subject.swept is not None:
        name, method = subject.swept
        values = jnp.full(len(SEEDS), getattr(subject.config, name), jnp.float32)
        state = sweep.SweptState({name: values}, state)
    rest = {"state": state, "columns": point.columns, "start": point.step}
    last = subject.train(devices=1, mapping="vmap", method=method, **rest)[-1].state
    close(last if subject.swept is None else last.inner, whole[-1].state)


@check("let nothing in an update look across seeds: no psum, pmean or all_gather")
def no_collective_is_compiled(subject: Subject) -> None:
    """Devices with different seeds never wait for each other."""
    for compiled, _ in subject.chunks:
        text = compiled.compiled.as_text()
        assert "ENTRY" in text
        for word in ("all-gather", "all-reduce", "all-to-all", "collective", "reduce-scatter"):
            assert word not in text, (compiled.phase.name, word)


@check("read the data from the batch; do not close over an array of them")
def the_dataset_is_an_argument(subject: Subject) -> None:
    """Not a constant of the program: it may be large."""
    leaves = jax.tree.leaves((subject.data.observation, subject.data.action))
    kinds = {np.dtype(np.uint8): "ui8", np.dtype(np.float32): "f32"}
    words = [
        "x".join(map(str, leaf.shape)) + "x" + kinds[leaf.dtype]
        for leaf in leaves
        if leaf.dtype in kinds
    ]
    for compiled, state in subject.chunks:
        text = compiled.function.lower(*compiled.arguments(state, 0, 1)).as_text()
        constants = [line for line in text.splitlines() if "stablehlo.constant" in line]
        assert not any(word in line for line in constants for word in words), compiled.phase.name


@check("use operations that XLA has on every platform")
def chunks_lower_for_accelerators(subject: Subject) -> None:
    """With the accelerators' mapping, sharded over the devices."""
    placement, last = subject.placement("vmap"), subject.whole[-1]
    state = seed_axis.pad(last.state, placement.mesh)
    for index in range(len(subject.method.phases)):
        built = chunk.build_chunk(
            subject.method, index, subject.data, placement, last.columns, rounds=True
        )
        args = built.arguments(state, 0, 1)
        exported = jax.export.export(built.function, platforms=ACCELERATORS)(*args)
        assert exported.nr_devices == placement.mesh.devices.size, exported.nr_devices
