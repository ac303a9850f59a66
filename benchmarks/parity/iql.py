"""IQL against its authors' code and JAX-CORL: losses, gradients, parameters, and a short run.

    git clone https://github.com/ikostrikov/implicit_q_learning AUTHORS
    git clone https://github.com/nissymori/JAX-CORL PEER
    pip install distrax tfp-nightly pydantic tqdm
    python -m benchmarks.parity.iql --authors=AUTHORS --peer=PEER

Both codes start from the other's initial parameters, and the other's own training step runs as it
is written; ours takes the rows that it draws, in float64 (`--nofloat64` for float32). Rows are
random ones, then 2,000 of a recorded dataset as JAX-CORL prepares them.

Both codes weigh actions by advantages of V after its step, which ours takes before it; here ours
takes them after, too. In a second case the authors' functions are called in our order instead, and
our update is that of the library. The run is repeated with each code in its own order, to show what
the order changes. Against JAX-CORL, our V is layer-normalised and our policy's mean has no tanh, as
there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.parity import jax_corl, lockstep
from benchmarks.parity.jax_corl import layers
from benchmarks.parity.lockstep import Start, transitions
from jaxrl_prefs import learner, nets
from jaxrl_prefs.data import Processing
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import iql
from jaxrl_prefs.ops import gaussian
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Array, Key, Params, Spec, Transition
from jaxrl_prefs.values import iql as values

FLAGS = flags.FLAGS
CONFIG = iql.Config()
LOG_STD_MAX = 2.0  # of both other codes
FIELDS = ("actor", "critic", "value")
LOSSES = {
    "critic_loss": ("critic_loss", 2.0),  # ours is the mean over critics, theirs the sum
    "value_loss": ("value_loss", 1.0),
    "actor_loss": ("actor_loss", 1.0),
}


# --- Ours -----------------------------------------------------------------------------------------


class Unsquashed(DiagonalGaussian):
    """A policy whose mean is the network's output as it is."""

    def moments(self, params: Params, observation: Array) -> tuple[Array, Array]:
        """Mean and standard deviation."""
        mean, log_std = jnp.split(self.net.apply(params, observation), 2, -1)
        return mean, gaussian.bounded_std(log_std, largest=self.log_std_max)


def advantage_after(
    state: iql.State, batch: Transition, key: Key, step: int, *, parts: iql.Parts
) -> Any:
    """Our update with advantages of V after its step."""
    del key, step
    own = parts.iql
    critic, value, _, metrics = values.update(state.critic, state.value, batch, iql=own)
    q = own.critic.apply(state.critic.target, batch.observation, batch.action).min(0)
    advantage = q - own.value.apply(value.params, batch.observation)
    loss = partial(iql.actor_loss, batch=batch, advantage=advantage, parts=parts)
    actor, more = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    return iql.State(actor, critic, value), metrics | more


def started(
    theirs: Any,
    params: dict[str, Params],
    parts: Any,
    descent: optax.GradientTransformation | None,
    update: Callable[..., Any],
    state: type[Any] = iql.State,
) -> Start:
    """Our state, of IQL's class or of another with its fields, at their parameters."""
    if descent:
        own = parts.iql._replace(critic_optimizer=descent, value_optimizer=descent)
        parts = parts._replace(actor_optimizer=descent, iql=own)
    opts = dict.fromkeys(FIELDS, parts.iql.critic_optimizer) | {"actor": parts.actor_optimizer}
    initial = state(
        **{
            name: Trainable(
                params[name],
                params.get(f"{lockstep.TARGET}, {name}"),
                opts[name].init(params[name]),
            )
            for name in FIELDS
        }
    )
    return Start(theirs, initial, jax.jit(partial(update, parts=parts)))


def actor_of(network: Params) -> Params:
    """The parameters of a policy of theirs under the names of ours."""
    mean = layers(network["MLP_0"] | {f"Dense_{len(CONFIG.actor_hidden)}": network["Dense_0"]})
    return {"mean": mean, "log_std": network["log_stds"]}


# --- Theirs ---------------------------------------------------------------------------------------


class JaxCorl:
    """JAX-CORL's IQL and ours."""

    losses = LOSSES

    def __init__(self, module: Any, dtype: Any) -> None:
        """Takes the peer's settings."""
        self.module, self.dtype = module, dtype
        self.settings = module.IQLConfig()
        self.update = jax.jit(module.IQL().update_n_times, static_argnums=(3,))

    def start(self, rows: Any, descent: optax.GradientTransformation | None) -> Start:
        """Their initial parameters in both codes."""
        states = self.module.create_iql_train_state(
            jax.random.key(0), rows.observations[0], rows.actions[0], self.settings
        )
        names = (*FIELDS, "target_critic")
        theirs = states._replace(
            **{
                name: jax_corl.with_params(getattr(states, name), self.dtype, descent)
                for name in names
            }
        )
        parts = iql.build(CONFIG, Spec.of(transitions(rows)))
        value = nets.scalar_mlp(CONFIG.critic_hidden, activation="relu", layer_norm=True)
        parts = parts._replace(
            policy=Unsquashed(*parts.policy)._replace(log_std_max=LOG_STD_MAX),
            iql=parts.iql._replace(value=value),
        )
        return started(theirs, self.params(theirs), parts, descent, advantage_after)

    def params(self, theirs: Any) -> dict[str, Params]:
        """Their parameters under the names of ours."""

        def inner(name: str) -> Params:
            return getattr(theirs, name).params["params"]

        return {
            "actor": actor_of(inner("actor")),
            "critic": layers(inner("critic")["MLP_0"]),
            "value": layers(inner("value")["MLP_0"]),
            f"{lockstep.TARGET}, critic": layers(inner("target_critic")["MLP_0"]),
        }

    def draws(self, key: Any, count: int, size: int) -> Iterator[tuple[Array, Any]]:
        """Their split of the key; nothing but rows is drawn."""
        for _ in range(count):
            key, rows_key = jax.random.split(key)
            yield jax.random.randint(rows_key, (self.settings.batch_size,), 0, size), key

    def advance(self, theirs: Any, rows: Any, key: Any, count: int) -> tuple[Any, dict[str, Any]]:
        """`count` of their updates."""
        settings = self.settings.model_copy(update={"n_jitted_updates": count})
        return self.update(theirs, rows, key, settings)


def imported() -> SimpleNamespace:
    """The authors' modules, whose folder is on `sys.path`."""
    importlib.import_module("tensorflow_probability.substrates.jax")
    # Their compiled sampling names an argument that it does not have.
    with mock.patch.object(jax, "jit", lambda fn, **_: fn):
        importlib.import_module("policy")
    names = ("actor", "common", "critic", "learner", "policy")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def created(
    code: SimpleNamespace, dtype: Any, descent: optax.GradientTransformation | None = None
) -> Callable[..., Any]:
    """Their constructor of a model, in `dtype`, which needs a Flax of its time otherwise."""

    def create(module: Any, inputs: Any, tx: Any = None) -> Any:
        params = module.init(*inputs)["params"]
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        tx = tx and (descent or tx)
        return code.common.Model(
            step=1, apply_fn=module, params=params, tx=tx, opt_state=tx and tx.init(params)
        )

    return create


class Authors:
    """The authors' code and ours; either takes advantages of V after its step or before it."""

    losses = LOSSES

    def __init__(self, folder: str, dtype: Any, *, after: bool, ours_after: bool) -> None:
        """Imports the authors' modules."""
        if folder not in sys.path:
            sys.path.insert(0, folder)
        self.dtype, self.after, self.ours_after = dtype, after, ours_after
        self.tree_map = mock.patch.object(jax, "tree_multimap", jax.tree.map, create=True)
        self.code = imported()

    def start(self, rows: Any, descent: optax.GradientTransformation | None) -> Start:
        """Their learner's initial parameters in both codes."""
        spec, code = Spec.of(transitions(rows)), self.code
        with mock.patch.object(code.common.Model, "create", created(code, self.dtype, descent)):
            theirs = code.learner.Learner(
                0, rows.observations[:1], rows.actions[:1], max_steps=CONFIG.train_steps
            )
        models = {name: getattr(theirs, name) for name in (*FIELDS, "target_critic")}
        parts = iql.build(CONFIG, spec)
        if self.ours_after:
            parts = parts._replace(policy=parts.policy._replace(log_std_max=LOG_STD_MAX))
        update = advantage_after if self.ours_after else iql.update
        return started(models, self.params(models), parts, descent, update)

    def params(self, theirs: Any) -> dict[str, Params]:
        """Their parameters under the names of ours."""

        def critic(model: Any) -> Params:
            members = [layers(model.params[f"Critic_{k}"]["MLP_0"]) for k in (0, 1)]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)

        return {
            "actor": actor_of(theirs["actor"].params),
            "critic": critic(theirs["critic"]),
            "value": layers(theirs["value"].params["MLP_0"]),
            f"{lockstep.TARGET}, critic": critic(theirs["target_critic"]),
        }

    def draws(self, key: Any, count: int, size: int) -> Iterator[tuple[Array, Any]]:
        """Rows; their own are drawn by numpy."""
        for own in jax.random.split(key, count):
            yield jax.random.randint(own, (CONFIG.batch_size,), 0, size), own

    def advance(self, theirs: Any, rows: Any, key: Any, count: int) -> tuple[Any, dict[str, Any]]:
        """`count` of their updates."""
        step = self._as_written if self.after else self._in_our_order
        losses: dict[str, Any] = {}
        for index, own in self.draws(key, count, len(rows.actions)):
            batch = self.code.common.Batch(
                rows.observations[index],
                rows.actions[index],
                rows.rewards[index],
                1 - rows.dones[index],
                rows.next_observations[index],
            )
            with self.tree_map:
                theirs, losses = step(theirs, batch, own)
        return theirs, losses

    def _as_written(self, models: dict[str, Any], batch: Any, key: Any) -> Any:
        settings = lockstep.GAMMA, CONFIG.tau, CONFIG.expectile, CONFIG.temperature
        names = (*FIELDS, "target_critic")
        _, *models_after, losses = self.code.learner._update_jit(
            key, *(models[name] for name in names), batch, *settings
        )
        return dict(zip(names, models_after, strict=True)), losses

    def _in_our_order(self, models: dict[str, Any], batch: Any, key: Any) -> Any:
        code, target = self.code, models["target_critic"]
        actor, losses = code.actor.update(
            key, models["actor"], target, models["value"], batch, CONFIG.temperature
        )
        value, more = code.critic.update_v(target, models["value"], batch, CONFIG.expectile)
        critic, last = code.critic.update_q(models["critic"], value, batch, lockstep.GAMMA)
        target = code.learner.target_update(critic, target, CONFIG.tau)
        after = {"actor": actor, "critic": critic, "value": value, "target_critic": target}
        return after, losses | more | last


def main(argv: list[str]) -> None:
    """Prints a table of every case."""
    del argv
    jax.config.update("jax_enable_x64", FLAGS.float64)
    dtype = np.float64 if FLAGS.float64 else np.float32
    module = jax_corl.imported("iql", FLAGS.peer)
    random = lockstep.random_rows(module.Transition, dtype)
    settings = module.IQLConfig()
    rows = jax_corl.recorded(module, settings, FLAGS.dataset, dtype)
    authors = partial(Authors, FLAGS.authors, dtype)
    for title, pair in {
        "authors' code": authors(after=True, ours_after=True),
        "authors' code in our order": authors(after=False, ours_after=False),
        "JAX-CORL": JaxCorl(module, dtype),
    }.items():
        found = lockstep.first_update(pair, random)
        found |= lockstep.many_updates(pair, random, FLAGS.updates)
        run = lockstep.many_updates(pair, rows, FLAGS.run)
        found |= {f"{name}, {FLAGS.run} updates": x for name, x in run.items()}
        lockstep.report(f"iql, {title}, {np.dtype(dtype).name}, {FLAGS.updates} updates", found)
    run = lockstep.many_updates(authors(after=True, ours_after=False), rows, FLAGS.run)
    found = {f"{name}, {FLAGS.run} updates": x for name, x in run.items()}
    lockstep.report("iql, authors' code against ours as it is", found)
    processing = Processing(reward="range", reward_scale=1000.0)
    found = jax_corl.data_rows(rows, settings.seed, FLAGS.dataset, processing)
    lockstep.report(f"rows of {FLAGS.dataset}", found)


if __name__ == "__main__":
    flags.DEFINE_string("authors", None, "folder of the authors' code", required=True)
    flags.DEFINE_string("peer", None, "folder of JAX-CORL", required=True)
    flags.DEFINE_string("dataset", "hopper/medium-v0", "recorded rows of the run")
    flags.DEFINE_bool("float64", True, "in double precision")
    flags.DEFINE_integer("updates", 20, "updates on random rows before parameters are compared")
    flags.DEFINE_integer("run", 100, "updates on recorded rows before parameters are compared")
    app.run(main)
