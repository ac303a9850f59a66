"""How good ARQ's samplers are, beside the number of score evaluations that they take.

    python -m benchmarks.quality --figure=samplers.png
    python -m benchmarks.quality --dataset=hopper/medium-v0 --figure=samplers.png
    python -m benchmarks.quality --dataset=hopper/medium-v0 --precision=bfloat16

First with the exact score of two modes of weights .7 and .3: the weight found, and the standard
deviation of the samples divided by the mode's. Then, with --dataset, with a score model that is
trained on it: the share of samples that the threshold on the log-density keeps, and the mean
log-density, both under the model. The log-density comes by 32 evaluations, in
float32 whatever the precision of training and sampling.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from jaxrl_prefs import data
from jaxrl_prefs.behavior import score
from jaxrl_prefs.cli import commandline
from jaxrl_prefs.errors import ConfigError, DataError
from jaxrl_prefs.method import PRECISIONS, with_precision
from jaxrl_prefs.methods import arq
from jaxrl_prefs.ops import mixtures, samplers
from jaxrl_prefs.ops.mixtures import Mixture
from jaxrl_prefs.parallel import devices, seed_axis
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.training import loop
from jaxrl_prefs.types import Spec, Transition

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_integer("samples", 20_000, "of each mixture", lower_bound=100, **_OWN)
flags.DEFINE_string("dataset", "", "also a model of this one, as experiments.run takes it", **_OWN)
flags.DEFINE_integer("states", 96, "of the dataset, 16 samples each", lower_bound=2, **_OWN)
flags.DEFINE_multi_string("set", [], "field=value of ARQ, for the model", **_OWN)
flags.DEFINE_enum("precision", "float32", list(PRECISIONS), "of the model's networks", **_OWN)
flags.DEFINE_string("figure", "", "a picture to write", **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)

Changes = Mapping[str, Any]
CASES: dict[str, tuple[int, Changes]] = {  # evaluations of the score, fields of ARQ
    "few steps": (24, {"sampler": "few_step", "sampler_steps": 24}),
    "500 steps, predictor alone": (500, {"sampler": "predictor"}),
    "500 steps, corrector, batch norms": (1000, {"norms": "batch"}),
    "500 steps, corrector, own norms (published)": (1000, {}),
}
FEW = (8, 10, 12, 16, 20, 24, 32, 48)  # evaluations of the few-step sampler
WEIGHT = 0.7  # of the first mode
PER_STATE = 16
MODEL: Changes = {  # ours, for a CPU
    "policies": ("behavior",),
    "behavior_width": 128,
    "behavior_blocks": 2,
    "behavior_batch_size": 256,
    "behavior_learning_rate": 5e-4,
    "pretrain_steps": 8_000,
    "density": "fixed",
}


class Exact(NamedTuple):
    """What a sampler makes of an exact score."""

    samples: np.ndarray  # [N, A]
    weight: float  # of the first mode
    spread: float  # root mean square deviation from the nearest mode, over the mode's


class Learned(NamedTuple):
    """What a sampler makes of a learned one."""

    log_density: np.ndarray  # [N], of its samples
    seconds: float  # of all threads, compilation included


def solver(changes: Changes) -> score.Solver:
    """The sampler that ARQ builds from these fields."""
    one = np.ones(1, np.float32)
    spec = Spec(1, 1, 10, -one, one, 0 * one, one, 0 * one, one)
    return arq.build(overrides.replace(arq.Config(), changes), spec).sampler


def exact(mixture: Mixture, changes: Changes, count: int) -> Exact:
    """Draws from a mixture by its exact score."""
    size, sampler = mixture.means.shape[1], solver(changes)

    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        start_key, noise_key = jax.random.split(key)
        start = jax.random.normal(start_key, (count, size))
        return sampler.solve(mixture.score, start, samplers.normal_noise(noise_key, start))

    drawn = np.asarray(draw(jax.random.key(0)))
    share, spread = mixture.mode_statistics(drawn)
    return Exact(drawn, float(share[0]), float(np.sqrt(share @ spread**2)))


def learn(dataset: str, assignments: Sequence[str]) -> tuple[arq.Config, Spec, Transition, Any]:
    """Trains ARQ's score model on a dataset; returns what it was made from, and its parameters.

    Raises:
        ConfigError, DataError: for a field or dataset that does not fit.
    """
    config = overrides.apply(overrides.replace(arq.Config(), MODEL), assignments)
    recording = data.load(dataset)
    prepared = data.prepare(recording, data.defaults(recording.family))
    rows, spec = prepared.transitions, prepared.spec
    mesh = seed_axis.seed_mesh(jax.devices()[:1])
    method = with_precision(arq.make(config, spec), FLAGS.precision)
    for log_point in loop.run(method, rows, [0], mesh, every=1_000):
        state = log_point.state
    return config, spec, rows, seed_axis.one(state, 0).behavior.target


def learned(
    config: arq.Config, spec: Spec, observation: jax.Array, params: Any, changes: Changes
) -> Learned:
    """Draws from a learned score, and scores the samples by the learned log-density."""
    parts = arq.build(overrides.replace(config, changes), spec)
    keys = jax.random.split(jax.random.key(1), len(observation))

    @jax.jit
    def draw(observation: jax.Array) -> jax.Array:
        return score.sample(parts.model, params, observation, keys, PER_STATE, parts.sampler)

    @jax.jit
    def density(observation: jax.Array, y: jax.Array) -> jax.Array:
        return score.log_density(parts.model, params, observation, y, parts.density)

    start = time.process_time()
    with jax.default_matmul_precision(PRECISIONS[FLAGS.precision]):
        y = jax.block_until_ready(draw(observation))
    seconds = time.process_time() - start
    with jax.default_matmul_precision(PRECISIONS["float32"]):
        found = np.asarray(density(observation, y))
    return Learned(found.ravel(), seconds)


def tell(
    space: Mapping[str, Exact],
    few: Mapping[int, Exact],
    models: Mapping[str, Learned],
    threshold: float,
) -> Table:
    """The table of both parts, and the few-step sampler with other numbers of evaluations."""
    table = Table(title=f"the exact first mode has weight {WEIGHT}, the exact standard deviation 1")
    for name in ("sampler", "evaluations", "weight", "std", "kept", "log-density", "CPU-s"):
        table.add_column(name, justify="left" if name == "sampler" else "right")
    for name, found in space.items():
        quality = []
        if name in models:
            density = models[name].log_density
            kept, mean = (density > threshold).mean(), density.mean()
            quality = [f"{kept:.1%}", f"{mean:.2f}", f"{models[name].seconds:.1f}"]
        table.add_row(
            name, f"{CASES[name][0]}", f"{found.weight:.3f}", f"{found.spread:.3f}", *quality
        )
    for steps, found in few.items():
        table.add_row("few steps", f"{steps}", f"{found.weight:.3f}", f"{found.spread:.3f}")
    return table


def draw_figure(
    path: Path,
    line: Mapping[str, Exact],
    few: Mapping[int, Exact],
    space: Mapping[str, Exact],
    models: Mapping[str, Learned],
    threshold: float,
) -> None:
    """Densities in one dimension; standard deviations in three; log-densities under the model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * (2 + bool(models)), 4), layout="constrained")
    left, middle, *right = np.atleast_1d(figure.subplots(1, 2 + bool(models)))
    x = np.linspace(-1.3, 1.3, 261)
    density = mixtures.pair(1).log_density(jnp.float32(x)[:, None])
    left.plot(x, np.exp(np.asarray(density)), color="black", label="exact")
    for name, found in line.items():
        left.hist(found.samples[:, 0], x[::2], density=True, histtype="step", label=name)
    left.set(title="exact score, one dimension", xlabel="y", ylabel="density")
    left.legend(fontsize=7)
    middle.plot(list(few), [found.spread for found in few.values()], "o-", label="few steps")
    for name, found in list(space.items())[1:]:
        middle.plot(CASES[name][0], found.spread, "o", label=name)
    middle.axhspan(0.95, 1.05, color="black", alpha=0.1)
    middle.set(xscale="log", xlabel="evaluations of the score", ylabel="standard deviation / exact")
    middle.set_title("exact score, three dimensions")
    middle.legend(fontsize=7)
    for panel in right:
        for name, model in models.items():
            shown = model.log_density.clip(-15, 5)
            panel.hist(shown, np.linspace(-15, 5, 61), histtype="step", label=name)
        panel.axvline(threshold, color="black", linestyle=":")
        panel.set(title=f"model of {FLAGS.dataset}", xlabel="log-density", ylabel="samples")
    figure.savefig(path, dpi=110)


def report(console: Console) -> None:
    """Measures, prints and draws."""
    count, settings = FLAGS.samples, arq.Config()
    models: dict[str, Learned] = {}
    if FLAGS.dataset:
        settings, spec, rows, params = learn(FLAGS.dataset, FLAGS.set)
        chosen = np.random.default_rng(0).choice(len(rows.reward), FLAGS.states, replace=False)
        observation = jnp.asarray(rows.observation[chosen])
        models = {
            name: learned(settings, spec, observation, params, changes)
            for name, (_, changes) in CASES.items()
        }
    line, space = (
        {name: exact(mixtures.pair(size), changes, count) for name, (_, changes) in CASES.items()}
        for size in (1, 3)
    )
    few = {
        steps: exact(mixtures.pair(3), {"sampler": "few_step", "sampler_steps": steps}, count)
        for steps in FEW
    }
    console.print(tell(space, few, models, settings.threshold))
    if FLAGS.figure:
        draw_figure(Path(FLAGS.figure), line, few, space, models, settings.threshold)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 2 wrong use."""
    try:
        commandline.read(FLAGS, argv)
        if FLAGS.help:
            print(commandline.usage(__doc__, FLAGS))
            return 0
        for name in ("set", "precision"):
            if FLAGS[name].present and not FLAGS.dataset:
                raise ConfigError(f"--{name} is for the model of a --dataset")
        devices.prepare()
        report(Console(width=110))
    except (flags.Error, ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
