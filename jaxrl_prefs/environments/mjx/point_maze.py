"""Gymnasium-Robotics' PointMaze, and the mazes of `maze2d/...`, which hide their goals."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.environments.mjx import physics
from jaxrl_prefs.environments.mjx.physics import Pose
from jaxrl_prefs.environments.mjx.simulator import Simulator
from jaxrl_prefs.types import Array, Key

FASTEST = 5.0  # the ball's speed is cut to it, along each axis, before every step
REACHED = 0.45  # distance at which a goal counts as reached
APART = 0.5  # cells that a start keeps away from the goal


class World(NamedTuple):
    """The ball, where it should go, and the key of goals to come."""

    pose: Pose
    goal: Array  # [2]
    key: Key


class Cells(NamedTuple):
    """Where goals and starts are drawn."""

    goals: np.ndarray  # [G, 2] centres
    starts: np.ndarray  # [R, 2]
    noise: float  # half the width of the square around a centre
    apart: float  # the least distance of a start's centre from the goal


def point_maze(env: Any) -> Simulator:
    """Makes the simulator of `env`, a PointMazeEnv."""
    ball, cells = _ball(env), _cells(env)
    moves_on = env.continuing_task and env.reset_target and len(cells.goals) > 1

    def observe(world: World) -> Array:
        position, velocity = world.pose.position, world.pose.velocity
        return jnp.concatenate([position, world.goal, position, velocity])

    def step(world: World, action: Array) -> tuple[World, Array, Array]:
        pose = _pushed(ball, world.pose, action)
        distance = jnp.linalg.norm(pose.position - world.goal)
        reached = distance <= REACHED
        reward = jnp.exp(-distance) if env.reward_type == "dense" else reached * 1.0
        after = world._replace(pose=pose)
        if moves_on:
            key, draw = jax.random.split(world.key)
            goal = _draw(draw, cells.goals, cells.noise, pose.position, REACHED)
            after = after._replace(goal=jnp.where(reached, goal, world.goal), key=key)
        return after, reward, reached & (not env.continuing_task)

    return _simulator(ball, cells, observe, step)


def hidden_goal(env: Any) -> Simulator:
    """Makes the simulator of `env`, a Maze2d."""
    from jaxrl_prefs.environments.mazes import GOAL_RADIUS

    ball = _ball(env._maze)

    def observe(world: World) -> Array:
        return jnp.concatenate([world.pose.position, world.pose.velocity])

    def step(world: World, action: Array) -> tuple[World, Array, Array]:
        pose = _pushed(ball, world.pose, action)
        near = jnp.linalg.norm(pose.position - env._goal) <= GOAL_RADIUS
        return world._replace(pose=pose), near * 1.0, jnp.bool_(False)

    return _simulator(ball, _cells(env._maze), observe, step)


def _simulator(ball: physics.Physics, cells: Cells, observe: Any, step: Any) -> Simulator:
    def place(position: Array, velocity: Array, goal: Array, key: Key | None = None) -> World:
        pose, _ = ball.place(jnp.asarray(position), jnp.asarray(velocity))
        return World(pose, jnp.asarray(goal), jax.random.key(0) if key is None else key)

    def reset(key: Key) -> World:
        goal_key, cell_key, start_key, key = jax.random.split(key, 4)
        nowhere = jnp.full(2, jnp.inf)
        goal = _draw(goal_key, cells.goals, cells.noise, nowhere, 0.0)
        # Only the cell keeps its distance; the noise comes after.
        cell = _draw(cell_key, cells.starts, 0.0, goal, cells.apart)
        start = cell + _square(start_key, cells.noise)
        return place(start, jnp.zeros(2), goal, key)

    return Simulator(reset, place, observe, step, 2)


def _ball(env: Any) -> physics.Physics:
    return physics.build(env.point_env.model, env.point_env.frame_skip)


def _cells(env: Any) -> Cells:
    maze, scale = env.maze, env.maze.maze_size_scaling
    return Cells(
        np.asarray(maze.unique_goal_locations),
        np.asarray(maze.unique_reset_locations),
        env.position_noise_range * scale,
        APART * scale,
    )


def _pushed(ball: physics.Physics, pose: Pose, action: Array) -> Pose:
    pose = pose._replace(velocity=jnp.clip(pose.velocity, -FASTEST, FASTEST))
    return ball.advance(pose, jnp.clip(action, -1.0, 1.0))[0]


def _draw(key: Key, centres: np.ndarray, noise: float, other: Array, distance: float) -> Array:
    """Draws a point near one of `centres`, again and again until it is farther from `other`."""

    def again(carry: tuple[Key, Array]) -> tuple[Key, Array]:
        key, cell_key, noise_key = jax.random.split(carry[0], 3)
        cell = jnp.asarray(centres)[jax.random.randint(cell_key, (), 0, len(centres))]
        return key, cell + _square(noise_key, noise)

    def near(carry: tuple[Key, Array]) -> Array:
        return jnp.linalg.norm(carry[1] - other) <= distance

    return jax.lax.while_loop(near, again, again((key, jnp.zeros(2))))[1]


def _square(key: Key, half: float) -> Array:
    return jax.random.uniform(key, (2,), minval=-half, maxval=half)
