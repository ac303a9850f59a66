"""Members that train together and differ in numbers of their config.

    method = vary(bdpo.make, config, spec, ("eta", "rho"))
    members = loop.init_members(method, data, placement)
    state = assign(members, {"eta": etas, "rho": rhos})  # [P] each
    for log_point in loop.run(method, data, seeds, mesh, every=1000, state=state): ...

The swept numbers are part of the state, so that all members share one compiled program. A seed is
listed in `seeds` once for each setting; its members draw the same random numbers. They are
identical until a phase reads a swept number. Earlier phases, such as the pre-training of a
behaviour model, are therefore trained once per seed.

A field declared with `dataclasses.field(metadata=length_of("morse"))` is the number of updates of
that phase, and nothing else. Members may differ in it too: the phase runs for the largest number,
and members with a smaller one skip the updates beyond it.
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
LENGTH = "length_of"  # key in the metadata of a config's field


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


def length_of(phase: str) -> dict[str, str]:
    """Metadata of a config's field that is the number of updates of a phase, and nothing else."""
    return {LENGTH: phase}


def lengths(config_class: type) -> dict[str, str]:
    """{field: the phase whose number of updates it is}, of the fields declared so."""
    fields = dataclasses.fields(config_class)
    return {f.name: f.metadata[LENGTH] for f in fields if LENGTH in f.metadata}


def with_settings(config: Any, settings: Mapping[str, float]) -> Any:
    """The config with the values of one point of a sweep; numbers of updates as integers."""
    whole = lengths(type(config))
    values = {name: int(x) if name in whole else x for name, x in settings.items()}
    return dataclasses.replace(config, **values)


def longest(config: Any, points: Sequence[Mapping[str, float]]) -> Any:
    """The config for `vary`: the first point's values, and the most updates of every phase."""
    first = with_settings(config, points[0])
    most = {x: max(p[x] for p in points) for x in lengths(type(config)) if x in points[0]}
    return with_settings(first, most)


def vary(make: Make, config: Any, spec: Spec, names: Sequence[str]) -> Method:
    """The method `make(config, spec)` whose fields `names` are read from each member's state.

    `init` takes them from `config`; `assign` gives every member its own. Where members differ in
    the length of a phase, `config` has the longest. Every function is traced, none is run.

    Raises:
        ValueError: as `make`.
        NotSweepable: if a field is no real number and no phase's length; if the program itself,
            and not only its numbers, depends on a setting; if the first state does, which all
            members of a seed begin with; if a phase that all seeds share comes after a setting
            was read.
    """
    plain = make(config, spec)
    names_of_phases = [phase.name for phase in plain.phases]
    ends = {name: x for name, x in lengths(type(config)).items() if name in names}
    for name in set(names) - set(ends):
        if isinstance(getattr(config, name), bool) or not isinstance(getattr(config, name), float):
            raise NotSweepable(f"field {name!r} is no real number: members cannot differ in it")

    def own(state: SweptState) -> Method:
        numbers = {name: x for name, x in state.settings.items() if name not in ends}
        made = make(dataclasses.replace(config, **numbers), spec)
        if [phase.name for phase in made.phases] != names_of_phases:
            raise NotSweepable("which phases there are depends on a setting")
        return made

    def init(key: Key, batch: Transition) -> SweptState:
        settings = {name: jnp.float32(getattr(config, name)) for name in names}
        return SweptState(settings, plain.init(key, batch))

    def initially(state: SweptState, key: Key, batch: Transition) -> SweptState:
        return dataclasses.replace(state, inner=own(state).init(key, batch))

    def swept_phase(place: int) -> Phase:
        end = [name for name, phase in ends.items() if phase == plain.phases[place].name]

        def update(state: SweptState, *rest: Any) -> tuple:
            method_update = own(state).phases[place].update
            if end:
                method_update = _up_to(state.settings[end[0]], method_update)
            inner, *more = method_update(state.inner, *rest)
            return (dataclasses.replace(state, inner=inner), *more)

        def enter(state: SweptState, key: Key) -> SweptState:
            inner = own(state).phases[place].enter(state.inner, key)
            return dataclasses.replace(state, inner=inner)

        phase = plain.phases[place]
        if end and phase.columns:
            raise NotSweepable(f"phase {phase.name!r} fills columns: its length cannot differ")
        shared, outputs = (
            tuple(f"inner.{field}" for field in fields) for fields in (phase.shared, phase.outputs)
        )
        return phase._replace(update=update, enter=enter, shared=shared, outputs=outputs, period=1)

    def policy(name: str) -> Policy:
        def act(state: SweptState, observation: Array, key: Key) -> Array:
            return own(state).policies[name].act(state.inner, observation, key)

        return plain.policies[name]._replace(act=act, log_density=None)

    def diagnose(state: SweptState, batch: Transition, key: Key) -> Metrics:
        return own(state).diagnose(state.inner, batch, key)

    phases = tuple(swept_phase(place) for place in range(len(plain.phases)))
    policies = {name: policy(name) for name in plain.policies}
    varied = plain._replace(init=init, phases=phases, policies=policies, diagnose=diagnose)
    return _checked(varied, spec.example(), initially)


def _up_to(length: Array, update: Callable[..., tuple]) -> Callable[..., tuple]:
    """An update that leaves the state as it is from step `length` on, and measures nothing."""

    def limited(state: Any, batch: Transition, key: Key, step: Array) -> tuple:
        def train(state: Any) -> tuple:
            return update(state, batch, key, step)

        def skip(state: Any) -> tuple:
            _, metrics = jax.eval_shape(train, state)
            return state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

        return jax.lax.cond(step < length, train, skip, state)

    return limited


def _checked(method: Method, row: Transition, initially: Callable[..., SweptState]) -> Method:
    """Finds the phases that leave members of one seed identical. Raises as `vary`.

    `initially` gives a state the first one of its own settings.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(method.init, key, row)
    columns: dict[str, Any] = {}
    identical, phases = True, []
    try:
        if _reads(initially, state, key, row):
            raise NotSweepable("the first state depends on a setting: members cannot differ in it")
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
