"""What datasets there are, and what they hold.

    jaxrl-prefs data list
    jaxrl-prefs data info hopper/medium-v0
    jaxrl-prefs data info logs/ --episode_ends=timeout --json
    jaxrl-prefs data convert hopper/medium-v0 out/hopper_medium-v2.hdf5
    jaxrl-prefs data convert logs/ mine/arm-v0 --action_low=-1 --action_high=1
    jaxrl-prefs data make maze2d/umaze-v0

`info` says what deserves a look before you train, plays a uniformly random policy, whose score
should be near 0, and replays single steps where the environment can be set to a recorded state.
`convert` writes a Minari id, a folder of LeRobot (--format=lerobot), or a file of D4RL (.hdf5),
Robomimic, OGBench or NeoRL-2 (--format). `make` generates the sets of this library;
online/hopper/medium-v0 and its like train an agent for hours first (pip install
'jaxrl_prefs[online]'), and go on where they were stopped. So do vd4rl/walker-walk-medium and its
like, whose images take hours more ('jaxrl_prefs[online,dmc]').
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from jaxrl_prefs import data
from jaxrl_prefs.cli import commandline
from jaxrl_prefs.data import (
    Dataset,
    Hints,
    Task,
    families,
    health,
    health_figure,
    ogbench_data,
    parity,
    progress,
    roots,
    suggestions,
    writers,
)
from jaxrl_prefs.data.generate import online, vd4rl
from jaxrl_prefs.data.generate.sbx_agent import SbxAgent
from jaxrl_prefs.data.readers import default_task, minari
from jaxrl_prefs.environments import ogbench_names, trust
from jaxrl_prefs.environments.task import check_interface, number, succeeded, successes
from jaxrl_prefs.environments.trust import Refusal
from jaxrl_prefs.errors import ConfigError, DataError
from jaxrl_prefs.runs import figures, overrides, tables
from jaxrl_prefs.runs.display import line

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
commandline.define_flags(FLAGS, env="", trust_env=False, **commandline.HINTS)
flags.DEFINE_integer("random", 20, "info: episodes of a random policy; 0 plays none", **_OWN)
flags.DEFINE_string(
    "format", "", "convert: minari, lerobot, d4rl, robomimic, ogbench or neorl2", **_OWN
)
flags.DEFINE_boolean("json", False, "info: print one JSON object, for programs", **_OWN)
flags.DEFINE_string("figure", "", "info: the PNG to draw the data's health in", **_OWN)
flags.DEFINE_string(
    "root", "", "make: the folder to store in, instead of MINARI_DATASETS_PATH", **_OWN
)
flags.DEFINE_boolean("full", False, "make: of vd4rl/..., the set of V-D4RL's size", **_OWN)
commandline.define_flags(FLAGS, help=False)

FORMATS: dict[str, Callable[[Dataset, Any], None]] = {
    "d4rl": writers.d4rl,
    "robomimic": writers.robomimic,
    "ogbench": writers.ogbench,
    "neorl2": writers.neorl2,
    "minari": writers.minari,
    "lerobot": writers.lerobot,
}
ENDINGS = {".hdf5": "d4rl", ".h5": "d4rl", ".npz": "ogbench"}
ONLINE_ROOM = 2**30  # bytes, more than a set of an online agent takes
BINS, BAR = 10, 40  # of the histogram of returns: how many, and the longest in characters


@commandline.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use."""
    console = commandline.console()
    words = commandline.words(FLAGS, argv)
    if FLAGS.help or not words:
        tables.write(console, commandline.usage(__doc__, FLAGS, argv))
        return 0
    _execute(words[0], words[1:], console)
    return 0


def _execute(command: str, names: Sequence[str], console: Console) -> None:
    hints = commandline.hints(FLAGS)
    wanted = {"list": 0, "info": 1, "convert": 2, "make": 1}
    if command not in wanted:
        raise ConfigError(overrides.unknown("command", command, wanted))
    if len(names) != wanted[command]:
        raise ConfigError(f"{command} takes {wanted[command]} name(s), got {len(names)}")
    if command == "list":
        catalogue(console)
    elif command == "convert":
        refused, notes = convert(
            *names, env=FLAGS.env, form=FLAGS.format, trust_env=FLAGS.trust_env, hints=hints
        )
        for note in notes:
            line(console, note)
        console.print(f"wrote {names[1]}", highlight=False, markup=False)
        if refused is not None:
            line(console, f"its environment is not kept: {refused} (see --trust_env)")
    elif command == "make":
        name = _of_full_size(names[0]) if FLAGS.full else names[0]
        folder = make(name, FLAGS.root)
        place = roots.place(folder)
        line(console, f"{name} is stored in {folder.parent}")
        if place not in roots.roots():
            line(console, f"it is found where MINARI_DATASETS_PATH={place}")
        else:
            inform(name, "", 0, console)
    else:
        inform(names[0], FLAGS.env, FLAGS.random, console, trust_env=FLAGS.trust_env, hints=hints)


# --- list -----------------------------------------------------------------------------------------


def catalogue(console: Console) -> None:
    """Prints what is on this machine, reading only metadata, and what can be made here."""
    ids = roots.local_ids()
    view = [["dataset", "family", "evaluated in", "episodes", "steps", "MB"], *map(_row, ids)]
    view += [
        [name, families.family_of(name), "made by `make`", "", "", ""]
        for name in data.GENERATED
        if name not in ids
    ]
    robots, qualities = ", ".join(online.ROBOTS), ", ".join(online.QUALITIES)
    caption = (
        "`make` also trains agents, for online/ROBOT/QUALITY-v0 and vd4rl/TASK-QUALITY-v0\n"
        f"ROBOT: {robots}; TASK: {', '.join(vd4rl.RECIPES)}; QUALITY: {qualities}"
    )
    tables.show(console, "datasets on this machine", view, left=3, caption=caption)


def _row(name: str) -> list[str]:
    """A dataset's line; of a damaged one, what is wrong with it."""
    folder = roots.find(name)
    if folder is None:
        return [name, families.family_of(name), "damaged: metadata.json is no file", "", "", ""]
    try:
        about = minari.metadata(folder)
    except DataError as fault:
        why = str(fault).removeprefix(f"{folder / 'metadata.json'} is damaged: ")
        return [name, families.family_of(name), f"damaged: {why}", "", "", ""]
    spec = about.get("eval_env_spec") or about.get("env_spec")
    found = None if spec else default_task.of(name)
    named = str(trust.parsed(spec).get("id", "unreadable")) if spec else "-"
    env_id = found.env_id if found else named
    counts = (_count(about.get(key, 0)) for key in ("total_episodes", "total_steps"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [name, families.family_of(name, env_id), env_id, *counts, f"{size / 1e6:.1f}"]


def _count(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else f"damaged: {str(value)[:20]}"


# --- info -----------------------------------------------------------------------------------------


def inform(
    name: str,
    env: str,
    episodes: int,
    console: Console,
    *,
    trust_env: bool = False,
    hints: Hints | None = None,
) -> None:
    """Prints what a dataset holds, how it would be prepared, and what a random policy scores."""
    recording = data.load(name, env=env, trust_env=trust_env, hints=hints).in_memory()
    found = health.of(recording)
    if FLAGS.figure:
        drawn = figures.new(13, 7)
        health_figure.draw(recording, drawn)
        figures.save(drawn, commandline.folder(FLAGS.figure))
    if FLAGS.json:
        print(json.dumps(health.described(recording, found), indent=2, allow_nan=False))
        return
    view = [[key, value] for key, value in facts(recording).items()]
    view += [["note", note] for note in recording.notes]
    view += [[key, value] for key, value in health.told(recording, found).items()]
    if elsewhere := recorded_elsewhere(name):
        view.append(["recorded in", elsewhere])
    if recording.task is not None:
        view.append(["replayed", replayed(recording)])
        if episodes:
            view.append(["random policy", _played(recording, recording.task, episodes)])
    view += [["warning", text] for text in found.warnings]
    tables.show(console, recording.name, view, left=2, header=False)
    bar = "#" if console.options.ascii_only else "█"
    for text in ("returns:", *histogram(recording.returns, bar)):
        tables.write(console, text)


def recorded_elsewhere(name: str) -> str:
    """How the environment that recorded a set differs from that which it names for evaluation."""
    folder = roots.find(name)
    about = minari.metadata(folder) if folder else {}
    if not (about.get("env_spec") and about.get("eval_env_spec")):
        return ""
    there, here = (
        {key: spec.get(key) for key in ("id", "max_episode_steps")} | _kwargs(spec)
        for spec in (trust.parsed(about[key]) for key in ("env_spec", "eval_env_spec"))
    )
    changed = [key for key in there if there[key] != here.get(key)]
    text = ", ".join(f"{key}={there[key]}" for key in changed)
    return f"another: {text}. Scores need not compare with the data's" if text else ""


def _kwargs(spec: dict[str, Any]) -> dict[str, Any]:
    kwargs = spec.get("kwargs")
    return kwargs if isinstance(kwargs, dict) else {}


def facts(recording: Dataset) -> dict[str, str]:
    """What a recording holds, as text."""
    last = np.logical_not(recording.continues)
    over = int((last & recording.terminal).sum())
    inside = int((recording.continues & recording.terminal).sum())
    task, action = recording.task, recording.action
    score = recording.own_score
    known = ""
    if recording.references:
        known = "{:g} scores 0, {:g} scores 100; ".format(*recording.references)
    place = str(recording.refused or "-")
    if task is not None:
        place = f"{task.env_id}, at most {task.max_episode_steps} steps"
        if task.without:
            place += f", without the recorded wrapper(s) {', '.join(task.without)}"
    return {
        "family": recording.family,
        "evaluated in": place,
        "episodes": f"{len(recording.lengths):,}",
        "transitions": f"{recording.size:,} (of {recording.lengths.sum():,} steps)",
        "lengths": spread(recording.lengths),
        "ends": f"{over:,} by a terminal, {len(recording.lengths) - over:,} cut off"
        + (f"; {inside:,} terminals inside episodes" if inside else ""),
        "observations": _observations(recording),
        **{f"images {camera}": text for camera, text in _images(recording).items()},
        "actions": f"{action.shape[1]}, {_range(action)}; the box is "
        f"{recording.action_low.min():g} to {recording.action_high.max():g}",
        **({"refused": recording.outside} if recording.outside else {}),
        "at the box's edge": f"{100 * at_the_edge(recording):.1f} % of all entries of actions",
        "rewards": spread(recording.reward),
        "returns": spread(recording.returns),
        "references": known + recording.reference_source,
        "score of the data": "none: policies are scored by their success rate"
        if score is None
        else f"{score:.2f} ({recording.score_kind})",
        "prepared by": ", ".join(
            f"{key}={value}" for key, value in data.defaults(recording.family)._asdict().items()
        ),
    }


def _observations(recording: Dataset) -> str:
    width = recording.observation.shape[1]
    return f"{width}, {_range(recording.observation)}" if width else "images alone"


def _images(recording: Dataset) -> dict[str, str]:
    return {
        camera: f"{'x'.join(map(str, of['shape']))}, {of['frames']:,} frames, "
        f"{of['megabytes']:,.1f} MB"
        for camera, of in health.images(recording).items()
    }


def spread(values: np.ndarray) -> str:
    """Smallest, median, mean and largest."""
    parts = (values.min(), np.median(values), values.mean(dtype=np.float64), values.max())
    names = ("min", "median", "mean", "max")
    return ", ".join(f"{name} {part:.6g}" for name, part in zip(names, parts, strict=True))


def _range(values: np.ndarray) -> str:
    return f"{values.min():.4g} to {values.max():.4g}"


def at_the_edge(recording: Dataset) -> float:
    """The part of the entries of actions that lies within a thousandth of the box's bounds."""
    return float(health.at_bounds(recording)[recording.action_high > recording.action_low].mean())


def histogram(values: np.ndarray, bar: str = "█") -> list[str]:
    """Lines with the count of `values` in each of ten equal ranges, and a bar of that letter."""
    counts, edges = np.histogram(values, BINS)
    return [
        f"{edges[i]:>12.5g} to {edges[i + 1]:>12.5g} {count:>7,} "
        + bar * int(np.ceil(BAR * count / counts.max()))
        for i, count in enumerate(counts.tolist())
    ]


def replayed(recording: Dataset) -> str:
    """How single steps from recorded states compare with the recording."""
    found = parity.replay(recording)
    if found is None:
        return "not possible: states cannot be rebuilt from observations"
    return (
        f"{found.rows} single steps: observations differ by {found.observation.max():.1e}, "
        f"rewards by {found.reward.max():.1e} at most"
    )


def _played(recording: Dataset, task: Task, episodes: int) -> str:
    """As `played`; of an environment that fails, what it says."""
    try:
        return played(recording, *random_episodes(task, episodes))
    except DataError as fault:
        return str(fault)
    except Exception as fault:  # an environment may fail in any way
        why = " ".join(str(fault).split())
        return f"none: the environment raised {type(fault).__name__}: {why}"


def random_episodes(
    task: Task, episodes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns [episodes] of a uniformly random policy, and which episodes succeeded [episodes].

    The second is None if the environment does not report success.
    """
    env = task.make()
    check_interface(env, task.env_id)
    env.action_space.seed(seed)
    returns, reached = np.zeros(episodes), list[bool | None]()
    for episode in range(episodes):
        env.reset(seed=seed + episode)
        over, success = False, None
        while not over:
            _, reward, terminated, truncated, info = env.step(env.action_space.sample())
            returns[episode] += number(reward)
            success = succeeded(info, success)
            over = terminated or truncated
        reached.append(success)
    env.close()
    return returns, successes(reached)


def played(recording: Dataset, returns: np.ndarray, reached: np.ndarray | None) -> str:
    """What a random policy reached, on the scale by which policies are scored on these data.

    Where that is success, no return is told: the data's episodes are of another length.
    """
    count = f"({len(returns)} episodes)"
    if recording.by_success:
        if reached is None:
            return "none: the environment does not report info['success']"
        return f"success rate {100 * reached.mean():.3g} % {count}"
    score = float(np.mean(recording.score(returns)))
    return f"return {returns.mean():.6g}, score {score:.2f} {count}"


# --- convert, make --------------------------------------------------------------------------------


def convert(
    source: str,
    target: str,
    *,
    env: str = "",
    form: str = "",
    trust_env: bool = False,
    hints: Hints | None = None,
) -> tuple[Refusal | None, tuple[str, ...]]:
    """Writes the dataset `source` to the file, folder or Minari id `target`.

    Returns why the environment that the source names is not kept, if that is so, and what else is
    to be known of the data.

    Raises:
        ConfigError: for an unknown format, or one that does not fit the target's name.
        DataError: if the source cannot be loaded, or the format cannot hold it.
    """
    ending = Path(target).suffix.lower()
    form = form or ENDINGS.get(ending, "minari")
    if form not in FORMATS:
        raise ConfigError(overrides.unknown("format", form, FORMATS))
    fitting = {"d4rl": ".hdf5", "robomimic": ".hdf5", "ogbench": ".npz", "neorl2": ".npz"}
    whole = form in ("minari", "lerobot")
    if ending != fitting.get(form, ending) or (whole and ending in ENDINGS):
        raise ConfigError(f"{target} does not name a dataset of the format {form}")
    recording = _read(source, env, trust_env, hints)
    if form == "minari":
        if not re.fullmatch(data.MINARI_ID, target):
            raise ConfigError(
                f"{target!r} is no Minari id, such as mine/hopper-v0 (--format=lerobot writes a "
                "folder)"
            )
        writers.minari(recording, target)
        return recording.refused, recording.notes
    path = Path(target).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    FORMATS[form](recording, path)
    return recording.refused, recording.notes


def _read(source: str, env: str, trust_env: bool, hints: Hints | None) -> Dataset:
    """As `data.load`, of sets of Minari 0.4 too, which are to be converted."""
    for root in roots.roots():
        folder = root / source / "data"
        if minari.is_older(folder):
            return minari.read(folder, source, env, trust_env=trust_env, hints=hints)
    return data.load(source, env=env, trust_env=trust_env, hints=hints).in_memory()


def _of_full_size(name: str) -> str:
    """The set of V-D4RL's size to a smaller one.

    Raises:
        ConfigError: if there is none.
    """
    found = vd4rl.full(data.ALIASES.get(name, name))
    if found not in vd4rl.SETS:
        raise ConfigError(f"--full is for the sets vd4rl/..., and {name!r} is none of them")
    return found


def _elsewhere(name: str) -> str:
    """Where to get a set of OGBench's, which is not generated; empty for other names."""
    own = name.removeprefix("ogbench/")
    if (found := ogbench_data.parse(own)) is None:
        guesses = ogbench_names.similar(own)
        return suggestions.unknown(own, ()) if guesses or own != name else ""
    if (place := ogbench_data.here(found)) is not None:
        return f"OGBench's {found.data} is not generated, and is here: {place} (--dataset={own})"
    return f"OGBench's {found.data} is not generated: {ogbench_data.how_to_get(found)}"


def make(name: str, root: str = "") -> Path:
    """Generates one of this library's sets, unless it is there; returns its `data` folder.

    Args:
        name: of the set.
        root: the folder to store it in; by default the first of `roots.roots()` that takes it.

    Raises:
        ConfigError: if the name is none of them; of a set of OGBench's, it says where to get it.
        DataError: if it cannot be made.
    """
    full = data.ALIASES.get(name, name)
    known = (*data.GENERATED, *data.TRAINED)
    if full not in known:
        raise ConfigError(_elsewhere(name) or overrides.unknown("generated set", name, known))
    there = roots.absolute(root) / full / "data" if root else roots.find(full)
    if there is not None and (there / "metadata.json").is_file():
        return there
    place = roots.writable_root(root)
    with progress.shown(None) as bars:
        if full in data.TRAINED:
            roots.check_space(full, place, ONLINE_ROOM)
        if full in online.SETS:
            return online.generate(full, place, bars, SbxAgent, online.RECIPE)
        if full in vd4rl.SETS:
            return vd4rl.generate(full, place, bars, SbxAgent)
        return data.simulate(full, place, bars)
