"""The example of a method of one's own: the contract, and its weights in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples import own_method
from jaxrl_prefs import nets
from jaxrl_prefs.policies.deterministic import Deterministic
from jaxrl_prefs.testing import check_method, transitions
from jaxrl_prefs.types import Net, Spec

# pi(s) = tanh(w s), and critics of mean Q = -(a - s / 8)^2: the best action is s / 8.
POLICY = Net(lambda key, s: jnp.zeros(()), lambda w, s: w * s)
MEMBER = Net(lambda key, s, a: jnp.zeros(()), lambda p, s, a: -jnp.square(a - s / 8)[..., 0] + p)
S, A = np.float32([1.0, -2.0, 0.5, 4.0]), np.float32([0.5, 0.1, -0.7, 0.2])
DISCOUNT = np.float32([0.9, 0.0, 0.9, 0.9])  # the second row is terminal, the last one is cut
DATA = jax.tree.map(
    jnp.asarray, transitions(S[:, None], A[:, None], np.float32([1, 2, 3, 4]), DISCOUNT)
)
OFFSETS = np.float32([-1.0, 1.0])  # of the two critics


def parts_of(other_weight: float) -> own_method.Parts:
    return own_method.Parts(
        config=own_method.Config(other_weight=other_weight),
        policy=Deterministic(POLICY, Spec.of(DATA).action_box),
        critic=nets.ensemble(MEMBER, 2),
        actor_optimizer=optax.sgd(1.0),
        critic_optimizer=optax.sgd(1.0),
    )


def test_it_keeps_the_contract() -> None:
    config = own_method.Config(
        actor_hidden=(8,), critic_hidden=(8,), batch_size=8, train_steps=5, other_weight=0.1
    )
    check_method(own_method, config, changes={"train": {"actor", "critic"}})


@pytest.mark.parametrize("other_weight", [0.0, 0.25, 1.0])
def test_actions_that_the_critic_prefers_weigh_more(other_weight: float) -> None:
    """The loss and its slope in w; no gradient passes through the weights."""

    def loss(w: jax.Array) -> jax.Array:
        at = {"critic_params": OFFSETS, "batch": DATA, "parts": parts_of(other_weight)}
        return own_method.actor_loss(w, **at)[0]

    value, slope = jax.jit(jax.value_and_grad(loss))(jnp.float32(0.3))
    action = np.tanh(0.3 * S)
    preferred = (action - S / 8) ** 2 > (A - S / 8) ** 2
    assert 0 < preferred.sum() < 4
    weight = np.where(preferred, 1, other_weight)
    np.testing.assert_allclose(value, (weight * (action - A) ** 2).mean(), rtol=1e-5)
    expected = (2 * weight * (action - A) * (1 - action**2) * S).mean()
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_a_bad_config_is_refused() -> None:
    with pytest.raises(ValueError, match="other_weight must not be negative"):
        own_method.make(own_method.Config(other_weight=-1), Spec.of(DATA))
