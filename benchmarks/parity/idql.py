"""IDQL against its authors' code: losses, gradients, and parameters after some updates.

    git clone https://github.com/philippe-eecs/IDQL PEER
    python -m benchmarks.parity.idql --peer=PEER

Both codes start from the authors' initial parameters, with random batches and the same random
numbers, in float64 (`--nofloat64` for float32), with the networks of the paper's runs but for their
dropout. Rows are those of benchmarks/parity/fql.py. The authors' critics' loss is a mean and their
cloning loss a sum where ours are a sum and a mean: their gradients are rescaled before Adam.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.parity.fql import ACTION, OBSERVATION, SPEC, batches, largest
from jaxrl_prefs import learner
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import idql
from jaxrl_prefs.ops import ddpm
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.types import Array, Params

FLAGS = flags.FLAGS
CONFIG = idql.Config(behavior_decays=False)
# field of our state -> their network, its target network, and our gradient in units of theirs
NETWORKS = {
    "behavior": ("score_model", "target_score_model", 1 / ACTION),
    "critic": ("critic", "target_critic", 2.0),
    "value": ("value", None, 1.0),
}
LOSSES = {  # our metric -> theirs, and its factor
    "behavior_loss": ("actor_loss", ACTION),
    "value_loss": ("value_loss", 1),
    "critic_loss": ("critic_loss", 1),
    "q": ("q", 1),
}

Peer = Any  # an agent of the authors' code
Optimizers = dict[str, optax.GradientTransformation]


class GivenDraws(DiffusionPolicy):
    """A diffusion policy that takes (level, eps) in place of a key."""

    def noised(self, action: Array, key: Any) -> tuple[Array, Array, Array]:
        """The noised action at this level with this noise."""
        level, eps = key
        return ddpm.noised(self.schedule, action, level, eps), level, eps


def draws(agent: Peer, rows: int) -> tuple[Array, Array]:
    """Levels and noise of one update, by the authors' splits of their key."""
    level_key, key = jax.random.split(agent.rng)
    noise_key, _ = jax.random.split(key)
    level = jax.random.randint(level_key, (rows,), 0, CONFIG.diffusion_steps) + 1
    return level, jax.random.normal(noise_key, (rows, ACTION))


# --- Their code -----------------------------------------------------------------------------------


class Agent(flax.struct.PyTreeNode):
    """The fields of the authors' base class, whose file needs other packages."""

    actor: Any
    rng: Any


def peer_module() -> Any:
    """Their learner's module, found on the path, without what its other agents need."""
    found = importlib.machinery.PathFinder.find_spec("jaxrl5")
    if found is None or found.origin is None:
        raise ImportError("no jaxrl5 on the path")
    folder = Path(found.origin).parent.parent
    sys.modules.setdefault("gym", gymnasium)
    sys.modules.setdefault("gym.utils", gymnasium.utils)
    for name in ("jaxrl5", "jaxrl5.agents", "jaxrl5.agents.ddpm_iql", "jaxrl5.data"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = package
    base = types.ModuleType("jaxrl5.agents.agent")
    base.Agent = Agent  # type: ignore[attr-defined]
    sys.modules[base.__name__] = base
    return importlib.import_module("jaxrl5.agents.ddpm_iql.ddpm_iql_learner")


def created(
    module: Any, config: idql.Config, sizes: tuple[int, int], seed: Any = 0, **more: Any
) -> Peer:
    """Their agent with our settings, for observations and actions of these sizes."""
    net = partial(module.MLPResNet, hidden_dim=config.behavior_width)
    adam = partial(optax.adamw, weight_decay=config.weight_decay)
    decays = config.behavior_decays and config.train_steps
    # Both are constants there.
    with mock.patch.object(module, "MLPResNet", net), mock.patch.object(optax, "adamw", adam):
        return module.DDPMIQLLearner.create(
            seed,
            *(gymnasium.spaces.Box(-1, 1, (size,)) for size in sizes),
            actor_architecture="ln_resnet",
            actor_num_blocks=config.behavior_blocks,
            actor_layer_norm=True,
            actor_lr=config.behavior_learning_rate,
            critic_lr=config.critic_learning_rate,
            value_lr=config.critic_learning_rate,
            critic_hidden_dims=config.critic_hidden,
            tau=config.tau,
            critic_hyperparam=config.expectile,
            actor_tau=config.behavior_tau,
            T=config.diffusion_steps,
            N=config.candidates,
            beta_schedule=config.schedule,
            decay_steps=config.train_steps if decays else None,
            **more,
        )


def agent_of(optimizers: Optimizers, dtype: Any) -> Peer:
    """Their agent with parameters of `dtype` and these optimisers."""
    agent = created(peer_module(), CONFIG, (OBSERVATION, ACTION))
    for field, (name, target, factor) in NETWORKS.items():
        network = getattr(agent, name)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), network.params)
        tx = optax.chain(optax.scale(factor), optimizers[field])
        trained = network.replace(params=params, tx=tx, opt_state=tx.init(params))
        agent = agent.replace(**{name: trained})
        if target:
            agent = agent.replace(**{target: getattr(agent, target).replace(params=params)})
    return agent


# --- The same parameters in both codes ------------------------------------------------------------


def as_ours(field: str, theirs: Params) -> Params:
    """The parameters of a network of theirs under the names of ours."""
    if field == "behavior":
        return behavior_params(theirs)
    layers = theirs["VmapStateActionValue_0"] if field == "critic" else theirs
    last = layers["Dense_0" if field == "critic" else "OutputVDense"]
    hidden = layers["MLP_0"]
    return {
        "_JoinedDense_0": hidden["Dense_0"],
        "_Dense_0": {"Dense_0": hidden["Dense_1"]},
        "_Dense_1": {"Dense_0": last},
    }


def behavior_params(theirs: Params) -> Params:
    """Those of the diffusion model."""
    net = theirs["MLPResNet_0"]
    found: dict[str, Any] = {"_JoinedDense_0": net["Dense_0"]}
    for block in range(CONFIG.behavior_blocks):
        layers = net[f"MLPResNetBlock_{block}"]
        found[f"LayerNorm_{block}"] = layers["LayerNorm_0"]
        for half in range(2):
            found[f"_Dense_{2 * block + half}"] = {"Dense_0": layers[f"Dense_{half}"]}
    found[f"_Dense_{2 * CONFIG.behavior_blocks}"] = {"Dense_0": net["Dense_1"]}
    found["_LearnedStepFeature_0"] = {
        "frequency": theirs["FourierFeatures_0"]["kernel"][:, 0],
        "_Dense_0": {"Dense_0": theirs["MLP_0"]["Dense_0"]},
        "_Dense_1": {"Dense_0": theirs["MLP_0"]["Dense_1"]},
    }
    return found


def networks_of(agent: Peer) -> dict[str, tuple[Params, Params]]:
    """{field of our state: parameters, and target network or None}."""
    return {
        field: (
            as_ours(field, getattr(agent, name).params),
            as_ours(field, getattr(agent, target).params) if target else None,
        )
        for field, (name, target, _) in NETWORKS.items()
    }


# --- The comparison -------------------------------------------------------------------------------


def compared(optimizers: Optimizers, dtype: Any, count: int) -> dict[str, Any]:
    """Both codes after `count` updates, and where they started."""
    agent = agent_of(optimizers, dtype)
    start = networks_of(agent)
    state = idql.State(
        **{
            field: Trainable(params, target, optimizers[field].init(params))
            for field, (params, target) in start.items()
        }
    )
    parts = idql.build(CONFIG, SPEC)
    own = parts.iql._replace(
        critic_optimizer=optimizers["critic"], value_optimizer=optimizers["value"]
    )
    parts = parts._replace(
        behavior=GivenDraws(*parts.behavior),
        behavior_optimizer=optimizers["behavior"],
        iql=own,
    )
    update = jax.jit(lambda s, b, d: idql.update(s, b, d, jnp.int32(0), parts=parts))
    metrics: dict[str, Any] = {}
    info: dict[str, Any] = {}
    for theirs, ours in batches(count, dtype):
        state, metrics = update(state, ours, draws(agent, len(ours.reward)))
        agent, info = agent.update(theirs)
    ends = {field: (getattr(state, field).params, getattr(state, field).target) for field in start}
    return dict(start=start, ours=ends, theirs=networks_of(agent), metrics=metrics, info=info)


def first_update(dtype: Any) -> dict[str, float]:
    """Relative differences of losses, and of gradients: what a step of descent of rate 1 moves."""
    found = compared(dict.fromkeys(NETWORKS, optax.sgd(1.0)), dtype, 1)
    rows = {}
    for name, (other, factor) in LOSSES.items():
        value, count = found["metrics"][name]
        rows[f"loss {name}"] = abs(float(factor * value / count / found["info"][other]) - 1)
    for field in NETWORKS:
        start = found["start"][field][0]
        steps = [
            jax.tree.map(lambda a, b: a - b, found[whose][field][0], start)
            for whose in ("ours", "theirs")
        ]
        rows[f"gradient {field}"] = largest(*steps, steps[1])
    return rows


def many_updates(dtype: Any, count: int) -> dict[str, float]:
    """Relative differences of parameters after some updates with Adam."""
    adam = dict.fromkeys(NETWORKS, learner.optimizer(CONFIG.critic_learning_rate))
    adam["behavior"] = idql.build(CONFIG, SPEC).behavior_optimizer
    found = compared(adam, dtype, count)
    rows = {}
    for field in NETWORKS:
        for place, name in enumerate(("parameters", "target network of")):
            ours, theirs, start = (
                found[whose][field][place] for whose in ("ours", "theirs", "start")
            )
            if theirs is not None:
                moved = jax.tree.map(lambda a, b: a - b, theirs, start)
                rows[f"{name} {field}"] = largest(ours, theirs, moved)
    return rows


def main(argv: list[str]) -> None:
    """Prints a table."""
    del argv
    sys.path.insert(0, FLAGS.peer)
    jax.config.update("jax_enable_x64", FLAGS.float64)
    dtype = np.float64 if FLAGS.float64 else np.float32
    rows = first_update(dtype) | many_updates(dtype, FLAGS.updates)
    print(f"\nidql, {np.dtype(dtype).name}, {FLAGS.updates} updates")
    for name, difference in rows.items():
        print(f"  {name:40s} {difference:.1e}")


if __name__ == "__main__":
    flags.DEFINE_string("peer", None, "folder of the authors' code", required=True)
    flags.DEFINE_bool("float64", True, "in double precision")
    flags.DEFINE_integer("updates", 20, "updates before parameters are compared")
    app.run(main)
