"""The sets `online/...`: locomotion by D4RL's recipe, from an agent that is trained here.

An agent learns online, in rounds, until its score has reached a third of D4RL's expert's, or all of
it if an expert is asked for (the last round, should it never). The medium agent is that of the
round nearest to its score (a round may leap over it), the expert that of the last. Of a robot come

    online/<robot>/medium-v0          100,000 steps by the medium agent, drawn as in training
    online/<robot>/medium-replay-v0   all that it had seen by then
    online/<robot>/expert-v0          100,000 steps by the expert
    online/<robot>/medium-expert-v0   both

(D4RL's have ten times as many.) A training takes hours, so it is started by
`jaxrl-prefs data make`, never by loading. It goes on where it was stopped: a round is kept
whole or not at all. Scores take D4RL's references, since the rewards are the same (nearly so for
Ant, which pays for contacts here). Data and simulator are not: they never stand beside D4RL's rows.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxrl_prefs.data import roots
from jaxrl_prefs.data.generate.episodes import Episode, first, play
from jaxrl_prefs.data.generate.store import Generated, save
from jaxrl_prefs.data.progress import Progress
from jaxrl_prefs.data.recording import scaled
from jaxrl_prefs.environments import task
from jaxrl_prefs.errors import DataError

SEED = 0
ROBOTS = {  # environment, and D4RL's raw returns of scores 0 and 100
    "hopper": ("Hopper-v5", (-20.272305, 3234.3)),
    "halfcheetah": ("HalfCheetah-v5", (-280.178953, 12135.0)),
    "walker2d": ("Walker2d-v5", (1.629008, 4592.3)),
    "ant": ("Ant-v5", (-325.6, 3879.7)),
}
QUALITIES = ("medium", "medium-replay", "medium-expert", "expert")
SETS = tuple(f"online/{robot}/{quality}-v0" for robot in ROBOTS for quality in QUALITIES)


class Agent(Protocol):
    """What learns: of a library, or anything else that can do this."""

    def learn(self, steps: int) -> None:
        """Goes on training for so many steps of the environment that it was made with."""
        ...

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Draws an action [A] under an observation [O], as in training."""
        ...

    def save(self, folder: Path) -> None:
        """Writes all that `load` needs to go on."""
        ...

    def load(self, folder: Path) -> None:
        """Takes up what `save` wrote."""
        ...


Maker = Callable[[Any, int], Agent]  # (environment, seed) -> agent


class Recipe(NamedTuple):
    """How long an agent learns, and what is taken from it."""

    rounds: int = 40
    round_steps: int = 25_000
    medium: float = 33.0  # score: a third of the way from a random policy to D4RL's expert
    expert: float = 100.0
    scored_episodes: int = 10  # episodes for the score of a round
    steps: int = 100_000  # of each set that an agent plays


RECIPE = Recipe()


class Round(NamedTuple):
    """What a finished round left."""

    score: float
    folder: Path  # with steps.npz, score.json and, of the last and the medium one, agent/


def generate(
    dataset_id: str, root: Path, progress: Progress, make_agent: Maker, recipe: Recipe
) -> Path:
    """Makes one of SETS below `root`, training its robot's agent first as far as that is missing.

    The agent's rounds stay in `online/<robot>` of this library's cache, for the other sets; it may
    be removed. They are not kept beside the datasets, because agents are stored as pickles, which
    run code when they are read, and a folder of datasets may have come from anybody.

    Returns the folder with the dataset's `metadata.json`.

    Raises:
      DataError: if no round reached the medium score, or there are rounds beside the datasets.
    """
    _, robot, quality = dataset_id.removesuffix("-v0").split("/")
    env_id, references = ROBOTS[robot]
    folder = roots.cache() / "online" / robot
    beside = root / ".online" / robot
    if beside.exists() and not folder.exists():
        raise DataError(
            f"{beside} holds a trained agent, and reading it runs whatever code it holds. If you "
            f"trained it yourself, move it to {folder}; if not, move it away"
        )
    where = task.named(env_id)
    by_expert = "expert" in quality
    until = recipe.expert if by_expert else recipe.medium
    rounds, medium = trained(
        dataset_id, where, references, folder, progress, make_agent, recipe, until
    )
    if quality == "medium-replay":
        episodes = [each for past in rounds[: medium + 1] for each in read(past.folder)]
    else:
        players = {"medium": [medium], "expert": [-1], "medium-expert": [medium, -1]}[quality]
        episodes = []
        for place in players:
            agent = rounds[place].folder / "agent"
            episodes += sample(where, agent, dataset_id, progress, make_agent, recipe.steps)
    scores = f"{rounds[medium].score:.1f} (medium)"
    if by_expert:
        scores += f", {rounds[-1].score:.1f} (expert)"
    generated = Generated(
        dataset_id=dataset_id,
        task=where,
        episodes=episodes,
        references=references,
        algorithm=f"an online agent; its scores: {scores}",
        description="Generated by jaxrl_prefs, by D4RL's recipe. Not comparable with D4RL's sets.",
    )
    return save(generated, root, progress)


def trained(
    dataset_id: str,
    where: task.Task,
    references: tuple[float, float],
    folder: Path,
    progress: Progress,
    make_agent: Maker,
    recipe: Recipe,
    until: float,
) -> tuple[list[Round], int]:
    """As `train`; returns all rounds, and the place of the medium one.

    Raises:
      DataError: if no round reached the medium score.
    """
    train(where, references, folder, progress, make_agent, recipe, until)
    rounds = finished(folder)
    if all(each.score < recipe.medium for each in rounds):
        raise DataError(
            f"{dataset_id}: no agent of {recipe.rounds * recipe.round_steps:,} steps reached a "
            f"score of {recipe.medium:g} (the best: {max(each.score for each in rounds):.1f})"
        )
    return rounds, nearest(rounds, recipe.medium)


def train(
    where: task.Task,
    references: tuple[float, float],
    folder: Path,
    progress: Progress,
    make_agent: Maker,
    recipe: Recipe,
    until: float,
) -> None:
    """Trains an agent from wherever `folder` stands to a round of that score, or the last one."""
    from jaxrl_prefs.data.generate.recorder import Recorder

    done = finished(folder)
    if len(done) >= recipe.rounds or any(each.score >= until for each in done):
        return
    label = f"training on {where.env_id} up to a score of {until:g}, steps"
    steps = recipe.rounds * recipe.round_steps
    count = itertools.count(len(done) * recipe.round_steps)
    env = Recorder(where.make(), lambda: progress(label, next(count), steps))
    agent = make_agent(env, SEED + len(done))  # a resumed training draws anew
    if done:
        agent.load(done[-1].folder / "agent")
    scorer = where.make()
    for number in range(len(done), recipe.rounds):
        agent.learn(recipe.round_steps)
        returns = [
            play(scorer, agent.act, 10_000 + each).reward.sum()
            for each in range(recipe.scored_episodes)
        ]
        score = float(np.mean(scaled(np.array(returns), references)))
        _keep(folder, number, agent, env.take(), score)
        _forget(finished(folder), recipe.medium)
        if score >= until:
            break
    env.close()
    scorer.close()


def finished(folder: Path) -> list[Round]:
    """The rounds in a robot's folder, in their order."""
    return [
        Round(json.loads((path / "score.json").read_text()), path)
        for path in sorted(folder.glob("round-*"))
    ]


def _keep(folder: Path, number: int, agent: Agent, episodes: list[Episode], score: float) -> None:
    """Writes a round under another name and renames it when it is whole."""
    draft = folder / f".round-{number:04d}"
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "agent").mkdir(parents=True)
    agent.save(draft / "agent")
    write(draft, episodes)
    (draft / "score.json").write_text(json.dumps(score))
    draft.rename(folder / f"round-{number:04d}")


def nearest(rounds: list[Round], medium: float) -> int:
    """The place of the round nearest to a score, of those up to the first that reaches it."""
    last = next((i for i, each in enumerate(rounds) if each.score >= medium), len(rounds) - 1)
    return min(range(last + 1), key=lambda i: abs(rounds[i].score - medium))


def _forget(rounds: list[Round], medium: float) -> None:
    """Removes the agents that are neither the last one nor the medium one so far."""
    kept = {nearest(rounds, medium), len(rounds) - 1}
    for place, each in enumerate(rounds):
        if place not in kept:
            shutil.rmtree(each.folder / "agent", ignore_errors=True)


def sample(
    where: task.Task,
    folder: Path,
    dataset_id: str,
    progress: Progress,
    make_agent: Maker,
    steps: int,
) -> list[Episode]:
    """Lets the agent in `folder` play until there are `steps` steps."""
    env = where.make()
    agent = make_agent(env, SEED)
    agent.load(folder)
    episodes: list[Episode] = []
    done = 0
    while done < steps:
        episodes.append(play(env, agent.act, SEED + len(episodes)))
        done += len(episodes[-1].reward)
        progress(f"simulating {dataset_id}, {folder.parent.name}", min(done, steps), steps)
    env.close()
    return first(episodes, steps)


def write(folder: Path, episodes: list[Episode]) -> None:
    """Writes episodes to `folder/steps.npz`."""
    np.savez_compressed(
        folder / "steps.npz",
        observation=np.concatenate([each.observation for each in episodes]),
        action=np.concatenate([each.action for each in episodes]),
        reward=np.concatenate([each.reward for each in episodes]),
        lengths=np.array([len(each.reward) for each in episodes]),
        terminal=np.array([each.terminal for each in episodes]),
    )


def read(folder: Path) -> list[Episode]:
    """The episodes that `write` wrote."""
    with np.load(folder / "steps.npz", allow_pickle=False) as file:
        whole = dict(file)
    ends = np.cumsum(whole["lengths"])[:-1]
    after = ends + np.arange(1, len(ends) + 1)  # an episode holds one observation more than steps
    return [
        Episode(seen, done, given, bool(over))
        for seen, done, given, over in zip(
            np.split(whole["observation"], after),
            np.split(whole["action"], ends),
            np.split(whole["reward"], ends),
            whole["terminal"],
            strict=True,
        )
    ]
