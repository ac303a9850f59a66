"""LeRobot's datasets: files that its own library wrote (fixtures/write_lerobot.py), and ours."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import lerobot_writer, read_hints, writers
from jaxrl_prefs.errors import DataError
from tests.data.test_mutants import bytes_of, same
from tests.data.test_written import assert_same, episodes

pytest.importorskip("pyarrow")
FIXTURES = Path(__file__).parents[1] / "fixtures"
V21, V30 = FIXTURES / "lerobot-v2.1", FIXTURES / "lerobot-v3.0"
ENDED = read_hints(episode_ends="terminal", observation_keys="observation.state")
CUT = read_hints(episode_ends="timeout", observation_keys="observation.state")


@pytest.mark.parametrize("folder", [V21, V30])
def test_what_lerobot_wrote(folder: Path) -> None:
    found = data.load(folder, hints=ENDED)
    row = np.arange(7.0)
    np.testing.assert_array_equal(found.observation, np.stack([row, 10 + row], 1))
    np.testing.assert_array_equal(found.action, np.float32(np.stack([row / 10, -row / 10], 1)))
    np.testing.assert_array_equal(found.reward, row)
    np.testing.assert_array_equal(found.terminal, [0, 0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(found.continues, [1, 1, 0, 1, 1, 1, 0])
    np.testing.assert_allclose(found.time, [0, 0.1, 0.2, 0, 0.1, 0.2, 0.3], atol=1e-6)
    assert found.lengths.tolist() == [3, 4]
    assert found.observation_names == ("observation.state.shoulder", "observation.state.elbow")
    assert found.action_names == ("action.shoulder", "action.elbow")


@pytest.mark.parametrize("folder", [V21, V30])
def test_the_end_of_an_episode_is_asked_for(folder: Path) -> None:
    with pytest.raises(DataError, match=r"next\.done is the only flag"):
        data.load(folder, hints=CUT._replace(episode_ends=""))
    found = data.load(folder, hints=CUT)
    np.testing.assert_array_equal(found.observation[:, 0], [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(found.next_observation[:, 0], [1, 2, 4, 5, 6])


def test_images_are_left_out_by_name_alone() -> None:
    assert [*data.load(V30, hints=ENDED._replace(observation_keys=())).images] == ["images.top"]
    notes = data.load(V30, hints=ENDED).notes
    assert "images that are left out: observation.images.top" in notes
    whole = data.load(V21, hints=ENDED._replace(observation_keys=()))
    assert whole.observation.shape == (7, 3)
    assert whole.observation_names[2] == "observation.effort"


def test_what_we_write_is_what_it_was(tmp_path: Path) -> None:
    writers.lerobot(episodes(2.0), tmp_path / "a")
    assert_same(data.load(tmp_path / "a"), episodes(2.0))
    named = data.load(V30, hints=ENDED)
    writers.lerobot(named, tmp_path / "b")
    found = data.load(tmp_path / "b")
    assert_same(found, named)
    assert found.observation_names == named.observation_names
    assert json.loads((tmp_path / "b/meta/info.json").read_text())["fps"] == 10
    less = episodes()._replace(has_rewards=False, reward=np.zeros(5, np.float32))
    writers.lerobot(less, tmp_path / "c")
    assert not data.load(tmp_path / "c").has_rewards
    with pytest.raises(FileExistsError, match="exists already"):
        writers.lerobot(less, tmp_path / "c")
    inside = episodes()._replace(terminal=np.array([True, True, False, False, False]))
    with pytest.raises(DataError, match="1 terminals lie inside episodes"):
        writers.lerobot(inside, tmp_path / "d")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b", "c"]


def test_files_are_split_between_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_writer, "LARGEST", 1)
    monkeypatch.setattr(lerobot_writer, "CHUNK", 1)
    writers.lerobot(episodes(), tmp_path / "a")
    assert len(list((tmp_path / "a/data").glob("chunk-*/file-000.parquet"))) == 2
    assert_same(data.load(tmp_path / "a"), episodes())


def info(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "meta/info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (info(codebase_version="v1.6"), r"format v1\.6, and v2\.0, v2\.1, v3\.0 are read"),
        (info(features=3), "names no features"),
        (info(total_frames=8), "tells of total_frames=8, and data/ holds 7"),
        (info(total_episodes="many"), "total_episodes=many, and data/ holds 2"),
        (info(features={"odd": {"dtype": "float32", "shape": [1]}}), "lack the column odd"),
        (info(features={"action": {"dtype": "float32", "shape": [10**12]}}), "action holds 2 num"),
        (info(data_path="/etc/{x.__class__}"), "next.done is the only flag"),  # not followed
        (lambda folder: (folder / "meta/info.json").write_text("{"), "holds no JSON text"),
        (lambda folder: (folder / "meta/info.json").write_text("[" * 10**5), "holds no JSON"),
        (
            lambda folder: (folder / "data/chunk-000/episode_000000.parquet").unlink(),
            "the index of row 0 is 3: files of data/ are missing",
        ),
        (lambda folder: shutil.rmtree(folder / "data"), "only a part was downloaded"),
    ],
)
def test_damage_is_named(change: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    shutil.copytree(V21, tmp_path / "a")
    change(tmp_path / "a")
    with pytest.raises(DataError, match=message):
        data.load(tmp_path / "a")


def test_mutants_of_what_we_wrote_are_refused_or_the_same(tmp_path: Path) -> None:
    """Our files carry checksums, so that no changed byte of the numbers goes unnoticed."""
    writers.lerobot(episodes(), tmp_path / "whole")
    files = ["data/chunk-000/file-000.parquet", "meta/info.json", "meta/jaxrl_prefs.json"]
    refused = 0
    for number in range(40):
        r = random.Random(number)
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "work")
        chosen = r.choice(files)
        bytes_of(tmp_path / "work" / chosen, r)
        try:
            found = data.load(tmp_path / "work")
        except (DataError, OSError) as fault:
            assert "\n" not in str(fault), f"mutant {number}"
            refused += 1
        else:
            assert chosen != files[0] or same(found, episodes()), f"mutant {number}"
    assert refused > 10
