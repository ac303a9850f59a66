"""Checkpoints survive damage, a full disk and a change of devices."""

from __future__ import annotations

import contextlib
import logging
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chex
import flax.struct
import jax
import numpy as np
import optax
import pytest

from jaxrl_prefs.errors import CheckpointError, CheckpointMismatch
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs.checkpoints import Checkpoints
from jaxrl_prefs.training import loop
from jaxrl_prefs.types import Spec, Transition
from tests import probes


@flax.struct.dataclass
class State:
    params: Any
    target: Any
    opt_state: Any


def state(fill: float, seeds: int = 3, width: int = 32) -> State:
    """A tree with what a method's state has: dicts, None, empty and integer nodes."""
    params = {
        "w": np.full((seeds, width, 4), fill, np.float32),
        "b": np.zeros((seeds,), np.float32),
    }
    opt_state = jax.tree.map(np.asarray, optax.adam(1e-3).init(params))
    return State(params=params, target=None, opt_state=opt_state)


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 10 and 20, holding ones and twos; tests work on copies."""
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(10, state(1.0))
        checkpoints.save(20, state(2.0))
    return folder


def test_restores_what_was_saved(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "new" / "folder", metadata={"gamma": 0.99}) as checkpoints:
        assert checkpoints.restore(abstract(state(0.0))) is None
        assert checkpoints.latest() is None
        checkpoints.save(7, state(1.5))
    with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
        found = checkpoints.restore(abstract(state(0.0)))
        assert found is not None
        tree, step = found
        assert step == checkpoints.latest() == 7
        assert checkpoints.metadata(7) == {"gamma": 0.99}
    chex.assert_trees_all_equal(tree, state(1.5))
    assert jax.tree.structure(tree) == jax.tree.structure(state(1.5))
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(tree))


def test_keeps_the_newest(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["3", "4"]


def test_saved_arrays_may_change_at_once(tmp_path: Path) -> None:
    tree = state(1.0, width=4096)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree)
        tree.params["w"][:] = -1.0
        found = checkpoints.restore(abstract(tree))
    assert found is not None
    chex.assert_trees_all_equal(found[0], state(1.0, width=4096))


def test_replaces_a_checkpoint_of_the_same_step(written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "copy")
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(20, state(5.0))
        found = checkpoints.restore(abstract(state(0.0)))
    assert found is not None
    chex.assert_trees_all_equal(found[0], state(5.0))


# --- Damage ---------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 4, len(content), max(len(content) // 8, 1)):
        content[place] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [truncate, garble, Path.unlink])
def test_every_file_may_be_damaged(
    written: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """Whatever happens to one file of the newest: the newest as it was, or the one before it."""
    files = sorted(
        path.relative_to(written) for path in (written / "20").rglob("*") if path.is_file()
    )
    assert any("manifest" in path.name for path in files)
    assert any(path.parent.name == "d" for path in files)  # shards
    fallen_back = set()
    for number, name in enumerate(files):
        folder = shutil.copytree(written, tmp_path / str(number))
        harm(folder / name)
        with Checkpoints(folder) as checkpoints:
            found = checkpoints.restore(abstract(state(0.0)))
            assert found is not None
            tree, step = found
            assert step in (10, 20)
            if step == 10:
                fallen_back.add(name.name)
                assert checkpoints.latest() == 10  # the damaged one is gone
                checkpoints.save(20, state(3.0))  # and its step is free again
        chex.assert_trees_all_equal(tree, state(step / 10))
        shutil.rmtree(folder)
    assert {"_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"} & fallen_back


def test_a_flipped_bit_in_a_shard_is_noticed(written: Path, tmp_path: Path) -> None:
    """The arrays of the newest in place of the older one's: whole files, wrong numbers."""
    folder = shutil.copytree(written, tmp_path / "copy")
    shutil.rmtree(folder / "20" / "state")
    shutil.copytree(folder / "10" / "state", folder / "20" / "state")
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore(abstract(state(0.0)))
    assert found is not None
    assert found[1] == 10


def test_a_damaged_newest_is_told(
    written: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(written, tmp_path / "copy")
    for path in (folder / "20").rglob("manifest.ocdbt"):
        garble(path)
    with Checkpoints(folder) as checkpoints, caplog.at_level(logging.WARNING):
        checkpoints.restore(abstract(state(0.0)))
    assert "step 20" in caplog.text
    assert "damaged" in caplog.text


def test_all_damaged_is_an_error_and_deletes_nothing(written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "copy")
    for path in folder.rglob("manifest.ocdbt"):
        path.unlink()
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged"),
    ):
        checkpoints.restore(abstract(state(0.0)))
    assert (folder / "10").is_dir()
    assert (folder / "20").is_dir()


def test_another_tree_is_a_mismatch_and_deletes_nothing(written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "copy")
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointMismatch, match=r"opt_state.*\[3, 32, 4\].*\[3, 33, 4\]"),
    ):
        checkpoints.restore(abstract(state(0.0, width=33)))
    assert (folder / "20").is_dir()


# --- The disk -------------------------------------------------------------------------------------


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(size: int) -> dict[str, np.ndarray]:
    """An array that compression cannot shrink."""
    return {"w": np.random.default_rng(0).integers(0, 2**31, size, dtype=np.int32)}


def test_a_full_disk_keeps_the_last_good_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step 2 could not be written.*step 1"):  # noqa: SIM117
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(1, noise(10))
            checkpoints.wait()
            with file_size_limit(100_000):
                checkpoints.save(2, noise(1_000_000))
                checkpoints.wait()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        found = checkpoints.restore(abstract(noise(10)))
        assert found is not None
        assert found[1] == 1
        chex.assert_trees_all_equal(found[0], noise(10))
        checkpoints.save(2, noise(1_000_000))  # the disk has room again
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 2


def test_the_error_of_the_run_goes_before_that_of_the_save(tmp_path: Path) -> None:
    limit = file_size_limit(100_000)
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints, limit:
        checkpoints.save(1, noise(1_000_000))
        raise ZeroDivisionError


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot hold checkpoints"):
        Checkpoints(tmp_path / "file" / "checkpoints")


def test_leftovers_of_a_killed_process_go_with_the_first_save(tmp_path: Path) -> None:
    """Not before: a reader must not disturb a run that is still writing."""
    leftover = tmp_path / "5.orbax-checkpoint-tmp"
    (leftover / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(state(0.0))) is None
        assert leftover.is_dir()
        checkpoints.save(5, state(1.0))
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


def test_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1.0))
        checkpoints.restore(abstract(state(0.0)))
    assert capfd.readouterr() == ("", "")


# --- Devices --------------------------------------------------------------------------------------


def test_four_devices_hand_over_to_one(tiny: Transition, tmp_path: Path) -> None:
    """Three seeds, trained on four devices to the middle and on one to the end."""
    method = probes.make(probes.Config(), Spec.of(tiny))
    four, one = seed_axis.seed_mesh(), seed_axis.seed_mesh(jax.devices()[:1])
    last: Any = None
    with Checkpoints(tmp_path) as checkpoints:
        for log_point in loop.run(method, tiny, [0, 1, 2], four, every=10):
            if log_point.step == 30:
                tree = {"state": log_point.state, "columns": log_point.columns}
                checkpoints.save(30, {**tree, "state": seed_axis.trim(log_point.state, 3)})
            last = seed_axis.trim(log_point.state, 3)
    with Checkpoints(tmp_path) as checkpoints:
        wanted = {"state": abstract(last), "columns": abstract(log_point.columns)}
        found = checkpoints.restore(wanted)
    assert found is not None
    tree, start = found
    for log_point in loop.run(
        method, tiny, [0, 1, 2], one, every=10, state=tree["state"], columns=tree["columns"],
        start=start,
    ):  # fmt: skip
        resumed = seed_axis.trim(log_point.state, 3)
    chex.assert_trees_all_close(resumed, last, rtol=1e-5, atol=1e-6)


@flax.struct.dataclass
class Before:
    actor: Any


@flax.struct.dataclass
class After(Before):
    clone: Any = None  # a later release's


@flax.struct.dataclass
class Swept:
    inner: Any
    settings: Any


@pytest.mark.parametrize("swept", [False, True])
def test_a_state_of_an_earlier_release_lacks_fields_that_are_none(
    tmp_path: Path, swept: bool
) -> None:
    def of(state: Any) -> Any:
        return Swept(state, np.ones(2, np.float32)) if swept else state

    actor = np.arange(3, dtype=np.float32)
    with Checkpoints(tmp_path, keep=1, metadata={}) as checkpoints:
        checkpoints.save(1, of(Before(actor)))
    with Checkpoints(tmp_path, keep=1, metadata={}) as checkpoints:
        found, step = checkpoints.restore(of(After(actor))) or (None, 0)
    assert step == 1 and type(found) is type(of(After(actor)))
    state = found.inner if swept else found
    assert state.clone is None
    np.testing.assert_array_equal(state.actor, actor)
