"""XQL against its authors' code: losses, gradients, and parameters after some updates.

    git clone https://github.com/Div99/XQL AUTHORS
    pip install distrax tfp-nightly
    python -m benchmarks.parity.xql --authors=AUTHORS/offline

Both codes start from the authors' initial parameters, and their own training step runs as it is
written; ours takes the rows that it draws, in float64 (`--nofloat64` for float32). Rows are random.

Their actions are weighed by advantages of V after its step, ours before it; here ours are, too. In
the other cases the authors' functions are called in our order instead, and our update is that of
the library. In the last one beta is so small, and rewards so large, that a part of the rows is at
the largest exponent of V's loss and in the linear part of the critics'. Their noise on actions,
added uniform actions and further V steps are off, as in most of their scripts.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import optax
from absl import app, flags

from benchmarks.parity import iql, lockstep
from benchmarks.parity.lockstep import Start, transitions
from jaxrl_prefs import learner
from jaxrl_prefs.methods import xql
from jaxrl_prefs.types import Array, Key, Spec, Transition
from jaxrl_prefs.values import actor_losses
from jaxrl_prefs.values import iql as values

FLAGS = flags.FLAGS
FIELDS = iql.FIELDS
DEFAULT = xql.Config()
CLIPPED = xql.Config(value_temperature=0.2, max_exponent=2.0)
REWARDS = 100.0  # times the random ones, of CLIPPED
EXPECTILE = 0.7  # of the authors' config; not read


class Options(NamedTuple):
    """The authors' flags that their losses read."""

    max_clip: float
    sample_random_times: int = 0
    grad_pen: bool = False
    noise: bool = False
    noise_std: float = 0.1
    lambda_gp: float = 1.0
    num_v_updates: int = 1
    log_loss: bool = False


class Rows(NamedTuple):
    """Columns under JAX-CORL's names, as `lockstep` has them."""

    observations: Array
    actions: Array
    rewards: Array
    next_observations: Array
    dones: Array


def advantage_after(
    state: xql.State, batch: Transition, key: Key, step: int, *, parts: xql.Parts
) -> Any:
    """Our update with advantages of V after its step."""
    del key, step
    own = parts.iql
    critic, value, _, metrics = values.update(state.critic, state.value, batch, iql=own)
    q = own.critic.apply(state.critic.target, batch.observation, batch.action).min(0)
    advantage = q - own.value.apply(value.params, batch.observation)
    loss = partial(
        actor_losses.weighted_likelihood_loss,
        policy=parts.policy,
        batch=batch,
        weight=xql.weights_of(advantage, config=parts.config),
    )
    actor, more = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    return xql.State(actor, critic, value), metrics | more


class Authors(iql.Authors):
    """The authors' code, which is IQL's with another V, and ours."""

    def __init__(self, folder: str, dtype: Any, config: xql.Config, *, after: bool) -> None:
        """Imports the authors' modules; `after`: both take advantages of V after its step."""
        super().__init__(folder, dtype, after=after, ours_after=after)
        self.config, self.options = config, Options(config.max_exponent)

    def start(self, rows: Any, descent: optax.GradientTransformation | None) -> Start:
        """Their learner's initial parameters in both codes."""
        config, code = self.config, self.code
        with mock.patch.object(code.common.Model, "create", iql.created(code, self.dtype, descent)):
            theirs = code.learner.Learner(
                0,
                rows.observations[:1],
                rows.actions[:1],
                max_steps=config.train_steps,
                layernorm=config.value_layer_norm,
            )
        models = {name: getattr(theirs, name) for name in (*FIELDS, "target_critic")}
        parts = xql.build(config, Spec.of(transitions(rows)))
        if self.ours_after:
            parts = parts._replace(policy=parts.policy._replace(log_std_max=iql.LOG_STD_MAX))
        update = advantage_after if self.ours_after else xql.update
        return iql.started(models, self.params(models), parts, descent, update, xql.State)

    def _as_written(self, models: dict[str, Any], batch: Any, key: Any) -> Any:
        config, names = self.config, (*FIELDS, "target_critic")
        _, *models_after, losses = self.code.learner._update_jit(
            key, *(models[name] for name in names), batch, lockstep.GAMMA, config.tau, EXPECTILE,
            config.temperature, config.value_temperature, True, False, self.options,
        )  # fmt: skip
        return dict(zip(names, models_after, strict=True)), losses

    def _in_our_order(self, models: dict[str, Any], batch: Any, key: Any) -> Any:
        code, target, config = self.code, models["target_critic"], self.config
        beta = config.value_temperature
        actor, losses = code.actor.update(
            key, models["actor"], target, models["value"], batch, config.temperature, True
        )
        value, more = code.critic.update_v(
            target, models["value"], batch, EXPECTILE, beta, True, False, key, self.options
        )
        critic, last = code.critic.update_q(
            models["critic"], value, batch, lockstep.GAMMA, True, key, beta, self.options
        )
        target = code.learner.target_update(critic, target, config.tau)
        after = {"actor": actor, "critic": critic, "value": value, "target_critic": target}
        return after, losses | more | last


def bounded(pair: Authors, rows: Any) -> dict[str, float]:
    """Shares of the rows at both bounds, at the initial parameters."""
    start, batch = pair.start(rows, None), transitions(rows)
    parts = xql.build(pair.config, Spec.of(batch)).iql
    state = start.ours
    q = parts.critic.apply(state.critic.params, batch.observation, batch.action)
    v = parts.value.apply(state.value.params, batch.observation)
    following = parts.value.apply(state.value.params, batch.next_observation)
    z = (q.min(0) - v) / pair.config.value_temperature
    error = q - (batch.reward + batch.discount * following)
    return {
        "share of rows, largest exponent": float((z >= pair.config.max_exponent).mean()),
        "share of rows, linear error": float((abs(error) > xql.HUBER_DELTA).mean()),
    }


def main(argv: list[str]) -> None:
    """Prints a table of every case."""
    del argv
    jax.config.update("jax_enable_x64", FLAGS.float64)
    dtype = np.float64 if FLAGS.float64 else np.float32
    rows = lockstep.random_rows(Rows, dtype)
    large = rows._replace(rewards=REWARDS * rows.rewards)
    authors = partial(Authors, FLAGS.authors, dtype)
    for title, pair, given in (
        ("as written", authors(DEFAULT, after=True), rows),
        ("in our order", authors(DEFAULT, after=False), rows),
        ("in our order, at the bounds", authors(CLIPPED, after=False), large),
    ):
        found = lockstep.first_update(pair, given)
        found |= lockstep.many_updates(pair, given, FLAGS.updates) | bounded(pair, given)
        lockstep.report(f"xql, {title}, {np.dtype(dtype).name}, {FLAGS.updates} updates", found)


if __name__ == "__main__":
    flags.DEFINE_string("authors", None, "folder of the authors' code", required=True)
    flags.DEFINE_bool("float64", True, "in double precision")
    flags.DEFINE_integer("updates", 20, "updates before parameters are compared")
    app.run(main)
