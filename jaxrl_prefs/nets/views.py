"""Networks that read a part of their first input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from jaxrl_prefs.nets.spectral_residual import Residual
from jaxrl_prefs.types import Array, Key, Net, Params

N = TypeVar("N", Net, Residual)


def viewed(net: N, view: Callable[[Array], Array] | None) -> N:
    """The network on `view` of an observation; the network itself where that is None.

    Several encoders of images fill an observation, and each network reads its own (encoded.py).
    """
    if view is None:
        return net
    read = view  # not None

    def init(key: Key, observation: Array, *rest: Array) -> Params:
        return net.init(key, read(observation), *rest)

    if isinstance(net, Residual):

        def applied(params: Params, vectors: Params, observation: Array, *rest: Array) -> Array:
            return net.apply(params, vectors, read(observation), *rest)

        return net._replace(init=init, apply=applied)

    def apply(params: Params, observation: Array, *rest: Array) -> Array:
        return net.apply(params, read(observation), *rest)

    return net._replace(init=init, apply=apply)
