"""AWAC against jaxrl: losses, gradients, and parameters after some updates.

    git clone https://github.com/ikostrikov/jaxrl PEER
    pip install distrax
    python -m benchmarks.parity.awac --peer=PEER

jaxrl has the settings of the authors' code. Both codes start from the peer's initial
parameters, with random batches and the same random numbers, in float64 (`--nofloat64` for float32),
with the default networks and a lambda of 2. Samples are not clipped here, as in the peer. Every row
is a largest relative difference, as in `benchmarks/parity/fql.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.parity.fql import ACTION, GAMMA, OBSERVATION, SPEC, batches, largest
from jaxrl_prefs import learner
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import awac
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Array, Params

FLAGS = flags.FLAGS
CONFIG = awac.Config()
DECAY = CONFIG.actor_weight_decay
FIELDS = ("actor", "critic")


class GivenDraws(DiagonalGaussian):
    """A policy that takes normal numbers [K, B, A] in place of a key, and does not clip."""

    def sample(self, params: Params, observation: Array, key: Any, count: int) -> Array:
        """mean + std * z: [B, K, A]."""
        mean, std = self.moments(params, observation)
        return mean[:, None] + std[:, None] * jnp.moveaxis(key, 0, 1)


@cache
def imported() -> types.SimpleNamespace:
    """Modules of jaxrl, whose folder is on `sys.path`, without its simulators and datasets."""
    for name in ("jaxrl", "jaxrl.agents", "jaxrl.agents.awac", "jaxrl.agents.sac"):
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"no {name} on sys.path")
        package = types.ModuleType(name)  # their __init__ import every agent
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules[name] = package
    sys.modules["jaxrl.datasets"] = mock.MagicMock()
    names = {
        "actor": "agents.awac.actor",
        "critic": "agents.sac.critic",
        "nets": "networks.critic_net",
        "policies": "networks.policies",
        "common": "networks.common",
    }
    found = {name: importlib.import_module(f"jaxrl.{path}") for name, path in names.items()}
    return types.SimpleNamespace(**found)


class Peer:
    """jaxrl's AWAC with our settings."""

    def __init__(self, config: awac.Config = CONFIG, action_dim: int = ACTION) -> None:
        """Imports the modules of the losses, and makes the networks."""
        self.config, self.code = config, imported()
        self.beta = 1 / config.temperature if config.temperature else math.inf
        self.tree_map = mock.patch.object(jax, "tree_multimap", jax.tree.map, create=True)
        policy = self.code.policies.NormalTanhPolicy(
            config.actor_hidden,
            action_dim,
            state_dependent_std=False,
            tanh_squash_distribution=False,
        )
        self.modules = {
            "actor": policy,
            "critic": self.code.nets.DoubleCritic(config.critic_hidden),
        }

    def params(self, key: Any, observation: Array, action: Array) -> dict[str, Params]:
        """Initial parameters."""
        inputs = {"actor": (observation,), "critic": (observation, action)}
        keys = dict(zip(FIELDS, jax.random.split(key), strict=True))
        return {
            name: module.init(keys[name], *inputs[name])["params"]
            for name, module in self.modules.items()
        }

    def models(
        self, params: dict[str, Params], optimizers: dict[str, optax.GradientTransformation]
    ) -> dict[str, Any]:
        """Their two models and the target network, at initial parameters."""
        found = {
            name: self.code.common.Model(
                step=1,
                apply_fn=self.modules[name].apply,
                params=params[name],
                tx=optimizers[name],
                opt_state=optimizers[name].init(params[name]),
            )
            for name in FIELDS
        }
        return found | {"target": found["critic"]}

    def draws(self, models: dict[str, Any], batch: Any, keys: Any) -> tuple[Array, Array]:
        """The normal numbers behind the actions that an update samples: [1, B, A] each."""
        found = []
        for observation, key, shape in (
            (batch.next_observations, keys[0], ()),
            (batch.observations, keys[1], [1]),
        ):
            law = models["actor"](observation)
            sample = law.sample(seed=key, sample_shape=shape)
            z = (sample - law.mean()) / law.stddev()
            found.append(z.reshape(1, *batch.actions.shape))
        return found[0], found[1]

    def update(self, models: dict[str, Any], batch: Any, keys: Any, discount: float = GAMMA) -> Any:
        """One update, in the order of their learner; with its losses."""
        config, code = self.config, self.code
        with self.tree_map:
            critic, losses = code.critic.update(
                keys[0], models["actor"], models["critic"], models["target"], None, batch, discount,
                backup_entropy=False,
            )  # fmt: skip
            target = code.critic.target_update(critic, models["target"], config.tau)
            actor, more = code.actor.update(
                keys[1], models["actor"], critic, batch, config.value_samples, self.beta
            )
        return {"actor": actor, "critic": critic, "target": target}, losses | more


def initial(peer: Peer, dtype: Any, optimizers: dict[str, Any]) -> dict[str, Any]:
    """The peer's models at the parameters where both codes start."""
    observation, action = jnp.zeros((1, OBSERVATION)), jnp.zeros((1, ACTION))
    params = peer.params(jax.random.key(0), observation, action)
    return peer.models(jax.tree.map(lambda x: x.astype(dtype), params), optimizers)


def as_ours(name: str, network: Params) -> Params:
    """The parameters of a network of theirs under the names of ours."""
    if name == "critic":
        (layers,) = network["VmapCritic_0"].values()
    else:
        layers = network["MLP_0"] | {f"Dense_{len(CONFIG.actor_hidden)}": network["Dense_0"]}
    found = {
        "_JoinedDense_0" if place == 0 else f"_Dense_{place - 1}": (
            layers[f"Dense_{place}"] if place == 0 else {"Dense_0": layers[f"Dense_{place}"]}
        )
        for place in range(len(layers))
    }
    return found if name == "critic" else {"mean": found, "log_std": network["log_stds"]}


def ours(name: str, models: dict[str, Any]) -> Params:
    """A model's parameters in our form; "target" is the critics' target network."""
    return as_ours("critic" if name == "target" else name, models[name].params)


def state_of(models: dict[str, Any], **optimizers: optax.GradientTransformation) -> awac.State:
    """Our state at their parameters."""
    params = {name: ours(name, models) for name in (*FIELDS, "target")}
    return awac.State(
        actor=Trainable(params["actor"], None, optimizers["actor"].init(params["actor"])),
        critic=Trainable(
            params["critic"], params["target"], optimizers["critic"].init(params["critic"])
        ),
    )


def updated(state: awac.State, batch: Any, draws: Any, **optimizers: Any) -> Any:
    """One of our updates with given draws."""
    parts = awac.build(CONFIG, SPEC)
    parts = parts._replace(
        policy=GivenDraws(*parts.policy)._replace(log_std_max=2.0),
        actor_optimizer=optimizers["actor"],
        critic_optimizer=optimizers["critic"],
    )
    return awac.update_with(state, batch, *draws, parts=parts)


def pairs(count: int, dtype: Any) -> Iterator[tuple[Any, Any]]:
    """Random batches in the form of both codes."""
    for theirs, batch in batches(count, dtype):
        yield types.SimpleNamespace(**theirs), batch


def first_update(peer: Peer, dtype: Any) -> dict[str, float]:
    """Relative differences of losses and of gradients."""
    descent = dict.fromkeys(FIELDS, optax.sgd(1.0))  # moves parameters by their gradient
    models = initial(peer, dtype, descent)
    theirs, batch = next(pairs(1, dtype))
    keys = jax.random.split(jax.random.key(7))
    draws = peer.draws(models, theirs, keys)
    after, info = peer.update(models, theirs, keys)
    state, metrics = updated(state_of(models, **descent), batch, draws, **descent)
    rows = {}
    for name in ("critic_loss", "actor_loss"):
        found, count = metrics[name]
        factor = 2 if name == "critic_loss" else 1  # ours is the mean over critics, theirs the sum
        rows[f"loss, {name}"] = abs(float(factor * found / count / info[name]) - 1)
    for name in FIELDS:
        start = ours(name, models)
        found, expected = (
            jax.tree.map(lambda a, b: a - b, start, end)
            for end in (getattr(state, name).params, ours(name, after))
        )
        rows[f"gradient, {name}"] = largest(found, expected, expected)
    return rows


def many_updates(peer: Peer, dtype: Any, count: int) -> dict[str, float]:
    """Relative differences of parameters after some updates with Adam."""
    opt = {
        "actor": learner.optimizer(CONFIG.actor_learning_rate, weight_decay=DECAY),
        "critic": learner.optimizer(CONFIG.critic_learning_rate),
    }
    models = start = initial(peer, dtype, opt)
    state = state_of(models, **opt)
    update = jax.jit(lambda s, b, d: updated(s, b, d, **opt)[0])
    for i, (theirs, batch) in enumerate(pairs(count, dtype)):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(7), i))
        state = update(state, batch, peer.draws(models, theirs, keys))
        models, _ = peer.update(models, theirs, keys)
    found = {"actor": state.actor.params, "critic": state.critic.params}
    found["target"] = state.critic.target
    rows = {}
    for name, params in found.items():
        expected, before = ours(name, models), ours(name, start)
        moved = jax.tree.map(lambda a, b: a - b, expected, before)
        rows[f"parameters, {name}"] = largest(params, expected, moved)
    return rows


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    jax.config.update("jax_enable_x64", FLAGS.float64)
    dtype = np.float64 if FLAGS.float64 else np.float32
    sys.path.insert(0, FLAGS.peer)
    peer = Peer()
    rows = first_update(peer, dtype) | many_updates(peer, dtype, FLAGS.updates)
    print(f"awac, {np.dtype(dtype).name}, {FLAGS.updates} updates")
    for name, difference in rows.items():
        print(f"  {name:40s} {difference:.1e}")


if __name__ == "__main__":
    flags.DEFINE_string("peer", None, "folder of the peer's code", required=True)
    flags.DEFINE_bool("float64", True, "in double precision")
    flags.DEFINE_integer("updates", 20, "updates before parameters are compared")
    app.run(main)
