"""Checks a method against the contract (method.py): what a run, or anybody else's loop, relies on.

    from jaxrl_prefs import testing
    import my_method

    def test_my_method():
        config = my_method.Config(train_steps=4, batch_size=8, actor_hidden=(8,))
        testing.check_method(my_method, config)

The method is trained for a few steps on random data, with three seeds, in several ways that must
agree: at once and with a break, with each seed alone, as members of a sweep. Its policies must act
from exported files as they do here, and fitted Q evaluation must take them. Where the host has
several devices the seeds are spread over up to four of them. Our own methods pass the same checks
(tests/test_contract.py).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import tempfile
import unittest
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs import encoded
from jaxrl_prefs.data import Affine
from jaxrl_prefs.encoded import EncoderConfig, on_images
from jaxrl_prefs.errors import ExportError
from jaxrl_prefs.estimation import fqe
from jaxrl_prefs.keys import phase_keys, seed_keys
from jaxrl_prefs.method import Method, Phase, sequential
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.rows import gathered
from jaxrl_prefs.runs import export
from jaxrl_prefs.runs.exported import load_policy
from jaxrl_prefs.runs.onnx_export import to_onnx
from jaxrl_prefs.training import chunk, loop, program, sweep
from jaxrl_prefs.types import STATE, Frames, ImageSpec, Key, Spec, Transition

SEEDS = (3, 4, 5)
DEVICES = 4  # at most
FAR = 10**6  # periods, past what an update may wait for
ACCELERATORS = ("tpu", "cuda")
FEWEST, MOST = 3, 200  # updates: of the first and the last phase, and of all of them
DISCOUNT = 0.9
FITTED = fqe.Config(critics=2, hidden=(8,), layer_norm=False, batch_size=8, updates=3)
FILED, DRAW = 2, 7  # observations on which an exported policy is compared, and its draw number
Changes = Mapping[str, set[str]]  # phase -> fields of the state

# --- Data -----------------------------------------------------------------------------------------


def transitions(
    observation: np.ndarray, action: np.ndarray, reward: np.ndarray, discount: np.ndarray
) -> Transition:
    """Strings rows [N, ...] together: row i + 1 follows row i wherever the discount is above 0."""
    size = len(reward)
    goes_on = (discount > 0) & (np.arange(size) < size - 1)
    follower = np.where(goes_on, np.arange(size) + 1, np.arange(size)).astype(np.int32)
    rows: dict[str, Any] = dict(
        observation=observation.astype(np.float32),
        action=action.astype(np.float32),
        reward=reward.astype(np.float32),
        discount=discount.astype(np.float32),
        next_observation=observation[follower].astype(np.float32),
        next_action=(action[follower] * goes_on[:, None]).astype(np.float32),
        has_next_action=goes_on.astype(np.float32),
        index=np.arange(size, dtype=np.int32),
        next_index=follower,
    )
    return Transition(**rows)


def episodes(size: int, length: int, observation_dim: int, action_dim: int) -> Transition:
    """Random rows in episodes of `length` steps that end in a terminal state; discount .9.

    Actions lie in [-1, 1].
    """
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(size, observation_dim))
    action = np.clip(rng.normal(size=(size, action_dim)), -0.99, 0.99)
    reward = observation[:, 0] - (action**2).sum(-1)
    goes_on = np.arange(size) % length < length - 1
    return transitions(observation, action, reward, DISCOUNT * goes_on)


def fitted_data(data: Transition, gamma: float) -> tuple[fqe.Data, fqe.Units]:
    """Rows as fitted Q evaluation takes them; an episode ends where no next action follows."""
    goes_on = np.asarray(data.has_next_action)
    episode = np.cumsum(np.append(0, goes_on[:-1] == 0)).astype(np.int32)
    reward, discount = np.asarray(data.reward), np.asarray(data.discount)
    unit = fqe.units(reward, fqe.to_go(reward.astype(float), discount, goes_on), gamma)
    rows = fqe.Data(
        observation=np.asarray(data.observation),
        action=np.asarray(data.action),
        reward=fqe.scaled_reward(reward, discount, unit),
        discount=discount,
        next_observation=np.asarray(data.next_observation),
        episode=episode,
        first=np.flatnonzero(np.diff(episode, prepend=-1)).astype(np.int32),
    )
    return rows, unit


def _data(spec: Spec | None) -> tuple[Transition, Spec]:
    """24 rows with the sizes and the action bounds of `spec`, and their Spec."""
    if spec is None:
        data = episodes(size=24, length=6, observation_dim=3, action_dim=2)
        return data, Spec.of(data)
    data = episodes(24, 6, spec.observation_dim, spec.action_dim)
    low, high = spec.action_low, spec.action_high

    def scaled(action: Any) -> Any:
        return np.asarray((low + high) / 2 + action * (high - low) / 2, np.float32)

    has_next = np.asarray(data.has_next_action)[:, None]
    data = data._replace(
        action=scaled(data.action), next_action=scaled(data.next_action) * has_next
    )
    data = _with_images(data, spec.images)
    return data, Spec.of(data)._replace(action_low=low, action_high=high)


def _with_images(data: Transition, images: Sequence[ImageSpec]) -> Transition:
    """The rows with a random frame of each camera beside the vector."""
    if not images:
        return data
    rng, rows = np.random.default_rng(1), np.arange(len(data.reward), dtype=np.int32)[:, None]
    frames = {x.name: rng.integers(0, 256, (len(rows), *x.shape), np.uint8) for x in images}
    after = np.asarray(data.next_index)[:, None]
    before: dict[str, Any] = {name: Frames(x, rows) for name, x in frames.items()}
    following: dict[str, Any] = {name: Frames(None, after) for name in frames}
    if data.observation.shape[1]:
        before[STATE], following[STATE] = data.observation, data.next_observation
    shown: dict[str, Any] = {"observation": before, "next_observation": following}
    return data._replace(**shown)


# --- The method, and what it does on the data -----------------------------------------------------


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
        self.data, self.spec = _data(spec)
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
        return gathered(self.data, jnp.arange(len(self.data.reward)), _taken)

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
        state = _member(loop.init_members(self.method, self.data, self.placement()), 0)
        history = History([], [])
        for index, phase in enumerate(self.method.phases):
            enter_key = phase_keys(seed_keys(SEEDS[:1]), index)[0][0]
            enter = jax.jit(phase.enter)
            entered, again = (enter(state, enter_key) for _ in range(2))
            history.enters.append((state, entered, again))
            state = entered
            for _ in range(phase.steps):
                after = _member(next(points).state, 0)
                history.steps.append(Step(index, state, after))
                state = after
        return history

    @functools.cached_property
    def updates(self) -> list[Program]:
        """Every phase's update."""
        found, held = [], dict[str, Any]()
        for phase, (_, state, _) in zip(self.method.phases, self.history.enters, strict=True):
            batch = program.take(self.data, jnp.arange(phase.batch_size), held)
            arguments = (state, batch, _key(), jnp.int32(0))
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
            found.append(Program(f"enter of {phase.name}", jax.jit(phase.enter), (before, _key())))
        state, batch, *_ = self.updates[-1].arguments
        for name, policy in self.method.policies.items():
            arguments = (state, self.batch.observation, _key())
            found.append(Program(f"policy {name}", jax.jit(policy.act), arguments))
        diagnose = jax.jit(self.method.diagnose)
        return [*found, Program("diagnosis", diagnose, (state, batch, _key()))]

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


def _taken(leaf: Any, rows: Any) -> Any:
    return jnp.asarray(leaf)[rows]


def _member(tree: Any, i: int) -> Any:
    """Member `i` of a tree, sliced on the host.

    Slicing what is spread over devices makes them exchange it, and XLA ends the process where CPU
    devices wait too long for each other.
    """

    def own(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf[i]
        return jnp.asarray(np.asarray(leaf)[i])

    return jax.tree.map(own, tree)


def _key() -> Key:
    return jax.random.key(0)


# --- The checks -----------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[Subject], None]] = {}


def _check(remedy: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Enters a check into CHECKS; its AssertionErrors name the method, the check and the remedy."""

    def enter(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        @functools.wraps(function)
        def checked(subject: Subject) -> None:
            try:
                function(subject)
            except AssertionError as error:
                what = f"{subject.name} fails the check {function.__name__}"
                raise AssertionError(f"{what}: {error}\nRemedy: {remedy}") from error

        CHECKS[function.__name__] = checked
        return checked

    return enter


def check_method(
    module: Any,
    config: Any = None,
    spec: Spec | None = None,
    *,
    encoder: EncoderConfig | None = None,
    changes: Changes | None = None,
    enters: Changes | None = None,
    only: Sequence[str] = (),
) -> None:
    """Runs every check of CHECKS on a method, which takes a minute or so.

    >>> from jaxrl_prefs.methods import bc
    >>> config = bc.Config(train_steps=3, batch_size=8, actor_hidden=(8,))
    >>> check_method(bc, config, only=["phases_have_names_of_their_own"])

    Args:
        module: has `Config`, `State` and `make`, like a file of jaxrl_prefs/methods/.
        config: a small config: 3 updates in the first and the last phase at least, 200 in all at
            most. None takes `module.Config()` with 4 steps a phase, batches of 8 and hidden layers
            of 8 units, by the names of the fields: `*steps`, `*batch_size`, `*hidden`.
        spec: sizes and action bounds of the random data to try it on; its size and moments are not
            used. None takes 3 observations and 2 actions in [-1, 1].
        encoder: how images are encoded, where `spec` has any; None takes the default. A method with
            `Encoder.shared_with` should pass with both values of `sharing`.
        changes: {phase: fields of the state that its updates change}; a field that changes and is
            not listed, or the other way round, fails. None does not look at fields.
        enters: {phase: fields that entering it may change}, used together with `changes`.
        only: names of the checks to run; empty runs all. ONNX files need the extra `onnx`: without
            it their check is left out, with a warning.

    Raises:
        AssertionError: for every check that fails a line that names it, with a remedy.
        ValueError: if the config is not small, and for a name in `only` that is no check.
    """
    if unknown := set(only) - set(CHECKS):
        raise ValueError(f"no check {sorted(unknown)}; the checks are {', '.join(CHECKS)}")
    config = _small(module) if config is None else config
    subject = Subject(module, config, spec, encoder=encoder, changes=changes, enters=enters)
    failures = []
    for name in only or CHECKS:
        try:
            CHECKS[name](subject)
        except unittest.SkipTest as reason:
            warnings.warn(f"{subject.name} is not checked for {name}: {reason}", stacklevel=2)
        except AssertionError as error:
            failures.append(str(error))
    if failures:
        raise AssertionError("\n\n".join(failures))


def _small(module: Any) -> Any:
    """The module's config with few steps, small batches and narrow layers."""
    config, small = module.Config(), dict[str, Any]()
    for name, value in vars(config).items():
        if name.endswith("steps") and isinstance(value, int) and value > FEWEST:
            small[name] = FEWEST + 1
        elif name.endswith("batch_size") and isinstance(value, int):
            small[name] = 8
        elif name.endswith("hidden") and isinstance(value, tuple):
            small[name] = (8,) * min(len(value), 2)
    return dataclasses.replace(config, **small)


@_check("give each phase a name that no other has, and declare what every phase changes")
def phases_have_names_of_their_own(subject: Subject) -> None:
    """The rows of a run, and its estimate of time, name the phase."""
    names = [phase.name for phase in subject.method.phases]
    assert len(set(names)) == len(names), names
    if subject.changes is not None:
        assert set(names) == set(subject.changes), (names, sorted(subject.changes))
    assert set(subject.enters) <= set(names), (names, sorted(subject.enters))


@_check("make Config a frozen dataclass of numbers, text and tuples, with a default for each")
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


@_check("an update must see the same shapes, dtypes and Python values at every call")
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


@_check("return a state with the tree, shapes and dtypes of the one that came in")
def updates_keep_structure_shapes_and_dtypes(subject: Subject) -> None:
    """A loop in a compiled program carries the state."""
    pairs = [step[1:] for step in subject.history.steps]
    for before, after in pairs + [entered[:2] for entered in subject.history.enters]:
        chex.assert_trees_all_equal_structs(before, after)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)


@_check("make State a flax.struct.dataclass of JAX arrays and nothing else, and keep them finite")
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


@_check("build nothing in init that compares unequal the next time, such as a lambda in the state")
def two_makes_have_one_structure(subject: Subject) -> None:
    """A resumed run makes the method anew and restores the state into it."""
    row = gathered(subject.data, jnp.arange(1), _taken)
    one, two = (jax.eval_shape(subject.make().init, _key(), row) for _ in range(2))
    chex.assert_trees_all_equal_structs(one, two)


@_check("return {name: (sum, count)}, scalars, with the same names at every step of a phase")
def metrics_are_named_sums_and_counts(subject: Subject) -> None:
    """One set of names per phase, each scalar; every name is measured at some step."""
    for phase, (_, update, arguments) in zip(subject.method.phases, subject.updates, strict=True):
        _, metrics, *_ = jax.eval_shape(update, *arguments)
        chex.assert_shape(jax.tree.leaves(metrics), ())
        points = [point for point in subject.whole if point.phase == phase.name]
        seen = {name for point in points for name in point.metrics}
        assert seen == set(metrics), f"{phase.name}: {sorted(seen ^ set(metrics))}"


@_check("look for a division by 0, or a logarithm or root of 0, in what is measured")
def metrics_of_one_phase_are_finite_and_per_seed(subject: Subject) -> None:
    """A metric that is not finite stops a run."""
    for point in subject.whole:
        chex.assert_shape(list(point.metrics.values()), (len(SEEDS),))
        chex.assert_tree_all_finite(point.metrics)


@_check("stop gradients where they should not flow, or correct what `changes` and `enters` declare")
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


@_check("name in `outputs` every field that the phase and those before it change")
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


@_check("draw from the key that `enter` is given, and from nothing else")
def enter_is_deterministic(subject: Subject) -> None:
    """A resumed run enters a phase again."""
    for _, once, again in subject.history.enters:
        chex.assert_trees_all_equal(once, again)


@_check("return the columns that the phase declares, and give it `sampler=sequential`")
def filling_phases_are_sequential_and_fill_what_they_declare(subject: Subject) -> None:
    """Every row is computed once."""
    for phase, (_, update, arguments) in zip(subject.method.phases, subject.updates, strict=True):
        _, _, *filled = jax.eval_shape(update, *arguments)
        shapes = {k: (x.shape[1:], x.dtype) for found in filled for k, x in found.items()}
        declared = {k: (x.shape, x.dtype) for k, x in phase.columns.items()}
        assert shapes == declared, f"{phase.name} fills {shapes}, and declares {declared}"
        assert phase.sampler is sequential or not phase.columns, phase.name


@_check("keep updates pure: no Python side effects, no state outside of `state`")
def a_method_trains_inside_anybodys_scan(subject: Subject) -> None:
    """vmap over two seeds, scan over steps, no runner: the same as with it."""
    phase, data = subject.method.phases[0], subject.data
    _, rows_key, update_key = (key[0] for key in phase_keys(seed_keys(SEEDS[:1]), 0))

    def one(state: Any, key: Key) -> Any:
        def body(state: Any, step: Any) -> tuple:
            rows = phase.sampler(rows_key, step, len(data.reward), phase.batch_size)
            batch = gathered(data, rows, _taken)
            return phase.update(state, batch, jax.random.fold_in(key, step), step)

        return jax.lax.scan(body, state, jnp.arange(3))

    keys = jnp.stack([update_key, update_key])
    after, _ = jax.jit(jax.vmap(one, (None, 0)))(subject.history.enters[0][1], keys)
    for member in range(2):
        close(_member(after, member), subject.history.steps[2].after)


@_check("clip or squash actions to the Spec's bounds, as float32, and draw only from the key")
def policies_act_inside_the_bounds_and_repeat_themselves(subject: Subject) -> None:
    """An evaluation is repeated by a resumed run."""
    state, data, spec = subject.history.steps[-1].after, subject.data, subject.spec
    assert subject.method.policies, "there is no policy"
    for name, policy in subject.method.policies.items():
        act = jax.jit(policy.act)
        action = act(state, subject.batch.observation, _key())
        chex.assert_shape(action, data.action.shape)
        assert action.dtype == jnp.float32, (name, action.dtype)
        assert bool((action >= spec.action_low[None]).all()), f"{name} acts below the bounds"
        assert bool((action <= spec.action_high[None]).all()), f"{name} acts above the bounds"
        again = act(state, subject.batch.observation, _key())
        chex.assert_trees_all_equal(action, again)
        assert policy.candidates >= 1, f"{name} draws no candidate"
        assert policy.rule, f"{name} does not say how an action is chosen"


@_check("return {name: (sum, count)} of finite scalars from diagnose")
def a_diagnosis_measures_finite_numbers(subject: Subject) -> None:
    """It is measured at every evaluation."""
    state = subject.history.steps[-1].after
    metrics = jax.jit(subject.method.diagnose)(state, subject.batch, _key())
    for total, count in metrics.values():
        chex.assert_shape((total, count), ())
    chex.assert_tree_all_finite(metrics)


@_check("split the key, or fold a number in, before every draw")
def no_key_is_used_twice(subject: Subject) -> None:
    """Draws from one key are equal, or worse, correlated."""
    for what, function, arguments in subject.programs:
        with jax.debug_key_reuse(True):
            try:
                function.trace(*arguments)
            except jax.errors.KeyReuseError as error:
                raise AssertionError(f"{what}: {error}") from error


@_check("take callbacks and prints out; return a metric in their place")
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


@_check("use operations that XLA has on every platform")
def everything_lowers_for_accelerators(subject: Subject) -> None:
    """Without having one."""
    for what, function, arguments in subject.programs:
        exported = jax.export.export(function, platforms=ACCELERATORS)(*arguments)
        assert exported.platforms == ACCELERATORS, what


@_check("let an update depend only on its arguments, not on how many came before it in a call")
def chunk_length_changes_nothing(subject: Subject) -> None:
    """One compiled call of many updates, against one call each: bit for bit."""
    last, expected = subject.train(every=100)[-1], subject.whole[-1]
    chex.assert_trees_all_equal(last.state, expected.state)
    chex.assert_trees_all_equal(last.columns, expected.columns)


@_check("read the step by `learner.every(period, ...)` alone, or leave the phase's period at 1")
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


@_check("keep everything that training changes in the state or in columns")
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


def close(mine: Any, theirs: Any) -> None:
    """Equal but for the order of additions, after a dozen Adam steps."""
    chex.assert_trees_all_close(mine, theirs, rtol=1e-3, atol=1e-5)


@_check("let nothing in an update look across seeds")
def a_seed_alone_is_the_same(subject: Subject) -> None:
    """Seed 4 of three, against seed 4 by itself, on the same devices."""
    last = subject.train((4,))[-1]
    close(_member(last.state, 0), _member(subject.whole[-1].state, 1))


@_check(
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


@_check("let nothing in an update look across seeds: no psum, pmean or all_gather")
def no_collective_is_compiled(subject: Subject) -> None:
    """Devices with different seeds never wait for each other."""
    for compiled, _ in subject.chunks:
        text = compiled.compiled.as_text()
        assert "ENTRY" in text
        for word in ("all-gather", "all-reduce", "all-to-all", "collective", "reduce-scatter"):
            assert word not in text, (compiled.phase.name, word)


@_check("read the data from the batch; do not close over an array of them")
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


@_check("use operations that XLA has on every platform")
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


# --- What is done with trained policies -----------------------------------------------------------


@_check("compute actions by JAX from the state, the observation and the key alone")
def an_exported_policy_acts_as_the_policy(subject: Subject) -> None:
    """As a file that JAX runs without this library."""
    for name, act in _acts(subject).items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "policy.jaxexport")
            path.write_bytes(export.exported(*act, images=subject.spec.images).serialize())
            _acts_alike(subject, name, path)


@_check("use operations that have an ONNX translation; the message names the one that has none")
def an_onnx_file_acts_as_the_policy(subject: Subject) -> None:
    """Where the packages onnx and onnxruntime are installed."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise unittest.SkipTest(f"it needs {package}: pip install 'jaxrl_prefs[onnx]'")
    for name, act in _acts(subject).items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "policy.onnx")
            try:
                path.write_bytes(to_onnx(*act, images=subject.spec.images))
            except ExportError as error:
                raise AssertionError(f"{name}: {error}") from error
            _acts_alike(subject, name, path)


def _acts(subject: Subject) -> dict[str, tuple]:
    """What is exported of each policy; raw units are those of the method."""
    state = subject.history.steps[-1].after
    width = subject.spec.observation_dim, subject.spec.action_dim
    maps = [Affine(np.zeros(n, np.float32), np.ones(n, np.float32)) for n in width]
    return {name: (each.act, state, *maps) for name, each in subject.method.policies.items()}


def _acts_alike(subject: Subject, name: str, path: Path) -> None:
    """Compares the policy of a file with that of the method, which sees a row at a time."""
    seen = jax.tree.map(lambda leaf: np.asarray(leaf[:FILED]), subject.batch.observation)
    act, state = jax.jit(subject.method.policies[name].act), subject.history.steps[-1].after
    expected = []
    for row in range(FILED):
        own = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], seen)
        expected.append(act(state, own, jax.random.fold_in(jax.random.key(DRAW), row))[0])
    np.testing.assert_allclose(load_policy(path)(seen, DRAW), expected, rtol=1e-4, atol=1e-4)


@_check("act on every state, with finite actions, and give finite densities")
def off_policy_evaluation_takes_every_policy(subject: Subject) -> None:
    """Fitted Q evaluation on a table of its actions; densities of recorded actions. Of vectors."""
    if subject.spec.images:
        return
    state, (rows, unit) = subject.history.steps[-1].after, fitted_data(subject.data, DISCOUNT)
    batch = subject.batch
    mesh = seed_axis.seed_mesh(jax.devices()[:1])
    for name, policy in subject.method.policies.items():
        act = jax.jit(policy.act)

        def table(observation: Any, act: Any = act) -> np.ndarray:
            drawn = [act(state, jnp.asarray(observation), jax.random.key(n)) for n in range(2)]
            return np.stack(drawn, 1)[None]

        actions = fqe.Actions(table(rows.next_observation), table(rows.observation)[:, rows.first])
        found = fqe.fit(rows, actions, FITTED, unit, mesh)
        assert np.isfinite(found.members).all(), f"{name} has no estimate: {found.members}"
        if policy.log_density is not None:
            density = jax.jit(policy.log_density)(state, batch.observation, batch.action)
            assert density.shape == (len(rows.reward),), (name, density.shape)
            assert np.isfinite(density).all(), f"{name} has densities that are not finite"
