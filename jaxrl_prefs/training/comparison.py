"""Whether two methods compute the same, told by the text of their programs.

A program's text (StableHLO) holds every constant, so that a learning rate, a schedule's length or a
network's width shows in it, and whatever a function does not use is left out of it.

    differing(before, after, spec)           which functions of two methods differ
    phase_digest(method, index, spec)        equal where two methods' phases leave the same numbers
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp

from jaxrl_prefs.method import Method, Phase, Policy, State
from jaxrl_prefs.training.sharing import field
from jaxrl_prefs.types import Spec


def differing(before: Method, after: Method, spec: Spec) -> list[str]:
    """The functions that two methods do not have in common: `init`, `phase train`, ...

    Numbers of updates are left out: a phase that only runs longer is the same phase.
    """
    one, other = dict(_functions(before, spec)), dict(_functions(after, spec))
    return [name for name in one | other if not _agree(one.get(name), other.get(name))]


class _Function(NamedTuple):
    same: tuple  # functions and values that are equal only where the texts are
    text: Callable[[], str]


def _agree(one: _Function | None, other: _Function | None) -> bool:
    if one is None or other is None:
        return False
    return one.same == other.same or one.text() == other.text()


def _functions(method: Method, spec: Spec) -> Iterator[tuple[str, _Function]]:
    key, state, row = _key(), _state(method, spec), spec.example()
    yield "init", _Function((method.init,), lambda: _text(method.init, key, row))
    columns: dict[str, Any] = {}
    for phase in method.phases:
        batch = _batch(phase, spec, columns)
        same = (phase.enter, phase.update, phase.sampler, phase.batch_size, phase.shared)

        def whole(phase: Phase = phase, batch: Any = batch) -> str:
            about = f"{dict(phase.columns)} {phase.shared}"
            enter = _text(phase.enter, state, key)
            update = _text(phase.update, state, batch, key, _step())
            return "\n".join([about, enter, update, _rows(phase, spec)])

        yield f"phase {phase.name}", _Function(same, whole)
        for name, leaf in phase.columns.items():
            column = jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype)
            columns = {**columns, name: column, f"next_{name}": column}
    for name, policy in method.policies.items():

        def acts(policy: Policy = policy) -> str:
            about = f"{policy.candidates} {policy.rule} {policy.last_only}"
            return about + _text(policy.act, state, row.observation, key)

        yield f"policy {name}", _Function(tuple(policy), acts)
    row = row._replace(columns=columns)
    yield (
        "diagnosis",
        _Function((method.diagnose,), lambda: _text(method.diagnose, state, row, key)),
    )


def phase_digest(method: Method, index: int, spec: Spec) -> str:
    """A digest of what computes the outputs of phase `index`.

    With equal digests, the same data and the same seeds, the outputs are the same numbers. Empty
    where the phase has no outputs, or where they depend on further fields of the state.

    Args:
        method: of one setting, not of several points of a sweep.
        index: of the phase.
        spec: of the data.
    """
    phases, fields = method.phases[: index + 1], method.phases[index].outputs
    if not fields or any(phase.columns for phase in phases):
        return ""

    def output(state: State) -> dict[str, Any]:
        return {name: field(state, name) for name in fields}

    key, state = _key(), _state(method, spec)
    digest = hashlib.sha256(
        _text(lambda key, row: output(method.init(key, row)), key, spec.example()).encode()
    )
    for number, phase in enumerate(phases):

        def entered(state: State, key: Any, phase: Phase = phase) -> Any:
            return output(phase.enter(state, key))

        def updated(state: State, *rest: Any, phase: Phase = phase) -> Any:
            return output(phase.update(state, *rest)[0])

        rest = (_batch(phase, spec, {}), key, _step())
        if _reads_more(entered, state, fields, key) or _reads_more(updated, state, fields, *rest):
            return ""
        about = f"{number} {phase.steps} {phase.batch_size} {phase.shared}"
        for part in (about, _rows(phase, spec)):
            digest.update(part.encode())
        digest.update(_text(entered, state, key).encode())
        digest.update(_text(updated, state, *rest).encode())
    return digest.hexdigest()


def _reads_more(
    function: Callable[..., Any], state: State, fields: tuple[str, ...], *rest: Any
) -> bool:
    """Whether what `function` returns depends on a part of the state outside of `fields`.

    An operation with an inner program (a branch, a loop) counts as one that reads all it is given.
    """
    program = jax.make_jaxpr(function)(state, *rest).jaxpr
    needed = set(_variables(program.outvars))
    for operation in reversed(program.eqns):
        if not needed.isdisjoint(operation.outvars):
            needed.update(_variables(operation.invars))
    leaves = jax.tree.leaves(state)
    inside = {id(leaf) for name in fields for leaf in jax.tree.leaves(field(state, name))}
    places = zip(program.invars, leaves, strict=False)  # the state comes first
    return any(id(leaf) not in inside and place in needed for place, leaf in places)


def _variables(atoms: Any) -> list[Any]:
    """Without literals, which cannot be hashed."""
    return [atom for atom in atoms if isinstance(atom, jax.extend.core.Var)]


def _text(function: Callable[..., Any], *arguments: Any) -> str:
    return str(jax.jit(lambda *given: function(*given)).lower(*arguments).as_text())


def _rows(phase: Phase, spec: Spec) -> str:
    def rows(key: Any, step: Any) -> Any:
        return phase.sampler(key, step, spec.size, phase.batch_size)

    return _text(rows, _key(), _step())


def _state(method: Method, spec: Spec) -> State:
    """Shapes of one seed's state, every leaf an object of its own."""
    shapes = jax.eval_shape(method.init, _key(), spec.example())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes)


def _batch(phase: Phase, spec: Spec, columns: dict[str, Any]) -> Any:
    def rows(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((phase.batch_size, *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(rows, spec.example()._replace(columns=columns))


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _step() -> Any:
    return jax.ShapeDtypeStruct((), jnp.int32)
