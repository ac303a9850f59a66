"""Recorded episodes, written in the layout of every format, give the transitions of the original.

The real data are found by MINARI_DATASETS_PATH, and the tests are skipped without (conftest.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.types import Transition
from tests.data import files

Find = Callable[[str], Path]


class Slice(NamedTuple):
    """The first episodes of a recording, and their rows."""

    recording: Dataset
    episodes: list[slice]
    rows: slice


def first(name: str, episodes: int, real_data: Find) -> Slice:
    real_data(name)
    recording = data.load(name)
    ends = np.cumsum(recording.lengths)[:episodes].tolist()
    starts = [0, *ends[:-1]]
    return Slice(
        recording, [slice(a, b) for a, b in zip(starts, ends, strict=True)], slice(0, ends[-1])
    )


def transitions(recording: Dataset, rows: slice | np.ndarray) -> Transition:
    whole = data.prepare(recording, data.Processing(gamma=0.9)).transitions
    return Transition(*(np.asarray(leaf)[rows] for leaf in whole[:-1]))  # type: ignore[arg-type]


def assert_same(found: Transition, expected: Transition, rows: np.ndarray | None = None) -> None:
    """Compares everything; `rows` of the original are there, under new numbers."""
    for key in Transition._fields[:7]:
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key), key)
    new = {} if rows is None else {int(old): place for place, old in enumerate(rows)}
    following = [new.get(int(row), int(row)) for row in np.asarray(expected.next_index)]
    assert np.asarray(found.next_index).tolist() == following


def ends(part: Slice, terminal: bool) -> np.ndarray:
    """Flags of the last rows of those episodes that ended by themselves, or that were cut off."""
    last = np.array([episode.stop - 1 for episode in part.episodes])
    mine = np.zeros(part.rows.stop, bool)
    mine[last] = part.recording.terminal[last] == terminal
    return mine


def d4rl(part: Slice) -> dict[str, Any]:
    recording, rows = part.recording, part.rows
    return {
        "observations": recording.observation[rows],
        "actions": recording.action[rows],
        "rewards": recording.reward[rows],
        "terminals": recording.terminal[rows],
    }


@pytest.mark.parametrize("flags", ["timeouts", "next_observations", "both"])
@pytest.mark.parametrize("name", ["hopper/medium-v0", "adroit/door-human-replay-v0"])
def test_d4rl(name: str, flags: str, real_data: Find, tmp_path: Path) -> None:
    part = first(name, 25, real_data)
    cut, fell = ends(part, terminal=False), ends(part, terminal=True)
    assert cut.any()
    assert fell.any() == (name == "hopper/medium-v0")
    more = {"timeouts": cut, "next_observations": part.recording.next_observation[part.rows]}
    kept = {key: value for key, value in more.items() if flags in (key, "both")}
    found = data.load(str(files.write_d4rl(tmp_path / "a.hdf5", **d4rl(part), **kept)))
    assert found.lengths.tolist() == part.recording.lengths[:25].tolist()
    np.testing.assert_allclose(found.returns, part.recording.returns[:25], rtol=1e-5)
    if flags == "timeouts":  # a step that was cut off lost its successor; a terminal needs none
        rows = np.flatnonzero(~cut)
        expected = transitions(part.recording, rows)
        before_cut = np.isin(rows + 1, np.flatnonzero(cut))
        over = np.asarray(expected.discount) == 0
        masked = expected._replace(
            has_next_action=np.where(before_cut, 0, expected.has_next_action),
            next_action=np.where(before_cut[:, None], 0, expected.next_action),
            next_index=np.where(before_cut, rows, expected.next_index),
            next_observation=np.where(
                over[:, None], expected.observation, expected.next_observation
            ),
        )
        assert_same(transitions(found, slice(None)), masked, rows)
    else:
        assert_same(transitions(found, slice(None)), transitions(part.recording, part.rows))


KEYS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 30}


def split(observation: np.ndarray, keys: dict[str, int]) -> dict[str, np.ndarray]:
    """Parts of a flat observation by key, written in another order than they are read in."""
    parts = np.split(observation, np.cumsum(list(keys.values()))[:-1], axis=1)
    return dict(reversed(list(zip(keys, parts, strict=True))))


def demos(part: Slice, keys: dict[str, int]) -> Iterator[dict[str, Any]]:
    for episode in part.episodes:
        yield {
            "actions": part.recording.action[episode],
            "rewards": part.recording.reward[episode],
            "dones": part.recording.terminal[episode].astype(int),
            "states": np.zeros((episode.stop - episode.start, 5)),
            "obs": split(part.recording.observation[episode], keys),
            "next_obs": split(part.recording.next_observation[episode], keys),
        }


@pytest.mark.parametrize("robots", [1, 2])
def test_robomimic(robots: int, real_data: Find, tmp_path: Path) -> None:
    part = first("adroit/door-human-replay-v0", 12, real_data)
    keys = dict(KEYS)
    if robots == 2:  # the second robot's stand before the object
        more = {key.replace("0", "1"): size for key, size in KEYS.items() if key != "object"}
        keys = {**KEYS, **more, "object": 21}
        keys["object"] = keys.pop("object")
    names = [f"demo_{i}" for i in range(12)]  # demo_10 is stored before demo_2
    written = dict(zip(names, demos(part, keys), strict=True))
    path = files.write_robomimic(tmp_path / "a.hdf5", written, {"late": names[:1:-1]})
    found = data.load(str(path))
    assert_same(transitions(found, slice(None)), transitions(part.recording, part.rows))
    assert (found.family, found.references) == ("robomimic", None)  # the hand's rewards are dense

    late = data.load(f"{path}#late")
    assert late.lengths.tolist() == part.recording.lengths[2:12].tolist()
    np.testing.assert_array_equal(late.action, found.action[part.episodes[2].start :])


def test_a_demonstration_without_next_obs(real_data: Find, tmp_path: Path) -> None:
    part = first("adroit/door-human-replay-v0", 2, real_data)
    written = {f"demo_{i}": demo for i, demo in enumerate(demos(part, KEYS))}
    for demo in written.values():
        del demo["next_obs"]
    found = data.load(str(files.write_robomimic(tmp_path / "a.hdf5", written)))
    kept = np.flatnonzero(~ends(part, terminal=False))
    np.testing.assert_array_equal(found.next_observation, part.recording.next_observation[kept])
    assert found.lengths.tolist() == part.recording.lengths[:2].tolist()


@pytest.mark.parametrize("layout", ["file", "transitions"])
def test_ogbench(layout: str, real_data: Find, tmp_path: Path) -> None:
    name = "ogbench/pointmaze-medium-navigate-singletask-task1-v0"
    part = first(name, 40, real_data)
    assert part.recording.terminal[part.rows].any()  # goals that are passed inside episodes
    recording = part.recording

    def laid(x: np.ndarray, last: Callable[[slice], Any]) -> np.ndarray:
        """OGBench's files have one more row per episode, whose action led nowhere."""
        rows = [np.concatenate([x[e], np.asarray(last(e))[None]]) for e in part.episodes]
        return np.concatenate(rows)

    over = ends(part, terminal=False) | ends(part, terminal=True)
    mask = 1.0 - recording.terminal
    if layout == "file":
        arrays: dict[str, Any] = {
            "observations": laid(
                recording.observation, lambda e: recording.next_observation[e.stop - 1]
            ),
            "actions": laid(recording.action, lambda e: np.full(2, 0.5, np.float32)),
            "rewards": laid(recording.reward, lambda e: np.float32(-7)),
            "masks": laid(mask, lambda e: 1.0),
            "terminals": laid(np.zeros_like(mask), lambda e: 1.0),
        }
    else:
        arrays = {
            "observations": recording.observation[part.rows],
            "next_observations": recording.next_observation[part.rows],
            "actions": recording.action[part.rows],
            "rewards": recording.reward[part.rows],
            "masks": mask[part.rows],
            "terminals": over.astype(float),
        }
    found = data.load(str(files.write_npz(tmp_path / "pointmaze-navigate-v0.npz", **arrays)))
    assert (found.family, found.references) == ("ogbench", None)
    assert found.lengths.tolist() == recording.lengths[:40].tolist()
    assert_same(transitions(found, slice(None)), transitions(recording, part.rows))


@pytest.mark.parametrize("how", ["truncated", "index", "neither"])
def test_neorl2(how: str, real_data: Find, tmp_path: Path) -> None:
    part = first("neorl2/safetyhalfcheetah-train-v0", 3, real_data)
    recording, over = part.recording, ends(part, terminal=False)
    arrays: dict[str, Any] = {
        "obs": recording.observation[part.rows],
        "action": recording.action[part.rows],
        "reward": recording.reward[part.rows, None],
        "next_obs": recording.next_observation[part.rows],
        "done": np.zeros((part.rows.stop, 1)),
    }
    if how == "truncated":
        arrays |= {"done": over[:, None], "truncated": over[:, None]}
    if how == "index":
        arrays["index"] = np.array([episode.start for episode in part.episodes])
    path = files.write_npz(tmp_path / "SafetyHalfCheetah-train.npz", **arrays)
    found = data.load(str(path))
    assert found.lengths.tolist() == [1000, 1000, 1000]
    assert_same(transitions(found, slice(None)), transitions(recording, part.rows))
    assert found.family == recording.family == "locomotion"
    assert found.references == recording.references == (-283.0, 2507.0)
    assert "NeoRL-2's table" in found.reference_source
