"""CQL against JaxCQL: losses, gradients, and parameters after some updates.

    git clone https://github.com/young-geng/JaxCQL PEER
    pip install distrax ml_collections
    python -m benchmarks.parity.cql --peer=PEER

Both codes start from the peer's initial parameters, with random batches and the same random
actions, in float64 (`--nofloat64` for float32), with the peer's networks, without and with a
Lagrange multiplier and the best of several next actions. The samples of the peer's policy are made
here, of given normal numbers and its own moments, and its helpers for keys (`mlxu`) are replaced.
Every row is a largest relative difference, as in `benchmarks/parity/fql.py`.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.parity.fql import ACTION, BATCH, GAMMA, OBSERVATION, SPEC, batches, largest
from jaxrl_prefs import learner
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import cql
from jaxrl_prefs.ops import gaussian
from jaxrl_prefs.policies.tanh_gaussian import TanhGaussian
from jaxrl_prefs.types import Array, Net, Params

FLAGS = flags.FLAGS
SHARED = cql.Config(
    actor_hidden=(256, 256), critic_hidden=(256, 256), actor_learning_rate=3e-4, action_samples=10
)
CASES = {
    "cql": SHARED,
    "cql, lagrange, max backup": replace(SHARED, lagrange=True, max_backup=True, target_gap=1.0),
}
Q = ("qf1", "qf2")


class Noise(NamedTuple):
    """Normal and uniform numbers of an update."""

    own: Array  # [B, 1, A]
    target: Array  # [B, K, A]
    current: Array  # [B, N, A]
    following: Array  # [B, N, A]
    uniform: Array  # [B, N, A], in [-1, 1]


def noise_of(rng: np.random.Generator, config: cql.Config, dtype: Any) -> Noise:
    """Draws the numbers of an update."""
    count = config.action_samples
    sizes = (1, count if config.max_backup else 1, count, count)
    normal = (rng.normal(size=(BATCH, size, ACTION)).astype(dtype) for size in sizes)
    return Noise(*normal, rng.uniform(-1, 1, (BATCH, count, ACTION)).astype(dtype))


# --- The peer -------------------------------------------------------------------------------------


class Keys:
    """A sequence of keys: one at each call, or one for each name."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def __call__(self, names: Any = None) -> Any:
        """Splits the key."""
        self.key, *keys = jax.random.split(self.key, 2 if names is None else len(names) + 1)
        return keys[0] if names is None else dict(zip(names, keys, strict=True))


class GlobalKeys:
    """The sequence of keys of which their agents draw initial parameters."""

    keys: Any = None

    @classmethod
    def start(cls, key: Any) -> None:
        """Draws from this key from now on."""
        cls.keys = Keys(key)


def import_peer() -> tuple[Any, Any]:
    """Their two modules, on stand-ins for `mlxu`."""

    def with_key(key: Any) -> Any:
        keys = Keys(key)
        return lambda fn: lambda *args, **kwargs: fn(keys(), *args, **kwargs)

    fake: Any = types.ModuleType("mlxu.jax_utils")
    fake.JaxRNG, fake.wrap_function_with_rng, fake.init_rng = Keys, with_key, GlobalKeys.start
    fake.next_rng = lambda *names: GlobalKeys.keys(*names)
    fake.collect_metrics = lambda names, keys, *prefix: {
        key: jnp.mean(names[key]) for key in keys if key in names
    }
    sys.modules |= {"mlxu": types.ModuleType("mlxu"), "mlxu.jax_utils": fake}
    code = importlib.import_module("JaxCQL.conservative_sac")
    return code, importlib.import_module("JaxCQL.model")


def settings(config: cql.Config, action: int, discount: float) -> dict[str, Any]:
    """Our config under their names."""
    return {
        "target_entropy": config.target_entropy * action,
        "policy_lr": config.actor_learning_rate,
        "qf_lr": config.critic_learning_rate,
        "soft_target_update_rate": config.tau,
        "cql_n_actions": config.action_samples,
        "cql_lagrange": config.lagrange,
        "cql_target_action_gap": config.target_gap,
        "cql_min_q_weight": config.conservatism,
        "cql_max_target_backup": config.max_backup,
        "discount": discount,
    }


def bounds_renamed() -> Any:
    """While it lasts, the bounds of `jnp.clip` have the names that they had for their code."""
    clip = jnp.clip
    return mock.patch.object(jnp, "clip", lambda x, a_min, a_max: clip(x, a_min, a_max))


class GivenNoise:
    """Their policy, whose samples are made of the numbers of an update."""

    def __init__(self, policy: Any, model: Any) -> None:
        self.policy, self.model, self.rng_keys = policy, model, lambda: ("params",)
        self.calls: Iterator[Array] = iter(())

    def moments(self, params: Params, observation: Array) -> tuple[Array, Array]:
        """Mean and log standard deviation before their clip, as their `__call__` has them."""
        network = self.model.FullyConnectedNetwork(2 * ACTION, self.policy.arch)
        tree = params["params"]
        out = network.apply({"params": tree["base_network"]}, observation)
        mean, log_std = jnp.split(out, 2, -1)
        scalars = [tree[f"log_std_{name}_module"]["value"] for name in ("multiplier", "offset")]
        return mean, jnp.clip(scalars[0] * log_std + scalars[1], -20.0, 2.0)

    def apply(
        self, params: Params, observation: Array, repeat: Any = None, rngs: Any = None
    ) -> Any:
        """Samples and their log-densities, by distrax as in their code."""
        import distrax

        z = next(self.calls)
        mean, log_std = self.moments(params, observation)
        if repeat is not None:
            mean, log_std = mean[:, None], log_std[:, None]
        else:
            z = z[:, 0]
        law = distrax.Transformed(
            distrax.MultivariateNormalDiag(mean, jnp.exp(log_std)),
            distrax.Block(distrax.Tanh(), ndims=1),
        )
        action, back = law.bijector.forward_and_log_det(mean + jnp.exp(log_std) * z)
        return action, law.distribution.log_prob(mean + jnp.exp(log_std) * z) - back


class Peer:
    """JaxCQL's agent with given draws."""

    def __init__(self, config: cql.Config, dtype: Any) -> None:
        """Makes the agent without its own initialisation, which draws from global keys."""
        self.code, model = import_peer()
        policy = model.TanhGaussianPolicy(OBSERVATION, ACTION)
        self.qf = model.FullyConnectedQFunction(OBSERVATION, ACTION)
        self.policy = GivenNoise(policy, model)
        defaults = self.code.ConservativeSAC.get_default_config
        self.agent = object.__new__(self.code.ConservativeSAC)
        agent: Any = self.agent
        agent.observation_dim, agent.action_dim = OBSERVATION, ACTION
        agent.config = defaults(settings(config, ACTION, GAMMA))
        agent.policy, agent.qf = self.policy, self.qf
        agent.log_alpha, agent.log_alpha_prime = model.Scalar(0.0), model.Scalar(1.0)
        agent._model_keys = ("policy", *Q, "log_alpha")
        agent._model_keys += ("log_alpha_prime",) if config.lagrange else ()
        keys = jax.random.split(jax.random.key(0), 3)
        state, action = jnp.zeros((1, OBSERVATION)), jnp.zeros((1, ACTION))
        params = {
            "policy": policy.init({"params": keys[0], "noise": keys[0]}, state),
            "qf1": self.qf.init(keys[1], state, action),
            "qf2": self.qf.init(keys[2], state, action),
            "log_alpha": {"params": {"value": jnp.float32(0)}},
            "log_alpha_prime": {"params": {"value": jnp.float32(1)}},
        }
        self.params = {
            name: jax.tree.map(lambda x: jnp.asarray(x, dtype), params[name])
            for name in agent._model_keys
        }

    def states(self, **optimizers: optax.GradientTransformation) -> Any:
        """Their train states and target parameters, at the start."""
        train_state = self.code.TrainState
        states = {
            name: train_state.create(
                params=params,
                apply_fn=None,
                tx=optimizers["critic" if name in (*Q, "log_alpha_prime") else "actor"],
            )
            for name, params in self.params.items()
        }
        return states, {name: self.params[name] for name in Q}

    def update(self, states: Any, batch: dict[str, Any], noise: Noise) -> Any:
        """One of their updates; with its losses."""
        # The order of their calls, once for every loss that they differentiate.
        self.policy.calls = cycle((noise.own, noise.target, noise.current, noise.following))
        train, target = states
        step = self.code.ConservativeSAC._train_step.__wrapped__
        uniform = mock.patch.object(jax.random, "uniform", lambda *args, **kwargs: noise.uniform)
        with uniform, bounds_renamed():
            train, target, info = step(self.agent, train, target, jax.random.key(0), batch)
        return (train, target), info


# --- The same state in both codes -----------------------------------------------------------------


def as_ours(tree: Params) -> Params:
    """The parameters of a fully connected network of theirs under the names of ours."""
    return {
        "_JoinedDense_0" if place == 0 else f"_Dense_{place - 1}": (
            tree[f"Dense_{place}"] if place == 0 else {"Dense_0": tree[f"Dense_{place}"]}
        )
        for place in range(len(tree))
    }


def of_critics(params: dict[str, Params]) -> Params:
    """Two of their critics as one of our ensembles."""
    both = [as_ours(params[name]["params"]["FullyConnectedNetwork_0"]) for name in Q]
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), *both)


def ours(states: Any) -> dict[str, Params]:
    """{field of our state, or "target": parameters}."""
    train, target = states
    policy = train["policy"].params["params"]
    scalars = {name: policy[f"log_std_{name}_module"]["value"] for name in ("multiplier", "offset")}
    found = {
        "actor": {"net": as_ours(policy["base_network"])} | scalars,
        "critic": of_critics({name: train[name].params for name in Q}),
        "target": of_critics(target),
        "temperature": train["log_alpha"].params["params"]["value"],
    }
    if "log_alpha_prime" in train:
        found["multiplier"] = train["log_alpha_prime"].params["params"]["value"]
    return found


def state_of(states: Any, **optimizers: optax.GradientTransformation) -> cql.State:
    """Our state at their parameters."""
    params = ours(states)

    def trainable(name: str, kind: str, target: Params = None) -> Trainable:
        return Trainable(params[name], target, optimizers[kind].init(params[name]))

    return cql.State(
        actor=trainable("actor", "actor"),
        critic=trainable("critic", "critic", params["target"]),
        temperature=trainable("temperature", "actor"),
        multiplier=trainable("multiplier", "critic") if "multiplier" in params else None,
    )


def updated(
    config: cql.Config, state: cql.State, batch: Any, noise: Noise, **optimizers: Any
) -> tuple[cql.State, Any]:
    """One of our updates with given draws."""
    parts = cql.build(config, SPEC)
    net = parts.policy.net

    def apply(params: Params, observation: Array) -> Array:
        mean, log_std = jnp.split(net.apply(params["net"], observation), 2, -1)
        return jnp.concatenate([mean, params["multiplier"] * log_std + params["offset"]], -1)

    policy = TanhGaussian(Net(net.init, apply), SPEC.action_box)
    parts = parts._replace(
        policy=policy, actor_optimizer=optimizers["actor"], critic_optimizer=optimizers["critic"]
    )

    def samples(observation: Array, z: Array) -> cql.Samples:
        mean, std = policy.moments(state.actor.params, observation)
        u = mean[:, None] + std[:, None] * z
        density = policy.log_density_pre_tanh(state.actor.params, observation, u)
        return cql.Samples(*jax.lax.stop_gradient((policy.squash(u), density)))

    after = batch.next_observation
    draws = cql.Draws(
        noise=noise.own,
        target=samples(after, noise.target),
        current=samples(batch.observation, noise.current),
        following=samples(after, noise.following),
        uniform=noise.uniform,
    )
    return cql.update_with(state, batch, draws, parts=parts)


# --- The comparison -------------------------------------------------------------------------------


def compare(config: cql.Config, dtype: Any, count: int) -> dict[str, float]:
    """Relative differences of the first losses and gradients, and of parameters after updates."""
    peer, rng = Peer(config, dtype), np.random.default_rng(2)
    rows: dict[str, float] = {}
    descent = dict.fromkeys(("actor", "critic"), optax.sgd(1.0))  # moves by the gradient
    adam = {
        "actor": learner.optimizer(config.actor_learning_rate),
        "critic": learner.optimizer(config.critic_learning_rate),
    }
    for opt, steps in ((descent, 1), (adam, count)):
        start = states = peer.states(**opt)
        state = state_of(states, **opt)
        step = jax.jit(lambda s, b, n, opt=opt: updated(config, s, b, n, **opt))
        other = jax.jit(peer.update)
        for theirs, batch in batches(steps, dtype):
            noise = noise_of(rng, config, dtype)
            theirs = theirs | {"dones": 1 - theirs["masks"]}
            state, metrics = step(state, batch, noise)
            states, info = other(states, theirs, noise)
        found, before, expected = ours_of(state), ours(start), ours(states)
        if opt is descent:
            losses = {"actor_loss": "policy_loss", "entropy": "log_pi", "q": "q1_pred"}
            for name, key in losses.items():
                total, size = metrics[name]
                value = info[key] if name != "q" else (info["q1_pred"] + info["q2_pred"]) / 2
                sign = -1 if name == "entropy" else 1
                rows[f"loss, {name}"] = abs(float(sign * total / size / value) - 1)
        for name, params in found.items():
            if opt is descent and name == "target":
                continue
            moved = jax.tree.map(lambda a, b: a - b, expected[name], before[name])
            what = "gradient" if opt is descent else "parameters"
            rows[f"{what}, {name}"] = largest(params, expected[name], moved)
    return rows


def ours_of(state: cql.State) -> dict[str, Params]:
    """{field, or "target": parameters} of our state."""
    found = {"actor": state.actor.params, "critic": state.critic.params}
    found |= {"target": state.critic.target, "temperature": state.temperature.params}
    return found | ({"multiplier": state.multiplier.params} if state.multiplier else {})


def main(argv: list[str]) -> None:
    """Prints a table of every case."""
    del argv
    sys.path.insert(0, FLAGS.peer)
    jax.config.update("jax_enable_x64", FLAGS.float64)
    gaussian.LOG_STD_MIN = -20.0  # the peer's bound
    dtype = np.float64 if FLAGS.float64 else np.float32
    for name, config in CASES.items():
        print(f"\n{name}, {np.dtype(dtype).name}, {FLAGS.updates} updates")
        for row, difference in compare(config, dtype, FLAGS.updates).items():
            print(f"  {row:40s} {difference:.1e}")


if __name__ == "__main__":
    flags.DEFINE_string("peer", None, "folder of the peer's code", required=True)
    flags.DEFINE_bool("float64", True, "in double precision")
    flags.DEFINE_integer("updates", 20, "updates before parameters are compared")
    app.run(main)
