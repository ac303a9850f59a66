"""Seeds are mapped, padded and kept apart."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.keys import seed_keys
from jaxrl_prefs.parallel import devices, seed_axis
from jaxrl_prefs.types import Array


def mesh(devices: int) -> jax.sharding.Mesh:
    return seed_axis.seed_mesh(jax.devices()[:devices])


def test_mesh_has_auto_axes_over_all_devices() -> None:
    made = seed_axis.seed_mesh()
    assert made.axis_names == (seed_axis.AXIS,)
    assert made.devices.size == jax.device_count() == 4
    assert made.axis_types == (jax.sharding.AxisType.Auto,)


def test_keys_do_not_depend_on_the_other_seeds() -> None:
    several = jax.random.key_data(seed_keys([3, 4, 2**32 - 1]))
    alone = jax.random.key_data(seed_keys([4]))
    np.testing.assert_array_equal(several[1], alone[0])
    np.testing.assert_array_equal(alone[0], jax.random.key_data(jax.random.key(4)))


@pytest.mark.parametrize(
    ("seeds", "message"),
    [([], "at least one seed"), ([-1], "seeds must be"), ([2**32], "seeds must be")],
)
def test_bad_seeds_are_refused(seeds: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seed_keys(seeds)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_pads_and_trims(devices: int) -> None:
    tree = {"a": np.arange(15.0).reshape(5, 3), "keys": seed_keys(range(5))}
    padded = seed_axis.pad(tree, mesh(devices))
    rows = -(-5 // devices) * devices
    assert padded["a"].shape == (rows, 3)
    assert len(padded["a"].addressable_shards) == devices
    np.testing.assert_array_equal(padded["a"][5:], np.broadcast_to(tree["a"][4], (rows - 5, 3)))
    np.testing.assert_array_equal(
        jax.random.key_data(padded["keys"])[:5], jax.random.key_data(tree["keys"])
    )
    trimmed = seed_axis.trim(padded["a"], 5)
    assert type(trimmed) is np.ndarray
    np.testing.assert_array_equal(trimmed, tree["a"])
    np.testing.assert_array_equal(seed_axis.one(padded["a"], 2), tree["a"][2])


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
@pytest.mark.parametrize("devices", [1, 4])
def test_maps_over_seeds(mapping: str, devices: int) -> None:
    def scaled(x: Array, common: Array, y: dict[str, Array]) -> dict[str, Array]:
        return {"z": x * common + y["y"]}

    mapped = seed_axis.over_seeds(scaled, mesh(devices), (0, None, 0), mapping=mapping)
    x, y = jnp.arange(4.0), {"y": jnp.arange(8.0).reshape(4, 2)}
    result = mapped(x, jnp.float32(10), y)["z"]
    np.testing.assert_array_equal(result, 10 * np.arange(4.0)[:, None] + np.asarray(y["y"]))


def test_a_loop_keeps_branches_and_vmap_of_an_unbatched_step_too() -> None:
    def branch(x: Array, step: Array) -> Array:
        return jax.lax.cond(step % 2 == 0, jnp.sin, lambda same: same, x)

    for mapping in ("loop", "vmap"):
        mapped = seed_axis.over_seeds(branch, mesh(1), (0, None), mapping=mapping)
        text = mapped.lower(jnp.zeros(3), jnp.int32(0)).as_text()
        assert "stablehlo.case" in text or "stablehlo.if" in text, mapping


def test_padding_copies_so_that_donation_spares_the_caller() -> None:
    mapped = seed_axis.over_seeds(lambda x: x + 1, mesh(1), (0,), donate=(0,))
    mine = jnp.zeros((4, 1000))
    padded = seed_axis.pad(mine, mesh(1))
    jax.block_until_ready(mapped(padded))
    np.testing.assert_array_equal(mine, np.zeros((4, 1000)))
    assert padded.is_deleted()


def test_the_platform_chooses_the_mapping() -> None:
    assert seed_axis.chosen_mapping("auto", mesh(1)) == "loop"  # a CPU
    assert seed_axis.chosen_mapping("vmap", mesh(1)) == "vmap"
    with pytest.raises(ValueError, match="auto, loop, vmap"):
        seed_axis.chosen_mapping("pmap", mesh(1))


@pytest.mark.parametrize(
    ("setting", "flags", "expected"),
    [("", "", None), ("3", "", 3), ("", "--xla_force_host_platform_device_count=2", 2)],
)
def test_use_cores_respects_what_was_chosen(setting: str, flags: str, expected: int | None) -> None:
    code = (
        "import os, jax; from jaxrl_prefs.parallel import devices; devices.use_cores();"
        "print(jax.device_count(), len(os.sched_getaffinity(0)))"
    )
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    if setting:
        env["JAX_NUM_CPU_DEVICES"] = setting
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    devices, cores = map(int, done.stdout.split())
    assert devices == (cores if expected is None else expected)


def test_deterministic_is_chosen_before_jax_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is added to the options that are there, needless on a CPU, and too late on a GPU."""
    own, chosen = "--xla_force_host_platform_device_count=8", " ".join(devices.DETERMINISTIC)
    monkeypatch.setenv("XLA_FLAGS", own)
    jax.devices()
    devices.make_deterministic()
    assert os.environ["XLA_FLAGS"] == own
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ConfigError, match=f"new process.*{devices.DETERMINISTIC[0]}"):
        devices.make_deterministic()
    monkeypatch.setattr(devices, "_has_started", lambda: False)
    devices.make_deterministic()
    assert os.environ["XLA_FLAGS"] == f"{own} {chosen}"
    monkeypatch.undo()
    assert devices._has_started()
