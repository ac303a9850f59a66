"""How a process shows its devices to JAX, before anything touches one."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from jaxrl_prefs.errors import ConfigError

# The first leaves out operations whose result depends on the order of threads, and the choice among
# kernels by measuring them; the second says the latter to XLA of every release.
DETERMINISTIC = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


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


def make_deterministic() -> None:
    """Asks XLA for programs that give the same bits in every run on a GPU.

    Call it before anything touches a device, since XLA reads its options once. On a CPU, where
    programs do so anyway, nothing changes.

    Raises:
        ConfigError: if JAX has started on a GPU without these options.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    missing = [option for option in DETERMINISTIC if option not in given]
    if not missing:
        return
    if not _has_started():
        os.environ["XLA_FLAGS"] = " ".join([*given, *missing])
    elif jax.default_backend() == "gpu":
        raise ConfigError(
            "deterministic must be chosen before JAX uses a device: train in a new process, or "
            f"start this one with XLA_FLAGS={' '.join(DETERMINISTIC)!r}"
        )


def _has_started() -> bool:
    """Whether JAX has started its backends, after which it takes no other number of devices."""
    number = jax.config.values["jax_num_cpu_devices"]
    try:
        jax.config.update("jax_num_cpu_devices", max(number, 0) + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", number)
    return False


def prepare() -> None:
    """Uses all cores, and a compilation cache in the user's cache folder."""
    use_cores()
    if jax.config.values["jax_compilation_cache_dir"] is None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "jaxrl_prefs" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
