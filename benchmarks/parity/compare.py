"""`jaxrl-prefs compare` with another code's method in place of ours.

    git clone https://github.com/tinkoff-ai/ReBRAC PEER
    pip install distrax
    python -m benchmarks.parity.compare --peer=PEER --algo=rebrac --dataset=pendulum-mixed --seeds=3

Networks, initial parameters, updates and the policy that plays are the other code's, whose folder
--peer names, with the settings of our run; data, batches and evaluation are ours. All other flags
are those of `jaxrl-prefs compare`, written with "=", with one method. Results are kept in
runs/public_code (--workdir): they have the name of our method, and would be taken for its own. The
methods are the modules of benchmarks/parity/peers/, which say whose code they take and what that
needs. Seeds cannot be added to a finished run.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from benchmarks.parity import peers
from jaxrl_prefs.__main__ import command
from jaxrl_prefs.methods import METHODS

FLAGS = ("--peer=", "--algo=", "--workdir=")


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
    given = {flag: x.removeprefix(flag) for x in arguments for flag in FLAGS if x.startswith(flag)}
    peer, algo = given.get("--peer="), given.get("--algo=")
    known = [module.name for module in pkgutil.iter_modules(peers.__path__)]
    if not peer or algo not in known:
        sys.exit(f"--peer=FOLDER and one method are needed, --algo={'|'.join(known)}")
    sys.path.insert(0, peer)
    for module in (nn.initializers, jax.nn.initializers):
        module.orthogonal = sequential(module.orthogonal)
    METHODS[algo] = importlib.import_module(f"benchmarks.parity.peers.{algo}")
    passed = [argument for argument in arguments if not argument.startswith("--peer=")]
    if "--workdir=" not in given:
        passed.append("--workdir=runs/public_code")
    command(["jaxrl-prefs", "compare", *passed], typed="python -m benchmarks.parity.compare")


if __name__ == "__main__":
    main(sys.argv[1:])
