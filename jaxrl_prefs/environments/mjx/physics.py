"""MuJoCo's physics in JAX: Gymnasium's own model, with MJX's parts put together as MuJoCo has them.

Three things differ from `mjx.step`:

1. The four stages of a Runge-Kutta step are a loop over one forward dynamics. MJX's program holds
   four copies, and takes longer to compile.
2. Where a capsule stands steeply on a plane, the friction pyramid is turned with the capsule, as in
   MuJoCo. MJX (3.11) turns it to an axis of the world, and an Ant is 0.1 m off within ten steps.
3. A sphere beside a box is in contact as soon as the margin says so, as in MuJoCo. MJX waits until
   they touch.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.errors import DataError
from jaxrl_prefs.types import Array

PLANE, SPHERE, CAPSULE, BOX = 0, 2, 3, 6  # in mujoco.mjtGeom
EULER, RUNGE_KUTTA = 0, 1  # in mujoco.mjtIntegrator
SHORTEST = 1e-9  # of a vector that has a direction
STAGES = np.array([0.0, 0.5, 0.5, 1.0])  # of the classical Runge-Kutta method: how far each looks
WEIGHTS = np.array([1.0, 2.0, 2.0, 1.0]) / 6  # and what it counts


class Pose(NamedTuple):
    """What physics carries from one step to the next."""

    position: Array  # [Q] generalised: free joints have a quaternion
    velocity: Array  # [V]
    warmstart: Array  # [V] acceleration from which the next solve starts


class Physics(NamedTuple):
    """A MuJoCo model as functions of one world; the second result is MJX's Data."""

    place: Callable[[Array, Array], tuple[Pose, Any]]  # (position, velocity): at rest otherwise
    advance: Callable[[Pose, Array], tuple[Pose, Any]]  # (pose, control) by one time step
    seconds: float  # of one time step: `frames` of the model's


def build(model: Any, frames: int) -> Physics:
    """Makes physics of a `mujoco.MjModel`, of which one time step takes `frames`.

    Data after a step is what MuJoCo's would be: derived quantities (positions of bodies, contact
    forces) belong to the last stage that was computed, not to the new pose.

    Raises:
      DataError: if mujoco-mjx is not installed, or has no counterpart for something in the model.
    """
    mjx = load()
    here = jax.local_devices()[0]
    try:
        # As numpy arrays they are constants of a program, wherever it runs.
        fixed, blank = jax.tree.map(
            np.asarray,
            (
                mjx.put_model(model, device=here, impl="jax"),
                mjx.make_data(model, device=here, impl="jax"),
            ),
        )
    except NotImplementedError as error:
        raise DataError(f"MJX cannot simulate this model ({error})") from error
    if model.opt.integrator not in (EULER, RUNGE_KUTTA):
        raise DataError(f"no counterpart of MuJoCo's integrator {model.opt.integrator} in JAX")
    step = _runge_kutta if model.opt.integrator == RUNGE_KUTTA else _euler

    def data_of(pose: Pose, control: Array) -> tuple[Any, Any]:
        ours, data = jax.tree.map(jnp.asarray, (fixed, blank))
        return ours, data.replace(
            qpos=pose.position, qvel=pose.velocity, qacc_warmstart=pose.warmstart, ctrl=control
        )

    def place(position: Array, velocity: Array) -> tuple[Pose, Any]:
        pose = Pose(position, velocity, jnp.zeros_like(velocity))
        with jax.numpy_rank_promotion("allow"):
            ours, data = data_of(pose, jnp.zeros(model.nu, velocity.dtype))
            return pose, mjx.kinematics(ours, data)

    def advance(pose: Pose, control: Array) -> tuple[Pose, Any]:
        with jax.numpy_rank_promotion("allow"):  # MJX's own arithmetic needs it
            ours, data = data_of(pose, control)
            data = jax.lax.fori_loop(0, frames, lambda _, d: step(mjx, ours, d), data)
            after = mjx.rne_postconstraint(ours, data)
        return Pose(after.qpos, after.qvel, after.qacc_warmstart), after

    return Physics(place, advance, frames * float(model.opt.timestep))


def load() -> Any:
    """Imports MJX.

    Raises:
      DataError: if it is not installed.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it regrets that there is no Warp
            return importlib.import_module("mujoco.mjx")
    except ImportError as error:
        raise DataError(
            "evaluation by MJX needs mujoco-mjx: install jaxrl_prefs[mjx], or take "
            "--eval_backend=gymnasium"
        ) from error


def _forward(mjx: Any, model: Any, data: Any) -> Any:
    """The forward dynamics: accelerations and all that they come from; no sensors."""
    for part in (
        *(mjx.kinematics, mjx.com_pos, mjx.camlight, mjx.tendon, mjx.crb, mjx.tendon_armature),
        *(mjx.factor_m, mjx.collision, _corrected, mjx.make_constraint, mjx.transmission),
        *(mjx.fwd_velocity, mjx.fwd_actuation, mjx.fwd_acceleration),
    ):
        data = part(model, data)
    if not data._impl.efc_J.size:
        return data.replace(qacc=data.qacc_smooth)
    return mjx.solve(model, data)


def _corrected(model: Any, data: Any) -> Any:
    """Puts right what MJX's contacts have otherwise than MuJoCo's."""
    contact = data._impl.contact
    if not contact.geom.shape[0]:
        return data
    first, second = jnp.asarray(contact.geom).T
    kind = jnp.asarray(model.geom_type)

    def between(one: int, other: int) -> Array:
        return (kind[first] == one) & (kind[second] == other)

    place, axes = data.geom_xpos, data.geom_xmat.reshape(-1, 3, 3)
    frame = turned_with_capsule(contact.frame, axes[second], between(PLANE, CAPSULE))
    found = sphere_on_box(
        place[first] - place[second], axes[second], model.geom_size[second], model.geom_size[first]
    )
    outside = between(SPHERE, BOX) & (found.gap > 0)
    wide = outside[:, None]
    return data.tree_replace(
        {
            "_impl.contact.frame": jnp.where(wide[..., None], found.frame, frame),
            "_impl.contact.dist": jnp.where(outside, found.distance, contact.dist),
            "_impl.contact.pos": jnp.where(wide, place[second] + found.point, contact.pos),
        }
    )


def turned_with_capsule(frame: Array, axes: Array, which: Array) -> Array:
    """Lets the second axis of contact frames follow the capsule's own axis, where `which` [C].

    `axes` [C, 3, 3] are the capsules' frames. A contact's frame [C, 3, 3] has the normal and two
    tangents as its rows.
    """
    normal, along = frame[:, 0], axes[:, :, 2]
    along = along - normal * jnp.sum(normal * along, -1, keepdims=True)
    length = jnp.linalg.norm(along, axis=-1, keepdims=True)
    which = which & (length[:, 0] > SHORTEST)
    along = along / jnp.where(which[:, None], length, 1.0)
    turned = jnp.stack([normal, along, jnp.cross(normal, along)], axis=1)
    return jnp.where(which[:, None, None], turned, frame)


class Touch(NamedTuple):
    gap: Array  # [C] from the centre of the sphere to the box, 0 inside
    distance: Array  # [C] between the surfaces
    frame: Array  # [C, 3, 3]
    point: Array  # [C, 3] midway between the surfaces, from the middle of the box


def sphere_on_box(offset: Array, axes: Array, half: Array, radius: Array) -> Touch:
    """The contact between a sphere at `offset` [C, 3] from a box and its nearest point.

    Args:
        offset: from the middle of the box to that of the sphere, in the world's frame.
        axes: [C, 3, 3], the box's frame.
        half: [C, 3], half its sides.
        radius: [C, 3], the sphere's first size.
    """
    inside = jnp.einsum("cij,ci->cj", axes, offset)
    nearest = jnp.einsum("cij,cj->ci", axes, jnp.clip(inside, -half, half))
    gap = jnp.linalg.norm(nearest - offset, axis=-1)
    normal = (nearest - offset) / jnp.maximum(gap, SHORTEST)[:, None]
    surface = offset + normal * radius[:, :1]
    helper = jnp.where(jnp.abs(normal[:, 1:2]) < 0.5, jnp.eye(3)[1][None], jnp.eye(3)[2][None])
    tangent = helper - normal * jnp.sum(normal * helper, -1, keepdims=True)
    tangent = tangent / jnp.maximum(jnp.linalg.norm(tangent, axis=-1, keepdims=True), SHORTEST)
    frame = jnp.stack([normal, tangent, jnp.cross(normal, tangent)], axis=1)
    return Touch(gap, gap - radius[:, 0], frame, (nearest + surface) / 2)


def _euler(mjx: Any, model: Any, data: Any) -> Any:
    return mjx.euler(model, _forward(mjx, model, data))


def _runge_kutta(mjx: Any, model: Any, start: Any) -> Any:
    """One frame by the classical Runge-Kutta method of order four."""
    step = model.opt.timestep

    def stage(carry: tuple, numbers: tuple) -> tuple[tuple, None]:
        rate, moved, pushed, data = carry
        reach, weight = numbers
        data = data.replace(
            qpos=shifted(model.jnt_type, start.qpos, reach * step * rate),
            qvel=start.qvel + reach * step * data.qacc,
        )
        data = _forward(mjx, model, data)
        moved, pushed = moved + weight * data.qvel, pushed + weight * data.qacc
        return (data.qvel, moved, pushed, data), None

    none = jnp.zeros_like(start.qvel)
    numbers = jnp.asarray(STAGES, none.dtype), jnp.asarray(WEIGHTS, none.dtype)
    (_, moved, pushed, data), _ = jax.lax.scan(stage, (none, none, none, start), numbers)
    return data.replace(
        qpos=shifted(model.jnt_type, start.qpos, step * moved),
        qvel=start.qvel + step * pushed,
        qacc_warmstart=data.qacc,
    )


def shifted(joints: np.ndarray, position: Array, change: Array) -> Array:
    """Moves a position [Q] by a small change [V] in the joints' own coordinates.

    `joints` are MuJoCo's joint types: 0 free (a translation and a quaternion, turned in its own
    frame), 1 ball, 2 slide, 3 hinge.
    """
    parts, q, v = [], 0, 0
    for kind in joints:
        if kind == 0:
            parts.append(position[q : q + 3] + change[v : v + 3])
            q, v = q + 3, v + 3
        if kind in (0, 1):
            parts.append(turned(position[q : q + 4], change[v : v + 3]))
            q, v = q + 4, v + 3
        else:
            parts.append(position[q : q + 1] + change[v : v + 1])
            q, v = q + 1, v + 1
    return jnp.concatenate(parts)


def turned(quaternion: Array, rotation: Array) -> Array:
    """Turns a quaternion [4] by a rotation vector [3] in its own frame; the result has length 1."""
    square = jnp.sum(jnp.square(rotation))
    angle = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    axis = jnp.where(square > 0, jnp.sin(angle / 2) / angle, 0.0) * rotation
    cosine = jnp.where(square > 0, jnp.cos(angle / 2), 1.0)
    w, xyz = quaternion[0], quaternion[1:]
    real = w * cosine - jnp.sum(xyz * axis)
    product = jnp.concatenate([real[None], w * axis + cosine * xyz + jnp.cross(xyz, axis)])
    return product / jnp.linalg.norm(product)
