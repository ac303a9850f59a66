"""Networks in closed form: for Gaussian data every quantity of a diffusion chain is known.

Actor N(m, I) and behaviour N(0, I) are one network whose only parameter is the mean m. For
Q(s, a) = eta m.a the soft value at every noise level is linear in the noised action.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs import nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.ops import ddpm, schedules
from jaxrl_prefs.policies import diffusion
from jaxrl_prefs.policies.paths import PathPolicy
from jaxrl_prefs.types import Array, Net, Params, Transition

M = np.array([1.5, -0.5])  # |m|^2 = 2.5
ETA = 0.3
OFFSETS = np.array([-0.7, 0.3, 0.4])  # how the members of an ensemble differ; their mean is 0


def compiled(fn: Any, *inputs: Any) -> Any:
    """One compilation instead of one per operation, and a quick one; results as numpy."""
    quick = {"xla_backend_optimization_level": 0}  # compiling is most of what these tests cost
    return jax.tree.map(np.asarray, jax.jit(fn, compiler_options=quick)(*inputs))


def import_distrax() -> None:
    """Imports distrax without the warnings of what it builds on, which ask jax for old names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import distrax  # noqa: F401


def filled(init: Any, *inputs: Any, seed: int = 0, scale: float = 0.5) -> Any:
    """What `init` makes, with normal numbers in it: the shapes alone cost nothing to compile."""
    rng = np.random.default_rng(seed)

    def numbers(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        whole = jnp.issubdtype(leaf.dtype, jnp.integer)
        return (np.zeros(leaf.shape) if whole else rng.normal(0, scale, leaf.shape)).astype(
            leaf.dtype
        )

    return jax.tree.map(numbers, jax.eval_shape(init, jax.random.key(0), *inputs))


def column(table: np.ndarray, n: Array, x: Array) -> Array:
    """table[n] with axes of size 1 appended to the rank of x."""
    value = jnp.asarray(table, x.dtype)[n]
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def row(m: Array, x: Array) -> Array:
    return jnp.asarray(m, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def normal_net(schedule: schedules.Schedule) -> Net:
    """eps(x, n) = E[eps | x_n] for data N(m, I)."""

    def apply(m: Array, x: Array, observation: Array, n: Array) -> Array:
        abar = column(schedule.alpha_bar, n, x)
        return jnp.sqrt(1 - abar) * (x - jnp.sqrt(abar) * row(m, x))

    return Net(lambda key, *inputs: jnp.zeros(2), apply)


def members(m: Any = M, offsets: Any = OFFSETS) -> dict[str, Array]:
    """Parameters of an ensemble of `linear_critic` or `linear_value`: slopes m, values apart."""
    return {"m": jnp.tile(jnp.asarray(m), (len(offsets), 1)), "offset": jnp.asarray(offsets)}


def linear_critic() -> Net:
    """Q_k(s, a) = eta m_k.a + offset_k; the observation is not read."""

    def apply(params: Params, observation: Array, action: Array) -> Array:
        return ETA * jnp.sum(action * row(params["m"], action), -1) + params["offset"]

    return nets.ensemble(Net(lambda key, *inputs: members(), apply), len(OFFSETS))


def linear_value(schedule: schedules.Schedule) -> Net:
    """The optimal V_n(x) = eta (sqrt(abar_n) m.x + (1 - abar_n) |m|^2 / 2), with the offsets.

    At n = 0 it answers with nonsense, because V must not be evaluated there.
    """

    def apply(params: Params, observation: Array, x: Array, n: Array) -> Array:
        m = params["m"]
        abar = jnp.broadcast_to(column(schedule.alpha_bar, n, x)[..., 0], x.shape[:-1])
        inner, square = jnp.sum(x * row(m, x), -1), jnp.sum(jnp.square(m))
        value = ETA * (jnp.sqrt(abar) * inner + (1 - abar) * square / 2)
        return jnp.where(abar == 1, 1e6, value) + params["offset"]

    return nets.ensemble(Net(lambda key, *inputs: members(), apply), len(OFFSETS))


def quiet(step: ddpm.Step) -> ddpm.Step:
    """The same reverse step without its noise."""
    return lambda schedule, x, eps, n, z: step(schedule, x, eps, n, jnp.zeros_like(z))


def fixed(params: Any, target: Any = None) -> Trainable:
    """Parameters that nothing trains; the target network equals them unless it is given."""
    return Trainable(params=params, target=params if target is None else target, opt_state=())


def linear_parts(
    config: bdpo.Config, step: ddpm.Step | None = None, *, action_dim: int = 2
) -> bdpo.Parts:
    """BDPO on the closed forms, with the schedule and levels of the config and no clipping."""
    schedule = schedules.SCHEDULES[config.schedule](config.diffusion_steps)
    stratified = config.levels == "stratified"
    return bdpo.Parts(
        config=config,
        spec=None,
        policy=diffusion.DiffusionPolicy(
            normal_net(schedule),
            schedule,
            step or ddpm.ancestral(),
            action_dim,
            stratified=stratified,
        ),
        critic=linear_critic(),
        value=linear_value(schedule),
        behavior_optimizer=None,
        actor_optimizer=None,
        critic_optimizer=None,
    )


def replaced(policy: PathPolicy, **functions: Any) -> Any:
    """The policy with some of its functions replaced."""
    names = ("steps", "init", "bc_loss", "sample", "paths", "refine")
    return SimpleNamespace(**{name: getattr(policy, name) for name in names} | functions)


def linear_state(actor: Any = M) -> bdpo.State:
    """The optimum: actor N(m, I), behaviour N(0, I), Q and V of slope m."""
    m = jnp.asarray(M)
    return bdpo.State(
        behavior=fixed(jnp.zeros_like(m)),
        actor=fixed(jnp.asarray(actor)),
        critic=fixed(members()),
        value=fixed(members()),
    )


def batch_of(action: Any, *, reward: Any = 0.0, discount: Any = 0.0) -> Transition:
    """Transitions in one state [0], with these actions [B, A]."""
    action = jnp.asarray(action)
    size, dtype = len(action), action.dtype
    state, index = jnp.zeros((size, 1), dtype), jnp.arange(size, dtype=jnp.int32)
    return Transition(
        observation=state,
        action=action,
        reward=jnp.broadcast_to(jnp.asarray(reward, dtype), size),
        discount=jnp.broadcast_to(jnp.asarray(discount, dtype), size),
        next_observation=state,
        next_action=jnp.zeros_like(action),
        has_next_action=jnp.zeros(size, dtype),
        index=index,
        next_index=index,
    )
