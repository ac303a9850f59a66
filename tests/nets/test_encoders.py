"""Encoders against plain numpy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import nets
from jaxrl_prefs.nets import encoders
from jaxrl_prefs.types import Net
from tests.exact import compiled, filled

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
each = pytest.mark.parametrize("name", nets.ENCODERS)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


IMAGE = pixels(2, 16, 17, 3)

# ------------------------------------------------------------------- the networks, in plain numpy


def conv(params: Any, x: np.ndarray, stride: int = 1, padding: str = "VALID") -> np.ndarray:
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (3, 3), (stride,) * 2, padding)
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = ((n - 3) // stride + 1 for n in x.shape[1:3])
    kernel = np.asarray(params["kernel"])
    y = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = x[:, stride * i : stride * i + 3, stride * j : stride * j + 3]
            y[:, i, j] = np.tensordot(window, kernel, 3)
    return y + params["bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def max_pool(x: np.ndarray) -> np.ndarray:
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (3, 3), (2, 2), "SAME")
    x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    return windows[:, ::2, ::2].max((-1, -2))


def trunk(params: Any, x: np.ndarray) -> np.ndarray:
    dense, norm = params["_Dense_0"]["Dense_0"], params["LayerNorm_0"]
    x = x.reshape(len(x), -1) @ dense["kernel"] + dense["bias"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return np.tanh(x * norm["scale"] + norm["bias"])


def drq(params: Any, x: np.ndarray) -> np.ndarray:
    for i, stride in enumerate((2, 1, 1, 1)):
        x = relu(conv(params[f"_Convolution_{i}"], x, stride))
    return trunk(params["_Trunk_0"], x)


def impala_small(params: Any, x: np.ndarray) -> np.ndarray:
    for stage in range(3):
        first, *block = (params[f"_Convolution_{3 * stage + i}"] for i in range(3))
        start = x = max_pool(conv(first, x, padding="SAME"))
        for layer in block:
            x = conv(layer, relu(x), padding="SAME")
        x = start + x
    return trunk(params["_Trunk_0"], relu(x))


@pytest.mark.parametrize("plain", [drq, impala_small], ids=lambda f: f.__name__)
def test_the_encoder_in_numpy(plain: Any) -> None:
    net = nets.ENCODERS[plain.__name__](5)
    params = filled(net.init, IMAGE)
    found = compiled(net.apply, params, IMAGE)
    assert found.dtype == np.float32 and found.shape == (2, 5)
    np.testing.assert_allclose(found, plain(params, IMAGE / 255 - 0.5), **CLOSE)


def test_pixels_become_numbers_once() -> None:
    found = compiled(encoders._numbers, np.array([[[[0, 51, 255]]]], np.uint8))
    np.testing.assert_allclose(found.ravel(), [-0.5, -0.3, 0.5], atol=1e-7)
    assert found.dtype == np.float32


# --------------------------------------------------------------------------------- the interface


@each
@pytest.mark.parametrize(("size", "channels"), [(16, 3), (32, 3), (64, 9), (84, 9)])
def test_shapes(name: str, size: int, channels: int) -> None:
    net = nets.ENCODERS[name]()
    image = jax.ShapeDtypeStruct((4, size, size, channels), jnp.uint8)
    params = jax.eval_shape(net.init, jax.random.key(0), image)
    found = jax.eval_shape(net.apply, params, image)
    assert (found.shape, found.dtype) == ((4, 50), jnp.float32)
    assert params["_Convolution_0"]["kernel"].shape[:3] == (3, 3, channels)
    if (name, size) == ("drq", 84):  # 35 x 35 x 32, the repr_dim of DrQ-v2
        assert params["_Trunk_0"]["_Dense_0"]["Dense_0"]["kernel"].shape == (39200, 50)


@each
def test_wrong_images_are_refused(name: str) -> None:
    net = nets.ENCODERS[name]()
    key = jax.random.key(0)
    for wrong in (IMAGE / np.float32(255), IMAGE.astype(np.int32), IMAGE[0]):
        with pytest.raises(TypeError, match=r"images are uint8 \[B, H, W, C\]"):
            net.init(key, wrong)
    with pytest.raises(ValueError, match=r"20x15 pixels are too small.*16x16"):
        net.init(key, pixels(1, 20, 15, 3))


def test_kernels_start_orthogonal_with_the_gain_of_their_activation() -> None:
    params = compiled(nets.ENCODERS["drq"](5).init, jax.random.key(0), IMAGE)
    dense = params["_Trunk_0"]["_Dense_0"]["Dense_0"]["kernel"]
    for kernel, gain in ((params["_Convolution_1"]["kernel"], 2), (dense, 1)):
        flat = np.reshape(kernel, (-1, kernel.shape[-1]))
        np.testing.assert_allclose(flat.T @ flat, gain * np.eye(flat.shape[1]), atol=1e-5)


def slopes(net: Net, params: Any, image: Any) -> Any:
    return jax.grad(lambda p: jnp.sum(net.apply(p, image)[:, 0]))(params)


@each
def test_gradients_are_finite_and_an_ensemble_is_its_members(name: str) -> None:
    net = nets.ENCODERS[name](4)
    both = [filled(net.init, IMAGE, seed=seed) for seed in (0, 1)]
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *both)
    found = compiled(jax.vmap(lambda p: (net.apply(p, IMAGE), slopes(net, p, IMAGE))), params)
    single = jax.jit(lambda p: (net.apply(p, IMAGE), slopes(net, p, IMAGE)))
    for i, p in enumerate(both):
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(single(p)), strict=True):
            assert np.isfinite(other).all()
            np.testing.assert_allclose(one[i], other, **CLOSE)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(found[1]))


# ------------------------------------------------------------------------------------ variations


def test_spectral_convolutions_do_not_feel_the_size_of_their_kernels() -> None:
    net = nets.ENCODERS["drq"](4, spectral=True)
    params = filled(net.init, IMAGE)
    larger = jax.tree.map(lambda x: 3 * x if x.ndim == 4 else x, params)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), params, larger)
    apply = compiled(lambda p: jax.lax.map(lambda p: net.apply(p, IMAGE), p), both)
    np.testing.assert_allclose(apply[0], apply[1], **CLOSE)


def test_ten_power_iterations_come_within_a_tenth_of_the_norm() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
    divided = compiled(lambda k: encoders._normalised(k, (8, 8, 2), 1, "VALID"), kernel)
    units = np.eye(128).reshape(-1, 8, 8, 2)
    matrix = conv({"kernel": divided, "bias": 0}, units).reshape(128, -1)
    assert 1 - 1e-4 < np.linalg.norm(matrix, 2) < 1.1


def test_images_and_a_vector() -> None:
    net = nets.ENCODERS["drq"](3)
    joined = nets.image_and_vector(net)
    state = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    observation = {"wrist": pixels(2, 16, 16, 3, seed=1), "state": state, "front": IMAGE}
    params = filled(joined.init, observation)
    found = compiled(joined.apply, params, observation)
    front, wrist = (drq(params[c], observation[c] / 255 - 0.5) for c in ("front", "wrist"))
    np.testing.assert_allclose(found, np.concatenate([front, wrist, state], -1), **CLOSE)
    images = {"wrist": observation["wrist"]}
    alone = compiled(joined.apply, {"wrist": params["wrist"]}, images)
    np.testing.assert_allclose(alone, wrist, **CLOSE)
