"""ReBRAC against its authors' code: losses, gradients, and parameters after some updates.

    git clone https://github.com/tinkoff-ai/ReBRAC PEER
    pip install distrax
    python -m benchmarks.parity.rebrac --peer=PEER

Both codes start from the authors' initial parameters, with random batches and the same random
numbers, in float64 (`--nofloat64` for float32), with the default networks and penalties of 0.05 and
0.5. Every row is a largest relative difference, as in `benchmarks/parity/fql.py`. The packages that
the authors' module imports for simulators and logging are replaced by empty ones.
"""

from __future__ import annotations

import importlib
import sys
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
from jaxrl_prefs.methods import rebrac
from jaxrl_prefs.types import Params, Transition

FLAGS = flags.FLAGS
CONFIG = rebrac.Config(actor_penalty=0.05, critic_penalty=0.5)
UNUSED = ("wandb", "pyrallis", "src.utils.buffer", "src.utils.common")
FIELDS = ("actor", "critic")
State = dict[str, Any]  # of the authors' code: its two train states


class Losses:
    """In place of the authors' metrics: gives back what an update reports."""

    def update(self, losses: dict[str, Any]) -> dict[str, Any]:
        """The losses as they are."""
        return losses


def imported() -> tuple[Any, Any]:
    """The authors' modules of the updates and of the networks."""
    sys.modules.update({name: mock.MagicMock() for name in UNUSED})
    algorithm = importlib.import_module("src.algorithms.rebrac")
    return algorithm, importlib.import_module("src.networks")


class Peer:
    """The authors' two updates, from their initial parameters."""

    def __init__(self, dtype: Any) -> None:
        """Imports their code."""
        self.code, networks = imported()
        observation, action = jnp.zeros((1, OBSERVATION)), jnp.zeros((1, ACTION))
        self.modules = {
            "actor": (networks.DetActor(ACTION, layernorm=False), (observation,)),
            "critic": (networks.EnsembleCritic(num_critics=2), (observation, action)),
        }
        keys = dict(zip(FIELDS, jax.random.split(jax.random.key(0)), strict=True))
        self.params = {
            name: jax.tree.map(lambda x: x.astype(dtype), module.init(keys[name], *inputs))
            for name, (module, inputs) in self.modules.items()
        }

    def states(self, optimizer: optax.GradientTransformation) -> State:
        """Their train states at the initial parameters."""
        kinds = {"actor": self.code.ActorTrainState, "critic": self.code.CriticTrainState}
        return {
            name: kinds[name].create(
                apply_fn=self.modules[name][0].apply, params=each, target_params=each, tx=optimizer
            )
            for name, each in self.params.items()
        }

    def update(self, states: State, batch: dict[str, Any], key: Any, full: bool) -> Any:
        """One update of the critics, and with `full` one of the policy; with their losses."""
        c, losses = CONFIG, {}
        _, critic, losses = self.code.update_critic(
            key, *(states[name] for name in FIELDS), batch, GAMMA, c.critic_penalty, c.tau, c.noise,
            c.noise_clip, Losses(),
        )  # fmt: skip
        actor = states["actor"]
        if full:
            _, actor, critic, more = self.code.update_actor(
                key, actor, critic, batch, c.actor_penalty, c.tau, True, Losses()
            )
            losses = losses | more
        return {"actor": actor, "critic": critic}, losses


def as_ours(network: Params) -> Params:
    """The parameters of a network of theirs under the names of ours."""
    layers = network["params"]
    layers = layers.get("VmapCritic_0", layers)
    layers = next(iter(layers.values())) if len(layers) == 1 else layers
    found: dict[str, Any] = {}
    dense = norms = 0
    for place in sorted(layers, key=lambda name: int(name.rpartition("_")[2])):
        layer = layers[place]
        if "scale" in layer:
            found[f"LayerNorm_{norms}"], norms = layer, norms + 1
        elif dense == 0:
            found["_JoinedDense_0"], dense = layer, 1
        else:
            found[f"_Dense_{dense - 1}"], dense = {"Dense_0": layer}, dense + 1
    return found


def state_of(states: State, optimizer: optax.GradientTransformation) -> rebrac.State:
    """Our state at their parameters."""
    return rebrac.State(
        **{
            name: Trainable(
                as_ours(each.params),
                as_ours(each.target_params),
                optimizer.init(as_ours(each.params)),
            )
            for name, each in states.items()
        }
    )


def pairs(count: int, dtype: Any) -> Any:
    """Random batches in the form of both codes, with next actions of their own."""
    rng = np.random.default_rng(1)
    for _, ours in batches(count, dtype):
        after = rng.uniform(-1, 1, size=ours.action.shape).astype(dtype)
        ours = ours._replace(next_action=after, has_next_action=np.ones_like(ours.reward))
        theirs = {
            "states": ours.observation,
            "actions": ours.action,
            "rewards": ours.reward,
            "next_states": ours.next_observation,
            "next_actions": after,
            "dones": (ours.discount == 0).astype(dtype),
        }
        yield theirs, ours


def first_update(peer: Peer, dtype: Any) -> dict[str, float]:
    """Relative differences of losses and of gradients."""
    descent = optax.sgd(1.0)  # moves parameters by their gradient
    states = peer.states(descent)
    theirs, ours = next(pairs(1, dtype))
    key = jax.random.key(7)
    after, info = peer.update(states, theirs, key, full=True)
    state, metrics = updated(state_of(states, descent), ours, key, 0, descent)
    rows = {}
    for name, other in {"critic_loss": "critic_loss", "actor_loss": "actor_loss"}.items():
        found, count = metrics[name]
        factor = 2 if name == "critic_loss" else 1  # ours is the mean over critics, theirs the sum
        rows[f"loss, {name}"] = abs(float(factor * found / count / info[other]) - 1)
    found, count = metrics["bc_error"]
    rows["loss, bc_error"] = abs(float(found / count / info["bc_mse_policy"]) - 1)
    for name in FIELDS:
        start = as_ours(states[name].params)
        found, expected = (
            jax.tree.map(lambda a, b: a - b, start, end)
            for end in (getattr(state, name).params, as_ours(after[name].params))
        )
        rows[f"gradient, {name}"] = largest(found, expected, expected)
    return rows


def updated(
    state: rebrac.State, batch: Transition, key: Any, step: int, opt: optax.GradientTransformation
) -> Any:
    """One of our updates, with the authors' draw of the smoothing noise."""
    parts = rebrac.build(CONFIG, SPEC)._replace(actor_optimizer=opt, critic_optimizer=opt)
    noise_key = jax.random.split(key)[1]
    return rebrac.update(state, batch, noise_key, step, parts=parts, config=CONFIG)


def many_updates(peer: Peer, dtype: Any, count: int) -> dict[str, float]:
    """Relative differences of parameters after some updates with Adam."""
    adam = learner.optimizer(CONFIG.actor_learning_rate)
    states = start = peer.states(adam)
    state = state_of(states, adam)
    ours_by = [jax.jit(lambda s, b, k, i=i: updated(s, b, k, i, adam)[0]) for i in (0, 1)]
    theirs_by = [jax.jit(lambda s, b, k, i=i: peer.update(s, b, k, i == 0)[0]) for i in (0, 1)]
    for i, (theirs, ours) in enumerate(pairs(count, dtype)):
        key = jax.random.fold_in(jax.random.key(7), i)
        states, state = theirs_by[i % 2](states, theirs, key), ours_by[i % 2](state, ours, key)
    rows = {}
    for name in FIELDS:
        own = getattr(state, name)
        for what, found, params in (
            ("parameters", own.params, states[name].params),
            ("target network", own.target, states[name].target_params),
        ):
            expected, before = as_ours(params), as_ours(start[name].params)
            moved = jax.tree.map(lambda a, b: a - b, expected, before)
            rows[f"{what}, {name}"] = largest(found, expected, moved)
    return rows


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    sys.path.insert(0, FLAGS.peer)
    jax.config.update("jax_enable_x64", FLAGS.float64)
    dtype = np.float64 if FLAGS.float64 else np.float32
    peer = Peer(dtype)
    rows = first_update(peer, dtype) | many_updates(peer, dtype, FLAGS.updates)
    print(f"rebrac, {np.dtype(dtype).name}, {FLAGS.updates} updates")
    for name, difference in rows.items():
        print(f"  {name:40s} {difference:.1e}")


if __name__ == "__main__":
    flags.DEFINE_string("peer", None, "folder of the authors' code", required=True)
    flags.DEFINE_bool("float64", True, "in double precision")
    flags.DEFINE_integer("updates", 20, "updates before parameters are compared")
    app.run(main)
