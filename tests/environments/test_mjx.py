"""Environments in JAX against Gymnasium's; benchmarks/simulators.py does the same at length."""

from __future__ import annotations

import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.simulators import difference
from jaxrl_prefs.environments import mjx
from jaxrl_prefs.environments import task as tasks
from jaxrl_prefs.environments.mjx import pendulum, physics
from jaxrl_prefs.environments.mjx.physics import Physics, Pose
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.types import Array

KNOWN = (
    *("Pendulum-v1", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"),
    *("PointMaze_UMaze-v3", "PointMaze_Large_Diverse_GR-v3", "jaxrl_prefs/Maze2dUMaze-v0"),
)


def test_pendulum_is_gymnasiums(x64: None) -> None:
    found = difference("Pendulum-v1", episodes=20, steps=50)
    assert found.steps == 1000 and found.apart == 0
    # Gymnasium takes actions in float32, and an upright pendulum lets the rounding grow.
    assert found.observation < 1e-5 and found.reward < 1e-5


@pytest.mark.slow
def test_hopper_is_gymnasiums_also_in_when_it_falls(x64: None) -> None:
    found = difference("Hopper-v5", episodes=4, steps=50)
    assert found.observation < 1e-6 and found.reward < 1e-6 and max(found.single) < 1e-6
    assert found.ended >= 3 and found.apart == found.beyond == 0


def test_starts_have_gymnasiums_distribution() -> None:
    for env_id in ("Pendulum-v1", "Hopper-v5", "HalfCheetah-v5"):
        task = tasks.named(env_id)
        env, simulator = task.make(), mjx.build(task)
        theirs = np.array([env.reset(seed=seed)[0] for seed in range(400)])
        keys = jax.vmap(jax.random.key)(np.arange(400))
        start = jax.jit(jax.vmap(lambda key, s=simulator: s.observe(s.reset(key))))
        ours = np.asarray(start(keys))
        error = np.sqrt((theirs.var(0) + ours.var(0)) / 400) + 1e-9
        assert (np.abs(theirs.mean(0) - ours.mean(0)) < 5 * error).all(), env_id
        np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.2, atol=1e-6)


def test_maze_starts_keep_away_from_goals_and_on_cells() -> None:
    simulator = mjx.build(tasks.named("PointMaze_UMaze-v3"))
    worlds = jax.jit(jax.vmap(simulator.reset))(jax.vmap(jax.random.key)(np.arange(300)))
    start, goal = np.asarray(worlds.pose.position), np.asarray(worlds.goal)
    maze = tasks.named("PointMaze_UMaze-v3").make().unwrapped.maze
    centres = np.array(maze.unique_reset_locations)
    for points in (start, goal):
        offset = np.abs(points[:, None] - centres[None]).max(-1).min(1)
        assert 0.2 < offset.max() <= 0.25  # noise of a quarter of a cell
    cell = centres[np.abs(start[:, None] - centres[None]).max(-1).argmin(1)]
    assert np.linalg.norm(cell - goal, axis=1).min() > 0.5
    assert len(np.unique(cell, axis=0)) == len(centres)


def test_a_reached_goal_ends_or_moves_on_as_the_task_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def still(model: object, frames: int) -> Physics:
        def place(position: Array, velocity: Array) -> tuple[Pose, None]:
            return Pose(position, velocity, velocity), None

        return Physics(place, lambda pose, control: (pose, None), 0.01)

    monkeypatch.setattr(physics, "build", still)  # MJX takes its time to compile
    for arguments, moved, ended in (
        ({"continuing_task": True, "reset_target": False}, False, False),
        ({"continuing_task": True, "reset_target": True}, True, False),
        ({"continuing_task": False, "reset_target": False}, False, True),
    ):
        spec = gymnasium.spec("PointMaze_UMaze-v3")
        spec.kwargs.update(arguments)
        simulator = mjx.build(tasks.recorded(spec.to_json(), 0))
        spot = np.array([-1.0, 1.0])
        world = simulator.place(spot, np.zeros(2), spot + 0.3)
        after, reward, over = jax.jit(simulator.step)(world, jnp.zeros(2))
        assert float(reward) == 1.0 and bool(over) == ended
        distance = float(jnp.linalg.norm(after.goal - after.pose.position))
        assert (distance > 0.45) == moved


def test_every_simulator_is_found_and_others_are_refused() -> None:
    for env_id in KNOWN:
        assert mjx.available(tasks.named(env_id)), env_id
    for env_id in ("Swimmer-v5", "Hopper-v4", "AntMaze_UMaze-v5"):
        task = tasks.named(env_id)
        assert not mjx.available(task)
        with pytest.raises(DataError, match=r"has no simulator in JAX.*--eval_backend=gymnasium"):
            mjx.build(task)


def test_without_mjx_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco.mjx", None)
    with pytest.raises(DataError, match=r"install jaxrl_prefs\[mjx\]"):
        mjx.build(tasks.named("Hopper-v5"))
    mjx.build(tasks.named("Pendulum-v1"))  # needs none


def test_the_pendulums_arguments_hold() -> None:
    env = gymnasium.make("Pendulum-v1", g=3.0).unwrapped
    simulator = pendulum.build(env)
    env.reset(seed=0)
    world = simulator.place(*(jnp.float32(x) for x in env.state))
    expected, reward, *_ = env.step(np.float32([5.0]))  # beyond the limit of 2
    world, ours, over = simulator.step(world, jnp.float32([5.0]))
    np.testing.assert_allclose(simulator.observe(world), expected, rtol=1e-5)
    assert float(ours) == pytest.approx(reward, rel=1e-5) and not over


def test_positions_move_by_joint_type(x64: None) -> None:
    """A free joint turns in its own frame; a hinge and a slide add up."""
    half = np.sqrt(0.5)
    lying = np.array([half, half, 0.0, 0.0])  # a quarter turn about x
    position = jnp.asarray([1.0, 2.0, 3.0, *lying, 0.5, -0.5])
    change = jnp.asarray([0.1, 0.0, -0.1, 0.0, np.pi / 2, 0.0, 0.25, 1.0])
    moved = jax.jit(lambda p, c: physics.shifted(np.array([0, 3, 2]), p, c))(position, change)
    # i-turn then a quarter about its own y: (1 + i)(1 + j) / 2 = (1 + i + j + k) / 2.
    expected = [1.1, 2.0, 2.9, 0.5, 0.5, 0.5, 0.5, 0.75, 0.5]
    np.testing.assert_allclose(moved, expected, atol=1e-12)
    still = jax.jit(physics.turned)(jnp.asarray(2 * lying), jnp.zeros(3))
    np.testing.assert_allclose(still, lying, atol=1e-12)  # of length 1 again


def test_a_sphere_meets_the_nearest_point_of_a_box(x64: None) -> None:
    """Beside a face, off an edge of a turned box, and with its centre inside."""
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x to y
    touch = jax.jit(physics.sphere_on_box)(
        jnp.asarray([[1.5, 0.2, 0.0], [3.0, 5.0, 0.0], [0.5, 0.0, 0.0]]),
        jnp.asarray([np.eye(3), turn, np.eye(3)]),
        jnp.asarray([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]),
        jnp.full((3, 3), 0.4),
    )
    # The turned box reaches from -1 to 1 in y: its nearest point to (3, 5, 0) is (0, 1, 0).
    np.testing.assert_allclose(touch.gap, [0.5, 5.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(touch.distance, [0.1, 4.6, -0.4], atol=1e-12)
    normals = touch.frame[:2, 0]  # towards the box
    np.testing.assert_allclose(normals, [[-1, 0, 0], [-0.6, -0.8, 0]], atol=1e-12)
    np.testing.assert_allclose(touch.point[0], [1.05, 0.2, 0.0], atol=1e-12)
    square = np.einsum("cij,ckj->cik", touch.frame[:2], touch.frame[:2])
    np.testing.assert_allclose(square, np.tile(np.eye(3), (2, 1, 1)), atol=1e-12)


def test_friction_follows_a_steep_capsule_on_a_plane(x64: None) -> None:
    up, x, y = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    frame = np.tile(np.stack([up, y, -x]), (3, 1, 1))  # what MJX makes of a steep capsule
    lean = np.array([0.06, 0.08, np.sqrt(0.99)])
    axes = np.zeros((3, 3, 3))
    axes[:, :, 2] = lean, up, lean
    which = jnp.asarray([True, True, False])  # the second stands upright, the third is a sphere
    found = jax.jit(physics.turned_with_capsule)(jnp.asarray(frame), jnp.asarray(axes), which)
    np.testing.assert_allclose(found[0], [up, [0.6, 0.8, 0], [-0.8, 0.6, 0]], atol=1e-12)
    np.testing.assert_array_equal(found[1:], frame[1:])
