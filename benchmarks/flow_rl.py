"""flow-rl's BDPO: timed by `benchmarks.peers` and `benchmarks.accelerator --peer`, and compared."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_prefs.types import Transition


def settings(config: Any) -> Any:
    """Our settings of BDPO under flow-rl's names; it reads attributes alone."""

    def network(rate: float, decay: int | None, every: int) -> SimpleNamespace:
        return SimpleNamespace(
            lr=rate, lr_decay_steps=decay, clip_grad_norm=1.0, ema=config.tau, ema_every=every
        )

    steps, interval = config.train_steps, config.actor_interval
    return SimpleNamespace(
        name="bdpo",
        warmup_steps=0,
        temperature=0.0,
        diffusion=SimpleNamespace(
            actor=network(config.actor_learning_rate, steps, interval),
            behavior=network(config.behavior_learning_rate, None, 1),
            noise_schedule="vp",
            resnet=False,
            dropout=0.0,
            layer_norm=False,
            time_dim=64,
            mlp_hidden_dims=list(config.actor_hidden),
            solver="ddpm",
            steps=config.diffusion_steps,
            clip_sampler=True,
            x_min=-1.0,
            x_max=1.0,
        ),
        critic=SimpleNamespace(
            **vars(network(config.critic_learning_rate, steps, 1)),
            discount=0.99,
            q_target="lcb",
            maxQ=False,
            ensemble_size=config.critic_ensemble_size,
            rho=config.rho,
            eta=config.eta,
            hidden_dims=list(config.critic_hidden),
            layer_norm=False,
            steps=config.diffusion_steps,
            num_samples=config.q_samples,
            solver="ddpm",
            update_ratio=interval,
        ),
    )


def agent(folder: str, config: Any, observation: int, action: int) -> Any:
    """flow-rl's BDPO with our settings. Raises ImportError where it or what it needs is missing."""
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module("flowrl.agent.offline.bdpo.bdpo")
    finally:
        sys.path.remove(folder)
    return module.BDPOAgent(observation, action, settings(config), 0)


def batch(rows: Transition) -> Any:
    """Rows as flow-rl takes them, on the device; `agent` imports what this needs."""
    rows = jax.tree.map(jnp.asarray, rows)
    return sys.modules["flowrl.types"].Batch(
        obs=rows.observation,
        action=rows.action,
        reward=rows.reward[:, None],
        terminal=jnp.zeros_like(rows.reward)[:, None],
        next_obs=rows.next_observation,
        next_action=rows.next_action,
    )
