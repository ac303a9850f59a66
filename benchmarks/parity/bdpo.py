"""BDPO against its authors' code: losses, gradients, parameters, and a short run.

    git clone https://github.com/typoverflow/flow-rl PEER
    pip install hydra-core omegaconf tqdm
    python -m benchmarks.parity.bdpo --peer=PEER

Both codes start from the authors' initial parameters, with the same random numbers, in float64
(`--nofloat64` for float32). The authors' training step runs as it is written; our updates are the
library's, to which keys are replaced by the numbers that the authors' code draws. Rows are those of
benchmarks/parity/fql.py. The run has all phases, with each code's own optimisers: some updates of
the behaviour, the actor's start from it, a warm-up of the critics, and updates of all networks.

These things are made equal first:

- the sinusoids of a diffusion step, which we compute in float32;
- V's step feature, whose first layer has 128 units as in that code (`value_step_hidden`; our
  default and the published runs have 64);
- the optimiser of the first two cases: Adam at one rate, with clipped gradients, for all networks.
  The run has each code's own.

Their actor moves where the number of the critics' updates is a multiple of its interval, ours where
that since the warm-up is; the warm-up of the run is a multiple, so that both agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import optax
from absl import app, flags

from benchmarks import flow_rl
from benchmarks.parity import diffusion
from benchmarks.parity.diffusion import Chain, Peer, after_chain, batch_of, chain_draws
from benchmarks.parity.fql import ACTION, OBSERVATION, SPEC, batches, largest
from jaxrl_prefs import learner
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.policies import diffusion as policies
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.policies.paths import Refinement
from jaxrl_prefs.types import Array, Params

FLAGS = flags.FLAGS
NETWORKS = {"behavior": "behavior", "actor": "actor", "critic": "q0", "value": "vt"}
LOSSES = {
    "critic_loss": "loss/q0_loss",
    "value_loss": "loss/vt_loss",
    "actor_loss": "loss/actor_loss",
    "behavior_loss": "ddpm_loss",
}
ALWAYS = {"actor_interval": 1, "value_step_hidden": 128}
SETTINGS = {
    "default networks": ALWAYS,
    "best of ten": ALWAYS | {"max_backup": True},
}
SHORT = {  # of the run
    "value_step_hidden": 128,
    "critic_ensemble_size": 4,
    "q_samples": 2,
    "v_samples": 2,
    "actor_samples": 2,
    "train_steps": 60,
    "warmup_steps": 20,
    "pretrain_steps": 40,
    "actor_learning_rate": 3e-4,
}


# --- Draws: the authors' splits of their key ------------------------------------------------------


class StepDraws(NamedTuple):
    """The random numbers of one reverse step from noised actions."""

    level: Array  # [B]
    eps: Array  # [B, A]
    noise: Array  # [B, M, A], of the step


def step_draws(key: Any, rows: int, samples: int) -> tuple[Any, StepDraws]:
    """What their `onestep_sample` draws, and the key that it returns."""
    key, sample_key, noise_key, _ = jax.random.split(key, 4)
    level, eps = noise_draws(sample_key, rows)
    noise = jax.random.normal(noise_key, (rows, samples, ACTION))
    return key, StepDraws(level, eps, noise)


def noise_draws(key: Any, rows: int) -> tuple[Array, Array]:
    """Levels and noise that their `add_noise` draws."""
    _, level_key, noise_key = jax.random.split(key, 3)
    level = jax.random.randint(level_key, (rows, 1), 1, diffusion.STEPS + 1)[:, 0]
    return level, jax.random.normal(noise_key, (rows, ACTION))


def draws(agent: Peer, rows: int) -> Any:
    """What their training step draws, nested as our `update_all` splits its key."""
    samples = agent.cfg.critic.num_samples
    key, start_key = jax.random.split(agent.rng)
    chain = chain_draws(key, start_key, (rows, samples, ACTION))
    key, value = step_draws(after_chain(key), rows, samples)
    key, actor_key = jax.random.split(key)
    _, actor = step_draws(actor_key, rows, samples)
    return (chain, value), (actor, noise_draws(key, rows))


class GivenDraws(DiffusionPolicy):
    """The library's diffusion policy, with the numbers that it is given in place of keys."""

    def paths(
        self, actor: Params, behavior: Params, observation: Array, key: Any, count: int
    ) -> tuple[Array, Array]:
        """Those of a chain."""
        chain: Chain = key

        def step(schedule: Any, x: Array, eps: Array, n: Array, z: Array) -> Array:
            return self.step(schedule, x, eps, n, chain.noise[n])

        with numbers(jax.random.key(0), None, chain.start):
            given = DiffusionPolicy(*self._replace(step=step))
            return given.paths(actor, behavior, observation, None, count)

    def refine(
        self,
        actor: Params,
        behavior: Params,
        observation: Array,
        action: Array,
        key: Any,
        count: int,
    ) -> Refinement:
        """One step with this level and this noise."""
        with numbers(None, key.level, key.eps, key.noise):
            return super().refine(actor, behavior, observation, action, key, count)

    def noised(self, action: Array, key: Any) -> tuple[Array, Array, Array]:
        """The noised action at this level with this noise."""
        with numbers(None, *key):
            return super().noised(action, key)


@contextmanager
def numbers(key: Any, level: Array | None, *normal: Array) -> Iterator[None]:
    """Lets the library's diffusion policy draw these numbers, and split into `key` alone."""
    left = list(normal)

    def randint(_: Any, shape: tuple[int, ...], low: int, high: int) -> Array:
        assert (
            level is not None and shape == level.shape and (low, high) == (1, 1 + diffusion.STEPS)
        )
        return level

    def drawn(_: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        assert (shape, dtype) == (left[0].shape, left[0].dtype), (shape, dtype)
        return left.pop(0)

    split = lambda _, count=2: (key,) * count  # noqa: E731
    random = SimpleNamespace(split=split, randint=randint, normal=drawn)
    with mock.patch.object(policies, "jax", SimpleNamespace(random=random, lax=jax.lax)):
        yield
    assert not left, "numbers that were not drawn"


def nested_keys() -> Any:
    """A context in which our BDPO splits a key into the two that it holds."""
    split = SimpleNamespace(random=SimpleNamespace(split=lambda key: key))
    return mock.patch.object(bdpo, "jax", split)


# --- The same parameters in both codes ------------------------------------------------------------


def value_params(theirs: Params) -> Params:
    """Their ensemble of V under the names of ours."""
    base = theirs["base"]
    layers = {name: each for name, each in base["backbone"].items() if name.startswith("Dense")}
    norms = {name: each for name, each in base["backbone"].items() if name not in layers}
    layers |= {f"Dense_{len(layers)}": base["Dense_0"]}
    feature = {f"_{name}": {"Dense_0": each} for name, each in base["MLP_0"].items()}
    others = diffusion.renumbered(layers, len(layers))
    return {
        "_StepFeature_0": feature,
        "mlp": {"_JoinedDense_0": layers["Dense_0"]} | others | norms,
    }


RENAMED = {
    "behavior": diffusion.actor_params,
    "actor": diffusion.actor_params,
    "critic": diffusion.critic_params,
    "value": value_params,
}


def networks_of(agent: Peer) -> dict[str, tuple[Params, Params]]:
    """{field of our state: parameters and target network}."""
    return {
        field: (
            RENAMED[field](getattr(agent, name).params),
            RENAMED[field](getattr(agent, f"{name}_target").params),
        )
        for field, name in NETWORKS.items()
    }


def optimizers_of(parts: bdpo.Parts) -> dict[str, optax.GradientTransformation]:
    """By field of our state."""
    critic = parts.critic_optimizer
    return dict(
        behavior=parts.behavior_optimizer, actor=parts.actor_optimizer, critic=critic, value=critic
    )


class Both:
    """Both codes, at the authors' initial parameters."""

    def __init__(
        self, fields: dict[str, Any], dtype: Any, descent: optax.GradientTransformation | None
    ) -> None:
        """Makes them; `descent` replaces the optimisers of both."""
        self.config = bdpo.Config(**fields)
        agent = self.agent = flow_rl.agent(FLAGS.peer, self.config, OBSERVATION, ACTION)
        agent.cfg.critic.maxQ = self.config.max_backup
        agent.cfg.critic.discount = 1.0  # the rows' `discount` includes it
        agent.warmup_steps = self.config.warmup_steps if descent is None else 0
        for name in NETWORKS.values():
            model = getattr(agent, name)
            params = jax.tree.map(lambda leaf: leaf.astype(dtype), model.params)
            tx = descent or model.state.tx
            state = model.state.replace(params=params, tx=tx, opt_state=tx.init(params))
            setattr(agent, name, model.replace(state=state))
            target = getattr(agent, f"{name}_target")
            kept = target.state.replace(params=params)
            setattr(agent, f"{name}_target", target.replace(state=kept))
        parts = bdpo.build(self.config, SPEC)
        given = dict.fromkeys(
            ("behavior_optimizer", "actor_optimizer", "critic_optimizer"), descent
        )
        self.parts = parts._replace(policy=GivenDraws(*parts.policy), **(given if descent else {}))
        self.start = networks_of(agent)
        opts = optimizers_of(self.parts)
        self.state = bdpo.State(
            **{
                field: Trainable(params, target, opts[field].init(params))
                for field, (params, target) in self.start.items()
            }
        )

    def update(self, name: str) -> Any:
        """One of our updates, compiled: (state, batch, draws, step) -> state, metrics."""
        update = getattr(bdpo, name)

        def run(state: Any, batch: Any, key: Any, step: Array) -> Any:
            with nested_keys():
                return update(state, batch, key, step, parts=self.parts)

        return jax.jit(run)

    def train(self, count: int, dtype: Any) -> tuple[Any, Any]:
        """`count` updates of all networks: the metrics of the last, ours and theirs."""
        update, metrics, info = self.update("update_all"), {}, {}
        for step, (_, ours) in enumerate(batches(count, dtype)):
            key = draws(self.agent, len(ours.reward))
            self.state, metrics = update(self.state, ours, key, step)
            info = self.agent.train_step(batch_of(ours), step)
        return metrics, info

    def run(self, dtype: Any) -> None:
        """All phases, as the config has them."""
        config, agent = self.config, self.agent
        behavior, critic = self.update("update_behavior"), self.update("update_critic")
        every, rows = self.update("update_all"), batches(config.train_steps, dtype)
        for _, ours in batches(config.pretrain_steps, dtype):
            key = noise_draws(agent.rng, len(ours.reward))
            self.state, _ = behavior(self.state, ours, key, 0)
            agent.pretrain_step(batch_of(ours), 0)
        self.state = bdpo.enter_critic(self.state, None, parts=self.parts)
        agent.prepare_training()
        self.start["actor"] = networks_of(agent)["actor"]
        for step, (_, ours) in enumerate(rows):
            key, after = draws(agent, len(ours.reward)), step - config.warmup_steps
            if after < 0:
                self.state, _ = critic(self.state, ours, key[0], step)
            else:
                self.state, _ = every(self.state, ours, key, after)
            agent.train_step(batch_of(ours), step)

    def ends(self) -> dict[str, tuple[Params, Params]]:
        """Our parameters and target networks."""
        fields = {field: getattr(self.state, field) for field in NETWORKS}
        return {field: (each.params, each.target) for field, each in fields.items()}


# --- The comparison -------------------------------------------------------------------------------


def first_update(fields: dict[str, Any], dtype: Any) -> dict[str, float]:
    """Relative differences of losses, and of gradients: what a step of descent of rate 1 moves."""
    both = Both(fields, dtype, optax.sgd(1.0))
    metrics, info = both.train(1, dtype)
    rows = {}
    for name, other in LOSSES.items():
        value, count = metrics[name]
        rows[f"loss, {name}"] = abs(float(value / count / info[other]) - 1)
    ends, others = both.ends(), networks_of(both.agent)
    for field, (start, _) in both.start.items():
        ours, theirs = (
            jax.tree.map(lambda a, b: a - b, found[field][0], start) for found in (ends, others)
        )
        rows[f"gradient, {field}"] = largest(ours, theirs, theirs)
    return rows


def moved(both: Both) -> dict[str, float]:
    """Relative differences of parameters and target networks."""
    rows, ends, others = {}, both.ends(), networks_of(both.agent)
    for field, starts in both.start.items():
        for place, name in enumerate(("parameters,", "target network of")):
            ours, theirs = ends[field][place], others[field][place]
            far = jax.tree.map(lambda a, b: a - b, theirs, starts[place])
            rows[f"{name} {field}"] = largest(ours, theirs, far)
    return rows


def main(argv: list[str]) -> None:
    """Prints a table of every case."""
    del argv
    jax.config.update("jax_enable_x64", FLAGS.float64)
    dtype = np.float64 if FLAGS.float64 else np.float32
    flow_rl.agent(FLAGS.peer, bdpo.Config(), OBSERVATION, ACTION)  # imports it
    diffusion.make_equal()
    for name, fields in SETTINGS.items():
        if FLAGS.case not in name:
            continue
        both = Both(fields, dtype, learner.optimizer(3e-4, clip_norm=1.0))
        both.train(FLAGS.updates, dtype)
        report(f"{name}, {FLAGS.updates} updates", first_update(fields, dtype) | moved(both))
    if FLAGS.case in "a run":
        both = Both(SHORT, dtype, None)
        both.run(dtype)
        report("a run", moved(both))


def report(title: str, rows: dict[str, float]) -> None:
    """Prints the differences of one case."""
    print(f"\n{title}")
    for name, difference in rows.items():
        print(f"  {name:40s} {difference:.1e}", flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("peer", None, "folder of flow-rl", required=True)
    flags.DEFINE_string("case", "", "part of the names of the cases to compare")
    flags.DEFINE_bool("float64", True, "in double precision")
    flags.DEFINE_integer("updates", 20, "updates before parameters are compared")
    app.run(main)
