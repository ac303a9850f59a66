"""The method under test, and what it does on random rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.encoded import EncoderConfig, on_images
from jaxrl_prefs.keys import phase_keys, seed_keys
from jaxrl_prefs.method import Method, Phase
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.rows import gathered
from jaxrl_prefs.testing.random_data import random_data
from jaxrl_prefs.training import chunk, loop, program, sweep
from jaxrl_prefs.types import Key, Spec, Transition

SEEDS = (3, 4, 5)
DEVICES = 4  # at most
FEWEST, MOST = 3, 200  # updates: of the first and the last phase, and of all of them
Changes = Mapping[str, set[str]]  # phase -> fields of the state


class LogPoint(NamedTuple):
    """One log point, copied."""

    phase: str
    step: int
    state: Any  # [S, ...]
    columns: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]


class Step(NamedTuple):
    """One update of the first seed."""

    phase: int
    before: Any
    after: Any


class History(NamedTuple):
    """The first seed's states through all phases."""

    steps: list[Step]
    enters: list[tuple[Any, Any, Any]]  # around each phase's enter: before, after, after once more


class Program(NamedTuple):
    """A function under jit, which traces it once for all checks, and arguments for it."""

    what: str
    function: Any
    arguments: tuple


class Subject:
    """A method under test. What several checks need is computed once, when the first asks for it.

    Args:
        module: has `Config`, `State` and `make`.
        config: a small config: 3 updates in the first and the last phase at least, 200 in all at
            most.
        spec: sizes, images and action bounds of the data to try it on; None takes 3 observations
            and 2 actions in [-1, 1]. With images the method is tried on encoders of them.
        encoder: how images are encoded; None takes the default.
        changes: for every phase the fields of the state that its updates change, all of them; None
            if they are not declared.
        enters: for every phase the fields that entering it may change; a phase that is not listed
            may change none. Compared where `changes` is given.

    Raises:
        ValueError: if the config is not small, and whatever `make` raises.
    """

    def __init__(
        self,
        module: Any,
        config: Any,
        spec: Spec | None = None,
        *,
        encoder: EncoderConfig | None = None,
        changes: Changes | None = None,
        enters: Changes | None = None,
    ) -> None:
        self.module, self.config = module, config
        self.encoder = encoder or EncoderConfig()
        self.changes, self.enters = changes, enters or {}
        self.name = getattr(module, "__name__", repr(module))
        self.data, self.spec = random_data(spec)
        self.traces: list[str] = []  # names of the phases, as often as their updates were traced
        made = self.make()
        steps = [phase.steps for phase in made.phases]
        if (
            not steps
            or min(*steps, steps[0] + 1 - FEWEST, steps[-1] + 1 - FEWEST) < 1
            or sum(steps) > MOST
        ):
            raise ValueError(
                f"{self.name} takes {steps} updates in its phases with this config; give a config "
                f"with at least {FEWEST} in the first and the last and at most {MOST} in all"
            )
        self.method = made._replace(phases=tuple(map(self._counted, made.phases)))

    def make(self, config: Any = None) -> Method:
        """The method, made anew; of another config if one is given."""
        config = self.config if config is None else config
        if self.spec.images:
            return on_images(partial(self.module.make, config), self.spec, self.encoder)
        made: Method = self.module.make(config, self.spec)
        return made

    def _counted(self, phase: Phase) -> Phase:
        return phase._replace(update=partial(_traced, self.traces, phase.name, phase.update))

    def train(
        self,
        seeds: tuple[int, ...] = SEEDS,
        devices: int = DEVICES,
        method: Method | None = None,
        **more: Any,
    ) -> list[LogPoint]:
        """Runs all phases, or the rest of them from `state`, `columns` and `start`."""
        mesh = seed_axis.seed_mesh(jax.devices()[:devices])
        more = {"every": 1, **more}
        return [
            LogPoint(
                point.phase,
                point.step,
                seed_axis.trim(point.state, len(seeds)),
                {name: column.copy() for name, column in point.columns.items()},
                point.metrics,
            )
            for point in loop.run(method or self.method, self.data, seeds, mesh, **more)
        ]

    def placement(self, mapping: str = "auto") -> chunk.SeedPlacement:
        """Three seeds on the devices."""
        return chunk.SeedPlacement(SEEDS, seed_axis.seed_mesh(jax.devices()[:DEVICES]), mapping)

    @functools.cached_property
    def batch(self) -> Transition:
        """All rows, with their images."""
        return gathered(self.data, jnp.arange(len(self.data.reward)), take_rows)

    @functools.cached_property
    def whole(self) -> list[LogPoint]:
        """All phases, three seeds over the devices, a log point at every step."""
        self.traces.clear()
        points = self.train()
        self.traces.append("whole")  # later runs trace anew
        return points

    @functools.cached_property
    def history(self) -> History:
        """Every state of the first seed in `whole`."""
        points = iter(self.whole)
        state = member(loop.init_members(self.method, self.data, self.placement()), 0)
        history = History([], [])
        for index, phase in enumerate(self.method.phases):
            enter_key = phase_keys(seed_keys(SEEDS[:1]), index)[0][0]
            enter = jax.jit(phase.enter)
            entered, again = (enter(state, enter_key) for _ in range(2))
            history.enters.append((state, entered, again))
            state = entered
            for _ in range(phase.steps):
                after = member(next(points).state, 0)
                history.steps.append(Step(index, state, after))
                state = after
        return history

    @functools.cached_property
    def updates(self) -> list[Program]:
        """Every phase's update."""
        found, held = [], dict[str, Any]()
        for phase, (_, state, _) in zip(self.method.phases, self.history.enters, strict=True):
            batch = program.take(self.data, jnp.arange(phase.batch_size), held)
            arguments = (state, batch, fixed_key(), jnp.int32(0))
            found.append(Program(f"update of {phase.name}", jax.jit(phase.update), arguments))
            held |= {name: self.whole[-1].columns[name][0] for name in phase.columns}
        return found

    @functools.cached_property
    def swept(self) -> tuple[str, Method] | None:
        """A field in which members of one program can differ, and the method that trains them.

        It is the first such field that an update reads, of a later phase if there are several, and
        the method is made with half of its value. None if there is no such field.
        """
        for name, value in vars(self.config).items():
            if not isinstance(value, float) or not value:
                continue
            half = dataclasses.replace(self.config, **{name: value / 2})
            try:
                self.make(half)
            except ValueError:  # half of it is refused
                continue
            try:
                method = sweep.vary(lambda config, _: self.make(config), half, self.spec, (name,))
            except sweep.NotSweepable:
                continue
            first, *others = (phase.update.identical for phase in method.phases)  # type: ignore[attr-defined]
            if (first and not all(others)) if others else not first:
                return name, method
        return None

    @functools.cached_property
    def programs(self) -> list[Program]:
        """Every update, enter, policy and the diagnosis."""
        found = list(self.updates)
        for phase, (before, _, _) in zip(self.method.phases, self.history.enters, strict=True):
            found.append(
                Program(f"enter of {phase.name}", jax.jit(phase.enter), (before, fixed_key()))
            )
        state, batch, *_ = self.updates[-1].arguments
        for name, policy in self.method.policies.items():
            arguments = (state, self.batch.observation, fixed_key())
            found.append(Program(f"policy {name}", jax.jit(policy.act), arguments))
        diagnose = jax.jit(self.method.diagnose)
        return [*found, Program("diagnosis", diagnose, (state, batch, fixed_key()))]

    @functools.cached_property
    def chunks(self) -> list[tuple[chunk.Chunk, Any]]:
        """Every phase's program for three seeds over the devices, with a state to call it on."""
        placement, last = self.placement(), self.whole[-1]
        state = seed_axis.pad(last.state, placement.mesh)
        return [
            (
                chunk.compile_chunk(
                    self.method, index, self.data, placement, state=state, columns=last.columns
                ),
                state,
            )
            for index in range(len(self.method.phases))
        ]


def _traced(traces: list[str], name: str, update: Any, *args: Any) -> Any:
    traces.append(name)
    return update(*args)


def take_rows(leaf: Any, rows: Any) -> Any:
    """Rows of one array, as `gathered` wants them taken."""
    return jnp.asarray(leaf)[rows]


def member(tree: Any, i: int) -> Any:
    """Member `i` of a tree, sliced on the host.

    Slicing what is spread over devices makes them exchange it, and XLA ends the process where CPU
    devices wait too long for each other.
    """

    def own(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf[i]
        return jnp.asarray(np.asarray(leaf)[i])

    return jax.tree.map(own, tree)


def fixed_key() -> Key:
    """The key of everything that a check calls on its own."""
    return jax.random.key(0)
