"""Outputs of a phase, kept beside the checkpoints, so that another run can start after it.

    phases/behavior/   the fields that phase "behavior" outputs, of every seed, as it ended

A run starts after a phase of another run in two ways. With `--init=RUN:phase` the user says so: the
other run must have the same data, network sizes and at least these seeds, and the same method or an
identical phase. Its other settings may differ. Runs of a comparison or a sweep find each other
(`donors`): one takes from another exactly what it would have computed itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrl_prefs.data import Processing
from jaxrl_prefs.errors import CheckpointError, CheckpointMismatch, ConfigError, WorkdirError
from jaxrl_prefs.method import Method, Phase, State
from jaxrl_prefs.parallel import processes, seed_axis
from jaxrl_prefs.runs import renamed
from jaxrl_prefs.runs.checkpoints import Checkpoints
from jaxrl_prefs.runs.job import Job
from jaxrl_prefs.runs.load import abstract_state, config_of
from jaxrl_prefs.runs.methods import known_method
from jaxrl_prefs.runs.workdir import CONFIG, INIT, PHASES, check_file, read_json, write_json
from jaxrl_prefs.training import comparison, loop, sharing
from jaxrl_prefs.training.chunk import SeedPlacement
from jaxrl_prefs.training.sweep import SweptUpdate
from jaxrl_prefs.types import Spec

# What is looked up in another run's config.json: {section: {field: its type}}.
NEEDED: dict[str, dict[str, type]] = {
    "run": {"algo": str, "seeds": list, "mapping": str},
    "data": {"name": str, "sha256": str},
    "method": {},
    "versions": {},
}
SWEPT = "inner."  # where a sweep's member has a field of its method's state

PhaseOutput = dict[str, Any]  # field of a method's state -> leaves [S, ...]


class Source(NamedTuple):
    """A phase of another run, and the place of each of its seeds."""

    folder: Path
    number: int  # of the phase
    seeds: tuple[int, ...]


# --- Keeping --------------------------------------------------------------------------------------


def keep(folder: Path, job: Job, name: str, step: int, state: State) -> None:
    """Writes the outputs of phase `name`, from the state [M, ...] at its end.

    In a sweep, the first point's members are kept, provided the phase reads no swept field.
    """
    phase = next(phase for phase in job.method.phases if phase.name == name)
    if not phase.outputs or (job.points and not _identical(phase)):
        return
    output = {path.removeprefix(SWEPT): sharing.field(state, path) for path in phase.outputs}
    members = len(job.config.seeds)  # those of the first point
    write(folder, name, step, jax.tree.map(lambda leaf: leaf[:members], output), job.config.seeds)


def _identical(phase: Phase) -> bool:
    return isinstance(phase.update, SweptUpdate) and phase.update.identical


def write(folder: Path, name: str, step: int, output: PhaseOutput, seeds: Sequence[int]) -> None:
    """Writes the outputs of phase `name`, of update `step`; a reader sees all of them or none."""
    about = {"seeds": list(seeds), "step": step}
    with Checkpoints(folder / PHASES / name, keep=1, metadata=about) as checkpoints:
        checkpoints.save(step, output)


def read(
    folder: Path, method: Method, spec: Spec, index: int
) -> tuple[PhaseOutput, tuple[int, ...], int]:
    """Returns the outputs of phase `index` in a run's folder, their seeds, and the step.

    Raises:
        FileNotFoundError: if nothing is there.
        CheckpointError: if it is damaged, or holds arrays of other sizes than `method` has.
    """
    phase = method.phases[index]
    place = folder / PHASES / phase.name
    if not place.is_dir():
        raise FileNotFoundError(place)
    with Checkpoints(place) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise FileNotFoundError(place)
        try:
            seeds = tuple(checkpoints.metadata(step)["seeds"])
        except (LookupError, TypeError) as error:
            raise CheckpointError(f"{place} is damaged: it does not say its seeds") from error
        state = abstract_state(method, spec, len(seeds))
        abstract = {path.removeprefix(SWEPT): sharing.field(state, path) for path in phase.outputs}
        found = checkpoints.restore(abstract)
    assert found is not None
    return found[0], seeds, found[1]


# --- Finding --------------------------------------------------------------------------------------


def given(text: str, path: Path, job: Job, about: Mapping[str, Any]) -> dict[str, Any]:
    """The section `init` of config.json for `--init=text`; empty without one.

    Where the other run is gone, a run that has begun keeps the section that it has.

    Raises:
        ConfigError: if this run cannot start from the run named; the message says why.
    """
    if not text:
        return {}
    folder, name = _split(text)
    if not (folder / CONFIG).exists():
        known = _recorded(path)
        if known.get("run") == text:
            return known
        raise ConfigError(f"--init={text}: there is no run in {folder}")
    source = _source(text, folder, name, job, about)
    output, seeds, _ = _read(text, source, job)
    whole = _for_all(job.method.phases[source.number])
    digests = {str(s): _digest(output, 0 if whole else seeds.index(s)) for s in job.config.seeds}
    return {"run": text, "phase": job.method.phases[source.number].name, "sha256": digests}


def _split(text: str) -> tuple[Path, str]:
    """`RUN:phase` as its parts; a folder may have a colon in its name."""
    folder, colon, name = text.rpartition(":")
    if colon and name.isidentifier() and not Path(text).exists():
        return Path(folder).expanduser(), name
    return Path(text).expanduser(), ""


def _recorded(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path / CONFIG).get("init") or {})
    except (OSError, WorkdirError, TypeError, ValueError):
        return {}


def _source(text: str, folder: Path, name: str, job: Job, about: Mapping[str, Any]) -> Source:
    """Checks everything that needs no arrays; raises ConfigError."""
    try:
        other, whole = _config(folder), job.method.phases
    except WorkdirError as error:
        raise ConfigError(f"--init={text}: {error}") from error
    algo, own = other["run"]["algo"], about["run"]["algo"]
    can = [phase.name for phase in whole if phase.outputs]
    index = _index(whole, name or next(iter(can), ""))
    if index is None or not whole[index].outputs:
        lacking = f"no phase of {own} stores a"
        if name and can:
            lacking = f"phase {name!r} of {own} stores no"
        others = f"; these do: {', '.join(can)}" if can else ""
        raise ConfigError(f"--init={text}: {lacking} state that another run can start from{others}")
    phase = whole[index].name
    if algo != own and not _same_phase(other, job, index):
        raise ConfigError(
            f"--init={text}: that is a run of {algo}, whose phase {phase!r} differs from that "
            f"of {own}; name a run of {own}"
        )
    if other["data"]["sha256"] != about["data"]["sha256"]:
        of_data = (*Processing._fields, "holdout", "n_step", "action_chunk")
        fields = [x for x in of_data if other["run"].get(x) != about["run"][x]]
        more = f" ({', '.join(fields)})" if other["data"]["name"] == about["data"]["name"] else ""
        processed = "the same data, processed differently" if more else "other data"
        raise ConfigError(
            f"--init={text}: that run was trained on {processed}{more}: {other['data']['name']}"
        )
    if not (folder / PHASES / phase).is_dir():
        raise ConfigError(
            f"--init={text}: the run has kept no state of phase {phase!r}. It has not reached the "
            "end of the phase, or an earlier release trained it"
        )
    return Source(folder, index, ())


def _config(folder: Path) -> dict[str, Any]:
    """The config.json of another run, with all that is looked up in it.

    Raises:
        WorkdirError: if it is damaged.
    """
    path = folder / CONFIG
    check_file(path)
    try:
        about = json.loads(path.read_text())
    except ValueError:
        about = {}
    for section, fields in NEEDED.items():
        found = about.get(section) if isinstance(about, dict) else None
        for name, kind in fields.items():
            if not isinstance(found, dict) or not isinstance(found.get(name), kind):
                raise WorkdirError(f"{path} is damaged: it has no {section}.{name}")
        if not isinstance(found, dict):
            raise WorkdirError(f"{path} is damaged: it has no section {section!r}")
    return renamed.present(about)


def _index(phases: Sequence[Phase], name: str) -> int | None:
    return next((place for place, phase in enumerate(phases) if phase.name == name), None)


def _read(text: str, source: Source, job: Job) -> tuple[PhaseOutput, tuple[int, ...], int]:
    """As `read`, with errors that name the flag."""
    try:
        output, seeds, step = read(source.folder, job.method, job.dataset.spec, source.number)
    except CheckpointMismatch as error:
        raise ConfigError(
            f"--init={text}: that run has other sizes than this one ({error})"
        ) from error
    except (CheckpointError, FileNotFoundError) as error:
        raise ConfigError(f"--init={text}: {error}") from error
    missing = [str(seed) for seed in job.config.seeds if seed not in seeds]
    if missing and not _for_all(job.method.phases[source.number]):
        raise ConfigError(
            f"--init={text}: that run has no seed {', '.join(missing)}; it has "
            f"{', '.join(map(str, seeds))}"
        )
    return output, seeds, step


def _digest(output: PhaseOutput, place: int) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(output):
        digest.update(np.ascontiguousarray(leaf[place]).data)
    return digest.hexdigest()


# --- Starting -------------------------------------------------------------------------------------


def begin(job: Job, init: Mapping[str, Any], state: State) -> tuple[State, int] | None:
    """The state after a phase that another run has trained, and the step; None for none.

    Args:
        job: what is trained.
        init: section `init` of config.json; without one, `job.donors` are looked through.
        state: fresh members [M, ...], as numpy arrays.

    Raises:
        ConfigError: if the run that `init` names cannot be read any more, or holds another state.
    """
    found = _given_source(job, init) if init else _donor(job)
    if found is None:
        return None
    source, output = found
    phase = job.method.phases[source.number]
    places = {s: 0 if _for_all(phase) else source.seeds.index(s) for s in job.config.seeds}
    told = {
        "run": init.get("run", str(source.folder)),
        "phase": phase.name,
        "sha256": {str(seed): _digest(output, place) for seed, place in places.items()},
    }
    if init and told["sha256"] != init["sha256"]:
        raise ConfigError(f"--init={init['run']} holds another state than when this run was begun")
    processes.run_on_leader(lambda: write_json(job.path / INIT, told))
    members = [places[seed] for seed in job.seeds]
    for path in phase.outputs:
        part = jax.tree.map(lambda leaf: leaf[members], output[path.removeprefix(SWEPT)])
        state = sharing.replace_field(state, path, part)
    step = sum(phase.steps for phase in job.method.phases[: source.number + 1])
    if step:  # at update 0 the loop enters them
        placement = SeedPlacement(job.seeds, job.mesh, job.config.mapping)
        state = seed_axis.pad(state, job.mesh)
        state = loop.enter_empty_phases(job.method, source.number + 1, state, placement)
        state = seed_axis.trim(state, len(job.seeds))
    return state, step


def _given_source(job: Job, init: Mapping[str, Any]) -> tuple[Source, PhaseOutput]:
    folder, _ = _split(init["run"])
    index = _index(job.method.phases, init["phase"])
    if index is None or not (folder / CONFIG).exists():
        raise ConfigError(f"--init={init['run']}: there is no run in {folder}")
    output, seeds, _ = _read(init["run"], Source(folder, index, ()), job)
    return Source(folder, index, seeds), output


def _donor(job: Job) -> tuple[Source, PhaseOutput] | None:
    """The latest phase that a donor has trained as this run would."""
    for index in reversed(range(len(job.method.phases))):
        phase = job.method.phases[index]
        if not phase.outputs or not phase.steps or (job.points and not _identical(phase)):
            continue
        for folder in job.donors:
            found = processes.run_on_leader(lambda f=folder, i=index: _fits(f, job, i))  # type: ignore[misc]
            if not found:
                continue
            try:
                output, seeds, _ = read(folder, job.method, job.dataset.spec, index)
            except (CheckpointError, FileNotFoundError):  # it is trained here, then
                continue
            return Source(folder, index, seeds), output
    return None


def _fits(folder: Path, job: Job, index: int) -> bool:
    """Whether a phase of the run in a folder gave what it would give here, bit for bit."""
    phase = job.method.phases[index]
    if not (folder / PHASES / phase.name).is_dir() or folder == job.path:
        return False
    try:
        other, own = _config(folder), _config(job.path)
    except (OSError, WorkdirError):
        return False
    one, two = (_circumstances(about) for about in (other, own))
    seeds = _for_all(phase) or set(other["run"]["seeds"]) >= set(job.config.seeds)
    if one != two or not seeds or other.get("init"):
        return False
    return _same_phase(other, job, index)


def _circumstances(about: Mapping[str, Any]) -> list[Any]:
    """What rounding depends on, besides the program."""
    versions = [about["versions"].get(name) for name in ("jax", "jaxlib", "platform", "devices")]
    run = about["run"]
    rounding = run.get("precision", "float32"), run.get("deterministic", False)
    return [about["data"]["sha256"], run["mapping"], *rounding, *versions]


def _for_all(phase: Phase) -> bool:
    """Whether the phase gives every seed the same result."""
    return set(phase.outputs) <= set(phase.shared)


def _same_phase(other: Mapping[str, Any], job: Job, index: int) -> bool:
    """Whether a run's phase of that number outputs the same numbers as this job's."""
    module = known_method(other["run"]["algo"]) or (
        job.module if other["run"]["algo"] == job.config.algo else None
    )
    if module is None:
        return False
    try:
        theirs = _digest_of(module, {**other["method"], **_first_point(other)}, job, index)
        mine = _digest_of(job.module, {**job.fields, **_own_point(job)}, job, index)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):  # no such phase there
        return False
    return bool(mine) and mine == theirs


def _first_point(other: Mapping[str, Any]) -> dict[str, float]:
    return {name: values[0] for name, values in (other.get("sweep") or {}).items()}


def _own_point(job: Job) -> dict[str, float]:
    return dict(job.points[0]) if job.points else {}


_DIGESTS: dict[str, str] = {}  # of what this process has compared before


def _digest_of(module: Any, fields: Mapping[str, Any], job: Job, index: int) -> str:
    spec = job.dataset.spec
    text = json.dumps(fields, sort_keys=True, default=list)
    name = f"{getattr(module, '__name__', module)} {index} {text} {spec}"
    if name not in _DIGESTS:
        method = module.make(config_of(module.Config, fields), spec)
        _DIGESTS[name] = comparison.phase_digest(method, index, spec)
    return _DIGESTS[name]
