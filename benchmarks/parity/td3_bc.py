"""TD3+BC against JAX-CORL: losses, gradients, parameters after some updates, and a short run.

    git clone https://github.com/nissymori/JAX-CORL PEER
    pip install distrax pydantic tqdm
    python -m benchmarks.parity.td3_bc --peer=PEER

Both codes start from the peer's initial parameters, and the peer's own training step runs as it is
written; ours takes the rows and random numbers that it draws, in float64 (`--nofloat64` for
float32). The peer always normalises the layers of its critics; a second case makes its perceptron
leave that out. Rows are random ones, then 2,000 of a recorded dataset as the peer prepares them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
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
from jaxrl_prefs.data import Processing
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.types import Array, Params, Spec
from jaxrl_prefs.values import td3

FLAGS = flags.FLAGS


class Pair:
    """JAX-CORL's TD3+BC and ours, with layer-normalised critics or without."""

    losses = {"critic_loss": ("critic_loss", 2.0), "actor_loss": ("actor_loss", 1.0)}  # noqa: RUF012

    def __init__(self, module: Any, dtype: Any, *, layer_norm: bool) -> None:
        """Takes the peer's settings."""
        self.module, self.dtype = module, dtype
        self.settings = module.TD3BCConfig()
        self.config = td3_bc.Config(
            critic_layer_norm=layer_norm,
            actor_learning_rate=self.settings.actor_lr,
            critic_learning_rate=self.settings.critic_lr,
        )
        self.update = jax.jit(module.TD3BC().update_n_times, static_argnums=(3,))

    def start(self, rows: Any, descent: optax.GradientTransformation | None) -> Start:
        """Their initial parameters in both codes."""
        states = self.module.create_td3bc_train_state(
            jax.random.key(0), rows.observations[0], rows.actions[0], self.settings
        )
        names = ("actor", "critic", "target_actor", "target_critic")
        theirs = states._replace(
            **{
                name: jax_corl.with_params(getattr(states, name), self.dtype, descent)
                for name in names
            }
        )
        parts = td3.from_config(self.config, Spec.of(transitions(rows)))
        if descent:
            parts = parts._replace(actor_optimizer=descent, critic_optimizer=descent)
        update = partial(td3_bc.update, parts=parts, alpha=self.config.alpha)
        return Start(theirs, self._ours(theirs, parts), jax.jit(update, static_argnums=3))

    def _ours(self, theirs: Any, parts: td3.Td3) -> td3_bc.State:
        params = self.params(theirs)
        opts = {"actor": parts.actor_optimizer, "critic": parts.critic_optimizer}
        return td3_bc.State(
            **{
                name: Trainable(
                    params[name], params[f"{lockstep.TARGET}, {name}"], opt.init(params[name])
                )
                for name, opt in opts.items()
            }
        )

    def params(self, theirs: Any) -> dict[str, Params]:
        """Their parameters under the names of ours."""

        def actor(state: Any) -> Params:
            return layers(state.params["params"]["MLP_0"])

        def critic(state: Any) -> Params:
            members = [layers(state.params["params"][f"MLP_{k}"]) for k in (0, 1)]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)

        return {
            "actor": actor(theirs.actor),
            "critic": critic(theirs.critic),
            f"{lockstep.TARGET}, actor": actor(theirs.target_actor),
            f"{lockstep.TARGET}, critic": critic(theirs.target_critic),
        }

    def draws(self, key: Any, count: int, size: int) -> Iterator[tuple[Array, Any]]:
        """Their split of the key: rows, and the noise on the target's actions."""
        for _ in range(count):
            key, rows_key = jax.random.split(key, 2)
            index = jax.random.randint(rows_key, (self.settings.batch_size,), 0, size)
            key, noise_key, _ = jax.random.split(key, 3)
            yield index, noise_key

    def advance(self, theirs: Any, rows: Any, key: Any, count: int) -> tuple[Any, dict[str, Any]]:
        """`count` of their updates."""
        settings = self.settings.model_copy(update={"n_jitted_updates": count})
        return self.update(theirs, rows, key, settings)


def perceptron(module: Any, *, layer_norm: bool) -> Any:
    """A context in which the peer's perceptron normalises its layers as written, or does not."""
    if layer_norm:
        return contextlib.nullcontext()
    plain = module.MLP
    return mock.patch.object(
        module, "MLP", lambda *args, **fields: plain(*args, **fields | {"layer_norm": False})
    )


def main(argv: list[str]) -> None:
    """Prints a table of both cases."""
    del argv
    jax.config.update("jax_enable_x64", FLAGS.float64)
    dtype = np.float64 if FLAGS.float64 else np.float32
    module = jax_corl.imported("td3bc", FLAGS.peer)
    random = lockstep.random_rows(module.Transition, dtype)
    settings = module.TD3BCConfig()
    rows = jax_corl.recorded(module, settings, FLAGS.dataset, dtype)
    for layer_norm in (True, False):
        with perceptron(module, layer_norm=layer_norm):
            pair = Pair(module, dtype, layer_norm=layer_norm)
            found = lockstep.first_update(pair, random)
            found |= lockstep.many_updates(pair, random, FLAGS.updates)
            run = lockstep.many_updates(pair, rows, FLAGS.run)
        found |= {f"{name}, {FLAGS.run} updates": x for name, x in run.items()}
        title = "td3_bc" if layer_norm else "td3_bc without layer normalisation"
        lockstep.report(f"{title}, {np.dtype(dtype).name}, {FLAGS.updates} updates", found)
    processing = Processing(normalize_observations=True)
    found = jax_corl.data_rows(rows, settings.seed, FLAGS.dataset, processing)
    lockstep.report(f"rows of {FLAGS.dataset}", found)


if __name__ == "__main__":
    flags.DEFINE_string("peer", None, "folder of JAX-CORL", required=True)
    flags.DEFINE_string("dataset", "hopper/medium-v0", "recorded rows of the run")
    flags.DEFINE_bool("float64", True, "in double precision")
    flags.DEFINE_integer("updates", 20, "updates on random rows before parameters are compared")
    flags.DEFINE_integer("run", 100, "updates on recorded rows before parameters are compared")
    app.run(main)
