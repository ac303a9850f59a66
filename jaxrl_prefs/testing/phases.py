"""Checks of phases, updates and states: what a loop of anybody's relies on."""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs import encoded
from jaxrl_prefs.keys import phase_keys, seed_keys
from jaxrl_prefs.method import sequential
from jaxrl_prefs.rows import gathered
from jaxrl_prefs.testing.checks import check, close
from jaxrl_prefs.testing.subject import SEEDS, Subject, fixed_key, member, take_rows
from jaxrl_prefs.training import chunk
from jaxrl_prefs.types import Key


@check("give each phase a name that no other has, and declare what every phase changes")
def phases_have_names_of_their_own(subject: Subject) -> None:
    """The rows of a run, and its estimate of time, name the phase."""
    names = [phase.name for phase in subject.method.phases]
    assert len(set(names)) == len(names), names
    if subject.changes is not None:
        assert set(names) == set(subject.changes), (names, sorted(subject.changes))
    assert set(subject.enters) <= set(names), (names, sorted(subject.enters))


@check("make Config a frozen dataclass of numbers, text and tuples, with a default for each")
def a_config_is_a_flat_hashable_value(subject: Subject) -> None:
    """It is written to config.json, compared with it, and set field by field."""
    config = subject.config
    assert isinstance(config, subject.module.Config), type(config)
    assert dataclasses.is_dataclass(config)
    again = subject.module.Config(**vars(config))
    assert config == again and isinstance(hash(config), int)
    nested = [name for name, value in vars(config).items() if dataclasses.is_dataclass(value)]
    assert not nested, f"{nested} hold dataclasses"
    subject.module.Config()


@check("an update must see the same shapes, dtypes and Python values at every call")
def updates_are_traced_once(subject: Subject) -> None:
    """However many chunks run.

    Three times where columns are filled: for the names of metrics, for shapes, and in the loop.
    Twice on an accelerator where a period has two kinds of steps.
    """
    points = subject.whole
    assert points
    counted = subject.traces[: subject.traces.index("whole")]
    mesh = subject.placement().mesh
    for phase in subject.method.phases:
        bodies = min(2, chunk.rounds_of(phase, mesh, stream=False)[0])
        expected = 3 if phase.columns else bodies
        found = counted.count(phase.name)
        assert found == expected, f"{phase.name} was traced {found} times, not {expected}"


@check("return a state with the tree, shapes and dtypes of the one that came in")
def updates_keep_structure_shapes_and_dtypes(subject: Subject) -> None:
    """A loop in a compiled program carries the state."""
    pairs = [step[1:] for step in subject.history.steps]
    for before, after in pairs + [entered[:2] for entered in subject.history.enters]:
        chex.assert_trees_all_equal_structs(before, after)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)


@check("make State a flax.struct.dataclass of JAX arrays and nothing else, and keep them finite")
def states_hold_arrays_of_finite_numbers(subject: Subject) -> None:
    """A state is saved, restored and mapped over seeds."""
    first = subject.history.enters[0][0]
    whole = encoded.State if subject.spec.images else subject.module.State
    assert isinstance(first, whole), f"the state is a {type(first).__name__}"
    for leaf in jax.tree.leaves(first):
        assert isinstance(leaf, jax.Array), type(leaf)
        assert not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key), "a key is no number"
    for step in subject.history.steps:
        chex.assert_tree_all_finite(step.after)


@check("build nothing in init that compares unequal the next time, such as a lambda in the state")
def two_makes_have_one_structure(subject: Subject) -> None:
    """A resumed run makes the method anew and restores the state into it."""
    row = gathered(subject.data, jnp.arange(1), take_rows)
    one, two = (jax.eval_shape(subject.make().init, fixed_key(), row) for _ in range(2))
    chex.assert_trees_all_equal_structs(one, two)


@check("return {name: (sum, count)}, scalars, with the same names at every step of a phase")
def metrics_are_named_sums_and_counts(subject: Subject) -> None:
    """One set of names per phase, each scalar; every name is measured at some step."""
    for phase, (_, update, arguments) in zip(subject.method.phases, subject.updates, strict=True):
        _, metrics, *_ = jax.eval_shape(update, *arguments)
        chex.assert_shape(jax.tree.leaves(metrics), ())
        points = [point for point in subject.whole if point.phase == phase.name]
        seen = {name for point in points for name in point.metrics}
        assert seen == set(metrics), f"{phase.name}: {sorted(seen ^ set(metrics))}"


@check("look for a division by 0, or a logarithm or root of 0, in what is measured")
def metrics_of_one_phase_are_finite_and_per_seed(subject: Subject) -> None:
    """A metric that is not finite stops a run."""
    for point in subject.whole:
        chex.assert_shape(list(point.metrics.values()), (len(SEEDS),))
        chex.assert_tree_all_finite(point.metrics)


@check("stop gradients where they should not flow, or correct what `changes` and `enters` declare")
def gradients_stay_in_the_fields_of_their_phase(subject: Subject) -> None:
    """What may change does, in some step; the rest keeps its bits in every step."""
    if subject.changes is None:
        return
    history = subject.history
    for index, phase in enumerate(subject.method.phases):
        found = [changed(s.before, s.after) for s in history.steps if s.phase == index]
        named, expected = set().union(*found), subject.changes[phase.name]
        assert named == expected, f"{phase.name} changes {sorted(named)}, not {sorted(expected)}"
        entered = changed(*history.enters[index][:2]) - subject.enters.get(phase.name, set())
        assert not entered, f"entering {phase.name} changes {sorted(entered)}"


@check("name in `outputs` every field that the phase and those before it change")
def phases_output_all_that_was_changed(subject: Subject) -> None:
    """Another run can start after the phase with its outputs, and nothing is missing."""
    history, filled = subject.history, False
    done: set[str] = set()
    for index, phase in enumerate(subject.method.phases):
        filled = filled or bool(phase.columns)
        done |= changed(*history.enters[index][:2])
        steps = [step for step in history.steps if step.phase == index]
        done |= set().union(*(changed(step.before, step.after) for step in steps))
        if not phase.outputs:
            continue
        assert not filled, f"{phase.name} comes after columns, so it cannot have outputs"
        assert done <= set(phase.outputs), f"{phase.name} outputs {phase.outputs}, changes {done}"


def changed(before: Any, after: Any) -> set[str]:
    """The fields of two states in which any bit differs."""

    def bits(tree: Any, field: str) -> list[bytes]:
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(getattr(tree, field))]

    names = [field.name for field in dataclasses.fields(before)]
    return {
        name
        for name in names
        if any(a != b for a, b in zip(bits(before, name), bits(after, name), strict=True))
    }


@check("draw from the key that `enter` is given, and from nothing else")
def enter_is_deterministic(subject: Subject) -> None:
    """A resumed run enters a phase again."""
    for _, once, again in subject.history.enters:
        chex.assert_trees_all_equal(once, again)


@check("return the columns that the phase declares, and give it `sampler=sequential`")
def filling_phases_are_sequential_and_fill_what_they_declare(subject: Subject) -> None:
    """Every row is computed once."""
    for phase, (_, update, arguments) in zip(subject.method.phases, subject.updates, strict=True):
        _, _, *filled = jax.eval_shape(update, *arguments)
        shapes = {k: (x.shape[1:], x.dtype) for found in filled for k, x in found.items()}
        declared = {k: (x.shape, x.dtype) for k, x in phase.columns.items()}
        assert shapes == declared, f"{phase.name} fills {shapes}, and declares {declared}"
        assert phase.sampler is sequential or not phase.columns, phase.name


@check("keep updates pure: no Python side effects, no state outside of `state`")
def a_method_trains_inside_anybodys_scan(subject: Subject) -> None:
    """vmap over two seeds, scan over steps, no runner: the same as with it."""
    phase, data = subject.method.phases[0], subject.data
    _, rows_key, update_key = (key[0] for key in phase_keys(seed_keys(SEEDS[:1]), 0))

    def one(state: Any, key: Key) -> Any:
        def body(state: Any, step: Any) -> tuple:
            rows = phase.sampler(rows_key, step, len(data.reward), phase.batch_size)
            batch = gathered(data, rows, take_rows)
            return phase.update(state, batch, jax.random.fold_in(key, step), step)

        return jax.lax.scan(body, state, jnp.arange(3))

    keys = jnp.stack([update_key, update_key])
    after, _ = jax.jit(jax.vmap(one, (None, 0)))(subject.history.enters[0][1], keys)
    for place in range(2):
        close(member(after, place), subject.history.steps[2].after)
