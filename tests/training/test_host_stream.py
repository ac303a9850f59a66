"""Data that stay on the host train to the same bits as data on the devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest

from jaxrl_prefs import data as datasets
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.training import chunk, host_stream, loop
from jaxrl_prefs.types import Spec, Transition
from tests import probes
from tests.data.test_mapped_rows import NORMALISED, both, write
from tests.training.test_loop import SEEDS, Record, probe, record


@pytest.fixture(scope="module")
def data() -> Transition:
    return probes.episodes(size=90, length=12, observation_dim=3, action_dim=2)


def assert_same_bits(found: list[Record], expected: list[Record]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        chex.assert_trees_all_equal(mine.state, theirs.state)
        chex.assert_trees_all_equal(mine.columns, theirs.columns)
        chex.assert_trees_all_equal(mine.metrics, theirs.metrics)
        assert (mine.phase, mine.step, mine.filled) == (theirs.phase, theirs.step, theirs.filled)


def test_every_kind_of_phase(data: Transition, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe's phases: a model for all seeds, columns that a pass fills, one that reads them."""
    method = probe(data, shared=True)
    common: dict[str, Any] = {"every": 5, "mapping": "loop"}
    on_device = record(method, data, **common)
    assert_same_bits(record(method, data, stream=True, **common), on_device)
    monkeypatch.setattr(loop, "FIRST_CALL_STEPS", 2)
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.0)  # every call is as short as it can be
    assert_same_bits(record(method, data, stream=True, **common), on_device)


def test_members_side_by_side(data: Transition) -> None:
    """What XLA fuses differs, so the last bit may; the rows are the same."""
    method = probe(data)
    common: dict[str, Any] = {"every": 100, "mapping": "vmap"}
    found, expected = record(method, data, stream=True, **common), record(method, data, **common)
    for mine, theirs in zip(found, expected, strict=True):
        chex.assert_trees_all_close(mine.state, theirs.state, rtol=1e-4, atol=1e-6)
        chex.assert_trees_all_close(mine.columns, theirs.columns, rtol=1e-4, atol=1e-6)


def test_a_method_resumed_on_the_other_side(
    data: Transition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks too: from the device's data to step 4, then from the host's, a step at a time."""
    config = td3_bc.Config(
        train_steps=9, batch_size=8, actor_hidden=(8,), critic_hidden=(8,), actor_interval=2
    )
    method = td3_bc.make(config, Spec.of(data))
    whole = record(method, data, every=4)
    monkeypatch.setattr(host_stream, "BLOCK_BYTES", 1)
    rest = record(method, data, every=4, stream=True, state=whole[0].state, start=4)
    assert_same_bits(rest, whole[1:])


def test_rows_in_mapped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They train to the same bits as in memory, whether batches are sent or all rows are."""
    whole, lazy = (
        datasets.prepare(each, NORMALISED) for each in both(write(tmp_path / "rows"), monkeypatch)
    )
    config = td3_bc.Config(train_steps=9, batch_size=8, actor_hidden=(8,), critic_hidden=(8,))
    method = td3_bc.make(config, lazy.spec)
    expected = record(method, whole.transitions, every=4)
    assert_same_bits(record(method, lazy.transitions, every=4, stream=True), expected)
    assert_same_bits(record(method, lazy.transitions, every=4), expected)


def test_the_data_stay_on_the_host(data: Transition) -> None:
    method = probe(data)
    mesh = seed_axis.seed_mesh(jax.devices()[:2])
    placement = chunk.SeedPlacement(SEEDS, mesh, "loop")
    built = chunk.build_chunk(method, 0, data, placement, stream=3)
    assert built.longest == 3
    assert built.constants[1] is None
    assert built.prefetcher is not None
    size = method.phases[0].batch_size
    block, slot = built.prefetcher.block(0, np.zeros(6, np.int32))
    assert slot == 0
    assert block.rows.shape == (6, 3, size)  # five seeds padded to six, three steps
    rows = np.asarray(block.rows)
    np.testing.assert_array_equal(np.asarray(block.batches.observation), data.observation[rows])
    drawn = method.phases[0].sampler(built.constants[0][0][2], np.int32(2), 90, size)
    np.testing.assert_array_equal(rows[2, 2], np.asarray(drawn))


def test_a_block_is_gathered_once(data: Transition, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that are shorter than a block share it; they end where it does."""
    gathered = host_stream.gathered
    sizes: list[int] = []

    def counted(data: Transition, rows: Any, take: Any) -> Transition:
        sizes.append(np.size(rows))
        return gathered(data, rows, take)

    placement = chunk.SeedPlacement(SEEDS, seed_axis.seed_mesh(jax.devices()[:1]), "loop")
    built = chunk.build_chunk(probe(data), 0, data, placement, stream=6)
    prefetcher, steps = built.prefetcher, built.phase.steps
    assert prefetcher is not None and prefetcher.slots == 6 and steps == 12
    monkeypatch.setattr(host_stream, "gathered", counted)
    first, slot = prefetcher.block(0, np.full(5, 0))
    assert slot == 0 and built.end(0) == built.end(2) == 6
    built.prepare(1)  # the block after this one, once
    built.prepare(2)
    assert len(sizes) == 2
    again, slot = prefetcher.block(2, np.full(5, 2))
    assert again is first and slot == 2
    placed = seed_axis.pad(loop.init_members(probe(data), data, placement), placement.mesh)
    assert len(built.arguments(placed, 2, 6)) == 7
    with pytest.raises(ValueError, match="from step 2 on must end at 6, not at 7"):
        built.arguments(placed, 2, 7)
    second, slot = prefetcher.block(6, np.full(5, 6))
    assert second is not first and slot == 0 and built.end(7) == 12 and len(sizes) == 2
    built.prepare(7)
    built.prepare(steps)
    assert len(sizes) == 2  # nothing comes after the phase's last step
