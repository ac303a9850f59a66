"""How a process shows its devices to JAX, before anything touches one."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from jaxrl_prefs.errors import ConfigError


def found() -> list[jax.Device]:
    """The devices of the platform that JAX_PLATFORMS chooses, else the best there is.

    Raises:
        ConfigError: if there are none.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        chosen = jax.config.values["jax_platforms"] or ""
        told = " ".join(str(error).split())[:200] or "no such device"
        raise ConfigError(
            f"JAX_PLATFORMS={chosen}: {told}. JAX_PLATFORMS=cpu, or none, takes what there is"
        ) from error


def use_cores() -> None:
    """Makes JAX show each CPU core as one device, so that seeds are spread over the cores.

    Call it before anything touches a device: JAX fixes the number when its backend starts. A number
    that was already chosen (`jax_num_cpu_devices`, or `--xla_force_host_platform_device_count` in
    XLA_FLAGS) stays.
    """
    chosen = jax.config.values["jax_num_cpu_devices"] > 0  # -1 where nobody chose
    if chosen or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
    jax.config.update("jax_num_cpu_devices", len(allowed(0)) if allowed else os.cpu_count() or 1)


def prepare() -> None:
    """Uses all cores, and a compilation cache in the user's cache folder."""
    use_cores()
    if jax.config.values["jax_compilation_cache_dir"] is None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "jaxrl_prefs" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
