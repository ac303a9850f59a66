"""How well estimates from data rank policies, against what the policies reach when played.

    python -m benchmarks.estimates --set=pendulum --workdir=runs/estimates

Trains about forty policies on a dataset that has an environment (methods x settings x seeds, and
the checkpoints of one run), without playing them. Then it plays each, estimates each from the data,
and compares: Spearman's rank correlation, regret@1 and the mean absolute error, beside selectors
that cost nothing: the method's own mean Q on the data, the lowest cloning error, the most updates.
Writes docs/results/estimates-SET.json, and docs/results/estimates.json from all sets. A command
that was stopped continues.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from jaxrl_prefs import __main__ as commands
from jaxrl_prefs import data as datasets
from jaxrl_prefs.cli import commandline
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.errors import ConfigError, DataError, LoadError
from jaxrl_prefs.estimation import ranking
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import off_policy_evaluation, presets
from jaxrl_prefs.runs.load import load_run
from jaxrl_prefs.runs.policy_values import CLIPPED
from jaxrl_prefs.runs.run import Actor, Point
from jaxrl_prefs.runs.workdir import CHECKPOINTS, METRICS, read_json, write_json

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("set", "pendulum", "one of SETS", **_OWN)
flags.DEFINE_string("workdir", "runs/estimates", "where the runs go", **_OWN)
flags.DEFINE_multi_string("fit", [], "field=value, repeatable: of the Q functions", **_OWN)
flags.DEFINE_integer("episodes", 20, "episodes in which a policy is played", 1, **_OWN)
flags.DEFINE_string("note", "", "the machine, for the record", **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)

RESULTS = Path(__file__).parents[1] / "docs" / "results"
EVAL_SEED = 20_000  # of the first episode
NEGLIGIBLE = 0.01  # of a discount, beyond which rewards are left out
ALONG = "checkpoints"  # the run whose checkpoints are policies of their own


class Study(NamedTuple):
    """A dataset, and the commands that train its policies."""

    dataset: str
    common: tuple[str, ...]  # of every command
    commands: Mapping[str, tuple[str, ...]]  # folder -> words


HOPPER = "hopper/medium-v0"
NETWORKS = ("--set=critic_hidden=64,64",)
SMALL = ("--set=actor_hidden=64,64", "--set=log_every=500")
UNPLAYED = ("--env=none",)
# Of docs/results/estimates-hopper.json; the other sets have BDPO's settings without a CPU row.
BDPO_ON_HOPPER = ("--preset=cpu", "--set=actor_learning_rate=1e-4", "--set=actor_interval=4")
HARDLY_PLAYED = ("--set=eval_episodes=1",)  # where the rewards are the environment's


def _study(
    dataset: str,
    updates: int,
    alphas: str,
    temperatures: str,
    evaluation: tuple[str, ...] = UNPLAYED,
) -> Study:
    steps, every = f"--set=train_steps={updates}", updates // 12
    half = updates // 2

    def method(name: str) -> list[str]:
        cpu = ["--preset=cpu"] if presets.has_cpu(dataset, name) else []
        return [f"--algo={name}", *cpu]

    return Study(
        dataset,
        (f"--dataset={dataset}", *SMALL, *evaluation),
        {
            "td3_bc": (
                *("sweep", *method("td3_bc"), f"--grid=alpha={alphas}", "--seeds=3"),
                *(*NETWORKS, steps),
            ),
            "bc": ("run", *method("bc"), "--seeds=2", "--set=policy=gaussian", steps),
            "iql": (
                *("sweep", *method("iql"), f"--grid=temperature={temperatures}", "--seeds=3"),
                *(*NETWORKS, steps),
            ),
            ALONG: (
                *("run", *method("td3_bc"), "--seeds=1", *NETWORKS, steps),
                *(f"--set=alpha={alphas.split(',')[-2]}", f"--set=checkpoint_every={every}"),
                *("--set=keep=20", f"--set=log_every={every}"),
            ),
            "bdpo": (
                *("sweep", "--algo=bdpo", *(BDPO_ON_HOPPER if dataset == HOPPER else ())),
                *("--grid=eta=0.02,0.2,2", "--seeds=2", *NETWORKS),
                *("--set=policy=gaussian", "--set=activation=mish", f"--set=pretrain_steps={half}"),
                *("--set=warmup_steps=200", f"--set=train_steps={half}"),
                "--set=critic_ensemble_size=2",
            ),
        },
    )


SETS = {
    "pendulum": _study("pendulum-mixed", 3_000, "1,10,160,2000", "0.3,3,30"),
    "hopper": _study(HOPPER, 5_000, "1,2.5,10,100", "0.3,3,30"),
    "hopper-mixed": _study("hopper/mixed-v0", 5_000, "1,2.5,10,100", "0.3,3,30"),
    "hopper-replay": _study("hopper/medium-replay-v0", 5_000, "1,2.5,10,100", "0.3,3,30"),
    "halfcheetah": _study("halfcheetah/mixed-v0", 5_000, "1,2.5,10,100", "0.3,3,30"),
    "halfcheetah-medium": _study("halfcheetah/medium-v0", 5_000, "1,2.5,10,100", "0.3,3,30"),
    "halfcheetah-replay": _study("halfcheetah/medium-replay-v0", 5_000, "1,2.5,10,100", "0.3,3,30"),
    "safety": _study("neorl2/safetyhalfcheetah-train-v0", 5_000, "1,2.5,10,100", "0.3,3,30"),
    "pointmaze": _study("pointmaze/umaze-v0", 5_000, "1,2.5,10,100", "0.3,3,30"),
    "ogbench-pointmaze": _study(
        "ogbench/pointmaze-medium-navigate-singletask-task1-v0", 5_000, "1,2.5,10,100", "0.3,3,30"
    ),
    "ogbench-cube-single": _study(
        "cube-single-play-singletask-v0", 5_000, "1,2.5,10,100", "0.3,3,30", HARDLY_PLAYED
    ),
    "ogbench-cube-double": _study(
        "cube-double-play-singletask-v0", 1_000, "1,2.5,10,100", "0.3,3,30", HARDLY_PLAYED
    ),
    "ogbench-scene": _study(
        "scene-play-singletask-v0", 5_000, "1,2.5,10,100", "0.3,3,30", HARDLY_PLAYED
    ),
    "pen": _study("adroit/pen-expert-v0", 5_000, "1,2.5,10,100", "0.3,3,30"),
    "door": _study("adroit/door-human-replay-v0", 5_000, "1,2.5,10,100", "0.3,3,30"),
}
SELECTORS = ("estimate", "distance", "q_data", "updates")
COLUMNS = [
    ["policies of", "dataset"],
    ["number", "policies"],
    ["Spearman: FQE", "estimate_spearman"],
    ["nearest", "distance_spearman"],
    ["mean Q", "q_data_spearman"],
    ["regret@1: FQE", "estimate_regret"],
    ["choice", "choice_regret"],
    ["nearest", "distance_regret"],
    ["mean Q", "q_data_regret"],
    ["most updates", "updates_regret"],
    ["error of FQE", "error"],
    ["range of the values", "range"],
]


class Subject(NamedTuple):
    """One policy: of a point of a run, or of one of its checkpoints."""

    label: str
    group: str  # the folder
    point: Point


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code."""
    try:
        commandline.read(FLAGS, argv)
        if FLAGS.help:
            print(commandline.usage(__doc__, FLAGS, argv))
            return 0
        if FLAGS.set not in SETS:
            raise ConfigError(f"--set takes {', '.join(SETS)}")
        devices.prepare()
        _execute(SETS[FLAGS.set], Path(FLAGS.workdir).absolute() / FLAGS.set)
        return 0
    except (*commandline.USER_ERRORS, LoadError) as error:
        return commandline.fail(str(error), commandline.WRONG_USE)


def _execute(study: Study, folder: Path) -> None:
    lines = []
    for name, words in study.commands.items():
        line = [words[0], *study.common, *words[1:], f"--workdir={folder / name}"]
        lines.append(" ".join(["jaxrl-prefs", *line[:-1]]))
        if code := commands.main(["jaxrl-prefs", *line]):
            raise ConfigError(f"{lines[-1]} ended with {code}")
    data = datasets.load(study.dataset)
    subjects = [*_subjects(folder)]
    records = _played(subjects, data, folder / "played.json")
    estimates = _estimated(subjects, data, folder)
    for record, more in zip(records, estimates["records"], strict=True):
        record.update(more)
    _write(study, records, lines, float(estimates["recorded"][1]))


def _subjects(folder: Path) -> Iterator[Subject]:
    """Every policy that was trained, one seed each in its label."""
    for place in sorted(x for x in folder.iterdir() if x.is_dir() and not x.name.startswith(".")):
        if place.name == ALONG:
            yield from _checkpoints(place)
            continue
        for point in load_run(place).select():
            settings = ", ".join(f"{k} {v:g}" for k, v in point.settings.items())
            yield Subject(f"{point.algo} {settings}".strip(), place.name, point)


def _checkpoints(place: Path) -> Iterator[Subject]:
    """A run at each of its checkpoints, but the last, which are copied one by one."""
    steps = sorted(int(x.name) for x in (place / CHECKPOINTS).iterdir() if x.name.isdigit())
    for step in steps:
        copy = place.parent / f".at-{step}"
        if not copy.exists():
            (copy / CHECKPOINTS).mkdir(parents=True)
            shutil.copy(place / "config.json", copy)
            shutil.copytree(place / CHECKPOINTS / str(step), copy / CHECKPOINTS / str(step))
        (point,) = load_run(copy).select()
        yield Subject(f"{point.algo} after {step} updates", ALONG, point)


# --- Playing, estimating --------------------------------------------------------------------------


def _played(subjects: Sequence[Subject], data: Dataset, path: Path) -> list[dict[str, Any]]:
    """A record for each policy and seed, with its score and discounted return when played."""
    known = read_json(path) if path.exists() else {}
    gamma = float(subjects[0].point.about["run"]["gamma"])
    found = []
    for subject in subjects:
        for seed in subject.point.seeds:
            key = f"{subject.label}, seed {seed}"
            if key not in known:
                returns, discounted = _play(Actor(subject.point, seed, "", 0), data, gamma)
                score = float(np.mean(data.score(returns)))
                known[key] = {"score": score, "value": float(discounted.mean())}
                write_json(path, known)
                print(f"{key}: {score:.1f}", flush=True)
            record = {"policy": subject.label, "group": subject.group, "seed": seed, **known[key]}
            found.append(record | {"updates": subject.point.step} | _own_q(subject, seed))
    return found


def _own_q(subject: Subject, seed: int) -> dict[str, float]:
    """The method's own mean Q on the data at the policy's step, if it measured it."""
    folder = subject.point.folder
    if folder is not None and subject.group == ALONG:
        folder = folder.parent / ALONG
    assert folder is not None
    found: dict[str, float] = {}
    for text in (folder / METRICS).read_text().splitlines():
        row = json.loads(text)
        own = all(row.get(name, x) == x for name, x in subject.point.settings.items())
        if own and row.get("seed") == seed and row["step"] <= subject.point.step:
            found = {"q_data": row["metrics"]["q"]} if "q" in row["metrics"] else found
    return found


def _play(policy: Actor, data: Dataset, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns up to the time limit, and discounted sums of rewards, [episodes] each.

    The discounted sum goes on beyond the time limit until little is left of it, for that is what is
    estimated.
    """
    task = data.task
    assert task is not None
    horizon = max(task.max_episode_steps, int(np.log(NEGLIGIBLE) / np.log(gamma)))
    copies = [task.make() for _ in range(FLAGS.episodes)]
    starts = [copy.reset(seed=EVAL_SEED + place)[0] for place, copy in enumerate(copies)]
    observation = np.asarray(starts, np.float32)
    plain, discounted = np.zeros(len(copies)), np.zeros(len(copies))
    live = np.ones(len(copies), bool)
    for step in range(horizon):
        actions = policy(observation)
        for place in np.flatnonzero(live):
            observation[place], reward, ended, _, _ = copies[place].step(actions[place])
            plain[place] += reward * (step < task.max_episode_steps)
            discounted[place] += gamma**step * reward
            live[place] = not ended
        if not live.any():
            break
    for copy in copies:
        copy.close()
    return plain, discounted


def _estimated(subjects: Sequence[Subject], data: Dataset, folder: Path) -> dict[str, Any]:
    """A record for each policy and seed, with its estimate; and the returns of the data."""
    config = off_policy_evaluation.settings({}, FLAGS.fit)
    path, asked = folder / "estimates.json", repr(config)
    if path.exists() and read_json(path).get("config") == asked:
        return dict(read_json(path))
    points = [x.point for x in subjects]
    values = off_policy_evaluation.estimate(
        points, data, config=config, say=lambda text: print(text, flush=True)
    )
    drawn = ranking.draws([each.members[None] for each in values.values])
    records = [
        {
            "estimate": {
                "mean": round(each.value, 2),
                "interval": [round(x, 2) for x in ranking.interval(drawn[:, place])],
            },
            "distance": round(each.distance, 4),
            "bellman": round(float(each.bellman or 0), 3),
            "clipped": round(float(each.clipped or 0), 4),
        }
        for place, each in enumerate(values.values)
    ]
    about = {"config": asked, "records": records, "recorded": values.recorded}
    about |= {"signs": values.signs(), "choice": values.choice()}
    write_json(path, about)
    return about


# --- The record -----------------------------------------------------------------------------------


def _write(study: Study, records: list[dict[str, Any]], lines: list[str], best: float) -> None:
    """Writes the set's policies, and the measures of all sets; `best` is the data's best return."""
    name = f"estimates-{FLAGS.set}"
    label = f"value when played, discounted; {study.dataset}"
    about = {
        "title": f"FQE against playing, {len(records)} policies on {study.dataset}",
        "commands": [*lines, f"python -m benchmarks.estimates --set={FLAGS.set}"],
        "dataset": study.dataset,
        "protocol": f"{FLAGS.episodes} episodes each, of the last iterate",
        "machine": FLAGS.note or "not recorded",
        "versions": "not recorded",
        "kept": "estimate with its 95 % interval, value and score of every policy",
        "best_recorded": round(best, 3),
        "fit": repr(off_policy_evaluation.settings({}, FLAGS.fit)),
        "plots": {
            name: {
                "kind": "scatter",
                "x": "value",
                "x_label": label,
                "values": [["FQE", "estimate"]],
                "colour": "group",
                "y_label": "estimated value",
                "title": f"FQE on {study.dataset}",
            }
        },
        "records": [
            {k: round(v, 3) if isinstance(v, float) else v for k, v in record.items()}
            for record in records
        ],
    }
    if len({each["score"] for each in records}) == 1:
        del about["plots"]  # of equal values there is nothing to see
    write_json(RESULTS / f"{name}.json", about)
    paths = [RESULTS / f"estimates-{each}.json" for each in SETS]
    rows = [row for path in paths if path.exists() for row in _measures(read_json(path))]
    write_json(
        RESULTS / "estimates.json",
        {
            "title": "how well estimates and simple selectors rank policies",
            "commands": ["python -m benchmarks.estimates --set=SET, for each set"],
            "protocol": "Spearman, regret@1 against scores; error against discounted returns",
            "machine": FLAGS.note or "not recorded",
            "versions": "not recorded",
            "kept": "the measures; policies are in estimates-SET.json",
            "tables": {"estimates": {"columns": COLUMNS}},
            "records": rows,
        },
    )


def _measures(source: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row of all policies, and one of the checkpoints of one run."""
    records = source["records"]
    along = [each for each in records if each["group"] == ALONG]
    last = max(each["updates"] for each in along)  # trained with the same seed as another run's
    all_of_them = [each for each in records if each["group"] != ALONG or each["updates"] != last]
    name, best = source["dataset"], source["best_recorded"]
    yield _row(name, all_of_them, SELECTORS[:-1], best)
    yield _row(f"{name}, checkpoints of one run", along, SELECTORS, best)


def _row(
    dataset: str, records: Sequence[Mapping[str, Any]], names: Sequence[str], best: float
) -> dict[str, Any]:
    """How well the selectors rank some policies, and what each loses by its first choice."""
    row: dict[str, Any] = {"dataset": dataset, "policies": len(records)}
    if len({each["score"] for each in records}) == 1:  # nothing to rank
        names = ()
    for name in names:
        mine = [each for each in records if name in each]
        raw = [each[name]["mean"] if name == "estimate" else each[name] for each in mine]
        ranks = np.array(raw) * (-1 if name == "distance" else 1)
        scores = np.array([each["score"] for each in mine])
        row[f"{name}_spearman"] = round(ranking.spearman(ranks, scores), 2)
        row[f"{name}_regret"] = round(ranking.regret(ranks, scores), 2)
    estimates = np.array([each["estimate"]["mean"] for each in records])
    values = np.array([each["value"] for each in records])
    if names:
        row["choice_regret"] = _choice_regret(records, best)
    row["error"] = round(ranking.mean_absolute_error(estimates, values), 1)
    row["range"] = {"range": [round(float(x), 1) for x in (values.min(), values.max())]}
    return row


def _choice_regret(records: Sequence[Mapping[str, Any]], best: float) -> float:
    """Of what the commands would choose, each policy taken for itself (`PolicyValues.chosen`)."""
    highest = max(records, key=lambda each: each["estimate"]["mean"])
    confirmed = highest["estimate"]["mean"] <= best and highest["clipped"] <= CLIPPED
    taken = highest if confirmed else min(records, key=lambda each: each["distance"])
    scores = np.array([each["score"] for each in records])
    regret = ranking.regret(np.array([float(each is taken) for each in records]), scores)
    return round(regret, 2)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DataError as error:
        sys.exit(str(error))
