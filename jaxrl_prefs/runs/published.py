"""Scores that papers printed, to stand beside ours: which paper, which table, which dataset.

Means over the paper's seeds with the standard deviation where it is printed, on the 0-100 scale:
normalised scores, on OGBench success rates. Nothing here was measured by us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxrl_prefs.environments import ogbench_names
from jaxrl_prefs.runs import presets, published_ogbench, published_vd4rl, suites

Score = tuple[float, float | None]  # mean, standard deviation over seeds


class Original(NamedTuple):
    """What a published dataset holds, by which a file of its name is known to be it."""

    transitions: int
    score: float  # mean over its episodes, normalised


class Published(NamedTuple):
    """One column of a paper's tables."""

    algo: str  # our method that it is of; "" where we have none
    policy: str  # our policy that it is of
    source: str
    scores: Mapping[str, Score]  # by dataset, as `known_as` names it
    seeds: int | None  # None: the source does not say
    updates: int | None  # of the policy; None: the source does not say
    protocol: str  # what else decides whether the numbers compare

    def about(self) -> str:
        """Where the column comes from, on one line."""
        seeds = f"{self.seeds} seeds" if self.seeds else "seeds not stated"
        updates = f"{self.updates:,} updates" if self.updates else "updates not stated"
        return f"{self.source}; {seeds}, {updates}; {self.protocol}"


LOCOMOTION = tuple(
    f"{robot}-{quality}-v2"
    for quality in ("medium", "medium-replay", "medium-expert")
    for robot in ("halfcheetah", "hopper", "walker2d")
)
MAZES = tuple(
    f"antmaze-{maze}"
    for maze in (
        *("umaze", "umaze-diverse", "medium-play"),
        *("medium-diverse", "large-play", "large-diverse"),
    )
)
ROBOMIMIC = tuple(
    f"robomimic/{task}/{people}-v0"
    for people, tasks in {
        "mg": ("lift", "can"),
        "ph": ("lift", "can", "square", "transport", "tool_hang"),
        "mh": ("lift", "can", "square", "transport"),
    }.items()
    for task in tasks
)
KITCHEN = ("kitchen-complete-v0", "kitchen-partial-v0", "kitchen-mixed-v0")
ADROIT = tuple(
    f"{task}-{people}-v0"
    for people in ("human", "cloned")
    for task in ("pen", "door", "relocate", "hammer")
)
# ARQ's paper lists robots within qualities, hopper first.
ARQ_LOCOMOTION = tuple(
    f"{robot}-{quality}-v2"
    for quality in ("expert", "medium", "medium-expert", "medium-replay")
    for robot in ("hopper", "walker2d", "halfcheetah")
)


def _row(
    names: Sequence[str], means: Sequence[float], deviations: Sequence[float | None] = ()
) -> dict[str, Score]:
    spread = deviations or [None] * len(names)
    return dict(zip(names, zip(means, spread, strict=True), strict=True))


def _version(names: Sequence[str], version: str) -> tuple[str, ...]:
    return tuple(f"{name}-{version}" for name in names)


_BDPO = "Gao et al., ICML 2025, arXiv 2502.04778, table 1"
_ARQ = "Goo and Niekum, arXiv 2206.00695, table 2"
_BPR = "Srinivasan and Knottenbelt, AAAI 2025, arXiv 2503.00930, tables 1 to 4"
_QAM = "QAM (Li and Levine, arXiv 2601.14234), recomputed from the authors' file of success rates"
_RQL = "RQL (arXiv 2606.17551), table 1"
_REBRAC = "Tarasov et al., NeurIPS 2023, arXiv 2305.09836, table 5"
_VD4RL = f"V-D4RL (Lu et al., TMLR 2023, arXiv 2206.04779), as quoted by {_REBRAC}"

# Seeds, updates, protocol.
_BDPO_RUNS = (5, 2_000_000, "the last iterate, 10 episodes, antmaze 100")
_ARQ_RUNS = (3, None, "the last iterate, 100 episodes")
_BPR_RUNS = (5, None, "the last iterate, 10 episodes, antmaze 100")
_QUOTED = (None, None, "as that paper quotes them")
_CHUNKS = (
    "10 critics, pessimistic targets but for humanoids, chunks of 5 actions in manipulation; "
    "scene and puzzle with sparse rewards"
)
_QAM_RUNS = (12, 1_000_000, f"the last iterate, 50 episodes, {_CHUNKS}")
_RQL_RUNS = (4, 2_000_000, f"means of five tasks, {_CHUNKS}")
_PIXELS = {"BC": ("bc", "actor"), "DrQ+BC": ("td3_bc", "actor")}  # ours, of V-D4RL's baselines
_OURS = {  # of QAM's columns
    name: (name.lower(), "actor") for name in ("FQL", "IFQL", "DAC", "ReBRAC")
}

PUBLISHED: Mapping[str, Published] = {
    "BDPO": Published(
        "bdpo",
        "actor",
        _BDPO,
        _row(
            LOCOMOTION,
            [71.2, 100.6, 93.4, 58.9, 101.4, 95.5, 108.7, 111.3, 115.6],
            [0.9, 0.7, 0.5, 0.9, 0.5, 1.6, 0.9, 0.2, 0.4],
        )
        | _row(
            _version(MAZES, "v0"),
            [98.4, 83.0, 92.0, 93.2, 69.0, 84.0],
            [1.5, 12.4, 2.9, 2.8, 8.0, 3.2],
        ),
        *_BDPO_RUNS,
    ),
    "ARQ+s": Published(
        "arq",
        "implicit",
        _ARQ,
        _row(ARQ_LOCOMOTION, [98, 108, 85, 58, 81, 45, 93, 107, 82, 78, 71, 45])
        | _row(KITCHEN, [77, 70, 57])
        | _row(ADROIT, [74, 10, 0, 6, 55, 12, 0, 4])
        | _row(_version(MAZES, "v0"), [94, 58, 69, 65, 18, 23])
        | _row(ROBOMIMIC, [82, 60, 98, 95, 69, 30, 71, 95, 86, 51, 13]),
        *_ARQ_RUNS,
    ),
    "ARQ+pi": Published(
        "arq",
        "explicit",
        _ARQ,
        _row(KITCHEN, [37, 50, 39])
        | _row(ADROIT, [44, 0, 0, 1, 48, 1, 0, 1])
        | _row(_version(MAZES, "v0"), [97, 62, 80, 82, 37, 58])
        | _row(ROBOMIMIC, [79, 76, 100, 92, 44, 29, 3, 99, 90, 31, 16]),
        *_ARQ_RUNS,
    ),
    # The behaviour policy and the SARSA ablation, on which ARQ's claim rests.
    "ARQ: s": Published(
        "arq",
        "behavior",
        _ARQ,
        _row(ARQ_LOCOMOTION, [89, 106, 81, 38, 63, 40, 45, 74, 46, 11, 20, 26])
        | _row(KITCHEN, [74, 45, 51])
        | _row(_version(MAZES, "v0"), [58, 61, 1, 1, 0, 0])
        | _row(ROBOMIMIC, [29, 19, 99, 95, 66, 27, 70, 96, 84, 44, 15]),
        *_ARQ_RUNS,
    ),
    "ARQ: Q^beta+s": Published(
        "",
        "",
        _ARQ,
        _row(ARQ_LOCOMOTION, [99, 107, 84, 55, 79, 43, 88, 107, 77, 62, 69, 41])
        | _row(KITCHEN, [75, 59, 52])
        | _row(_version(MAZES, "v0"), [81, 62, 25, 45, 1, 1]),
        *_ARQ_RUNS,
    ),
    # The version of its antmaze sets is not stated: these rows stand beside no dataset.
    "BPR": Published(
        "bpr",
        "actor",
        _BPR,
        _row(
            LOCOMOTION,
            [53.7, 101.3, 91.1, 50.9, 102.0, 97.4, 103.8, 110.9, 110.8],
            [1.4, 1.1, 3.7, 0.6, 4.9, 2.7, 4.3, 5.2, 0.2],
        )
        | _row(
            _version(MAZES, "unstated"),
            [95.6, 89.1, 86.7, 82.9, 70.3, 72.1],
            [1.0, 1.1, 3.7, 7.8, 8.3, 5.1],
        )
        | published_vd4rl.BPR,
        *_BPR_RUNS,
    ),
    "Onestep BPR": Published(
        "bpr",
        "actor",
        _BPR,
        _row(LOCOMOTION[:6], [52.0, 96.4, 89.7, 51.0, 99.1, 92.0], [0.8, 0.4, 1.3, 0.4, 2.3, 0.8])
        | _row(_version(MAZES[2:], "unstated"), [52.7, 40.0, 10.4, 12.7], [10.3, 7.8, 2.9, 1.6]),
        *_BPR_RUNS,
    ),
    "IQL": Published(
        "iql",
        "actor",
        _BDPO,
        _row(LOCOMOTION, [47.4, 66.3, 78.3, 44.2, 94.7, 73.9, 86.7, 91.5, 109.6])
        | _row(_version(MAZES, "v0"), [87.5, 62.2, 71.2, 70.0, 39.6, 47.5]),
        *_QUOTED,
    ),
    "TD3+BC": Published(
        "td3_bc",
        "actor",
        _BPR,
        _row(LOCOMOTION, [48.3, 59.3, 83.7, 44.6, 60.9, 81.8, 90.7, 98.0, 110.1]),
        *_QUOTED,
    ),
    **{
        f"{name} (V-D4RL)": Published(
            *(*_PIXELS.get(name, ("", "")), _VD4RL), scores, *_QUOTED[:2], "from images"
        )
        for name, scores in published_vd4rl.BASELINES.items()
    },
    # Our ReBRAC takes no images.
    "ReBRAC (V-D4RL)": Published(
        *("", "", _REBRAC),
        published_vd4rl.REBRAC,
        *(5, None, "from images, the last iterate, weights chosen for every set"),
    ),
    "BDPO (RQL)": Published(
        *("bdpo", "actor", _RQL),
        {data: (bdpo, None) for data, (bdpo, _) in published_ogbench.RQL.items()},
        *(*_RQL_RUNS[:2], f"after 1,000,000 updates of cloning; {_RQL_RUNS[2]}"),
    ),
    "RQL": Published(
        *("", "", _RQL),
        {data: (rql, None) for data, (_, rql) in published_ogbench.RQL.items()},
        *_RQL_RUNS,
    ),
    **{
        name if name.startswith("QAM") else f"{name} (QAM)": Published(
            *(*_OURS.get(name, ("", "")), _QAM),
            published_ogbench.of_tasks(name),
            *_QAM_RUNS,
        )
        for name in published_ogbench.METHODS
    },
}


# D4RL's own files (version 2). Transitions are the length of `rewards`, and a medium-expert file is
# the two others one after the other. Scores are the mean returns that the loader of Decision
# Transformer (Chen et al. 2021) prints of the files, normalised by D4RL's references. The lengths
# have not been checked against the files or a printed table; `MISSING` allows for an error.
# Tables of datasets that are missing here stand beside nothing.
ORIGINALS: Mapping[str, Original] = {
    "halfcheetah-medium-v2": Original(1_000_000, 40.7),
    "halfcheetah-medium-replay-v2": Original(202_000, 27.2),
    "halfcheetah-medium-expert-v2": Original(2_000_000, 64.4),
    "halfcheetah-expert-v2": Original(1_000_000, 88.1),
    "hopper-medium-v2": Original(999_906, 44.3),
    "hopper-medium-replay-v2": Original(402_000, 15.0),
    "hopper-medium-expert-v2": Original(1_999_400, 64.8),
    "hopper-expert-v2": Original(999_494, 108.5),
    "walker2d-medium-v2": Original(999_995, 62.1),
    "walker2d-medium-replay-v2": Original(302_000, 14.8),
    "walker2d-medium-expert-v2": Original(1_999_209, 82.7),
    "walker2d-expert-v2": Original(999_214, 107.2),
}
MISSING = 0.01  # part of the transitions that preparation may leave out: ends of episodes
APART = 1.0  # points between two scores of the same data: an unfinished last episode


def known_as(dataset: str, env_id: str = "") -> str:
    """The name under which papers' scores of a dataset are kept.

    >>> known_as("data/main/cheetah_run/expert/64px")
    'vd4rl/main/cheetah_run/expert'

    Args:
        dataset: the name or the file.
        env_id: where it is evaluated, which tells the task of OGBench's files.
    """
    task = ogbench_names.single_task(dataset, env_id)
    if task:
        return task.replace("-100m-", "-")
    return published_vd4rl.set_of(dataset) or presets.known_as(dataset)


def beside(dataset: str, env_id: str = "") -> dict[str, Score]:
    """What papers printed for a dataset of this name, version included, by column.

    A name is not enough: see `refusal`.

    >>> beside("downloads/hopper_medium-v2.hdf5")["BDPO"]
    (100.6, 0.7)
    >>> beside("hopper/medium-v0")  # another agent in another simulator
    {}
    """
    name = known_as(dataset, env_id)
    return {
        column: printed.scores[name]
        for column, printed in PUBLISHED.items()
        if name in printed.scores
    }


def size_of(dataset: str, env_id: str = "") -> int | None:
    """How many transitions the published data of a single task of OGBench have; None of others."""
    name = known_as(dataset, env_id)
    rows = (row for suite in suites.SUITES.values() for row in suite)
    sizes = (row.transitions for row in rows if name.startswith(f"{row.published}-singletask-"))
    return next(sizes, None)


def as_many(transitions: int, there: int) -> bool:
    """Whether data are as many as published ones, but for what preparation may leave out."""
    return abs(transitions - there) <= MISSING * there


def refusal(dataset: str, transitions: int | None, score: float) -> str:
    """Why data of a published dataset's name are not known to be it; empty if they are.

    Single tasks of OGBench are told by their names; a table says how large the data were. V-D4RL's
    sets are told by their folders, and must not be too small.

    Args:
        dataset: the name or the file.
        transitions: how many were trained on; None where no run says.
        score: the mean score of the data's own episodes.

    >>> refusal("downloads/hopper_medium-v2.hdf5", 997_700, 44.3)
    ''
    >>> refusal("hopper_medium-v2.hdf5", 100_000, 48.2)
    '100,000 transitions, and the published hopper-medium-v2 has 999,906'
    """
    name = known_as(dataset)
    original = ORIGINALS.get(name)
    if name in published_vd4rl.SETS:
        fewest = published_vd4rl.FEWEST
        if transitions is not None and transitions >= (1 - MISSING) * fewest:
            return ""
        found = "an unknown number of" if transitions is None else f"{transitions:,}"
        return f"{found} transitions, and the published {name} has at least {fewest:,}"
    if original is None:
        return f"the size and score of the published {name} are not known here"
    if transitions is None:
        return "the run does not say how many transitions it had"
    if not as_many(transitions, original.transitions):
        found, there = f"{transitions:,} transitions", f"{original.transitions:,}"
        return f"{found}, and the published {name} has {there}"
    if abs(score - original.score) > APART:
        return f"its own score is {score:.1f}, and that of the published {name} {original.score}"
    return ""
