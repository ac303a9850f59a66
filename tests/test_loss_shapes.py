"""Every public loss and target refuses arrays of a wrong shape instead of broadcasting them.

Traced with shapes only; nothing is compiled. The axes are those of types.py: 6 rows, 3 observation
and 2 action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import learner, nets
from jaxrl_prefs.behavior import energy, morse, proposals, score
from jaxrl_prefs.methods import METHODS, arq, awac, bdpo, bpr, cql, dac, dql, fql, iql, rebrac
from jaxrl_prefs.ops import ddpm, flow, schedules
from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.policies.flow import FlowPolicy, gelu_net
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.policies.tanh_gaussian import TanhGaussian
from jaxrl_prefs.types import Spec, Transition
from jaxrl_prefs.values import actor_losses, critics, td3
from jaxrl_prefs.values import iql as iql_values
from tests import probes

DATA: Transition = jax.tree.map(
    jnp.asarray, probes.episodes(size=6, length=3, observation_dim=3, action_dim=2)
)
COLUMN = DATA._replace(reward=DATA.reward[:, None])
WIDE = DATA._replace(action=jnp.zeros((6, 3)))
SPEC = Spec.of(DATA)
KEY = jax.random.key(0)
OPT = optax.sgd(0.1)
CRITIC = critics.twin((4,))
SMALL = {"actor_hidden": (4,), "critic_hidden": (4,)}


def refuses(fn: Callable[..., Any], right: tuple, wrong: tuple) -> None:
    """`fn` takes `right` and raises on `wrong`, even where jax is allowed to broadcast."""
    jax.eval_shape(fn, *right)
    with jax.numpy_rank_promotion("allow"), pytest.raises(AssertionError):
        jax.eval_shape(fn, *wrong)


def critic_params() -> Any:
    return jax.eval_shape(CRITIC.init, KEY, DATA.observation, DATA.action)


def state_of(method: Any, parts: Any) -> Any:
    return jax.eval_shape(partial(method.init, parts=parts), KEY, DATA)


@pytest.mark.parametrize("loss", ["td3_bc", "weighted_bc", "td3_bst"])
def test_actor_losses(loss: str) -> None:
    network = morse.network((4,), SPEC, kernel="rbf", scale="k/2")
    params = jax.eval_shape(network.net.init, KEY, DATA.observation, DATA.action)
    shared = {"policy": lambda action, s: action, "critic": CRITIC, "batch": DATA}

    def fn(action: Any, critic: Any, certain: Any) -> Any:
        if loss == "td3_bc":
            return actor_losses.td3_bc_loss(action, **shared, critic_params=critic, alpha=1.0)
        if loss == "weighted_bc":
            more = {"temperature": 1.0, "largest": 9.0}
            return actor_losses.weighted_bc_loss(action, **shared, critic_params=critic, **more)
        more = {"morse": network, "morse_params": certain, "mu": 1.0}
        more |= {"gradient": "full", "distance": "mean"}
        return actor_losses.td3_bst_loss(action, **shared, critic_params=critic, **more)

    right = DATA.action, critic_params(), params
    refuses(fn, right, (DATA.action[:1], *right[1:]))


def test_critic_regression() -> None:
    def fn(params: Any, target: Any) -> Any:
        return critics.regress(learner.init(params, OPT), OPT, CRITIC, DATA, target)

    refuses(fn, (critic_params(), jnp.zeros(6)), (critic_params(), jnp.zeros((6, 1))))
    refuses(fn, (critic_params(), jnp.zeros((2, 6))), (critic_params(), jnp.zeros(1)))


def test_td3_targets() -> None:
    parts = td3.from_config(METHODS["td3_bc"].Config(**SMALL), SPEC)
    actor = jax.eval_shape(parts.policy.init, KEY, DATA.observation)
    fn = partial(td3.critic_target, td3=parts)
    refuses(fn, (critic_params(), actor, DATA, KEY), (critic_params(), actor, COLUMN, KEY))


def test_iql() -> None:
    parts = iql.build(iql.Config(**SMALL), SPEC)
    state = state_of(iql, parts)
    value = partial(iql_values.update_value, iql=parts.iql)
    start = state.value, state.critic.target
    refuses(value, (*start, DATA), (*start, COLUMN))

    def actor(params: Any, advantage: Any) -> Any:
        return iql.actor_loss(params, batch=DATA, advantage=advantage, parts=parts)

    params = state.actor.params
    refuses(actor, (params, jnp.zeros(6)), (params, jnp.zeros((6, 1))))


def test_behavior_models() -> None:
    network = morse.network((4,), SPEC, kernel="rbf", scale="k/2")
    params = jax.eval_shape(network.net.init, KEY, DATA.observation, DATA.action)

    def certain(params: Any, negatives: Any, weight: Any) -> Any:
        return morse.loss(params, morse=network, batch=DATA, negatives=negatives, weight=weight)

    negatives, weight = jnp.zeros((6, 4, 2)), jnp.ones(6)
    refuses(certain, (params, negatives, weight), (params, negatives, weight[:, None]))
    refuses(certain, (params, negatives, weight), (params, negatives[:, 0], weight))

    def contrast(negatives: Any) -> Any:
        log_q = proposals.uniform(SPEC.action_box).log_density
        return energy.contrastive_loss(log_q, log_q, DATA, negatives)

    refuses(contrast, (negatives,), (negatives[:, 0],))
    refuses(energy.split_loss, (weight, DATA.index), (weight[:, None], DATA.index))
    model = score.model(nets.score_net(4, 1, 2), 2, SPEC)
    params = jax.eval_shape(partial(score.init, model), KEY, DATA.observation, DATA.action)

    def denoise(params: Any, action: Any) -> Any:
        return score.denoising_loss(
            params, model=model, observation=DATA.observation, action=action, key=KEY
        )

    refuses(denoise, (params, DATA.action), (params, DATA.action[:1]))


@pytest.mark.parametrize(
    "name", ["deterministic", "gaussian", "tanh_gaussian", "diffusion", "flow"]
)
def test_cloning_losses(name: str) -> None:
    box, net = SPEC.action_box, nets.mlp((4,), 4)
    policy: Any = {
        "deterministic": deterministic.relu_policy((4,), SPEC),
        "gaussian": DiagonalGaussian(net, box),
        "tanh_gaussian": TanhGaussian(net, box),
        "diffusion": DiffusionPolicy(
            nets.stepped_mlp((4,), 2, steps=2), schedules.vp(2), ddpm.ancestral(box), 2
        ),
        "flow": FlowPolicy(gelu_net((4,), SPEC), box, flow.euler, 2),
    }[name]
    params = jax.eval_shape(policy.init, KEY, DATA.observation)

    def fn(params: Any, action: Any) -> Any:
        return policy.bc_loss(params, DATA.observation, action, KEY)

    refuses(fn, (params, DATA.action), (params, DATA.action[:1]))
    refuses(fn, (params, DATA.action), (params, DATA.action[:, :1]))


def test_bdpo() -> None:
    few = dict.fromkeys(("q_samples", "v_samples", "actor_samples", "diffusion_steps"), 2)
    parts = bdpo.build(bdpo.Config(**SMALL, **few, critic_ensemble_size=2), SPEC)
    state = state_of(bdpo, parts)

    def target(state: Any, batch: Any) -> Any:
        return bdpo.critic_target(state, parts=parts, batch=batch, key=KEY)

    def actor(state: Any, batch: Any) -> Any:
        return bdpo.actor_loss(state.actor.params, state=state, parts=parts, batch=batch, key=KEY)

    refuses(target, (state, DATA), (state, COLUMN))
    refuses(actor, (state, DATA), (state, DATA._replace(action=DATA.action[:, 0])))
    right = jnp.zeros((2, 6)), jnp.zeros(6)
    refuses(bdpo.regression_loss, right, (right[0], jnp.zeros((6, 1))))


def test_fql() -> None:
    parts = fql.build(fql.Config(**SMALL, flow_steps=2), SPEC)
    state = state_of(fql, parts)

    def target(state: Any, batch: Any) -> Any:
        return fql.critic_target(state, parts=parts, batch=batch, noise=DATA.action)

    def actor(state: Any, batch: Any, noise: Any) -> Any:
        return fql.actor_loss(
            state.actor.params, state=state, parts=parts, batch=batch, noise=noise
        )

    refuses(target, (state, DATA), (state, COLUMN))
    refuses(actor, (state, DATA, DATA.action), (state, DATA, DATA.action[:1]))


def test_rebrac() -> None:
    critic = rebrac.build(rebrac.Config(**SMALL), SPEC).critic
    params = jax.eval_shape(critic.init, KEY, DATA.observation, DATA.action)
    shared = {"critic": critic, "penalty": 1.0}

    def target(params: Any, batch: Any, action: Any) -> Any:
        return rebrac.critic_target(params, batch, action, **shared)

    def actor(action: Any, params: Any) -> Any:
        given = {"policy": lambda action, s: action, "critic_params": params, "batch": DATA}
        return rebrac.actor_loss(action, **shared, **given)

    refuses(target, (params, DATA, DATA.action), (params, COLUMN, DATA.action))
    refuses(target, (params, DATA, DATA.action), (params, DATA, DATA.action[:1]))
    refuses(actor, (DATA.action, params), (DATA.action[:1], params))


def test_awac() -> None:
    parts = awac.build(awac.Config(**SMALL), SPEC)
    state = state_of(awac, parts)
    refuses(partial(awac.critic_target, parts=parts), (state, DATA, KEY), (state, COLUMN, KEY))

    def better(state: Any, batch: Any) -> Any:
        return awac.advantages(state.actor.params, state.critic.params, batch, KEY, parts=parts)

    def likelihood(params: Any, weight: Any) -> Any:
        given = {"policy": parts.policy, "batch": DATA, "weight": weight}
        return actor_losses.weighted_likelihood_loss(params, **given)

    refuses(better, (state, DATA), (state, COLUMN))
    params = state.actor.params
    refuses(likelihood, (params, jnp.zeros(6)), (params, jnp.zeros((6, 1))))


def test_cql() -> None:
    parts = cql.build(cql.Config(**SMALL, action_samples=2), SPEC)
    state = state_of(cql, parts)

    def target(critic: Any, batch: Any, action: Any) -> Any:
        return cql.critic_target(critic, batch, action, parts=parts)

    def integrals(critic: Any, draws: Any) -> Any:
        return cql.log_integrals(critic, DATA, draws, parts=parts)

    draws = jax.eval_shape(partial(cql.draw, parts=parts), state, DATA, KEY)
    critic, action = state.critic.target, DATA.action[:, None]
    refuses(target, (critic, DATA, action), (critic, COLUMN, action))
    refuses(target, (critic, DATA, action), (critic, DATA, DATA.action))
    density = jnp.zeros((6, 1))
    wrong = draws._replace(current=draws.current._replace(log_density=density))
    refuses(integrals, (critic, draws), (critic, wrong))


def test_dql() -> None:
    parts = dql.build(dql.Config(**SMALL, diffusion_steps=2), SPEC)
    state = state_of(dql, parts)

    def target(state: Any, batch: Any) -> Any:
        return dql.critic_target(state, parts=parts, batch=batch, key=KEY)

    def actor(state: Any, batch: Any) -> Any:
        given = {"critic": state.critic.params, "parts": parts, "batch": batch, "key": KEY}
        return dql.actor_loss(state.actor.params, **given)

    refuses(target, (state, DATA), (state, COLUMN))
    refuses(actor, (state, DATA), (state, WIDE))
    q = jnp.zeros((2, 6))
    refuses(dql.improvement_loss, (q, jnp.bool_(True)), (q[..., None], jnp.bool_(True)))


def test_dac() -> None:
    few = dict.fromkeys(("q_samples", "diffusion_steps", "critic_ensemble_size"), 2)
    parts = dac.build(dac.Config(**SMALL, **few), SPEC)
    state, level = state_of(dac, parts), jnp.ones(6, jnp.int32)

    def target(state: Any, batch: Any) -> Any:
        return dac.critic_target(state, parts=parts, batch=batch, key=KEY)

    def direction(state: Any, x: Any) -> Any:
        return dac.guidance(state.critic.target, x, level, parts=parts, batch=DATA)

    def actor(state: Any, eps: Any) -> Any:
        noised = dac.Noised(DATA.action, level, eps, DATA.action)
        given = {"eta": state.eta, "parts": parts, "batch": DATA}
        return dac.actor_loss(state.actor.params, noised, **given)

    refuses(target, (state, DATA), (state, COLUMN))
    refuses(direction, (state, DATA.action), (state, DATA.action[:1]))
    refuses(actor, (state, DATA.action), (state, DATA.action[:1]))


def test_bpr() -> None:
    parts = bpr.build(bpr.Config(**SMALL, negative_samples=2, behavior_width=4), SPEC)
    state = state_of(bpr, parts)

    def target(state: Any, batch: Any) -> Any:
        return bpr.critic_target(state, parts=parts, batch=batch, key=KEY)

    def actor(state: Any, batch: Any) -> Any:
        return bpr.actor_loss(state.actor.params, state=state, parts=parts, batch=batch, key=KEY)

    refuses(target, (state, DATA), (state, COLUMN))
    refuses(actor, (state, DATA), (state, WIDE))


def test_arq() -> None:
    parts = arq.build(arq.Config(**SMALL, q_target="sarsa", behavior_width=4), SPEC)
    state = state_of(arq, parts)

    def target(params: Any, batch: Any) -> Any:
        return arq.critic_target(params, parts=parts, batch=batch)

    def policy(params: Any, weight: Any) -> Any:
        return arq.policy_loss(params, parts=parts, batch=DATA, weight=weight)

    refuses(target, (state.critic.target, DATA), (state.critic.target, COLUMN))
    weight = jnp.ones(6)
    refuses(policy, (state.policy.params, weight), (state.policy.params, weight[:, None]))


def test_diagnostics() -> None:
    def fn(params: Any, policy: Any) -> Any:
        return critics.q_diagnostics(CRITIC, params, DATA, policy, DATA.action)

    refuses(fn, (critic_params(), DATA.action), (critic_params(), np.zeros((1, 2), "f")))
