"""Compares the simulators in JAX with Gymnasium's environments, and times them.

    python -m benchmarks.simulators --envs=Pendulum-v1,Hopper-v5 --episodes=100

First, step by step in float64: episodes of random actions from Gymnasium's own starts; the largest
difference of an observation and of a reward within the first 50 steps, and whether both end at the
same step. Contacts can let a rounding grow a million times within these steps. So it also says in
how many episodes a difference exceeds 1e-3, in how many it does for MuJoCo against itself from
starts a little --moved, and how much differs after single steps, each from where Gymnasium is.
Second, as evaluations: whole episodes of a fixed policy (random and linear, tanh(W s)) in float32,
each backend from its own starts; mean return and length with their standard errors. Third, how long
it took, compilation apart.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.environments import mjx
from jaxrl_prefs.environments import task as tasks
from jaxrl_prefs.environments.mjx import Simulator
from jaxrl_prefs.errors import ConfigError, DataError
from jaxrl_prefs.keys import seed_keys
from jaxrl_prefs.parallel import seed_axis

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
ENVS = (
    *("Pendulum-v1", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"),
    *("PointMaze_UMaze-v3", "PointMaze_MediumDense-v3", "jaxrl_prefs/Maze2dUMaze-v0"),
)
LIMIT = 1e-3  # of a difference that the same physics may have
flags.DEFINE_list("envs", list(ENVS), "environments", **_OWN)
flags.DEFINE_integer("episodes", 100, "episodes of each", **_OWN)
flags.DEFINE_integer("steps", 50, "steps to compare", **_OWN)
flags.DEFINE_float("moved", 1e-14, "size of the moves that MuJoCo's own starts are given", **_OWN)
flags.DEFINE_integer("horizon", 200, "steps of an evaluation's episodes at most", **_OWN)
flags.DEFINE_boolean("play", True, "compare evaluations too", **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)


class Difference(NamedTuple):
    """The largest differences over episodes and steps, and how many episodes ended."""

    observation: float
    reward: float
    steps: int  # compared in all
    ended: int  # episodes that ended within the steps, by both simulators at the same step
    apart: int  # episodes that only one of them ended
    beyond: int  # episodes in which an observation or a reward differs by more than LIMIT
    single: tuple[float, float]  # observation and reward after one step from Gymnasium's state


def start_of(env: Any) -> tuple[np.ndarray, ...]:
    """The numbers from which `place` makes the world that Gymnasium's environment is in."""
    inner = env.unwrapped
    if hasattr(inner, "state"):  # Pendulum
        return tuple(np.array(number) for number in inner.state)
    maze = inner if hasattr(inner, "point_env") else getattr(inner, "_maze", None)
    robot = maze.point_env if maze else inner
    pose = np.array(robot.data.qpos), np.array(robot.data.qvel)
    return (*pose, np.array(maze.goal)) if maze else pose


def actions(env: Any, episodes: int, steps: int) -> np.ndarray:
    """Draws actions [T, E, A] evenly from the box of `env`."""
    box = env.action_space
    shape = (steps, episodes, len(box.low))
    return np.random.default_rng(0).uniform(box.low, box.high, shape).astype(np.float32)


def batched(simulator: Simulator) -> Simulator:
    """The simulator of many worlds at once, compiled."""
    place, observe, step = (
        jax.jit(jax.vmap(fn)) for fn in (simulator.place, simulator.observe, simulator.step)
    )
    return simulator._replace(place=place, observe=observe, step=step)


def worlds_of(simulator: Simulator, envs: list[Any]) -> Any:
    """The worlds [E, ...] that Gymnasium's environments are in."""
    starts = [np.stack(parts) for parts in zip(*map(start_of, envs), strict=True)]
    worlds = simulator.place(*starts)
    robots = [env.unwrapped for env in envs]
    if hasattr(robots[0], "_contact_cost_weight"):  # the Ant: MuJoCo's derived position lags
        last = [robot.data.body(robot._main_body).xpos[0] for robot in robots]
        worlds = worlds._replace(forward=np.array(last))
    return worlds


def difference(env_id: str, episodes: int, steps: int) -> Difference:
    """Plays random actions in both simulators, side by side from Gymnasium's starts.

    Call it in double precision: a robot's contacts let rounding grow by orders of magnitude.
    """
    task = tasks.named(env_id)
    simulator = batched(mjx.build(task))
    envs = [task.make() for _ in range(episodes)]
    first = np.array([env.reset(seed=seed)[0] for seed, env in enumerate(envs)])
    worlds = worlds_of(simulator, envs)
    gaps = np.abs(simulator.observe(worlds) - first).max(1)
    reward_gaps, single = np.zeros(episodes), np.zeros(2)
    theirs, ours, compared = np.zeros(episodes, int), np.zeros(episodes, int), 0
    for now, action in enumerate(actions(envs[0], episodes, steps), 1):
        anew, again, _ = simulator.step(worlds_of(simulator, envs), np.float64(action))
        worlds, reward, over = simulator.step(worlds, np.float64(action))
        seen, seen_anew = np.asarray(simulator.observe(worlds)), np.asarray(simulator.observe(anew))
        for e in np.flatnonzero((theirs == 0) & (ours == 0)):
            observation, expected, ended, *_ = envs[e].step(action[e])
            gaps[e] = max(gaps[e], np.abs(seen[e] - observation).max())
            reward_gaps[e] = max(reward_gaps[e], abs(float(reward[e]) - float(expected)))
            once = np.abs(seen_anew[e] - observation).max(), abs(float(again[e]) - float(expected))
            single = np.maximum(single, once)
            theirs[e], ours[e] = now * ended, now * bool(over[e])
            compared += 1
    for env in envs:
        env.close()
    return Difference(
        observation=float(gaps.max()),
        reward=float(reward_gaps.max()),
        steps=compared,
        ended=int(((theirs == ours) & (theirs > 0)).sum()),
        apart=int((theirs != ours).sum()),
        beyond=int((np.maximum(gaps, reward_gaps) > LIMIT).sum()),
        single=(float(single[0]), float(single[1])),
    )


def own_growth(env_id: str, episodes: int, steps: int, moved: float) -> int | None:
    """Episodes in which MuJoCo leaves its own path by more than LIMIT if its start is moved.

    The actions and starts are those of `difference`, before positions and velocities move by normal
    numbers times `moved`. None where `env_id` is no robot of Gymnasium's.
    """
    pair = [tasks.named(env_id).make() for _ in range(2)]
    if not hasattr(pair[0].unwrapped, "set_state"):
        return None
    chosen, beyond = actions(pair[0], episodes, steps), 0
    for seed in range(episodes):
        for env, size in zip(pair, (0.0, moved), strict=True):
            env.reset(seed=seed)
            robot, shift = env.unwrapped, np.random.default_rng(seed)
            pose = [
                x + size * shift.normal(size=x.shape) for x in (robot.data.qpos, robot.data.qvel)
            ]
            robot.set_state(*pose)
        gap = 0.0
        for action in chosen[:, seed]:
            (one, _, over, *_), (other, _, end, *_) = (env.step(action) for env in pair)
            gap = max(gap, np.abs(one - other).max())
            if over or end:
                break
        beyond += gap > LIMIT
    return beyond


class Played(NamedTuple):
    """Returns and lengths [E] of one evaluation, and its seconds."""

    returns: np.ndarray
    lengths: np.ndarray
    seconds: float
    compile_seconds: float = 0.0


def play(env_id: str, episodes: int, horizon: int) -> tuple[Played, Played]:
    """Evaluates the fixed policy by Gymnasium and on the device."""
    host, device = (play_by(name, env_id, episodes, horizon) for name in ("gymnasium", "mjx"))
    return host, device


def play_by(backend: str, env_id: str, episodes: int, horizon: int) -> Played:
    """Evaluates the fixed policy by one backend, "gymnasium" or "mjx"."""
    from jaxrl_prefs.data import Processing, prepare
    from jaxrl_prefs.evaluation import rollout
    from jaxrl_prefs.method import Policy

    made_up = prepare(_recording(env_id), Processing())
    width, actions = made_up.spec.observation_dim, made_up.spec.action_dim
    weights = np.random.default_rng(0).normal(0, 1 / np.sqrt(width), (width, actions))

    def act(state: Any, observation: Any, key: Any) -> Any:
        del state, key
        return jnp.tanh(observation @ jnp.asarray(weights, jnp.float32))

    mesh = seed_axis.seed_mesh(jax.devices()[:1])
    keys = seed_axis.pad(seed_keys([0]), mesh)
    arena = rollout.make(
        backend,
        {"fixed": Policy(act, 1, "the one there is")},
        made_up,
        (0,),
        mesh,
        episodes=episodes,
        eval_seed=0,
        mapping="auto",
    )
    horizon = min(horizon, arena.horizon)
    begin = time.perf_counter()
    arena.play("fixed", {}, keys, 1)
    middle = time.perf_counter()
    returns, lengths, _ = arena.play("fixed", {}, keys, horizon)
    end = time.perf_counter()
    arena.close()
    return Played(returns[0], lengths[0], end - middle, middle - begin)


def _recording(env_id: str) -> Any:
    """Made-up rows with an environment's sizes."""
    from jaxrl_prefs.data import Dataset

    task = tasks.named(env_id)
    env = task.make()
    size, low, high = env.observation_space.shape[0], env.action_space.low, env.action_space.high
    env.close()
    rows = np.zeros((8, size), np.float32)
    return Dataset(
        name=env_id,
        family="other",
        observation=rows,
        action=np.tile(np.float32((low + high) / 2), (8, 1)),
        reward=np.zeros(8, np.float32),
        terminal=np.zeros(8, bool),
        next_observation=rows,
        continues=np.zeros(8, bool),
        action_low=low,
        action_high=high,
        task=task,
        references=None,
        reference_source="",
        returns=np.zeros(1),
        lengths=np.asarray([8]),
    )


def described(played: Played) -> str:
    """Mean and standard error of returns and lengths, and environment steps per second."""
    error = np.sqrt(len(played.returns))
    return (
        f"return {played.returns.mean():.2f} +- {played.returns.std(ddof=1) / error:.2f}, "
        f"length {played.lengths.mean():.1f} +- {played.lengths.std(ddof=1) / error:.1f}, "
        f"{played.lengths.sum() / played.seconds:,.0f} steps/s "
        f"(after {played.compile_seconds:.0f} s)"
    )


def report(env_id: str) -> None:
    """Prints the block of one environment."""
    start = time.process_time()
    with jax.enable_x64(True):
        found = difference(env_id, FLAGS.episodes, FLAGS.steps)
    spent = time.process_time() - start
    itself = own_growth(env_id, FLAGS.episodes, FLAGS.steps, FLAGS.moved)
    against_itself = "" if itself is None else f" (MuJoCo against itself: {itself})"
    print(
        f"{env_id}: {FLAGS.episodes} episodes, {found.steps} steps: observations differ by "
        f"{found.observation:.1e}, rewards by {found.reward:.1e}, by more than {LIMIT:g} in "
        f"{found.beyond} episodes{against_itself}; single steps by {found.single[0]:.1e} and "
        f"{found.single[1]:.1e}; {found.ended} ended at the same step, {found.apart} did not "
        f"({spent:.0f} CPU-s)",
        flush=True,
    )
    if FLAGS.play:
        host, device = play(env_id, FLAGS.episodes, FLAGS.horizon)
        print(f"  gymnasium: {described(host)}\n  device:    {described(device)}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one block for each environment."""
    try:
        commandline.read(FLAGS, argv, "; lists are separated by commas")
        if FLAGS.help:
            print(commandline.usage(__doc__, FLAGS))
            return 0
        for env_id in FLAGS.envs:
            report(env_id)
    except (flags.Error, ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
