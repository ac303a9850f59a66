"""`jaxrl-prefs compare` with another code's method in place of ours.

    git clone https://github.com/tinkoff-ai/ReBRAC PEER
    pip install distrax
    python -m benchmarks.parity.compare --peer=PEER --algo=rebrac --dataset=pendulum-mixed --seeds=3

Networks, initial parameters, updates and the policy that plays are the other code's, whose folder
--peer names, with the settings of our run; data, batches and evaluation are ours. All other flags
are those of `jaxrl-prefs compare`, whose results `--workdir` keeps; one method at a time. The
methods are the modules of benchmarks/parity/peers/, which say whose code they take.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.methods import METHODS

FLAGS = ("--peer=", "--algo=")


def sequential(orthogonal: Callable[..., Any]) -> Callable[..., Any]:
    """An initialiser whose kernels are made one by one, for the reason in nets/ensembles.py."""

    def made(*args: Any, **fields: Any) -> Callable[..., Any]:
        kernel = orthogonal(*args, **fields)

        def one(key: Any, shape: Any, *dtype: Any) -> Any:
            return jax.custom_batching.sequential_vmap(lambda key: kernel(key, shape, *dtype))(key)

        return one

    return made


def main(arguments: list[str]) -> None:
    """Replaces the method, and runs the command."""
    peer, algo = (
        next((x.removeprefix(flag) for x in arguments if x.startswith(flag)), "") for flag in FLAGS
    )
    if not peer or algo not in METHODS:
        sys.exit(f"--peer=FOLDER and one method are needed, --algo={'|'.join(METHODS)}")
    sys.path.insert(0, peer)
    for module in (nn.initializers, jax.nn.initializers):
        module.orthogonal = sequential(module.orthogonal)
    METHODS[algo] = importlib.import_module(f"benchmarks.parity.peers.{algo}")
    passed = [argument for argument in arguments if not argument.startswith("--peer=")]
    command(["jaxrl-prefs", "compare", *passed], typed="python -m benchmarks.parity.compare")


if __name__ == "__main__":
    main(sys.argv[1:])
