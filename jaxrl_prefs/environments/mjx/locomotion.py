"""Gymnasium's HalfCheetah-v5, Hopper-v5, Walker2d-v5 and Ant-v5.

They share one form: a reward for speed and health, less a cost of control (and of contacts, for the
Ant), and an observation of positions, velocities (and contact forces). What differs is in `Traits`,
read off Gymnasium's environment, so that its arguments hold here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.environments.mjx import physics
from jaxrl_prefs.environments.mjx.physics import Pose
from jaxrl_prefs.environments.mjx.simulator import Simulator
from jaxrl_prefs.types import Array, Key

FASTEST = 10.0  # velocities that Hopper and Walker2d observe are clipped here


class World(NamedTuple):
    """A pose, and what was computed on the way to it."""

    pose: Pose
    forward: Array  # [] position whose change is rewarded
    contact: Array  # [C] clipped contact forces; [0] but for the Ant


class Traits(NamedTuple):
    """What tells the four apart."""

    healthy: Callable[[Pose], Array]  # False ends the episode and its reward
    healthy_reward: float
    normal_velocity: bool  # whether the first velocity is drawn from a normal distribution
    fastest: float  # bound of the velocities observed
    hidden: int  # how many of the first positions are not observed


def half_cheetah(env: Any) -> Simulator:
    """Makes the simulator of `env`, a HalfCheetahEnv; it never falls."""
    hidden = int(env._exclude_current_positions_from_observation)
    return _build(env, Traits(lambda pose: jnp.bool_(True), 0.0, True, np.inf, hidden))


def hopper(env: Any) -> Simulator:
    """Makes the simulator of `env`, a HopperEnv."""
    state_low, state_high = env._healthy_state_range

    def healthy(pose: Pose) -> Array:
        rest = jnp.concatenate([pose.position, pose.velocity])[2:]
        inside = ((state_low < rest) & (rest < state_high)).all()
        return inside & _upright(env, pose)

    return _build(env, _walking(env, healthy))


def walker2d(env: Any) -> Simulator:
    """Makes the simulator of `env`, a Walker2dEnv."""
    return _build(env, _walking(env, lambda pose: _upright(env, pose)))


def ant(env: Any) -> Simulator:
    """Makes the simulator of `env`, an AntEnv."""
    low, high = env._healthy_z_range

    def healthy(pose: Pose) -> Array:
        finite = jnp.isfinite(jnp.concatenate([pose.position, pose.velocity])).all()
        return finite & (low <= pose.position[2]) & (pose.position[2] <= high)

    hidden = 2 * int(env._exclude_current_positions_from_observation)
    return _build(env, Traits(healthy, env._healthy_reward, True, np.inf, hidden))


def _walking(env: Any, healthy: Callable[[Pose], Array]) -> Traits:
    hidden = int(env._exclude_current_positions_from_observation)
    return Traits(healthy, env._healthy_reward, False, FASTEST, hidden)


def _upright(env: Any, pose: Pose) -> Array:
    height, angle = pose.position[1], pose.position[2]
    (low, high), (left, right) = env._healthy_z_range, env._healthy_angle_range
    return (low < height) & (height < high) & (left < angle) & (angle < right)


def _build(env: Any, traits: Traits) -> Simulator:
    simulation = physics.build(env.model, env.frame_skip)
    noise = env._reset_noise_scale
    feels = hasattr(env, "_contact_cost_weight")  # the Ant
    body = env.model.body(env._main_body).id if feels else 0
    ends = getattr(env, "_terminate_when_unhealthy", False)

    def forward_of(pose: Pose, data: Any) -> Array:
        return data.xpos[body, 0] if feels else pose.position[0]

    def contact_of(data: Any) -> Array:
        return jnp.clip(data._impl.cfrc_ext, *env._contact_force_range).ravel()

    def place(position: Array, velocity: Array) -> World:
        pose, data = simulation.place(jnp.asarray(position), jnp.asarray(velocity))
        none = jnp.zeros(6 * env.model.nbody * feels, pose.position.dtype)
        return World(pose, forward_of(pose, data), none)

    def reset(key: Key) -> World:
        where, how_fast = jax.random.split(key)
        shape, nv = (env.model.nq,), (env.model.nv,)
        if traits.normal_velocity:
            push = noise * jax.random.normal(how_fast, nv)
        else:
            push = jax.random.uniform(how_fast, nv, minval=-noise, maxval=noise)
        shift = jax.random.uniform(where, shape, minval=-noise, maxval=noise)
        return place(jnp.asarray(env.init_qpos) + shift, jnp.asarray(env.init_qvel) + push)

    def observe(world: World) -> Array:
        velocity = jnp.clip(world.pose.velocity, -traits.fastest, traits.fastest)
        parts = [world.pose.position[traits.hidden :], velocity]
        if feels and env._include_cfrc_ext_in_observation:
            parts.append(world.contact[6:])  # without the world body's
        return jnp.concatenate(parts)

    def step(world: World, action: Array) -> tuple[World, Array, Array]:
        pose, data = simulation.advance(world.pose, action)
        after = World(pose, forward_of(pose, data), contact_of(data) if feels else world.contact)
        healthy = traits.healthy(pose)
        speed = (after.forward - world.forward) / simulation.seconds
        reward = env._forward_reward_weight * speed + healthy * traits.healthy_reward
        reward -= env._ctrl_cost_weight * jnp.sum(jnp.square(action))
        if feels:
            reward -= env._contact_cost_weight * jnp.sum(jnp.square(after.contact))
        return after, reward, jnp.logical_not(healthy) & ends

    return Simulator(reset, place, observe, step, env.model.nu)
