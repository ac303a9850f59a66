"""Fitted Q evaluation (FQE): the value of policies from recorded transitions.

    Q_e  <- r + discount * Q_e'(s', a'),   a' ~ pi(. | s')          for members e = 1 ... E
    V    =  mean over initial states of Q_e(s_0, a_0),   a_0 ~ pi(. | s_0)

Le, Voloshin and Yue, ICML 2019; with target networks and an ensemble as in Paine et al. 2020 and
DOPE (Fu et al. 2021). Every member is one replicate of a Bayesian bootstrap over episodes (Rubin
1981; of FQE: Hao et al. 2021): its loss and its mean over initial states weigh each episode by an
exponential random number, and it follows its own target network. The spread of the members is
therefore the uncertainty from the choice of episodes and from the fit, initialisation included.

A policy comes as a table of its actions, so any policy of any method fits, many side by side:

    actions at next states     following   [N, K, A]   K draws; 1 for a deterministic policy
    actions at initial states  first       [M, K, A]

All policies see the same batches, weights and initial parameters: differences between policies are
far more certain than their values.

Ours: targets are clipped to what the recorded rewards allow, and rewards are shifted and scaled so
that values are of order 1 (`Units`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.types import Array, Key, Net

MEASURED_ROWS = 4096  # most rows used to measure the Bellman error


@dataclasses.dataclass(frozen=True)
class Config:
    """How Q functions are fitted."""

    critics: int = 4  # E, members of the ensemble, each a bootstrap replicate
    hidden: tuple[int, ...] = (64, 64)  # widths of each member's hidden layers
    layer_norm: bool = True  # layer normalisation in every hidden layer
    learning_rate: float = 1e-3  # Adam's rate, a cosine to 0 over the updates
    tau: float = 0.02  # rate of the target networks
    batch_size: int = 256  # rows per update
    updates: int = 10_000  # of every policy's ensemble
    draws: int = 4  # actions drawn per state of a policy that draws; a target takes one of them
    rows: int = 200_000  # most rows of the data that are used, whole episodes chosen at random
    bootstrap: bool = True  # False: all members see all episodes alike

    def __post_init__(self) -> None:
        for name in ("critics", "batch_size", "updates", "draws", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"field {name!r} must be at least 1, got {getattr(self, name)}")
        if self.critics < 2:
            raise ValueError("field 'critics' must be at least 2: their spread is the uncertainty")
        if not 0 < self.tau <= 1 or self.learning_rate <= 0:
            raise ValueError("tau must lie in (0, 1], and learning_rate above 0")


class Data(NamedTuple):
    """Transitions of some episodes, which all policies are evaluated on; numpy or JAX arrays."""

    observation: Any  # [N, O]
    action: Any  # [N, A]
    reward: Any  # [N]
    discount: Any  # [N], gamma * (1 - terminal)
    next_observation: Any  # [N, O]
    episode: Any  # [N] int32, number of the episode
    first: Any  # [M] int32, the first row of every episode


class Actions(NamedTuple):
    """What one policy does; with several policies, leaves [P, ...]. Numpy or JAX arrays."""

    following: Any  # [N, K, A] at the next states
    first: Any  # [M, K, A] at the initial states


class Units(NamedTuple):
    """Values in raw units are centre + scale * q; q lies in [low, high]."""

    centre: float
    scale: float
    low: float
    high: float


class Fitted(NamedTuple):
    """The result of fitting P policies, in raw units."""

    members: np.ndarray  # [P, E] value of the initial states by each member
    bellman: np.ndarray  # [P] root mean square Bellman error, in standard deviations of returns
    clipped: np.ndarray  # [P] share of targets beyond what the rewards allow
    params: Any  # leaves [P, E, ...], in units of q


def to_go(reward: np.ndarray, discount: np.ndarray, goes_on: np.ndarray) -> np.ndarray:
    """Discounted sums of the recorded rewards from each row to the end of its episode: [N].

    An episode that was cut counts what was recorded of it.

    >>> to_go(np.array([1.0, 1.0, 5.0]), np.array([0.5, 0.5, 0.0]), np.array([1, 0, 0])).tolist()
    [1.5, 1.0, 5.0]
    """
    found, later = np.zeros(len(reward)), 0.0
    for row in range(len(reward) - 1, -1, -1):
        later = reward[row] + (discount[row] * later if goes_on[row] else 0.0)
        found[row] = later
    return found


def units(reward: np.ndarray, returns: np.ndarray, gamma: float) -> Units:
    """The units of q: centred on the data's returns to go, and bounded by the rewards.

    No sum of rewards of [least, largest] discounted by gamma lies outside the bounds, however long
    the episode.
    """
    centre, scale = float(returns.mean()), float(returns.std())
    if scale <= 1e-6 * max(np.abs(returns).max(), 1e-6):  # all returns are the same
        scale = float(np.abs(returns).max()) or 1.0
    horizon = 1 / (1 - gamma) if gamma < 1 else np.inf
    least, largest = float(reward.min()), float(reward.max())
    low = least * horizon if least < 0 else least
    high = largest * horizon if largest > 0 else largest
    return Units(centre, scale, (low - centre) / scale, (high - centre) / scale)


def scaled_reward(reward: np.ndarray, discount: np.ndarray, unit: Units) -> np.ndarray:
    """Rewards for which q solves the same Bellman equation as the value in raw units."""
    return ((reward - unit.centre * (1 - discount)) / unit.scale).astype(np.float32)


@functools.lru_cache(8)  # programs are compiled once for each network
def critic(config: Config) -> Net:
    """The ensemble of Q functions: (observation, action) -> [E, ...]."""
    member = nets.scalar_mlp(
        config.hidden, activation="relu", layer_norm=config.layer_norm, initialiser="lecun"
    )
    return nets.ensemble(member, config.critics)


def weights(config: Config, episodes: int, key: Key) -> Array:
    """How much each member counts each episode: [E, episodes], of mean 1."""
    if not config.bootstrap:
        return jnp.ones((config.critics, episodes))
    drawn = jax.random.exponential(key, (config.critics, episodes))
    return drawn / drawn.mean(1, keepdims=True)


def initial(config: Config, net: Net, data: Data, key: Key) -> Trainable:
    """Fresh members with their target networks."""
    params = net.init(key, data.observation[:1], data.action[:1])
    return learner.init(params, _optimizer(config), target=True)


def _optimizer(config: Config) -> Any:
    return learner.optimizer(config.learning_rate, decay_steps=max(config.updates, 1))


def update(
    state: Trainable,
    data: Data,
    following: Array,
    weight: Array,
    bounds: tuple[float, float],
    key: Key,
    *,
    config: Config,
    net: Net,
) -> Trainable:
    """One gradient step of every member of one policy's ensemble, and one of its targets."""
    rows_key, draw_key = jax.random.split(key)
    rows = jax.random.randint(rows_key, (config.batch_size,), 0, len(data.reward))
    draw = jax.random.randint(draw_key, (config.batch_size,), 0, following.shape[1])
    observation, action = data.observation[rows], data.action[rows]
    after, action_after = data.next_observation[rows], following[rows, draw]
    reward, discount, own = data.reward[rows], data.discount[rows], weight[:, data.episode[rows]]

    def member(inputs: tuple) -> Any:
        params, target, each = inputs
        one = jax.tree.map(lambda leaf: leaf[None], target)
        goal = reward + discount * net.apply(one, after, action_after)[0]
        goal = jax.lax.stop_gradient(jnp.clip(goal, *bounds))

        def loss(params: Any) -> Array:
            single = jax.tree.map(lambda leaf: leaf[None], params)
            return jnp.mean(each * jnp.square(net.apply(single, observation, action)[0] - goal))

        return jax.grad(loss)(params)

    grads = nets.over_members(member, (state.params, state.target, own))
    return learner.polyak(learner.apply_gradients(state, _optimizer(config), grads), config.tau)


def values(net: Net, params: Any, observation: Array, actions: Array) -> Array:
    """Q_e(s, a) as a mean over the K actions of each state: [B, O], [B, K, A] -> [E, B]."""
    draws = actions.shape[1]
    each = [net.apply(params, observation, actions[:, k]) for k in range(draws)]
    return sum(each[1:], each[0]) / draws


def fit(
    data: Data,
    actions: Actions,
    config: Config,
    unit: Units,
    mesh: Mesh,
    *,
    held_out: np.ndarray | None = None,
    seed: int = 0,
    net: Net | None = None,
    progress: Callable[[int], None] = lambda updates: None,
    chunk: int = 500,
) -> Fitted:
    """Fits an ensemble to each of P policies, side by side in one compiled program.

    Args:
        data: numpy leaves, the reward in units of q (`scaled_reward`); rows in `held_out` are not
            trained on.
        actions: leaves [P, ...].
        config: sizes and rates.
        unit: scale and bounds of q.
        mesh: the devices over which policies are spread.
        held_out: [N] bool, rows of held-out episodes, on which the Bellman error is measured; None
            measures it on the rows that are trained on.
        seed: of the random streams, which all policies share.
        net: the Q functions, by default `critic(config)`.
        progress: called with the updates done after each compiled call.
        chunk: updates per compiled call.

    Returns:
        Values and signs of trouble of every policy.
    """
    held = np.zeros(len(data.reward), bool) if held_out is None else held_out
    trained, bellman_rows = np.flatnonzero(~held), np.flatnonzero(held if held.any() else ~held)
    bellman_rows = np.random.default_rng(seed).permutation(bellman_rows)
    bellman_rows = bellman_rows[:MEASURED_ROWS].astype(np.int32)
    policies = len(actions.first)
    programs = _programs(config, net or critic(config), mesh)
    keys = jax.random.split(jax.random.key(seed), 3)
    weight = np.asarray(weights(config, len(data.first), keys[0]))
    shared = seed_axis.replicate(data, mesh)
    kept = seed_axis.replicate(_take(data, trained), mesh)
    bounds = (np.float32(unit.low), np.float32(unit.high))
    table = seed_axis.pad(actions, mesh)
    following = seed_axis.pad(actions.following[:, trained], mesh) if held.any() else table[0]
    state = programs.initial(_repeated(keys[1], policies, mesh), kept)
    shared_key = _repeated(keys[2], policies, mesh)
    for begin in range(0, config.updates, chunk):
        stop = min(begin + chunk, config.updates)
        span = (np.int32(begin), np.int32(stop))
        state = programs.train(state, shared_key, following, kept, weight, bounds, span)
        jax.block_until_ready(state)
        progress(stop)
    found = programs.measure(state, table, shared, weight, bounds, bellman_rows)
    members, bellman, clipped = seed_axis.trim(found, policies)
    return Fitted(
        unit.centre + unit.scale * members.astype(np.float64),
        bellman,
        clipped,
        seed_axis.trim(state.params, policies),
    )


class Programs(NamedTuple):
    """The compiled functions of a fit, over policies."""

    initial: Any
    train: Any
    measure: Any
    rows: Any
    first: Any


@functools.lru_cache(8)
def _programs(config: Config, net: Net, mesh: Mesh) -> Programs:
    step = functools.partial(update, config=config, net=net)

    def start(key: Key, data: Data) -> Trainable:
        return initial(config, net, data, key)

    def train(
        state: Trainable,
        key: Key,
        following: Array,
        data: Data,
        weight: Array,
        bounds: Any,
        span: tuple[Array, Array],
    ) -> Trainable:
        def body(now: Array, state: Trainable) -> Trainable:
            return step(state, data, following, weight, bounds, jax.random.fold_in(key, now))

        return jax.lax.fori_loop(*span, body, state)

    def measure(
        state: Trainable, actions: Actions, data: Data, weight: Array, bounds: Any, rows: Array
    ) -> tuple[Array, Array, Array]:
        first = values(net, state.params, data.observation[data.first], actions.first)
        q = values(net, state.target, data.next_observation[rows], actions.following[rows])
        goal = data.reward[rows][None] + data.discount[rows][None] * q
        error = net.apply(state.params, data.observation[rows], data.action[rows]) - goal
        beyond = (goal < bounds[0]) | (goal > bounds[1])
        rms = jnp.sqrt(jnp.square(error).mean())
        return (weight * first).mean(1) / weight.mean(1), rms, beyond.mean()

    def rows(params: Any, actions: Actions, data: Data, at: Array) -> tuple[Array, Array]:
        q = net.apply(params, data.observation[at], data.action[at]).mean(0)
        after = values(net, params, data.next_observation[at], actions.following[at]).mean(0)
        return q, after

    def starts(params: Any, first: Array, states: Array) -> Array:
        return values(net, params, states, first).mean(0)

    over = functools.partial(seed_axis.over_seeds, mesh=mesh)
    return Programs(
        over(start, in_axes=(0, None)),
        over(train, in_axes=(0, 0, 0, None, None, None, None), donate=(0,)),
        over(measure, in_axes=(0, 0, None, None, None, None)),
        over(rows, in_axes=(0, 0, None, None)),
        over(starts, in_axes=(0, 0, None)),
    )


def row_values(
    fitted: Fitted, data: Data, actions: Actions, config: Config, unit: Units, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Q(s, a) of the data, and V(s') under each policy, in raw units: [P, N] each.

    Means over the members, for doubly robust estimates; V is not 0 after a terminal.
    """
    programs, policies = _programs(config, critic(config), mesh), len(actions.first)
    shared, table = seed_axis.replicate(data, mesh), seed_axis.pad(actions, mesh)
    params, size = seed_axis.pad(fitted.params, mesh), len(data.reward)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for begin in range(0, size, MEASURED_ROWS):
        at = np.minimum(np.arange(begin, begin + MEASURED_ROWS), size - 1).astype(np.int32)
        parts.append(seed_axis.trim(programs.rows(params, table, shared, at), policies))
    q, after = (np.concatenate([part[i] for part in parts], 1)[:, :size] for i in range(2))
    return tuple(unit.centre + unit.scale * x.astype(np.float64) for x in (q, after))  # type: ignore[return-value]


def first_values(
    fitted: Fitted, data: Data, actions: Actions, config: Config, unit: Units, mesh: Mesh
) -> np.ndarray:
    """V of the initial states under each policy, means over the members, in raw units: [P, M]."""
    programs, policies = _programs(config, critic(config), mesh), len(actions.first)
    first = seed_axis.pad(actions.first, mesh)
    states = seed_axis.replicate(data.observation[data.first], mesh)
    found = seed_axis.trim(
        programs.first(seed_axis.pad(fitted.params, mesh), first, states), policies
    )
    return unit.centre + unit.scale * found.astype(np.float64)


def _take(data: Data, rows: np.ndarray) -> Data:
    """Some rows of the data; `first` is kept as it is, for training does not read it."""
    if len(rows) == len(data.reward):
        return data
    leaves = {name: getattr(data, name)[rows] for name in Data._fields if name != "first"}
    return Data(**leaves, first=data.first)


def _repeated(key: Key, count: int, mesh: Mesh) -> Key:
    """The same key for all policies, [P]."""
    bits = np.broadcast_to(np.asarray(jax.random.key_data(key)), (count, 2))
    return seed_axis.pad(jax.random.wrap_key_data(jnp.asarray(bits)), mesh)
