"""Members that train together and differ in numbers of their config.

    method = vary(bdpo.make, config, spec, ("eta", "rho"))
    members = loop.init_members(method, data, placement)
    state = assign(members, {"eta": etas, "rho": rhos})  # [P] each
    for log_point in loop.run(method, data, seeds, mesh, every=1000, state=state): ...

The swept numbers are part of the state, so that all members share one compiled program. A seed is
listed in `seeds` once for each setting; its members draw the same random numbers. They are
identical until a phase reads a swept number. Earlier phases, such as the pre-training of a
behaviour model, are therefore trained once per seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.types import Array, Key, Metrics, Spec, Transition

Make = Callable[[Any, Spec], Method]


class NotSweepable(ValueError):
    """A field in which members of one compiled program cannot differ; the message says why."""


class SweptUpdate:
    """A phase's update whose members may differ in numbers of their config.

    `identical` says that neither this phase nor an earlier one reads a swept number: after it,
    members of one seed are equal in all but their settings.
    """

    def __init__(self, update: Callable[..., tuple], identical: bool) -> None:
        self._update, self.identical = update, identical

    def __call__(self, state: SweptState, *rest: Any) -> tuple:
        """As the method's own update."""
        return self._update(state, *rest)


@flax.struct.dataclass
class SweptState:
    """A method's state with the settings of this member."""

    settings: dict[str, Array]  # scalars
    inner: Any


def vary(make: Make, config: Any, spec: Spec, names: Sequence[str]) -> Method:
    """The method `make(config, spec)` whose fields `names` are read from each member's state.

    `init` takes them from `config`; `assign` gives every member its own. Every function is traced,
    none is run.

    Raises:
        ValueError: as `make`.
        NotSweepable: if a field is no real number; if the program itself, and not only its
            numbers, depends on a setting; if a phase that all seeds share comes after a setting
            was read.
    """
    plain = make(config, spec)
    for name in names:
        if isinstance(getattr(config, name), bool) or not isinstance(getattr(config, name), float):
            raise NotSweepable(f"field {name!r} is no real number: members cannot differ in it")

    def own(state: SweptState) -> Method:
        return make(dataclasses.replace(config, **state.settings), spec)

    def init(key: Key, batch: Transition) -> SweptState:
        settings = {name: jnp.float32(getattr(config, name)) for name in names}
        return SweptState(settings, plain.init(key, batch))

    def swept_phase(place: int) -> Phase:
        def update(state: SweptState, *rest: Any) -> tuple:
            inner, *more = own(state).phases[place].update(state.inner, *rest)
            return (dataclasses.replace(state, inner=inner), *more)

        def enter(state: SweptState, key: Key) -> SweptState:
            inner = own(state).phases[place].enter(state.inner, key)
            return dataclasses.replace(state, inner=inner)

        phase = plain.phases[place]
        shared, leaves = (
            tuple(f"inner.{field}" for field in fields) for fields in (phase.shared, phase.leaves)
        )
        return phase._replace(update=update, enter=enter, shared=shared, leaves=leaves)

    def policy(name: str) -> Policy:
        def act(state: SweptState, observation: Array, key: Key) -> Array:
            return own(state).policies[name].act(state.inner, observation, key)

        return plain.policies[name]._replace(act=act)

    def diagnose(state: SweptState, batch: Transition, key: Key) -> Metrics:
        return own(state).diagnose(state.inner, batch, key)

    phases = tuple(swept_phase(place) for place in range(len(plain.phases)))
    policies = {name: policy(name) for name in plain.policies}
    return _checked(Method(init, phases, policies, diagnose), spec.example())


def _checked(method: Method, row: Transition) -> Method:
    """Finds the phases that leave members of one seed identical. Raises as `vary`."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(method.init, key, row)
    columns: dict[str, Any] = {}
    identical, phases = True, []
    try:
        for phase in method.phases:
            batch = _rows(row._replace(columns=columns), phase.batch_size)
            step = jax.ShapeDtypeStruct((), jnp.int32)
            identical = not _reads(phase.enter, state, key) and identical
            state = jax.eval_shape(phase.enter, state, key)
            identical = not _reads(phase.update, state, batch, key, step) and identical
            if phase.shared and not identical:
                raise NotSweepable(
                    f"phase {phase.name!r} is shared by all members: none can differ"
                )
            phases.append(phase._replace(update=SweptUpdate(phase.update, identical)))
            for name, leaf in phase.columns.items():
                column = jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype)
                columns |= {name: column, f"next_{name}": column}
        for policy in method.policies.values():
            jax.eval_shape(policy.act, state, row.observation, key)
        jax.eval_shape(method.diagnose, state, row, key)
    except (jax.errors.ConcretizationTypeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise NotSweepable(f"the program depends on a setting: {reason}") from error
    return method._replace(phases=tuple(phases))


def _reads(fn: Callable[..., Any], state: SweptState, *rest: Any) -> bool:
    """Whether what `fn` returns for a state, but for the settings in it, depends on the settings.

    An operation with an inner program (a branch, a loop) counts as one that reads all it is given.
    """

    def results(state: SweptState, *rest: Any) -> Any:
        found = fn(state, *rest)
        after, *more = found if isinstance(found, tuple) else (found,)
        return after.inner, more

    program = jax.make_jaxpr(results)(state, *rest).jaxpr
    needed = set(_variables(program.outvars))
    for operation in reversed(program.eqns):
        if not needed.isdisjoint(operation.outvars):
            needed.update(_variables(operation.invars))
    settings = program.invars[: len(jax.tree.leaves(state.settings))]
    return not needed.isdisjoint(settings)


def _variables(atoms: Sequence[Any]) -> list[Any]:
    """Without literals, which cannot be hashed."""
    return [atom for atom in atoms if isinstance(atom, jax.extend.core.Var)]


def _rows(data: Any, count: int) -> Any:
    def row(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(row, data)


def assign(state: SweptState, settings: Mapping[str, Sequence[float]]) -> SweptState:
    """Gives newly initialised members [P, ...] their settings, [P] each.

    Raises:
        ValueError: for another set of fields than the method varies, or another number of members.
    """
    if settings.keys() != state.settings.keys():
        raise ValueError(f"settings are {sorted(state.settings)}, and got {sorted(settings)}")

    def place(name: str) -> Any:
        old: Any = state.settings[name]
        new = np.asarray(settings[name], np.float32)
        if new.shape != old.shape:
            raise ValueError(f"{name} needs {old.shape[0]} values, and got {new.shape}")
        return new if isinstance(old, np.ndarray) else jax.device_put(new, old.sharding)

    new = {name: place(name) for name in settings}
    return dataclasses.replace(state, settings=new)
