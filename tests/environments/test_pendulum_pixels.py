"""The pendulum in pictures: the drawing, the environment, the simulator and a dataset's frames."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from jaxrl_prefs.data.generate import pendulum, pendulum_pixels
from jaxrl_prefs.environments import mjx, pendulum_drawing, task
from jaxrl_prefs.environments.pendulum_drawing import ANGLES, draw, nearest, pictures
from jaxrl_prefs.runs import film

ENV_ID = "jaxrl_prefs/PendulumPixels-v0"
TURNS = np.arange(-ANGLES // 2, ANGLES // 2) * (2 * np.pi / ANGLES)


@functools.partial(jax.jit, static_argnames="size")
def drawing(angle: jax.Array, size: int = pendulum_drawing.SIZE) -> jax.Array:
    return draw(angle, size)


def drawn_at(angle: np.ndarray) -> np.ndarray:
    return np.asarray(drawing(np.float32(angle)))


def wrapped(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def lean(frames: np.ndarray) -> np.ndarray:
    """The angles [M] from the pivot to the centroids of pictures [M, H, W, 1]."""
    light = frames[..., 0].astype(float)
    place = np.arange(light.shape[1]) - (light.shape[1] - 1) / 2
    right, down = (light * place).sum((1, 2)), (light * place[:, None]).sum((1, 2))
    return np.arctan2(-right, -down)


# --- The drawing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 17])
def test_up_and_left_are_where_gymnasium_has_them(size: int) -> None:
    up, left = np.asarray(drawing(np.float32([0.0, np.pi / 2]), size))[..., 0]
    assert up.dtype == np.uint8 and up.shape == (size, size)
    middle, far, near = size // 2, 2 * size // 3, size // 3
    assert up[near, middle] == left[middle, near] == 255
    assert up[far, middle] == left[middle, far] == 0
    assert up[0, 0] == 0


def test_pictures_are_mirrored_as_their_angles_are() -> None:
    drawn = drawn_at(TURNS)
    np.testing.assert_array_equal(drawn_at(-TURNS), drawn[:, :, ::-1])
    np.testing.assert_array_equal(drawn_at(np.pi - TURNS), drawn[:, ::-1])
    up = drawn[ANGLES // 2]
    np.testing.assert_array_equal(up, up[:, ::-1])


def test_the_angle_is_that_of_the_centroid() -> None:
    angle = np.random.default_rng(0).uniform(-np.pi, np.pi, ANGLES)
    error = wrapped(lean(drawn_at(angle)) - angle)
    assert np.degrees(np.abs(error).max()) < 0.2


def test_edges_are_grey_and_every_direction_has_its_own_picture() -> None:
    drawn = pictures()
    assert len(np.unique(drawn)) > 200
    assert len({picture.tobytes() for picture in drawn}) == ANGLES
    turned = drawn_at(TURNS + 0.05)  # a step of 0.05 s at 1 rad/s
    change = np.abs(turned.astype(int) - drawn_at(TURNS)).sum((1, 2, 3))
    assert change.min() > 1000  # four white pixels


def test_numpy_and_jax_draw_the_same_bytes() -> None:
    angle = np.random.default_rng(1).uniform(-90, 90, (4, 1000)).astype(np.float32)
    expected = pictures()[nearest(angle)]
    assert expected.shape == (4, 1000, 32, 32, 1)
    np.testing.assert_array_equal(jax.jit(jax.vmap(draw))(angle), expected)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(drawing(jnp.float64(angle)), expected)


def test_the_stored_pictures_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        pictures()[0] = 1


# --- The environment ------------------------------------------------------------------------------


def test_the_environment_is_pendulum_v1_in_pictures() -> None:
    ours, theirs = task.named(ENV_ID).bare(), gymnasium.make("Pendulum-v1")
    assert ours.observation_space == gymnasium.spaces.Box(0, 255, (32, 32, 1), np.uint8)
    assert ours.action_space == theirs.action_space
    rng, over = np.random.default_rng(0), False
    seen, flat = ours.reset(seed=5)[0], theirs.reset(seed=5)[0]
    for step in range(200):
        assert not over, step
        assert ours.observation_space.contains(seen)
        assert abs(wrapped(lean(seen[None])[0] - np.arctan2(flat[1], flat[0]))) < 0.01
        action = rng.uniform(-3, 3, 1).astype(np.float32)
        seen, reward, *ends, _ = ours.step(action)
        flat, expected, *ends_there, _ = theirs.step(action)
        assert (reward, ends) == (expected, ends_there)
        over = ends[1]
    assert over


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")  # Pendulum-v1's actions
def test_gymnasiums_checker_has_nothing_to_say() -> None:
    check_env(task.named(ENV_ID).bare().unwrapped, skip_render_check=True)


def test_a_film_shows_what_the_policy_sees(tmp_path: Path) -> None:
    env = task.named(ENV_ID).bare("rgb_array")
    seen, _ = env.reset(seed=0)
    drawn = film.frame(env, ENV_ID)
    assert drawn.shape == (256, 256, 3)
    np.testing.assert_array_equal(drawn[4::8, 4::8], seen.repeat(3, -1))
    reel = film.Film(None)
    for _ in range(3):
        reel.add(env, ENV_ID, 0)
        env.step(np.zeros(1, np.float32))
    reel.sheet(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_other_sizes_are_an_argument() -> None:
    task.register()
    env: Any = gymnasium.make(ENV_ID, size=20).unwrapped
    seen, _ = env.reset(seed=0)
    np.testing.assert_array_equal(seen, pictures(20)[nearest(env.state[0])])
    assert env.observation_space.shape == (20, 20, 1)


# --- The simulator --------------------------------------------------------------------------------


def test_the_simulator_is_the_environment() -> None:
    """Damped, so that rounding does not grow as it does where the pendulum stands upright."""
    pixels = task.named(ENV_ID)
    assert mjx.available(pixels)
    simulator, env = mjx.build(pixels), pixels.bare()
    step, observe = jax.jit(simulator.step), jax.jit(simulator.observe)
    seen, _ = env.reset(seed=1)
    inner: Any = env.unwrapped
    world = simulator.place(*map(jnp.float32, inner.state))
    rng, alike = np.random.default_rng(0), 0
    for _ in range(200):
        image = np.asarray(observe(world)["image"])
        assert (image.shape, image.dtype) == ((32, 32, 1), np.uint8)
        alike += np.array_equal(image, seen)
        torque = (rng.normal(0, 0.5, 1) - inner.state[1:]).astype(np.float32)
        seen, expected, *_ = env.step(torque)
        world, reward, over = step(world, torque)
        np.testing.assert_allclose(np.stack(world), inner.state, atol=2e-5)
        assert float(reward) == pytest.approx(expected, abs=1e-4) and not over
    assert alike > 190  # an angle between two directions may round to the other one


def test_starts_are_those_of_the_flat_pendulum() -> None:
    pixels, flat = (mjx.build(task.named(name)) for name in (ENV_ID, "Pendulum-v1"))
    key = jax.random.key(3)
    assert pixels.reset(key) == flat.reset(key)


# --- A dataset's frames ---------------------------------------------------------------------------


def test_a_datasets_pictures_are_drawn_once_each() -> None:
    rng = np.random.default_rng(0)
    played, *_ = pendulum.rollout(rng, 3, pendulum.mixed(rng, 3))  # [3, 201, 3]
    rows, after = (part.reshape(-1, 3) for part in (played[:, :-1], played[:, 1:]))
    whole, places = pendulum_pixels.shown(rows, after, np.array([200, 200, 200]))
    np.testing.assert_array_equal(whole, played.reshape(-1, 3))
    np.testing.assert_array_equal(whole[places], rows)
    np.testing.assert_array_equal(whole[places + 1], after)
    frames = pendulum_pixels.frames(whole)
    assert (frames.shape, frames.dtype) == ((603, 32, 32, 1), np.uint8)
    error = wrapped(lean(frames) - np.arctan2(whole[:, 1], whole[:, 0]))
    assert np.degrees(np.abs(error).max()) < 0.2


def test_a_recorded_picture_is_the_environments() -> None:
    env = task.named(ENV_ID).bare()
    seen, flat = [], []
    for seed in range(50):
        seen.append(env.reset(seed=seed)[0])
        flat.append(pendulum.observe(*env.unwrapped.state))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(pendulum_pixels.frames(np.stack(flat)), np.stack(seen))


def test_sizes_of_other_drawings() -> None:
    assert pendulum_pixels.frames(np.eye(2, dtype=np.float32), 20).shape == (2, 20, 20, 1)
    assert pendulum_drawing.SIZE == 32
