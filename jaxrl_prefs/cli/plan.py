"""What a run will need, without running it: memory, operations, time.

    jaxrl-prefs plan --algo=bdpo --dataset=pendulum-mixed --seeds=64 --devices=4 --rate=20

Operations are those of matrix products, read off the updates' programs. The time is for --devices
that sustain --rate TFLOP/s each; without --rate, updates of one seed are timed here, for a second
or two, and the devices are taken to be like this one. Evaluations come on top.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.cli.flops import update_flops
from jaxrl_prefs.method import Method, Phase
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.rows import first_rows
from jaxrl_prefs.runs import config, tables
from jaxrl_prefs.runs.config import Choice

FLAGS = flags.FlagValues()
commandline.define_flags(
    FLAGS,
    algo="bdpo",
    dataset="pendulum-mixed",
    env="",
    trust_env=False,
    **commandline.HINTS,
    seeds="5",
    preset="",
    set=(),
)
commandline.define_flags(FLAGS, devices=1, rate=0.0, help=False)


FEW = 100_000  # rows in mapped files that stand for all where a program's size is asked


class Stretch(NamedTuple):
    """One phase."""

    name: str
    steps: int
    flops: float  # of one update, of one seed unless shared
    temporary: int  # bytes, of the compiled program of one update
    seconds: float  # of one update
    shared: bool = False  # one update serves all seeds
    fills: bool = False  # it fills columns of the data


class Plan(NamedTuple):
    """What a run needs."""

    seeds: int
    devices: int
    state: int  # bytes of one seed's state
    data: int  # bytes, on every device
    columns: int  # bytes of all seeds' columns on the host
    stretches: tuple[Stretch, ...]

    @property
    def rounds(self) -> int:
        """Seeds on one device."""
        return math.ceil(self.seeds / self.devices)

    @property
    def flops(self) -> float:
        """Operations of the whole run, all seeds."""
        return sum(
            phase.steps * phase.flops * (1 if phase.shared else self.seeds)
            for phase in self.stretches
        )

    @property
    def seconds(self) -> float:
        """The run's time, evaluations left out."""
        return sum(self.seconds_of(phase) for phase in self.stretches)

    def seconds_of(self, phase: Stretch) -> float:
        """A phase's time.

        Devices divide the seeds. One device trains what all seeds share; if that is columns, all
        devices divide their batches.
        """
        return self._turns(phase) * phase.steps * phase.seconds

    def _turns(self, phase: Stretch) -> float:
        """Updates that one device makes for a step of the phase."""
        if not phase.shared:
            return self.rounds
        return 1 / self.devices if phase.fills else 1

    def device_bytes(self, side_by_side: bool) -> int:
        """State, data and temporaries on one device, its seeds side by side or in turn."""
        temporary = (
            phase.temporary * (self.rounds if side_by_side and not phase.shared else 1)
            for phase in self.stretches
        )
        return self.data + self.rounds * self.state + max(temporary, default=0)


def plan(choice: Choice, devices: int, rate: float, *, rows: int = 0, memory: bool = True) -> Plan:
    """Plans a choice on `devices` that sustain `rate` FLOP/s each; 0 measures on this one.

    Args:
        choice: what to train on which data.
        devices: over how many the seeds are spread.
        rate: FLOP/s.
        rows: plan for data of so many transitions; 0 for as many as there are.
        memory: compile the programs, which tells their temporary memory; without it that is 0.

    Raises:
        ConfigError, DataError: for errors that the user can correct.
    """
    import jax

    from jaxrl_prefs.runs import prepare
    from jaxrl_prefs.runs.load import abstract_state, config_of
    from jaxrl_prefs.runs.memory import column_bytes
    from jaxrl_prefs.runs.methods import bound

    with tempfile.TemporaryDirectory() as folder:
        job, _ = prepare.prepare(choice, Path(folder))
    method, data, spec = job.method, job.dataset.transitions, job.dataset.spec
    here, size = len(data.reward), sum(x.nbytes for x in jax.tree.leaves(data))
    data = first_rows(data, FEW)
    if rows:
        spec = spec._replace(size=rows)
        fields = config_of(job.module.Config, job.fields)
        method = bound(job.module, fields, spec, dataclasses.asdict(job.config))
    member = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), abstract_state(method, spec, 1)
    )
    return Plan(
        seeds=len(job.seeds),
        devices=devices,
        state=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(member)),
        data=size * spec.size // here,
        columns=sum(column_bytes(method, spec.size, len(job.seeds)).values()),
        stretches=tuple(_stretches(method, data, member, job.seeds[:1], rate, memory)),
    )


def _stretches(
    method: Method, data: Any, member: Any, seeds: tuple[int, ...], rate: float, memory: bool
) -> Iterator[Stretch]:
    """The phases that have updates; arguments as for `plan`, and the shapes of a seed's state."""
    import jax

    from jaxrl_prefs.parallel import seed_axis
    from jaxrl_prefs.runs import estimate
    from jaxrl_prefs.training import chunk, loop

    mesh = seed_axis.seed_mesh(jax.local_devices()[:1])
    placement = chunk.SeedPlacement(seeds, mesh)
    measured: dict[str, float] = {}
    if not rate:
        measured = estimate.seconds_per_update(method, data, placement.seeds, mesh, "auto")
    state = loop.init_members(method, data, placement) if memory else None
    for index, phase in enumerate(method.phases):
        if not phase.steps:
            continue
        columns = estimate.empty_columns(method, index, 1, len(data.reward))
        flops, temporary = _flops(phase, data, member, columns), 0
        if memory:
            about: dict[str, Any] = {"state": state, "columns": columns}
            program = chunk.compile_chunk(method, index, data, placement, **about)
            temporary = program.compiled.memory_analysis().temp_size_in_bytes
        seconds = flops / rate if rate else measured.get(phase.name, 0.0)
        yield Stretch(
            phase.name,
            phase.steps,
            flops,
            temporary,
            seconds,
            shared=bool(phase.shared),
            fills=bool(phase.columns),
        )


def _flops(phase: Phase, data: Any, state: Any, columns: Mapping[str, Any]) -> float:
    """Operations of one update of one seed."""
    import jax

    from jaxrl_prefs.training import program

    batch = jax.eval_shape(
        program.take,
        data,
        jax.ShapeDtypeStruct((phase.batch_size,), "int32"),
        {name: x if x.shape[0] == len(data.reward) else x[0] for name, x in columns.items()},
    )
    return update_flops(phase.update, state, batch, jax.random.key(0), period=phase.period)[0]


def phase_table(found: Plan) -> list[list[str]]:
    """A row for each phase, below a head."""
    from jaxrl_prefs.runs.estimate import duration
    from jaxrl_prefs.runs.memory import amount

    body = [
        [
            phase.name,
            f"{phase.steps:,}",
            f"{phase.flops / 1e9:.3g}",
            amount(phase.temporary),
            duration(found.seconds_of(phase)),
        ]
        for phase in found.stretches
    ]
    return [["phase", "updates", "GFLOP per update", "temporary", "time"], *body]


def summary(found: Plan) -> list[str]:
    """What all phases come to."""
    from jaxrl_prefs.runs.estimate import duration
    from jaxrl_prefs.runs.memory import amount

    in_turn, batched = (amount(found.device_bytes(side)) for side in (False, True))
    lines = [
        f"state: {amount(found.state)} for each seed, {amount(found.seeds * found.state)} in all",
        f"data: {amount(found.data)} on every device",
        f"a device with {found.rounds} seeds: {in_turn} with the seeds in turn (a CPU), {batched} "
        "with all side by side (an accelerator)",
        f"the whole run: {found.flops / 1e15:.3g} PFLOP, {duration(found.seconds)} on "
        f"{found.devices} device(s), evaluations left out",
    ]
    if found.columns:
        lines.insert(2, f"columns: {amount(found.columns)} on the host and on the disk")
    return lines


@commandline.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, or 2 for wrong use."""
    console = commandline.console()
    commandline.read(FLAGS, argv)
    if FLAGS.help:
        tables.write(console, commandline.usage(__doc__, FLAGS, argv))
        return 0
    seeds = config.parse_seeds(FLAGS.seeds)
    choice = Choice(
        FLAGS.algo,
        FLAGS.dataset,
        FLAGS.env,
        seeds,
        commandline.assignments(FLAGS),
        FLAGS.trust_env,
        hints=commandline.hints(FLAGS),
    )
    config.check(choice)
    devices.prepare()
    found = plan(choice, FLAGS.devices, 1e12 * FLAGS.rate)
    tables.show(console, "", phase_table(found))
    for text in summary(found):
        tables.write(console, text)
    return 0
