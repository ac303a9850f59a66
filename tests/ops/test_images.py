"""The random shift against numpy's padding and cropping."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import images
from tests.exact import compiled

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 9, 6), dtype=np.uint8)
KEY = jax.random.key(3)


def crops(image: np.ndarray, pad: int) -> dict[tuple[int, int], np.ndarray]:
    """Every shift of one image [H, W, C], {(rows down, columns right): crop}."""
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    height, width, _ = image.shape
    places = range(2 * pad + 1)
    return {(i, j): padded[i : i + height, j : j + width] for i in places for j in places}


def place(found: np.ndarray, image: np.ndarray, pad: int) -> tuple[int, int]:
    (where,) = (at for at, crop in crops(image, pad).items() if np.array_equal(crop, found))
    return where


def shifted(key: jax.Array, image: np.ndarray, pad: int) -> np.ndarray:
    return np.asarray(compiled(lambda key, x: images.random_shift(key, x, pad), key, image))


def test_each_image_is_a_crop_of_its_padded_self_and_channels_move_alike() -> None:
    found = shifted(KEY, IMAGE, 2)
    assert found.dtype == np.uint8 and found.shape == IMAGE.shape
    assert len({place(one, image, 2) for one, image in zip(found, IMAGE, strict=True)}) > 1


def test_the_known_offsets() -> None:
    rows, columns = np.asarray(jax.random.randint(KEY, (2, 5, 1), -2, 3))[..., 0] + 2
    for one, image, i, j in zip(shifted(KEY, IMAGE, 2), IMAGE, rows, columns, strict=True):
        np.testing.assert_array_equal(one, crops(image, 2)[i, j])


def test_no_pad_no_shift() -> None:
    np.testing.assert_array_equal(shifted(KEY, IMAGE, 0), IMAGE)


def test_a_constant_image_stays() -> None:
    image = np.full((3, 5, 5, 2), 7, np.uint8)
    np.testing.assert_array_equal(shifted(KEY, image, 4), image)


def test_offsets_are_uniform_and_independent() -> None:
    """Chi-square over the 25 pairs of offsets; its 99.99th percentile at 24 degrees is 59."""
    draws, pad = 5000, 2
    ramp = np.arange(49, dtype=np.uint8).reshape(1, 7, 7, 1)
    found = shifted(KEY, np.repeat(ramp, draws, 0), pad)
    centre = found[:, 3, 3, 0].astype(int)  # names the pixel that came here
    counts = np.bincount(5 * (centre // 7 - 1) + centre % 7 - 1, minlength=25)
    expected = draws / 25
    assert len(counts) == 25 and np.sum((counts - expected) ** 2) / expected < 59


def test_keys_decide() -> None:
    np.testing.assert_array_equal(shifted(KEY, IMAGE, 3), shifted(KEY, IMAGE, 3))
    assert (shifted(KEY, IMAGE, 3) != shifted(jax.random.key(4), IMAGE, 3)).any()


@pytest.mark.parametrize("per_key", [False, True], ids=["one batch", "a batch per key"])
def test_many_keys(per_key: bool) -> None:
    keys = jax.random.split(KEY, 3)
    batch = np.stack([IMAGE, IMAGE[::-1], IMAGE]) if per_key else IMAGE

    def shift(key: jax.Array, image: jax.Array) -> jax.Array:
        return images.random_shift(key, image, 2)

    found = compiled(jax.vmap(shift, (0, 0 if per_key else None)), keys, jnp.asarray(batch))
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(found[i], shifted(key, batch[i] if per_key else batch, 2))
