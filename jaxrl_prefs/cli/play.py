"""Plays a trained policy, prints its returns, and draws it.

    jaxrl-prefs play --run=runs/bdpo-pendulum-mixed --episodes=3
    jaxrl-prefs play --run=runs/bdpo-pendulum-mixed --video=play.mp4 --gif

A video comes with a contact sheet of its first episode, play.png beside play.mp4. Without a display
MuJoCo draws with EGL, unless MUJOCO_GL says otherwise. `pip install 'jaxrl_prefs[video]'` brings
what videos need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.environments import task as tasks
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import film, tables

if TYPE_CHECKING:
    from jaxrl_prefs.runs.film import Film

EVAL_SEED = 10_000  # as RunConfig.eval_seed

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("run", "", "folder of the run", **_OWN)
commandline.define_flags(FLAGS, algo="", env="")
flags.DEFINE_multi_string(
    "point", [], "field=value, repeatable: which point of a sweep or a comparison", **_OWN
)
flags.DEFINE_string("policy", "", "one of the method's policies (default: the headline)", **_OWN)
flags.DEFINE_integer("seed", None, "one of the run's seeds (default: its first)", **_OWN)
flags.DEFINE_integer("episodes", 1, "how many", lower_bound=1, **_OWN)
flags.DEFINE_integer(
    "eval_seed", EVAL_SEED, "the first episode's environment seed; the others count on", **_OWN
)
flags.DEFINE_string("video", "", "write all episodes to this file, an MP4", **_OWN)
flags.DEFINE_boolean(
    "gif", False, "write the first episode as a GIF, beside the video or into the run", **_OWN
)
flags.DEFINE_string("sheet", "", "write the contact sheet to this file, a PNG", **_OWN)
commandline.define_flags(FLAGS, help=False)


@commandline.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use."""
    console = commandline.console()
    commandline.read(FLAGS, argv)
    if FLAGS.help:
        tables.write(console, commandline.usage(__doc__, FLAGS, argv))
        return 0
    _execute(console)
    return 0


def _execute(console: Console) -> None:
    folder, video = commandline.folder(FLAGS.run), commandline.folder(FLAGS.video)
    _check()
    from jaxrl_prefs.runs import playback
    from jaxrl_prefs.runs.evaluate import where
    from jaxrl_prefs.runs.load import load_run

    trained = load_run(folder, method=FLAGS.algo or None).at(commandline.point(FLAGS.point))
    seed = trained.seeds[0] if FLAGS.seed is None else FLAGS.seed
    policy = trained.policy(seed, FLAGS.policy, FLAGS.eval_seed)
    task, references = where(FLAGS.env or None, policy.point)
    draws = bool(FLAGS.video or FLAGS.gif or FLAGS.sheet)
    if draws:
        film.prepare()
    with _film(video if FLAGS.video else None, draws) as reel:
        watch = None
        if reel is not None:
            watch = lambda env, episode: reel.add(env, task.env_id, episode)  # noqa: E731
        totals, reported = list[float](), list[bool | None]()
        for each in playback.played(policy, task, FLAGS.episodes, FLAGS.eval_seed, watch):
            totals.append(each.total)
            outcome = f"{each.total:.2f}{_score(each.total, references)}, {each.steps} steps"
            reported.append(each.success)
            if each.success is not None:
                outcome += ", success" if each.success else ", no success"
            tables.write(console, f"environment seed {each.seed}: return {outcome}")
    mean = float(np.mean(totals))
    who = f"{trained.algo}'s {policy.name}, seed {seed}, in {task.env_id}"
    outcome = f"{mean:.2f}{_score(mean, references)}, {len(totals)} episode(s)"
    if (successes := tasks.successes(reported)) is not None:
        outcome += f", success rate {100 * successes.mean():.0f} %"
    tables.write(console, f"{who}: mean return {outcome}")
    if reel is not None:
        _write(reel, folder, console)


def _score(total: float, references: tuple[float, float] | None) -> str:
    from jaxrl_prefs.data.recording import scaled

    return f", score {scaled(np.asarray(total), references):.1f}" if references else ""


def _check() -> None:
    if not FLAGS.run:
        raise ConfigError("--run names the folder of a run")
    for name, suffix in (("video", ".mp4"), ("sheet", ".png")):
        text = FLAGS[name].value
        if text and Path(text).suffix != suffix:
            raise ConfigError(f"--{name}={text}: the file's name ends in {suffix}")
        if text and not commandline.folder(text).absolute().parent.is_dir():
            raise ConfigError(f"--{name}={text}: there is no such folder")
    if FLAGS.env == "none":
        raise ConfigError("--env=none: a policy is played in an environment")


@contextlib.contextmanager
def _film(video: Path | None, draws: bool) -> Iterator[Film | None]:
    """The film of the episodes, finished at the end, and removed if they fail."""
    if not draws:
        yield None
        return
    reel = film.Film(video)
    try:
        yield reel
        reel.close()
    except BaseException:
        reel.abandon()
        raise


def _write(reel: Film, folder: Path, console: Console) -> None:
    """The files besides the video, and the line that names all."""
    base = commandline.folder(FLAGS.video) if FLAGS.video else folder / "play.mp4"
    written = [str(base)] if FLAGS.video else []
    if FLAGS.gif:
        reel.gif(base.with_suffix(".gif"))
        written.append(str(base.with_suffix(".gif")))
    sheet = commandline.folder(FLAGS.sheet) if FLAGS.sheet else base.with_suffix(".png")
    reel.sheet(sheet)
    tables.write(console, f"written: {', '.join([*written, str(sheet)])}")
