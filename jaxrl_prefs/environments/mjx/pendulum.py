"""Gymnasium's Pendulum-v1, as numbers and as pictures."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrl_prefs.environments import pendulum_drawing
from jaxrl_prefs.environments.mjx.simulator import Simulator
from jaxrl_prefs.types import Array, Key


class World(NamedTuple):
    """The pendulum's angle, 0 upright, and its speed in radians per second; both []."""

    angle: Array
    speed: Array


def build(env: Any) -> Simulator:
    """Makes the simulator of `env`, a PendulumEnv, with its masses, limits and time step."""
    inertia, pull = env.m * env.l**2 / 3, env.m * env.g * env.l / 2

    def reset(key: Key) -> World:
        unit = jax.random.uniform(key, (2,), minval=-1.0)
        return World(jnp.pi * unit[0], unit[1])

    def observe(world: World) -> Array:
        return jnp.stack([jnp.cos(world.angle), jnp.sin(world.angle), world.speed])

    def step(world: World, action: Array) -> tuple[World, Array, Array]:
        angle, speed = world
        torque = jnp.clip(action[0], -env.max_torque, env.max_torque)
        lean = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = lean**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = speed + (pull * jnp.sin(angle) + torque) / inertia * env.dt
        speed = jnp.clip(speed, -env.max_speed, env.max_speed)
        return World(angle + speed * env.dt, speed), -cost, jnp.bool_(False)

    return Simulator(reset, World, observe, step, 1)


def pixels(env: Any) -> Simulator:
    """Makes the simulator of `env`, a PendulumPixels; it shows pictures [size, size, 1] uint8."""

    def observe(world: World) -> dict[str, Array]:
        return {"image": pendulum_drawing.draw(world.angle, env.size)}

    return build(env)._replace(observe=observe)
