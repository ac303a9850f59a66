"""Does a trained Q tell good actions from bad ones? Against returns that the simulator gives.

    python -m benchmarks.advantage --run=runs/arq --states=100

From recorded states, to which the simulator can be set, the run's `behavior` draws some actions;
each is taken, and followed by `behavior` for --steps steps, --repeats times. What Q says of an
action is compared with its mean discounted return, both less their means over the state's actions.
"Ceiling" is the correlation that the truth itself would have with returns of so few repeats.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from jaxrl_prefs import data
from jaxrl_prefs.cli import commandline
from jaxrl_prefs.data import Dataset, parity
from jaxrl_prefs.data.parity import Rebuilt
from jaxrl_prefs.errors import ConfigError, DataError, LoadError
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import load
from jaxrl_prefs.runs.load import Run

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("run", "", "a run's folder", **_OWN)
flags.DEFINE_integer("states", 100, "of the dataset", lower_bound=2, **_OWN)
flags.DEFINE_integer("actions", 10, "for each of them", lower_bound=2, **_OWN)
flags.DEFINE_integer("steps", 60, "of each return", lower_bound=1, **_OWN)
flags.DEFINE_integer("repeats", 4, "of each return", lower_bound=2, **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)

Act = Callable[[np.ndarray], np.ndarray]  # [B, O] -> [B, A]


class Agreement(NamedTuple):
    """How Q and returns agree, within states."""

    correlation: float
    ceiling: float  # of a Q without fault
    gain: float  # of the action that Q prefers over the mean action, in stds of returns
    spread: float  # standard deviation of Q within a state
    spread_of_returns: float


def agreement(q: np.ndarray, returns: np.ndarray) -> Agreement:
    """Compares Q [S, N] with returns [S, N, R]."""
    found = returns.mean(-1)
    preferred = np.take_along_axis(centred(found), q.argmax(1)[:, None], 1)
    spread = float(centred(found).std())
    return Agreement(
        correlation=correlation(q, found),
        ceiling=ceiling(returns),
        gain=float(preferred.mean() / spread),
        spread=float(centred(q).std()),
        spread_of_returns=spread,
    )


def ceiling(returns: np.ndarray) -> float:
    """The correlation of mean returns with the truth, from how repeats [S, N, R] differ."""
    noise = returns.var(-1, ddof=1).mean() / returns.shape[-1]
    actions = returns.shape[1]
    seen = centred(returns.mean(-1)).var() * actions / (actions - 1)
    return float(np.sqrt(max(0.0, 1 - noise / seen)))


def centred(x: np.ndarray) -> np.ndarray:
    """x [S, N] less its mean over a state's actions."""
    return x - x.mean(1, keepdims=True)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Of what is left in x and y [S, N] without the states' means."""
    return float(np.corrcoef(centred(x).ravel(), centred(y).ravel())[0, 1])


def discounted(
    worlds: Sequence[Rebuilt], start: np.ndarray, actions: np.ndarray, act: Act, gamma: float
) -> np.ndarray:
    """Returns [B] of actions [B, A] from one state [O], each followed by `act`."""
    for world in worlds:
        world.place(start)
    returns, alive, weight = np.zeros(len(worlds)), np.ones(len(worlds), bool), 1.0
    seen = np.repeat(start[None], len(worlds), 0)
    for _ in range(FLAGS.steps):
        for i in np.flatnonzero(alive):
            seen[i], reward, terminated, *_ = worlds[i].robot.step(actions[i])
            returns[i] += weight * reward
            alive[i] = not terminated
        if not alive.any():
            break
        weight *= gamma
        actions = act(seen)
    return returns


def study(
    run: Run, seed: int, recording: Dataset, worlds: Sequence[Rebuilt], gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Q [S, N] and raw returns [S, N, R] of one seed."""
    rows = np.random.default_rng(0).choice(worlds[0].rows, FLAGS.states, replace=False)
    starts = recording.observation[np.sort(rows)]
    act = run.policy(seed, "behavior")
    drawn = np.stack([act(np.repeat(start[None], FLAGS.actions, 0)) for start in starts])
    returns = [
        discounted(worlds, start, np.repeat(actions, FLAGS.repeats, 0), act, gamma)
        for start, actions in zip(starts, drawn, strict=True)
    ]
    q = (
        METHODS[run.algo]
        .build(run.config, run.spec)
        .critic.apply(
            seed_axis.one(run.state, run.seeds.index(seed)).critic.target,
            jnp.float32(run.observation.apply(starts))[:, None],
            jnp.float32(run.action.apply(drawn)),
        )
    )
    shape = FLAGS.states, FLAGS.actions, FLAGS.repeats
    return np.asarray(q).mean(0), np.reshape(returns, shape)


def report(folder: Path, console: Console) -> None:
    """Prints a row for each seed of a run.

    Raises:
        LoadError: if the folder holds no run, or one without `behavior`.
        DataError: if its dataset cannot be loaded.
        ConfigError: if the run has no critic, or its environment no states to be set.
    """
    run = load.load_run(folder)
    about = json.loads((folder / "config.json").read_text())["run"]
    recording = data.load(about["dataset"])
    if getattr(run.state, "critic", None) is None:
        raise ConfigError(f"{folder}: this run has no critic")
    made = [parity.rebuilt(recording) for _ in range(FLAGS.actions * FLAGS.repeats)]
    worlds = [world for world in made if world is not None]
    if not worlds:
        raise ConfigError(f"{recording.name}: its environment cannot be set to recorded states")
    settings = data.Processing(**{name: about[name] for name in data.Processing._fields})
    unit = float(data.prepare(recording, settings).reward.scale)  # what Q counts as 1
    table = Table(title=f"{recording.name}: {FLAGS.states} states x {FLAGS.actions} actions")
    table.add_column("seed")
    for name in ("correlation", "ceiling", "gain, deviations", "spread of Q", "of returns"):
        table.add_column(name, justify="right")
    for seed in run.seeds:
        q, returns = study(run, seed, recording, worlds, about["gamma"])
        table.add_row(str(seed), *(f"{value:.2f}" for value in agreement(q, returns / unit)))
    console.print(table)
    for world in worlds:
        world.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 2 wrong use."""
    try:
        commandline.read(FLAGS, argv)
        if FLAGS.help:
            print(commandline.usage(__doc__, FLAGS))
            return 0
        if not FLAGS.run:
            raise ConfigError("name a run's folder: --run=DIR")
        report(Path(FLAGS.run), Console(width=110))
    except (flags.Error, ConfigError, LoadError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
