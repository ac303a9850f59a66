"""Every random stream of a run, derived from the seed: keys are folded, never stored.

    fold_in(seed, 0)                    initialises the seed's state
    split(fold_in(seed, phase + 1), 3)  phase number `phase`: entering it, its rows, its updates
    fold_in(rows, step)                 the rows of one batch (see the samplers of method.py)
    fold_in(updates, step)              one update; a phase that fills columns folds row numbers
    fold_in(fold_in(seed, PLAY), step)  an evaluation after `step` updates; then fold_in(., time)
    fold_in(fold_in(seed, DIAGNOSE), step)

So results depend neither on how the steps are cut into chunks nor on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from jaxrl_prefs.types import Key

PLAY, DIAGNOSE = 1_000_000, 1_000_001  # out of reach of phase numbers


def seed_keys(seeds: Sequence[int]) -> Key:
    """Makes one typed key per seed, [S]; the key of a seed does not depend on the others.

    A seed may be named again, for members that differ in settings (training/sweep.py).

    Raises ValueError on no seeds, and outside 0 <= seed < 2**32.
    """
    if not seeds:
        raise ValueError("there must be at least one seed")
    if min(seeds) < 0 or max(seeds) >= 2**32:
        raise ValueError(f"seeds must be in 0 ... 2**32 - 1, got {list(seeds)}")
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


def shared_key() -> Key:
    """The key of everything that seeds share: no seed's own, and out of reach of phase numbers."""
    return jax.random.fold_in(jax.random.key(0), 2**32 - 1)


def init_keys(keys: Key) -> Key:
    """Derives from seeds' keys [S] those of their first states, [S]."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, 0)


@jax.jit
def phase_keys(keys: Key, index: int) -> tuple[Key, Key, Key]:
    """Derives phase `index`'s keys from seeds' keys [S]: for its enter, its rows, its updates."""

    def derive(key: Key) -> Key:
        return jax.random.split(jax.random.fold_in(key, index + 1), 3)

    enter, rows, update = jax.vmap(derive, out_axes=1)(keys)
    return enter, rows, update


def evaluation_keys(seeds: Sequence[int], purpose: int, step: int) -> Key:
    """Keys [S] of one purpose (PLAY or DIAGNOSE) after `step` updates."""
    fold = jax.vmap(jax.random.fold_in, (0, None))
    return fold(fold(seed_keys(seeds), purpose), step)
