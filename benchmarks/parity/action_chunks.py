"""Rows of action chunks against the batches of Q-chunking's authors' code.

    git clone https://github.com/ColinQiyangLi/qc PEER
    python -m benchmarks.parity.action_chunks --peer=PEER

Both codes make the chunks of every row of the same random data, some of whose episodes end by
themselves and some of which are cut off. What is printed: which rows start a chunk, the largest
difference of each array over these rows, and how rewards differ where a terminal lies within a
chunk: theirs adds what was recorded after it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from absl import app, flags

from jaxrl_prefs import data
from jaxrl_prefs.data import Dataset, Processing
from jaxrl_prefs.data.multi_step import chunks

FLAGS = flags.FLAGS
EPISODES, LONGEST, OBSERVATION, ACTION, GAMMA = 200, 40, 7, 3, 0.99


def random_data() -> dict[str, np.ndarray]:
    """Arrays as the authors' code takes them: `terminals` mark ends, `masks` are 0 at a terminal.

    A tenth of the rows within episodes have a mask of 0 too, as after a success in OGBench.
    """
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, LONGEST, EPISODES)
    size, ends = int(lengths.sum()), np.cumsum(lengths) - 1
    masks = (rng.random(size) > 0.1).astype(np.float32)
    masks[ends] = rng.random(EPISODES) > 0.5
    return {
        "observations": rng.normal(size=(size, OBSERVATION)).astype(np.float32),
        "next_observations": rng.normal(size=(size, OBSERVATION)).astype(np.float32),
        "actions": rng.uniform(-0.99, 0.99, (size, ACTION)).astype(np.float32),
        "rewards": rng.normal(size=size).astype(np.float32),
        "masks": masks,
        "terminals": np.isin(np.arange(size), ends).astype(np.float32),
    }


def theirs(peer: ModuleType, arrays: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """Their batch of all rows that they can draw."""
    size = len(arrays["rewards"]) - length + 1
    found = peer.Dataset.create(**arrays)
    with mock.patch.object(np.random, "randint", return_value=np.arange(size)):
        batch: dict[str, np.ndarray] = found.sample_sequence(size, length, GAMMA)
    return batch


def ours(arrays: dict[str, np.ndarray], length: int) -> Any:
    """Our chunks of the same data."""
    recording = Dataset.from_arrays(
        arrays["observations"],
        arrays["actions"],
        arrays["rewards"],
        np.zeros_like(arrays["terminals"]),
        arrays["terminals"],
        next_observations=arrays["next_observations"],
    )
    recording = recording._replace(terminal=arrays["masks"] == 0)
    return chunks(data.prepare(recording, Processing(gamma=GAMMA)).transitions, length)


def compared(peer: ModuleType, length: int) -> dict[str, Any]:
    """What differs between the two."""
    arrays = random_data()
    batch, found = theirs(peer, arrays, length), ours(arrays, length)
    starts = np.flatnonzero(batch["valid"][:, -1])
    rows = found.transitions
    assert np.array_equal(starts, found.starts), "other rows start a chunk"
    going = batch["masks"][starts, -1] > 0
    within = batch["masks"][starts, -2] == 0 if length > 1 else np.zeros(len(starts), bool)
    expected = {
        "action": batch["actions"][starts].reshape(len(starts), -1),
        "discount": GAMMA**length * batch["masks"][starts, -1],
        "observation": batch["observations"][starts],
        "reward": np.where(within, rows.reward, batch["rewards"][starts, -1]),
        "next_observation": np.where(
            going[:, None], batch["next_observations"][starts, -1], rows.next_observation
        ),
    }
    gaps = {name: float(np.abs(getattr(rows, name) - x).max()) for name, x in expected.items()}
    later = np.abs(rows.reward - batch["rewards"][starts, -1])
    return {
        "rows": len(arrays["rewards"]),
        "chunks": len(starts),
        **gaps,
        "chunks with a terminal within": int(within.sum()),
        "their mean difference of rewards": float(later[within].mean()) if within.any() else 0.0,
    }


def main(argv: list[str]) -> None:
    """Prints what differs for three lengths."""
    del argv
    sys.path.insert(0, FLAGS.peer)
    peer = importlib.import_module("utils.datasets")
    for length in (2, 5, 10):
        print(f"\nchunks of {length}")
        for name, value in compared(peer, length).items():
            print(
                f"  {name:34s} {value:,}" if isinstance(value, int) else f"  {name:34s} {value:.1e}"
            )


if __name__ == "__main__":
    flags.DEFINE_string("peer", None, "folder of the authors' code", required=True)
    app.run(main)
