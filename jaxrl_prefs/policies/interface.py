"""The interface of all policies: pure functions of explicit parameters.

A policy object holds networks and bounds but no arrays that training changes, so that a method can
keep it outside its state. (`method.Policy` is a trained policy, as evaluation runs it.)
"""

from __future__ import annotations

from typing import Any, Protocol

from jaxrl_prefs.types import Array, Key, Params


class PolicyNetwork(Protocol):
    """What every policy offers."""

    def init(self, key: Key, observation: Array) -> Params:
        """Initial parameters; the observation [..., O] is read for its shape only."""
        ...

    def sample(self, params: Params, observation: Array, key: Key, count: int) -> Array:
        """Samples `count` actions for each observation [B, O]: [B, K, A]."""
        ...

    def bc_loss(self, params: Params, observation: Array, action: Array, key: Key) -> Array:
        """The loss by which this policy clones actions [B, A]: the batch mean, a scalar."""
        ...


class PolicyWithMode(PolicyNetwork, Protocol):
    """A policy that can also act without noise."""

    def act(self, params: Params, observation: Array) -> Array:
        """The action without noise: [..., O] -> [..., A]."""
        ...


class PolicyWithDensity(PolicyWithMode, Protocol):
    """A policy whose density is known."""

    def log_density(self, params: Params, observation: Array, action: Array) -> Array:
        """log pi(a | s) for observations [..., O] and actions [..., A]: [...]."""
        ...

    def distribution(self, params: Params, observation: Array) -> Any:
        """The same density as a distrax distribution over actions [..., A].

        Raises ImportError where distrax is not installed. Training needs no distrax.
        """
        ...
