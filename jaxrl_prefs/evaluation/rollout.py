"""Where episodes are played: in Gymnasium's environments on the host, or all on the device.

Both arenas play E episodes for each of S training seeds, the same E starts for every seed, and give
the policies what they saw in training. In Gymnasium episode e starts from environment seed
`eval_seed + e`; on the device the same number makes JAX's key, so the starts are others from the
same distribution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs.data import PreparedDataset, Task
from jaxrl_prefs.data.images import FrameStack
from jaxrl_prefs.environments import mjx, task
from jaxrl_prefs.environments.mjx import Simulator
from jaxrl_prefs.errors import DataError, EvaluationError
from jaxrl_prefs.evaluation import copies
from jaxrl_prefs.method import Policy, State
from jaxrl_prefs.parallel import processes, seed_axis
from jaxrl_prefs.types import STATE, Array, Key

BACKENDS = ("auto", "gymnasium", "mjx")
NOT_REPORTED = -1  # the success of an episode whose environment reports none


class Played(NamedTuple):
    """What came of one episode in every copy."""

    returns: np.ndarray  # [S, E] raw
    lengths: np.ndarray  # [S, E] steps
    # [S, E] bool, whether `info["success"]` held at any step; None where it is not reported
    successes: np.ndarray | None = None


class Arena(Protocol):
    """Plays one episode in every copy."""

    horizon: int  # the time limit of an episode

    def play(self, name: str, state: State, keys: Key, horizon: int) -> Played:
        """Plays at most `horizon` steps.

        Raises:
            EvaluationError: if an environment fails or shows a NaN; seeds are told apart.

        Args:
            name: of the policy.
            state: the runner's, [P, ...] on the mesh.
            keys: [P], of this evaluation.
            horizon: steps, at most the time limit.
        """
        ...

    def close(self) -> None:
        """Frees the environments."""
        ...


class RolloutSetup(NamedTuple):
    """Who plays what: every policy of every training seed, from the same starts."""

    task: Task
    policies: Mapping[str, Policy]
    dataset: PreparedDataset  # says how observations were processed
    seeds: Sequence[int]
    mesh: Mesh
    starts: Sequence[int]  # [E], an environment seed for each episode
    mapping: str  # as `SeedPlacement.mapping` of chunk.py


def chosen_backend(backend: str, dataset: PreparedDataset, mesh: Mesh) -> str:
    """Resolves "auto": "gymnasium" on a CPU and where no simulator is at hand, else "mjx".

    A CPU core steps Gymnasium's environments ten times as fast as their copies in JAX; an
    accelerator plays thousands of the copies at once and never waits for the host.
    """
    if backend not in BACKENDS:
        raise ValueError(f"eval_backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend != "auto":
        return backend
    task, platform = dataset.recording.task, mesh.devices.flat[0].platform
    able = platform != "cpu" and task is not None and mjx.available(task)
    return "mjx" if able else "gymnasium"


def make(
    backend: str,
    policies: Mapping[str, Policy],
    dataset: PreparedDataset,
    seeds: Sequence[int],
    mesh: Mesh,
    *,
    episodes: int,
    eval_seed: int,
    mapping: str,
) -> Arena:
    """Makes the arena of a backend, "gymnasium" or "mjx".

    Raises:
        DataError: if the dataset names no environment, or it cannot be made by this backend.
    """
    task = dataset.recording.task
    if task is None:
        raise DataError(f"{dataset.recording.name} names no environment to evaluate in")
    starts = [eval_seed + episode for episode in range(episodes)]
    setup = RolloutSetup(task, policies, dataset, seeds, mesh, starts, mapping)
    return OnDevice(setup) if backend == "mjx" else OnHost(setup)


# --- On the device --------------------------------------------------------------------------------


class OnDevice:
    """Policy and simulator, all seeds and episodes: one compiled program, sharded over seeds."""

    def __init__(self, setup: RolloutSetup) -> None:
        simulator = mjx.build(setup.task)
        world = jax.eval_shape(simulator.reset, jax.random.key(0))
        shown = jax.eval_shape(simulator.observe, world)
        _check_sizes(setup, shown, simulator.actions)
        if setup.dataset.by_success:  # these simulators report none
            raise DataError(success_not_reported(setup.task, setup.dataset))
        self.horizon = setup.task.max_episode_steps
        self._seeds, self._env_id = tuple(setup.seeds), setup.task.env_id
        keys = jax.vmap(jax.random.key)(np.asarray(setup.starts, np.uint32))
        self._starts = seed_axis.replicate(np.asarray(jax.random.key_data(keys)), setup.mesh)
        self._programs = {
            name: seed_axis.over_seeds(
                _episodes(simulator, setup.dataset, policy.act),
                setup.mesh,
                (0, 0, None, None),
                mapping=setup.mapping,
            )
            for name, policy in setup.policies.items()
        }

    def play(self, name: str, state: State, keys: Key, horizon: int) -> Played:
        """As Arena.play."""
        played = self._programs[name](state, keys, self._starts, np.int32(horizon))
        returns, lengths, whole = seed_axis.trim(played, len(self._seeds))
        if not whole.all():
            seed, episode = np.argwhere(np.logical_not(whole))[0]
            raise EvaluationError(
                f"policy {name!r} could not be evaluated: {self._env_id} showed a NaN or an "
                f"infinity (seed {self._seeds[seed]}, episode {episode}, step "
                f"{lengths[seed, episode]})"
            )
        return Played(returns.astype(float), lengths.astype(int))

    def close(self) -> None:
        """Nothing to free."""


def _episodes(
    simulator: Simulator, dataset: PreparedDataset, act: Callable[[State, Array, Key], Array]
) -> Callable[..., tuple[Array, Array, Array]]:
    """Builds `(state, key, starts, horizon) -> (returns [E], lengths [E], whole [E])` for one seed.

    `starts` are the bits of E keys. An episode that is not `whole` ended at an observation or a
    reward that was not finite.

    A copy whose episode is over stays where it ended, and play ends with the longest.
    """
    observe, step = jax.vmap(simulator.observe), jax.vmap(simulator.step)
    played = dataset.action_chunk.executed
    frames = dataset.processing.frame_stack

    def seen(worlds: Any) -> Any:
        return jax.tree.map(
            lambda x: x if x.dtype == jnp.uint8 else x.astype(jnp.float32), observe(worlds)
        )

    def advance(carry: tuple, raw: Any, action: Array) -> tuple:
        now, worlds, past, live, returns, lengths, whole = carry
        after, reward, over = step(worlds, action)
        sound = _is_finite(raw, reward) & jnp.isfinite(reward)
        whole &= sound | jnp.logical_not(live)
        worlds = jax.tree.map(lambda new, old: _where(live, new, old), after, worlds)
        returns = returns + jnp.where(live, reward.astype(jnp.float32), 0.0)
        going_on = live & jnp.logical_not(over) & sound
        return now + 1, worlds, past, going_on, returns, lengths + live, whole

    def program(state: State, key: Key, bits: Array, horizon: Array) -> tuple[Array, Array, Array]:
        starts = jax.random.wrap_key_data(bits)

        def going(carry: tuple) -> Array:
            now, _, _, live, *_ = carry
            return (now < horizon) & live.any()

        def body(carry: tuple) -> tuple:
            now, worlds, past, *rest = carry
            raw = seen(worlds)
            past = _with_newest(past, raw)
            carry = (now, worlds, past, *rest)
            chosen: Any = act(
                state, dataset.seen(_stacked(raw, past)), jax.random.fold_in(key, now)
            )
            actions = dataset.raw_actions(chosen)
            if played == 1:
                return advance(carry, raw, actions[:, 0])

            def follow(place: Array, carry: tuple) -> tuple:
                now, worlds, past, live, *rest = carry
                raw = seen(worlds)
                past = jax.tree.map(
                    lambda new, old: jnp.where(place > 0, new, old), _with_newest(past, raw), past
                )
                carry = (now, worlds, past, live & (now < horizon), *rest)
                return advance(carry, raw, actions[:, place])

            return jax.lax.fori_loop(0, played, follow, carry)

        count = starts.shape[0]
        first = jax.vmap(simulator.reset)(starts)
        begin = (
            jnp.int32(0),
            first,
            _first_frames(seen(first), frames),
            jnp.ones(count, bool),
            jnp.zeros(count),
            jnp.zeros(count, jnp.int32),
            jnp.ones(count, bool),
        )
        *_, returns, lengths, whole = jax.lax.while_loop(going, body, begin)
        return returns, lengths, whole

    return program


def _first_frames(raw: Any, count: int) -> dict[str, Array]:
    """The frames that an episode begins with, by camera: its first one, `count` times."""
    if not isinstance(raw, Mapping):
        return {}
    return {
        camera: jnp.concatenate([shown] * count, -1)
        for camera, shown in raw.items()
        if camera != STATE
    }


def _with_newest(past: dict[str, Array], raw: Any) -> dict[str, Array]:
    """The past frames [E, H, W, k * C] without the oldest and with the newest."""
    return {
        camera: jnp.concatenate([frames[..., raw[camera].shape[-1] :], raw[camera]], -1)
        for camera, frames in past.items()
    }


def _stacked(raw: Any, past: dict[str, Array]) -> Any:
    return {**raw, **past} if past else raw


def _is_finite(raw: Any, reward: Array) -> Array:
    """Whether each vector is finite; images always are."""
    vector = raw.get(STATE) if isinstance(raw, Mapping) else raw
    return jnp.ones_like(reward, bool) if vector is None else jnp.isfinite(vector).all(-1)


def _where(live: Array, new: Array, old: Array) -> Array:
    return jnp.where(live.reshape(live.shape + (1,) * (new.ndim - 1)), new, old)


# --- On the host ----------------------------------------------------------------------------------


class OnHost:
    """Gymnasium's environments side by side, S * E episodes; the policies act in compiled calls.

    Where memory has no room for S * E copies, the episodes are played in rounds, with the same
    results: the policies always act for all of them, so that an episode draws the same numbers.
    """

    def __init__(self, setup: RolloutSetup) -> None:
        self.horizon = setup.task.max_episode_steps
        self._dataset, self._seeds, self._whole = setup.dataset, len(setup.seeds), setup.mesh
        self._numbers, self._episodes = tuple(setup.seeds), len(setup.starts)
        self._mesh = seed_axis.here(setup.mesh)  # each process plays its own members, padding too
        rounds = -(-self._seeds // setup.mesh.devices.size)
        single = self._mesh is setup.mesh  # one process has all devices
        self._members = self._seeds if single else rounds * self._mesh.devices.size
        self._env_id = setup.task.env_id
        self._starts = list(setup.starts) * self._members
        self._envs = _copies(setup, len(self._starts))
        self._rounds = copies.rounds(len(self._starts), self._envs.num_envs)
        self._frames = FrameStack(setup.dataset.processing.frame_stack)
        act = functools.partial(
            seed_axis.over_seeds, mesh=self._mesh, in_axes=(0, 0, 0, None), mapping=setup.mapping
        )
        self._round = self._rounds[0]
        self._acts = {name: act(_at_time(policy.act)) for name, policy in setup.policies.items()}

    def play(self, name: str, state: State, keys: Key, horizon: int) -> Played:
        """As Arena.play."""
        state, keys = seed_axis.mine((state, keys), self._whole)
        count = len(self._starts)
        returns, lengths = np.zeros(count), np.zeros(count, int)
        successes = np.full(count, NOT_REPORTED, np.int8)
        for now in self._rounds:
            self._round = now
            returns[now], lengths[now] = self._play_round(name, state, keys, horizon)
            told = [copy.success for copy in self._envs.envs]
            successes[now] = [NOT_REPORTED if each is None else each for each in told]
        return self._played(returns, lengths, successes)

    def _play_round(
        self, name: str, state: State, keys: Key, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns and lengths of the episodes of this round, an episode for each copy."""
        live = np.ones(self._envs.num_envs, bool)
        returns, lengths = np.zeros(live.shape), np.zeros(live.shape, int)
        self._frames.reset()
        observation = self._reset(name)
        played = self._dataset.action_chunk.executed
        for now in range(horizon):
            if now % played == 0:
                actions = self._act(name, state, observation, keys, now)
            observation, reward, terminated, truncated = self._step(
                name, actions[:, now % played], now
            )
            self._check(name, _finite(observation) & np.isfinite(reward), live, now)
            returns += np.where(live, reward, 0.0)
            lengths += live
            live &= ~(terminated | truncated)
            if not live.any():
                break
        return returns, lengths

    def _played(self, returns: np.ndarray, lengths: np.ndarray, successes: np.ndarray) -> Played:
        """What all processes played; successes are 1, 0 or NOT_REPORTED."""
        parts = (each.reshape(self._members, -1) for each in (returns, lengths, successes))
        whole, steps, numbers = (self._joined(part) for part in parts)
        reported = np.where(numbers == NOT_REPORTED, None, numbers == 1)
        return Played(whole, steps, task.successes(reported))

    def close(self) -> None:
        """Frees the environments."""
        self._envs.close()

    def _reset(self, name: str) -> Any:
        try:
            observation, _ = self._envs.reset(seed=self._starts[self._round])
        except Exception as fault:  # an environment may fail in any way
            raise self._failed(name, 0, fault) from fault
        everywhere = np.ones(self._envs.num_envs, bool)
        self._check(name, _finite(observation) & everywhere, everywhere, -1)
        return self._frames.push(observation)

    def _step(self, name: str, action: np.ndarray, now: int) -> tuple[Any, ...]:
        try:
            observation, *rest = self._envs.step(action)[:4]
        except Exception as fault:  # an environment may fail in any way
            raise self._failed(name, now + 1, fault) from fault
        return self._frames.push(observation), *rest

    def _failed(self, name: str, step: int, fault: Exception) -> EvaluationError:
        """Tells of the copy that failed: the first one that did not finish the call."""
        why = f"{self._env_id} raised {type(fault).__name__}: {' '.join(str(fault).split())}"
        broken = [copy for copy, env in enumerate(self._envs.envs) if env.failed]
        return EvaluationError(self._told(name, broken[0] if broken else 0, step, why))

    def _check(self, name: str, sound: np.ndarray, live: np.ndarray, now: int) -> None:
        broken = np.flatnonzero(live & np.logical_not(sound))
        if len(broken):
            why = f"{self._env_id} showed a NaN or an infinity"
            raise EvaluationError(self._told(name, int(broken[0]), now + 1, why))

    def _told(self, name: str, copy: int, step: int, why: str) -> str:
        member, episode = divmod(self._round.start + copy, self._episodes)
        first = 0 if self._mesh is self._whole else jax.process_index() * self._members
        seed = self._numbers[min(first + member, self._seeds - 1)]
        return (
            f"policy {name!r} could not be evaluated: {why} (seed {seed}, episode {episode}, step "
            f"{step})"
        )

    def _joined(self, played: np.ndarray) -> np.ndarray:
        """What all processes played [M, E], as [S, E]."""
        if self._mesh is self._whole:
            return played
        return np.concatenate(processes.gathered(played))[: self._seeds]

    def _act(self, name: str, state: State, observation: Any, keys: Key, now: int) -> np.ndarray:
        """Raw observations [C, O] of the copies to the next k raw actions [C, k, A], in one call.

        The call is for all S * E episodes; those of other rounds have observations of zeros.
        """

        def by_member(leaf: np.ndarray) -> np.ndarray:
            whole = leaf if leaf.dtype == np.uint8 else np.float32(leaf)
            if len(self._rounds) > 1:
                part, whole = whole, np.zeros((len(self._starts), *leaf.shape[1:]), whole.dtype)
                whole[self._round] = part
            return whole.reshape(self._members, -1, *leaf.shape[1:])

        seen = jax.tree.map(by_member, self._dataset.seen(observation))
        batch = seed_axis.pad(seen, self._mesh)
        action = seed_axis.trim(self._acts[name](state, batch, keys, np.int32(now)), self._members)
        chosen = np.asarray(action).reshape(len(self._starts), -1)[self._round]
        return self._dataset.raw_actions(chosen)


def _finite(observation: Any) -> Any:
    """Whether each vector [S * E, O] is finite; images always are."""
    vector = observation.get(STATE) if isinstance(observation, dict) else observation
    return True if vector is None else np.isfinite(vector).all(-1)


def _at_time(act: Callable[[State, Array, Key], Array]) -> Callable[..., Array]:
    return lambda state, observation, key, now: act(
        state, observation, jax.random.fold_in(key, now)
    )


def _copies(setup: RolloutSetup, count: int) -> Any:
    """Makes a vector environment of `count` copies, or of as many as memory has room for."""
    envs = copies.side_by_side(setup.task.make, count)
    try:
        _check_sizes(
            setup, envs.single_observation_space, (envs.single_action_space.shape or (0,))[0]
        )
        task.check_interface(envs.envs[0], setup.task.env_id)
        if setup.dataset.by_success:
            _check_success(envs.envs[0], setup)
    except DataError:
        envs.close()
        raise
    return envs


def _check_success(copy: Any, setup: RolloutSetup) -> None:
    """Refuses an environment that does not report the success by which policies are scored."""
    copy.reset(seed=setup.starts[0])
    copy.step(task.some_action(copy.action_space))
    if copy.success is None:
        raise DataError(success_not_reported(setup.task, setup.dataset))


def success_not_reported(where: Task, dataset: PreparedDataset) -> str:
    """Says that an environment does not report what policies are scored by."""
    return (
        f"{where.env_id} does not report info['success'], by which policies are scored on "
        f"{dataset.recording.name}. {task.WAYS_OUT}"
    )


def _check_sizes(setup: RolloutSetup, shown: Any, actions: int) -> None:
    """Compares the data with an environment's space, or with a simulator's shapes."""
    spec, name = setup.dataset.spec, setup.dataset.recording.name
    width = spec.action_dim // setup.dataset.action_chunk.length
    parts = dict(shown) if isinstance(shown, Mapping) else {STATE: shown}
    state = parts.pop(STATE, None)
    observations = 0 if state is None else (state.shape or (0,))[0]
    here = {camera: tuple(part.shape) for camera, part in parts.items()}
    there = {camera: x.frames.shape[1:] for camera, x in setup.dataset.recording.images.items()}
    if here != there:
        raise DataError(
            f"{setup.task.env_id} shows {_cameras(here)}, but the dataset {name} has "
            f"{_cameras(there)}"
        )
    if (observations, actions) != (spec.observation_dim, width):
        raise DataError(
            f"{setup.task.env_id} has {observations} observations and {actions} actions, but the "
            f"dataset {name} has {spec.observation_dim} and {width}"
        )


def _cameras(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Cameras with the sizes of their images, in words."""
    listed = [f"{name!r} of {'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    return f"images {', '.join(listed)}" if listed else "no images"
