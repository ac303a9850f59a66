"""Writes a trained policy as one file.

    jaxrl-prefs export --run=runs/bdpo-pendulum-mixed
    jaxrl-prefs export --run=runs/bdpo-pendulum-mixed --onnx --check

The file takes raw observations [batch, O] float32 and the number of a draw (uint32), and returns
raw actions [batch, A]; of a policy of action chunks [batch, k, A], to be played in this order
before it is asked again. Of a policy of images, it takes uint8 [batch, H, W, k * C] by camera, the
newest of k frames last, and the vector as "state" if there is one. Without --out it goes to the
run's folder, as policy.jaxexport or policy.onnx. It needs only JAX to run, with --onnx only ONNX
Runtime, in C++ too. --check opens the file again: it compares its actions with the run's and
measures how long one observation takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.data.images import FrameStack
from jaxrl_prefs.errors import ConfigError, ExportError
from jaxrl_prefs.runs import latency, tables
from jaxrl_prefs.runs.exported import ONNX_SUFFIX, load_policy
from jaxrl_prefs.runs.memory import amount
from jaxrl_prefs.runs.workdir import write_bytes
from jaxrl_prefs.types import STATE

if TYPE_CHECKING:
    from jaxrl_prefs.runs.run import Run

ROWS = 64  # observations on which a file is compared with its run
CLOSE = 1e-4  # of the range of an action
BLOCK = 8  # pixels of a side of a block of one colour

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("run", "", "folder of the run", **_OWN)
commandline.define_flags(FLAGS, algo="")
flags.DEFINE_multi_string(
    "point", [], "field=value, repeatable: which point of a sweep or a comparison", **_OWN
)
flags.DEFINE_string("policy", "", "one of the method's policies (default: the headline)", **_OWN)
flags.DEFINE_integer("seed", None, "one of the run's seeds (default: its first)", **_OWN)
flags.DEFINE_boolean("onnx", None, "write an ONNX file (default: if --out ends in .onnx)", **_OWN)
flags.DEFINE_boolean("check", False, "compare the file's actions and measure its latency", **_OWN)
commandline.define_flags(FLAGS, out="", help=False)


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
    if not FLAGS.run:
        raise ConfigError("--run names the folder of a run")
    from jaxrl_prefs.runs.load import load_run

    folder = Path(FLAGS.run)
    trained = load_run(folder, method=FLAGS.algo or None).at(commandline.point(FLAGS.point))
    seed = trained.seeds[0] if FLAGS.seed is None else FLAGS.seed
    name = FLAGS.policy or next(iter(trained.method.policies))
    is_onnx = FLAGS.out.endswith(ONNX_SUFFIX) if FLAGS.onnx is None else FLAGS.onnx
    usual = f"policy{ONNX_SUFFIX}" if is_onnx else "policy.jaxexport"
    target = commandline.folder(FLAGS.out) if FLAGS.out else folder / usual
    if (target.suffix == ONNX_SUFFIX) != is_onnx:
        raise ConfigError(
            f"--out={target}: the names of ONNX files, and of no others, end in {ONNX_SUFFIX}"
        )
    if is_onnx:
        content = trained.export_onnx(seed, name)
    else:
        content = bytes(trained.export(seed, name).serialize())
    write_bytes(target, content)
    tables.write(
        console,
        f"{target}: {trained.algo}'s {name} of seed {seed} after {trained.step} updates, "
        f"{_question(trained)} to {_answer(trained)}, {amount(len(content))}",
    )
    if FLAGS.check:
        tables.write(console, _compared(trained, seed, name, target))
        tables.write(console, str(latency.measured(target)))


def _question(trained: Run) -> str:
    """What a file takes."""
    spec = trained.spec
    parts = [f"images {each.name!r} {'x'.join(map(str, each.shape))}" for each in spec.images]
    if spec.observation_dim or not parts:
        parts.append(f"{spec.observation_dim} observations")
    return ", ".join(parts)


def _answer(trained: Run) -> str:
    """What a file answers an observation with."""
    chunk = trained.action_chunk
    steps = f"the next {chunk.executed} actions of " if chunk.executed > 1 else ""
    numbers = trained.spec.action_dim // chunk.length
    return f"{steps}{numbers} {'numbers' if steps else 'actions'}"


def _episode(trained: Run, steps: int) -> Iterator[Any]:
    """Observations [ROWS, ...] for some steps: vectors like the data's, images of random blocks."""
    spec, rng = trained.spec, np.random.default_rng(0)
    for _ in range(steps):
        noise = rng.normal(size=(ROWS, spec.observation_dim))
        seen = spec.observation_mean + spec.observation_std * noise
        raw = trained.observation.invert(seen.astype(np.float32)).astype(np.float32)
        shown: dict[str, Any] = {}
        for each in spec.images:
            size = (ROWS, -(-each.height // BLOCK), -(-each.width // BLOCK), each.channels // steps)
            coarse = rng.integers(256, size=size, dtype=np.uint8)
            whole = coarse.repeat(BLOCK, 1).repeat(BLOCK, 2)
            shown[each.name] = whole[:, : each.height, : each.width]
        state = {STATE: raw} if spec.observation_dim else {}
        yield shown | state if shown else raw


def _compared(trained: Run, seed: int, name: str, file: Path) -> str:
    """Compares the file's actions with those of the run's own program; says how they agree.

    Raises:
        ExportError: if they differ in more than one row in ten, or are not finite.
    """
    import jax

    spec, policy = trained.spec, load_policy(file)
    program = jax.jit(trained.export(seed, name, [jax.default_backend()]).call)
    frames = FrameStack(policy.frame_stack)
    for raw in _episode(trained, policy.frame_stack):
        expected = np.asarray(program(frames.push(raw), np.uint32(1)))
        found = policy(raw, 1)
    box = np.abs(trained.action.scale) * (spec.action_high - spec.action_low)
    width = trained.action_chunk.answer(box)
    if not np.isfinite(found).all():
        raise ExportError(f"{file} answers observations like the data's with a NaN; do not use it")
    gaps = np.abs(found - expected) / np.where(width > 0, width, 1)
    gaps = gaps.reshape(ROWS, -1)
    apart = int((gaps.max(-1) > CLOSE).sum())
    if 10 * apart > ROWS:
        raise ExportError(f"{file} differs from the run's policy on {apart} of {ROWS} observations")
    text = f"same actions as the run's policy on {ROWS - apart} of {ROWS} observations"
    if apart:  # a policy that takes the best of several actions may find two equally good
        text += f" (on {apart} another of the actions that it chose among)"
    close = gaps[gaps.max(-1) <= CLOSE].max()
    return f"{text}, to {close:.1g} of an action's range; a NaN or a wrong shape is refused"
