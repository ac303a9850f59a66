"""What a policy family must offer so that one actor-critic can regularise it to the behaviour."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxrl_prefs.types import Array, Key, Metrics, Net, Params


class Refinement(NamedTuple):
    """One regularised step of a policy towards an action: what actor and V are trained on.

    For a diffusion policy, one reverse step from a noised data action; for a policy that draws its
    action at once, that draw (level 1, and `source` is unused).
    """

    source: Array  # [B, A] a^n
    level: Array  # [B] int, n
    samples: Array  # [B, K, A] a^{n-1}
    penalty: Array  # [B] divergence from the behaviour paid by this step


class Family(NamedTuple):
    """A policy family as pure functions of its parameters; actor and behaviour are both members.

    `fit(params, observation [B, O], action [B, A], key) -> (loss, metrics)` trains the behaviour;
    `draw(params, observation, key, count) -> [B, K, A]` acts;
    `paths(actor, behavior, observation, key, count) -> ([B, K, A], [B, K])` draws actions with the
    whole divergence paid for each; `refine(actor, behavior, observation, action, key, count)`
    takes one step. Gradients flow through the actor's parameters only where the caller asks.
    """

    net: Net
    init: Callable[[Key, Array, Array], Params]  # (key, observation, action), for shapes
    levels: int  # steps from noise to action; 1 where an action is drawn at once
    fit: Callable[[Params, Array, Array, Key], tuple[Array, Metrics]]
    draw: Callable[[Params, Array, Key, int], Array]
    paths: Callable[[Params, Params, Array, Key, int], tuple[Array, Array]]
    refine: Callable[[Params, Params, Array, Array, Key, int], Refinement]
