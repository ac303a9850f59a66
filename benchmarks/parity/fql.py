"""FQL and IFQL against their authors' code: losses, gradients, and parameters after some updates.

    git clone https://github.com/seohongpark/fql PEER
    pip install ml_collections distrax
    python -m benchmarks.parity.fql --peer=PEER

Both codes start from the authors' initial parameters, with random batches and the same random
numbers, in float64 (`--nofloat64` for float32), with the default networks. Every row is a largest
relative difference: of losses, which our metrics keep in float32; of gradients at the first update
(over the largest entry of the same array); and of parameters after `--updates` updates (over how
far the farthest entry of the same array has moved).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from jaxrl_prefs import learner
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import fql, ifql
from jaxrl_prefs.policies.flow import FlowPolicy
from jaxrl_prefs.types import Array, Params, Spec, Transition

FLAGS = flags.FLAGS
OBSERVATION, ACTION, BATCH, GAMMA = 17, 6, 256, 0.99
BOX = np.ones(ACTION)
SPEC = Spec(OBSERVATION, ACTION, BATCH, -BOX, BOX, *[np.zeros(OBSERVATION)] * 2, *[0 * BOX] * 2)

Peer = Any  # an agent of the authors' code
Result = tuple[Any, dict[str, Any]]  # a state with its metrics


class Case(NamedTuple):
    """One setting of both codes."""

    name: str
    module: Any  # ours
    peer: str  # module and class of the authors' code
    settings: dict[str, Any]  # fields of both configs
    networks: dict[str, str]  # field of our state -> network of theirs
    losses: dict[str, str]  # our metric -> theirs
    update: Callable[[Any, Transition, Any, Any], Result]  # ours, with given draws
    draws: Callable[[Any, tuple[int, int]], Any]  # of an update, from the agent's key


# --- Draws: the authors' splits of their key ------------------------------------------------------


def fql_draws(key: Any, shape: tuple[int, int]) -> fql.Draws:
    """What one update of their FQL draws."""
    _, key = jax.random.split(key)
    _, actor_key, critic_key = jax.random.split(key, 3)
    _, sample_key = jax.random.split(critic_key)
    rest, noise_key, time_key = jax.random.split(actor_key, 3)
    return fql.Draws(
        flow_noise=jax.random.normal(noise_key, shape),
        time=jax.random.uniform(time_key, (shape[0], 1))[:, 0],
        noise=jax.random.normal(jax.random.split(rest)[1], shape),
        next_noise=jax.random.normal(jax.random.split(sample_key)[0], shape),
    )


def ifql_draws(key: Any, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Noise and times that one update of their IFQL draws."""
    _, key = jax.random.split(key)
    _, actor_key = jax.random.split(key)
    _, noise_key, time_key = jax.random.split(actor_key, 3)
    time = jax.random.uniform(time_key, (shape[0], 1))[:, 0]
    return jax.random.normal(noise_key, shape), time


class GivenDraws(FlowPolicy):
    """A flow policy whose cloning loss takes (noise, times) in place of a key."""

    def bc_loss(self, params: Params, observation: Array, action: Array, key: Any) -> Array:
        """The flow-matching loss at these draws."""
        return self.matching_loss(params, observation, action, *key)


def fql_update(state: Any, batch: Transition, draws: Any, parts: Any) -> Result:
    """One update of our FQL."""
    return fql.update_with(state, batch, draws, parts=parts)


def ifql_update(state: Any, batch: Transition, draws: Any, parts: Any) -> Result:
    """One update of our IFQL."""
    parts = parts._replace(behavior=GivenDraws(*parts.behavior))
    return ifql.update(state, batch, draws, jnp.int32(0), parts=parts)


FQL = Case(
    name="fql",
    module=fql,
    peer="agents.fql:FQLAgent",
    settings={},
    networks={"behavior": "actor_bc_flow", "actor": "actor_onestep_flow", "critic": "critic"},
    losses={
        "behavior_loss": "actor/bc_flow_loss",
        "distillation_error": "actor/distill_loss",
        "q_policy": "actor/q",
        "critic_loss": "critic/critic_loss",
        "q": "critic/q_mean",
    },
    update=fql_update,
    draws=fql_draws,
)
IFQL = Case(
    name="ifql",
    module=ifql,
    peer="agents.ifql:IFQLAgent",
    settings={},
    networks={"behavior": "actor_flow", "critic": "critic", "value": "value"},
    losses={
        "behavior_loss": "actor/actor_loss",
        "value_loss": "value/value_loss",
        "critic_loss": "critic/critic_loss",
        "critic_target": "critic/q_mean",
    },
    update=ifql_update,
    draws=ifql_draws,
)
CASES = (
    FQL,
    FQL._replace(name="fql, min, scaled Q", settings={"q_agg": "min", "normalize_q_loss": True}),
    IFQL,
)

# --- The same parameters in both codes ------------------------------------------------------------


def as_ours(network: Params) -> Params:
    """The parameters of a network of theirs under the names of ours."""
    (layers,) = network.values()  # mlp or value_net
    found: dict[str, Any] = {}
    for name, layer in layers.items():
        kind, place = name.split("_")
        if kind == "LayerNorm":
            found[name] = layer
        elif place == "0":
            found["_JoinedDense_0"] = layer
        else:
            found[f"_Dense_{int(place) - 1}"] = {"Dense_0": layer}
    return found


def networks_of(agent: Peer, case: Case) -> dict[str, Params]:
    """{field of our state: parameters of the agent}."""
    params = agent.network.params
    return {field: as_ours(params[f"modules_{name}"]) for field, name in case.networks.items()}


def state_of(agent: Peer, case: Case, optimizer: optax.GradientTransformation) -> Any:
    """Our state at the agent's parameters."""
    target = as_ours(agent.network.params["modules_target_critic"])
    return case.module.State(
        **{
            field: Trainable(params, target if field == "critic" else None, optimizer.init(params))
            for field, params in networks_of(agent, case).items()
        }
    )


def parts_of(case: Case, optimizer: optax.GradientTransformation) -> Any:
    """Our networks, with one optimiser for all."""
    parts = case.module.build(case.module.Config(**case.settings), SPEC)
    names = [name for name in parts._fields if name.endswith("optimizer")]
    parts = parts._replace(**dict.fromkeys(names, optimizer))
    if case.module is ifql:
        own = parts.iql._replace(critic_optimizer=optimizer, value_optimizer=optimizer)
        parts = parts._replace(iql=own)
    return parts


def agent_of(case: Case, dtype: Any) -> tuple[Peer, Any]:
    """Their agent with float parameters of `dtype`, and its config."""
    module, name = case.peer.split(":")
    peer = importlib.import_module(module)
    config = peer.get_config()
    config.update(case.settings)
    observation, action = np.zeros((1, OBSERVATION), dtype), np.zeros((1, ACTION), dtype)
    agent = getattr(peer, name).create(0, observation, action, config)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), agent.network.params)
    network = agent.network.replace(params=params, opt_state=agent.network.tx.init(params))
    return agent.replace(network=network), config


# --- The comparison -------------------------------------------------------------------------------


def batches(count: int, dtype: Any) -> Iterator[tuple[dict[str, Any], Transition]]:
    """Random batches in the form of both codes."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        observation, after = rng.normal(size=(2, BATCH, OBSERVATION)).astype(dtype)
        action = rng.uniform(-1, 1, size=(BATCH, ACTION)).astype(dtype)
        reward, mask = rng.normal(size=BATCH).astype(dtype), (rng.random(BATCH) > 0.1).astype(dtype)
        theirs = dict(observations=observation, actions=action, rewards=reward, masks=mask)
        index = np.arange(BATCH, dtype=np.int32)
        ours = Transition(
            observation, action, reward, GAMMA * mask, after, action, mask, index, index
        )
        yield theirs | {"next_observations": after}, ours


def largest(found: Any, expected: Any, scale: Any) -> float:
    """The largest difference of two trees, array by array over the largest entry of `scale`."""
    ratios = jax.tree.map(
        lambda a, b, c: float(jnp.abs(a - b).max() / jnp.maximum(jnp.abs(c).max(), 1e-300)),
        *(found, expected, scale),
    )
    return max(jax.tree.leaves(ratios))


def params_of(state: Any, case: Case) -> dict[str, Params]:
    """{field of our state: its parameters}."""
    return {field: getattr(state, field).params for field in case.networks}


def first_update(case: Case, dtype: Any) -> dict[str, float]:
    """Relative differences of losses and of gradients."""
    agent, _ = agent_of(case, dtype)
    theirs, ours = next(batches(1, dtype))
    descent = optax.sgd(1.0)  # moves parameters by their gradient
    state, parts = state_of(agent, case, descent), parts_of(case, descent)
    draws = case.draws(agent.rng, (BATCH, ACTION))
    after, metrics = jax.jit(lambda s, b, d: case.update(s, b, d, parts))(state, ours, draws)
    _, key = jax.random.split(agent.rng)
    grads, info = jax.grad(lambda p: agent.total_loss(theirs, p, rng=key), has_aux=True)(
        agent.network.params
    )
    rows = {}
    for name, other in case.losses.items():
        found, count = metrics[name]
        # Our metric is the mean over two critics, of which their IFQL takes the sum.
        factor = 2 if case.module is ifql and name == "critic_loss" else 1
        rows[f"loss {name}"] = abs(float(factor * found / count / info[other]) - 1)
    for field, name in case.networks.items():
        before, now = getattr(state, field).params, getattr(after, field).params
        found = jax.tree.map(lambda a, b: a - b, before, now)
        expected = as_ours(grads[f"modules_{name}"])
        rows[f"gradient {field}"] = largest(found, expected, expected)
    return rows


def many_updates(case: Case, dtype: Any, count: int) -> dict[str, float]:
    """Relative differences of parameters after some updates with Adam."""
    agent, config = agent_of(case, dtype)
    adam = learner.optimizer(config.lr)
    state, parts = state_of(agent, case, adam), parts_of(case, adam)
    start = params_of(state, case)
    update = jax.jit(lambda s, b, d: case.update(s, b, d, parts)[0])
    for theirs, ours in batches(count, dtype):
        draws = case.draws(agent.rng, (BATCH, ACTION))
        state = update(state, ours, draws)
        agent, _ = agent.update(theirs)
    found, expected = params_of(state, case), networks_of(agent, case)
    rows = {}
    for field in case.networks:
        moved = jax.tree.map(lambda a, b: a - b, expected[field], start[field])
        rows[f"parameters {field}"] = largest(found[field], expected[field], moved)
    target = as_ours(agent.network.params["modules_target_critic"])
    moved = jax.tree.map(lambda a, b: a - b, target, start["critic"])
    rows["parameters of the target network"] = largest(state.critic.target, target, moved)
    return rows


def main(argv: list[str]) -> None:
    """Prints a table of every case."""
    del argv
    sys.path.insert(0, FLAGS.peer)
    jax.config.update("jax_enable_x64", FLAGS.float64)
    dtype = np.float64 if FLAGS.float64 else np.float32
    for case in CASES:
        rows = first_update(case, dtype) | many_updates(case, dtype, FLAGS.updates)
        print(f"\n{case.name}, {np.dtype(dtype).name}, {FLAGS.updates} updates")
        for name, difference in rows.items():
            print(f"  {name:40s} {difference:.1e}")


if __name__ == "__main__":
    flags.DEFINE_string("peer", None, "folder of the authors' code", required=True)
    flags.DEFINE_bool("float64", True, "in double precision")
    flags.DEFINE_integer("updates", 50, "updates before parameters are compared")
    app.run(main)
