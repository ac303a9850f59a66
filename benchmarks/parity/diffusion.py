"""Diffusion-QL and DAC against flow-rl's code: losses, gradients, parameters after some updates.

    git clone https://github.com/typoverflow/flow-rl PEER
    pip install hydra-core omegaconf tqdm
    PYTHONPATH=PEER python -m benchmarks.parity.diffusion

Both codes start from flow-rl's initial parameters, with random batches and the same random
numbers, in float64 (`--nofloat64` for float32), with the default networks. Rows are those of
benchmarks/parity/fql.py. These things are made equal first:

- the sinusoids of a diffusion step, which we compute in float32;
- the critics' loss of Diffusion-QL, of which flow-rl takes the mean over the two critics and the
  authors' code, as ours, the sum: its gradients are doubled before they are clipped;
- flow-rl adds 1e-6 to the mean size of Q by which both methods divide; so do our losses here;
- every update moves the policy's average (`average_interval` 1 and `average_start` 0).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.parity.fql import ACTION, OBSERVATION, SPEC, batches, largest
from jaxrl_prefs import learner
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import dac, dql
from jaxrl_prefs.ops import ddpm
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.types import Array, Params, Transition

FLAGS = flags.FLAGS
STEPS, FEATURE = 5, 64
SIZES = OBSERVATION, ACTION

Peer = Any  # an agent of flow-rl


class Chain(NamedTuple):
    """The random numbers of a reverse chain."""

    start: Array  # [B, K, A]
    noise: Array  # [T + 1, B, K, A], by the step that adds it


class Draws(NamedTuple):
    """The random numbers of one update."""

    next_chain: Chain
    level: Array  # [B]
    eps: Array  # [B, A]
    chain: Chain | None  # of the policy's own sample, K = 1
    swap: Array | None  # Diffusion-QL: whether the second critic is maximised


class GivenDraws(DiffusionPolicy):
    """A diffusion policy that takes a chain, or (level, eps), in place of a key."""

    def sample(self, params: Params, observation: Array, key: Any, count: int) -> Array:
        """The chain with these numbers."""
        assert key.start.shape[1] == count

        def step(schedule: Any, x: Array, eps: Array, n: Array, z: Array) -> Array:
            return self.step(schedule, x, eps, n, key.noise[n])

        eps_fn = self.eps_fn(params, observation[:, None])
        return ddpm.reverse(self.schedule, eps_fn, key.start, jax.random.key(0), step)[0]

    def noised(self, action: Array, key: Any) -> tuple[Array, Array, Array]:
        """The noised action at this level with this noise."""
        level, eps = key
        return ddpm.noised(self.schedule, action, level, eps), level, eps


# --- Draws: flow-rl's splits of its keys ----------------------------------------------------------


def chain_draws(key: Any, start_key: Any, shape: tuple[int, ...]) -> Chain:
    """What flow-rl's sampler draws from `key`."""
    start, noises = jax.random.normal(start_key, shape), {}
    for n in range(STEPS, 0, -1):
        key, _ = jax.random.split(key)
        key, noise_key = jax.random.split(key)
        noises[n] = jax.random.normal(noise_key, shape)
    return Chain(start, jnp.stack([jnp.zeros(shape), *(noises[n] for n in range(1, STEPS + 1))]))


def after_chain(key: Any) -> Any:
    """The key that flow-rl's sampler returns."""
    for _ in range(2 * STEPS):
        key, _ = jax.random.split(key)
    return key


def dql_draws(agent: Peer, rows: int) -> Draws:
    """What one update of its Diffusion-QL draws."""
    key, start_key = jax.random.split(agent.rng)
    samples = dql.BACKUP_SAMPLES if agent.cfg.critic.maxQ else 1
    next_chain = chain_draws(key, start_key, (rows, samples, ACTION))
    key, start_key, choice_key = jax.random.split(after_chain(key), 3)
    _, level_key, noise_key = jax.random.split(key, 3)
    dropout_key, _ = jax.random.split(agent.actor.dropout_rng)
    _, sample_key = jax.random.split(dropout_key)
    chain = chain_draws(sample_key, start_key, (rows, ACTION))
    return Draws(
        next_chain=next_chain,
        level=jax.random.randint(level_key, (rows, 1), 1, STEPS + 1)[:, 0],
        eps=jax.random.normal(noise_key, (rows, ACTION)),
        chain=jax.tree.map(lambda leaf: leaf[..., None, :], chain),
        swap=jax.random.uniform(choice_key) <= 0.5,
    )


def dac_draws(agent: Peer, rows: int) -> Draws:
    """What one update of its DAC draws."""
    key, start_key = jax.random.split(agent.rng)
    samples = agent.cfg.critic.num_samples
    next_chain = chain_draws(key, start_key, (rows, samples, ACTION))
    _, level_key, noise_key = jax.random.split(after_chain(key), 3)
    return Draws(
        next_chain=next_chain,
        level=jax.random.randint(level_key, (rows, 1), 1, STEPS + 1)[:, 0],
        eps=jax.random.normal(noise_key, (rows, ACTION)),
        chain=None,
        swap=None,
    )


# --- Our updates, with given draws ----------------------------------------------------------------


def with_draws(module: Any, splits: list[Any], run: Callable[[], Any]) -> Any:
    """Runs a function of our module, in which the splits of keys give these draws in turn."""
    left = iter(splits)
    drawn = SimpleNamespace(split=lambda *_: next(left), bernoulli=lambda swap: swap)
    original, module.jax = module.jax, SimpleNamespace(random=drawn, lax=jax.lax, grad=jax.grad)
    try:
        return run()
    finally:
        module.jax = original


def dql_update(state: Any, batch: Transition, draws: Draws, parts: Any) -> Any:
    """One update of our Diffusion-QL; its keys are replaced by draws."""
    splits = [[draws.next_chain, None], [(draws.level, draws.eps), draws.chain, draws.swap]]
    return with_draws(dql, splits, lambda: dql.update(state, batch, None, 0, parts=parts))


def dac_update(state: Any, batch: Transition, draws: Draws, parts: Any) -> Any:
    """One update of our DAC; its keys are replaced by draws."""
    splits = [[draws.next_chain, (draws.level, draws.eps)]]
    return with_draws(dac, splits, lambda: dac.update(state, batch, None, 0, parts=parts))


class Case(NamedTuple):
    """One setting of both codes."""

    name: str
    module: Any
    settings: dict[str, Any]  # fields of our config
    agent: Callable[[Any], Peer]  # their agent, from our config
    draws: Callable[[Peer, int], Draws]
    update: Callable[..., Any]
    losses: dict[str, str]  # our metric -> theirs
    sums: bool  # the critics' loss is a sum over members
    more: dict[str, Any]  # further fields of our state


def dql_agent(config: dql.Config, sizes: tuple[int, int] = SIZES, seed: Any = 0) -> Peer:
    """flow-rl's Diffusion-QL with our settings."""
    from flowrl.agent.offline.dql import DQLAgent

    return DQLAgent(*sizes, settings(config, {"maxQ": config.max_backup}), seed)


def dac_agent(config: dac.Config, sizes: tuple[int, int] = SIZES, seed: Any = 0) -> Peer:
    """flow-rl's DAC with our settings."""
    from flowrl.agent.offline.dac import DACAgent

    critic = dict(maxQ=config.max_backup, rho=config.rho, q_target="lcb")
    critic |= dict(num_samples=config.q_samples, ensemble_size=config.critic_ensemble_size)
    critic |= dict(layer_norm=config.critic_layer_norm)
    decay = config.train_steps if config.decays and config.train_steps else None
    more = dict(eta_lr=config.eta_rate, eta_threshold=config.bc_threshold)
    more |= dict(eta_min=dac.ETA_RANGE[0], eta_max=dac.ETA_RANGE[1])
    return DACAgent(*sizes, settings(config, critic, decay, **more), seed)


def averaged(actor: Any, target: Any, config: Any, step: Array) -> Any:
    """The policy's moving average after an update, as their `train_step` decides on it."""
    from flowrl.functional.ema import ema_update

    due = (step >= config.average_start) & (step % config.average_interval == 0)
    moved = partial(ema_update, actor, ema_rate=config.tau)
    return jax.lax.cond(due, moved, lambda same: same, target)


def settings(
    config: Any, critic: dict[str, Any], decay_steps: int | None = None, **more: Any
) -> Any:
    """flow-rl's configuration, as far as its agents read it."""
    hidden = list(config.actor_hidden)
    diffusion = dict(noise_schedule=config.schedule, time_dim=FEATURE, solver="ddpm")
    diffusion |= dict(steps=config.diffusion_steps, clip_sampler=True, x_min=-1.0, x_max=1.0)
    diffusion |= dict(hidden_dims=hidden, mlp_hidden_dims=hidden, resnet=False)
    diffusion |= dict(layer_norm=False, dropout=0.0, ema_every=config.average_interval)
    values = dict(discount=1.0, ensemble_size=2, layer_norm=False, ema_every=1)
    values |= dict(hidden_dims=list(config.critic_hidden)) | critic
    both = dict(ema=config.tau, clip_grad_norm=config.clip_norm, lr_decay_steps=decay_steps)
    return SimpleNamespace(
        diffusion=SimpleNamespace(**diffusion, **both, lr=config.actor_learning_rate),
        critic=SimpleNamespace(**values, **both, lr=config.critic_learning_rate),
        temperature=config.temperature,
        start_actor_ema=config.average_start,
        eta=config.eta,
        grad_norm=config.clip_norm,
        lr=config.actor_learning_rate,
        lr_decay_steps=decay_steps,
        **more,
    )


DQL_LOSSES = {
    "bc_error": "loss/bc_loss",
    "critic_loss": "loss/critic_loss",
    "q": "misc/q_mean",
}
EVERY = {"average_start": 0, "average_interval": 1}
DQL = Case("dql", dql, EVERY, dql_agent, dql_draws, dql_update, DQL_LOSSES, True, {})
DAC_LOSSES = DQL_LOSSES | {"actor_loss": "loss/actor_loss"}
DAC = Case(
    name="dac",
    module=dac,
    settings=EVERY | {"eta_rate": 0.0, "decays": False},
    agent=dac_agent,
    draws=dac_draws,
    update=dac_update,
    losses=DAC_LOSSES,
    sums=False,
    more={"eta": 1.0},
)
CASES = (
    DQL,
    DQL._replace(name="dql, best of ten", settings=EVERY | {"max_backup": True}),
    DAC,
    DAC._replace(name="dac, best of ten", settings=DAC.settings | {"max_backup": True}),
)

# --- The same parameters in both codes ------------------------------------------------------------


def actor_params(theirs: Params) -> Params:
    """A policy network of flow-rl under our names; inputs are a, s, n in place of a, n, s."""
    net, feature = theirs["noise_predictor"], theirs["MLP_0"]
    first = net["Dense_0"]
    action, step, observation = jnp.split(first["kernel"], [ACTION, ACTION + FEATURE])
    first = first | {"kernel": jnp.concatenate([action, observation, step])}
    return {"_StepFeature_0": {f"_{k}": {"Dense_0": v} for k, v in feature.items()}} | {
        "mlp": {"_JoinedDense_0": first} | renumbered(net, len(net))
    }


def critic_params(theirs: Params) -> Params:
    """An ensemble of flow-rl under the names of ours."""
    base = theirs["base"]
    layers = base["backbone"] | {f"Dense_{len(base['backbone'])}": base["Dense_0"]}
    return {"_JoinedDense_0": layers["Dense_0"]} | renumbered(layers, len(layers))


def renumbered(layers: Params, count: int) -> Params:
    """All layers but the first, counted from 0."""
    return {f"_Dense_{i - 1}": {"Dense_0": layers[f"Dense_{i}"]} for i in range(1, count)}


NETWORKS: dict[str, tuple[str, str, Callable[[Params], Params]]] = {
    "actor": ("actor", "actor_target", actor_params),
    "critic": ("critic", "critic_target", critic_params),
}


def networks_of(agent: Peer) -> dict[str, tuple[Params, Params]]:
    """{field of our state: parameters and target network}."""
    return {
        field: tuple(rename(getattr(agent, name).params) for name in names)  # type: ignore[misc]
        for field, (*names, rename) in NETWORKS.items()
    }


def doubled(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimiser that sees twice the gradient."""
    return optax.chain(optax.scale(2.0), tx)


def agent_of(case: Case, optimizers: dict[str, Any], dtype: Any) -> Peer:
    """Their agent with parameters of `dtype`, targets equal to the networks, and optimisers."""
    agent = case.agent(case.module.Config(**case.settings))
    for field, (name, target, _) in NETWORKS.items():
        model = getattr(agent, name)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), model.params)
        state = model.state.replace(params=params)
        tx = doubled(optimizers[field]) if case.sums and field == "critic" else optimizers[field]
        trained = state.replace(tx=tx, opt_state=tx.init(params))
        setattr(agent, name, model.replace(state=trained))
        setattr(agent, target, getattr(agent, target).replace(state=state))
    return agent


def state_of(agent: Peer, case: Case, optimizers: dict[str, Any], **more: Any) -> Any:
    """Our state at the agent's parameters."""
    parts = {
        field: Trainable(params, target, optimizers[field].init(params))
        for field, (params, target) in networks_of(agent).items()
    }
    return case.module.State(**parts, **more)


def parts_of(case: Case, optimizers: dict[str, Any]) -> Any:
    """Our networks, with given draws and optimisers."""
    parts = case.module.build(case.module.Config(**case.settings), SPEC)
    return parts._replace(
        policy=GivenDraws(*parts.policy),
        actor_optimizer=optimizers["actor"],
        critic_optimizer=optimizers["critic"],
    )


def batch_of(rows: Transition) -> Any:
    """A batch as flow-rl takes it, with a discount of 1."""
    from flowrl.types import Batch

    return Batch(
        obs=rows.observation,
        action=rows.action,
        reward=rows.reward[:, None],
        terminal=1 - rows.discount[:, None],
        next_obs=rows.next_observation,
        next_action=rows.next_action,
    )


# --- The comparison -------------------------------------------------------------------------------


def compared(case: Case, optimizers: dict[str, Any], dtype: Any, count: int) -> dict[str, Any]:
    """Both codes after `count` updates, and where they started."""
    agent = agent_of(case, optimizers, dtype)
    more = {name: jnp.asarray(value, dtype) for name, value in case.more.items()}
    state, parts = state_of(agent, case, optimizers, **more), parts_of(case, optimizers)
    start = networks_of(agent)
    update = jax.jit(lambda s, b, d: case.update(s, b, d, parts))
    info: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    for _, ours in batches(count, dtype):
        state, metrics = update(state, ours, case.draws(agent, len(ours.reward)))
        info = agent.train_step(batch_of(ours), 0)
    ends = {field: (getattr(state, field).params, getattr(state, field).target) for field in start}
    return dict(
        start=start, ours=ends, theirs=networks_of(agent), metrics=metrics, info=info, agent=agent
    )


def first_update(case: Case, dtype: Any) -> dict[str, float]:
    """Relative differences of losses, and of gradients: what a step of descent of rate 1 moves."""
    found = compared(case, dict.fromkeys(NETWORKS, optax.sgd(1.0)), dtype, 1)
    rows = {}
    for name, other in case.losses.items():
        value, count = found["metrics"][name]
        rows[f"loss {name}"] = abs(float(value / count / found["info"][other]) - 1)
    for field in NETWORKS:
        start = found["start"][field][0]
        steps = [
            jax.tree.map(lambda a, b: a - b, found[whose][field][0], start)
            for whose in ("ours", "theirs")
        ]
        rows[f"gradient {field}"] = largest(*steps, steps[1])
    return rows


def many_updates(case: Case, dtype: Any, count: int) -> dict[str, float]:
    """Relative differences of parameters after some updates with clipped gradients and Adam."""
    config = case.module.Config(**case.settings)
    adam = learner.optimizer(config.actor_learning_rate, clip_norm=config.clip_norm)
    found = compared(case, dict.fromkeys(NETWORKS, adam), dtype, count)
    rows = {}
    for field in NETWORKS:
        for place, name in enumerate(("parameters", "target network of")):
            ours, theirs, start = (
                found[whose][field][place] for whose in ("ours", "theirs", "start")
            )
            moved = jax.tree.map(lambda a, b: a - b, theirs, start)
            rows[f"{name} {field}"] = largest(ours, theirs, moved)
    return rows


def improvement_loss(q: Array, swapped: Array) -> Array:
    """That of our Diffusion-QL with flow-rl's 1e-6 in the divisor."""
    maximised, divisor = jnp.where(swapped, q[::-1], q)
    return -jnp.mean(maximised) / jax.lax.stop_gradient(jnp.mean(jnp.abs(divisor)) + 1e-6)


def guidance(critic: Params, x: Array, n: Array, *, parts: Any, batch: Transition) -> Array:
    """That of our DAC with flow-rl's 1e-6 in the divisor."""
    size = jnp.mean(jnp.abs(parts.critic.apply(critic, batch.observation, batch.action)))
    return size / (size + 1e-6) * OURS(critic, x, n, parts=parts, batch=batch)


OURS = dac.guidance


def make_equal() -> None:
    """Lets flow-rl compute a step's sinusoids in float32, as ours, and ours divide as flow-rl."""
    dql.improvement_loss, dac.guidance = improvement_loss, guidance
    from flowrl.module.time_embedding import PositionalEmbedding

    def feature(self: Any, n: Array) -> Array:
        half = self.output_dim // 2
        frequency = np.exp(-np.log(10_000.0) * np.arange(half) / (half - 1)).astype(np.float32)
        angle = n.astype(jnp.float32) * frequency.reshape((1,) * (n.ndim - 1) + (half,))
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)

    PositionalEmbedding.__call__ = flax.linen.compact(feature)


def main(argv: list[str]) -> None:
    """Prints a table of every case."""
    del argv
    jax.config.update("jax_enable_x64", FLAGS.float64)
    dtype = np.float64 if FLAGS.float64 else np.float32
    make_equal()
    for case in CASES:
        if FLAGS.case not in case.name:
            continue
        rows = first_update(case, dtype) | many_updates(case, dtype, FLAGS.updates)
        print(f"\n{case.name}, {np.dtype(dtype).name}, {FLAGS.updates} updates")
        for name, difference in rows.items():
            print(f"  {name:40s} {difference:.1e}")


if __name__ == "__main__":
    flags.DEFINE_bool("float64", True, "in double precision")
    flags.DEFINE_string("case", "", "part of the names of the cases to compare")
    flags.DEFINE_integer("updates", 20, "updates before parameters are compared")
    app.run(main)
