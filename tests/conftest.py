"""Settings for all tests: four CPU devices, strict broadcasting, one compilation cache."""

from __future__ import annotations

import os
import signal

# Read at import, also by the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"  # a missing dataset is not looked for
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # a quarter of the contract suite's time
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"  # see compilation_cache

from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from jaxrl_prefs.types import Transition
from tests import probes

# A shell that starts the suite in the background has it ignore Ctrl-C, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before any test touches a device: sharding is tested wherever the suite runs.
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")  # [B] against [B, 1] is an error


LONG = (
    "test_contract.py",
    "tests/cli",
    "tests/runs",
    "tests/toy",
    "tests/methods",
    "tests/environments",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--write-golden, for tests/runs/test_golden.py."""
    parser.addoption("--write-golden", action="store_true", help="write tests/golden/ anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes first, or one process waits for another's last file."""

    def rank(item: pytest.Item) -> int:
        return next((i for i, part in enumerate(LONG) if part in str(item.path)), len(LONG))

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiles a program once per session, also for the processes beside it and those it starts."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = str(base / "compilation-cache")
    jax.config.update("jax_compilation_cache_dir", folder)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder


@pytest.fixture
def tiny() -> Transition:
    """96 transitions in episodes of 12: 3 observations, 2 actions."""
    return probes.episodes(size=96, length=12, observation_dim=3, action_dim=2)


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Gives `real_data(dataset_id)`: the folder of a recorded dataset below MINARI_DATASETS_PATH.

    A set that is not there skips the test, and fails it where CI=true.
    """

    def find(dataset_id: str) -> Path:
        root = os.environ.get("MINARI_DATASETS_PATH", "")
        folder = Path(root) / dataset_id
        if root and (folder / "data").is_dir():
            return folder
        reason = f"{dataset_id} is not below MINARI_DATASETS_PATH ({root or 'not set'})"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    return find
