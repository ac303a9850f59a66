"""Operations on batches of images, uint8 [B, H, W, C]."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_prefs.types import Array, Key


def random_shift(key: Key, image: Array, pad: int) -> Array:
    """Moves each image by whole pixels, up to `pad` each way: [B, H, W, C] -> [B, H, W, C].

    Equal to padding by `pad` repeated border pixels and cropping at a uniformly drawn place, DrQ's
    augmentation (Kostrikov et al. 2021, arXiv 2004.13649). All channels of an image, and so all of
    its stacked frames, move alike. Any dtype; uint8 stays uint8.
    """
    batch, height, width, _ = image.shape
    offset = jax.random.randint(key, (2, batch, 1), -pad, pad + 1)
    rows = jnp.clip(offset[0] + jnp.arange(height)[None], 0, height - 1)  # [B, H]
    columns = jnp.clip(offset[1] + jnp.arange(width)[None], 0, width - 1)  # [B, W]
    return jax.vmap(_at)(image, rows, columns)


def _at(image: Array, rows: Array, columns: Array) -> Array:
    """[H, W, C] at its rows [H] and columns [W], whose indices lie inside.

    Rows first, then columns: on a CPU a third of the time of one gather by both.
    """
    moved = image.at[rows].get(mode="promise_in_bounds")
    return moved.at[:, columns].get(mode="promise_in_bounds")
