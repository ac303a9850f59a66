"""Off-policy evaluation: estimates what trained policies are worth from recorded data alone.

Fitted Q evaluation takes every policy. Importance sampling and its doubly robust form also need two
densities: the policy's, and that of the behaviour, which is a policy of another run that was cloned
from the same data. All policies are evaluated on the same episodes, side by side.

A policy of action chunks that plays k actions before it looks again is evaluated on the chunks of k
actions in the data, with discount gamma^k: its value is that of the decisions that it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrl_prefs import data as datasets
from jaxrl_prefs.data import Dataset, Processing, layout
from jaxrl_prefs.errors import ConfigError, DataError
from jaxrl_prefs.estimation import fqe, importance
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import action_tables, fingerprints, overrides, workdir
from jaxrl_prefs.runs.evaluation_data import EvaluationData, evaluation_data
from jaxrl_prefs.runs.job import mesh_for
from jaxrl_prefs.runs.policy_values import NO_IMAGES, PolicyValue, PolicyValues, check_recording

ESTIMATORS = ("fqe", "wis", "dr")
DEFAULT = fqe.Config()
HOLDOUT = 0.1  # share of the episodes on which the Bellman error is measured
RESAMPLES = 200  # of the episodes, by importance sampling
GROUP_BYTES = 1_000_000_000  # of the tables of actions that are fitted at a time

Say = Callable[[str], None]


def settings(fields: Mapping[str, Any], assignments: Sequence[str] = ()) -> fqe.Config:
    """The settings of the fit, from Python's values or from `field=value`.

    Raises:
        ConfigError: for an unknown field, or a value that it does not take.
    """
    types = overrides.field_types(fqe.Config)
    for name in fields:
        if name not in types:
            raise ConfigError(overrides.unknown("field", name, types))
    checked = {name: overrides.check(name, x, types[name]) for name, x in fields.items()}
    return overrides.apply(overrides.replace(DEFAULT, checked), assignments)


class Entry(NamedTuple):
    """One policy of all seeds of a point, and its table of actions [S, ...]."""

    point: Any
    name: str
    actions: fqe.Actions


def estimate(
    points: Sequence[Any],
    data: Dataset | str | Path | None = None,
    *,
    estimator: str = "fqe",
    policies: Sequence[str] = (),
    holdout: float | None = None,
    gamma: float | None = None,
    behavior: Any = None,
    config: fqe.Config | None = None,
    say: Say = lambda text: None,
) -> PolicyValues:
    """Estimates the value of every policy of some points of a run.

    Args:
        points: of one dataset (`Run.estimate` passes its own).
        data: what to evaluate on; None takes the dataset that the run names.
        estimator: one of ESTIMATORS.
        policies: their names, or "all"; by default each point's headline, and for "wis" and "dr"
            the policies that have a density.
        holdout: share of the episodes that no Q function is fitted on; None takes the run's own
            split, or HOLDOUT.
        gamma: discount per step; None takes the run's.
        behavior: a point whose first policy with a density is the behaviour; for "wis" and "dr".
        config: of the Q functions.
        say: takes lines about progress.

    Raises:
        ConfigError: for an unknown estimator or policy, and where a density is missing.
        DataError: if the data cannot be loaded, or have other sizes than the policies.
    """
    if estimator not in ESTIMATORS:
        raise ConfigError(f"no estimator {estimator!r}; there are {', '.join(ESTIMATORS)}")
    first = points[0].about.get("run", {})
    config = config or DEFAULT
    recording = recording_of(points, data)
    gamma = float(first.get("gamma", 0.99) if gamma is None else gamma)
    share = (float(first.get("holdout", 0)) or HOLDOUT) if holdout is None else holdout
    sparse = _sparse(points)
    played = _played_together(points, estimator)
    used = evaluation_data(
        recording,
        bool(first.get("clip_actions")),
        gamma,
        share,
        config,
        sparse=sparse,
        played=played,
    )
    named = [(point, name) for point in points for name in _names(point, policies, estimator)]
    mu = None if estimator == "fqe" else _behavior(named, estimator, behavior)
    say(
        f"{estimator} of {sum(len(point.seeds) for point, _ in named)} policies on "
        f"{len(used.rows):,} rows of {used.episodes:,} episodes"
    )
    entries = [_entry(point, name, used, config) for point, name in named]
    with jax.default_matmul_precision("highest"):
        if mu is None:
            values = _by_fqe(entries, used, config, say)
        else:
            values = _by_weights(entries, used, config, gamma, estimator, mu, say)
    spread = used.data.action - used.data.action.mean(0)
    return PolicyValues(
        values,
        estimator=estimator,
        dataset=recording.name,
        gamma=gamma,
        recorded=(float(used.returns.mean()), float(used.returns.max())),
        data_distance=float(np.sqrt(np.square(spread).sum(-1).mean())),
    )


# --- The data -------------------------------------------------------------------------------------


def recording_of(points: Sequence[Any], data: Dataset | str | Path | None = None) -> Dataset:
    """The data to evaluate points on, as `estimate` takes it.

    Raises:
        ConfigError: if none are named and the points were trained on several datasets.
        DataError: if the data cannot be loaded, are not those that the points were trained on,
            have other sizes, or have no rewards; and for images.
    """
    if seeing := [point.algo for point in points if point.spec.images]:
        raise DataError(f"{seeing[0]} was trained on images{NO_IMAGES}")
    names = {str(point.about.get("run", {}).get("dataset", "")) for point in points}
    if data is None and len(names) > 1:
        raise ConfigError(
            f"the points were trained on several datasets ({', '.join(sorted(names))}): choose "
            "those of one, --point=dataset=NAME, or name the data to evaluate on, --dataset=NAME"
        )
    if isinstance(data, Dataset):
        found = data
    elif data is None and points[0].data is not None:
        found = points[0].data
    elif data is None:
        found = _own(points)
    else:
        found = datasets.load(data)
    if found.images:  # before sizes are compared
        check_recording(found)
    for point in points:
        sizes = (point.spec.observation_dim, point.spec.action_dim // point.chunk.length)
        if (found.observation.shape[1], found.action.shape[1]) != sizes:
            raise DataError(
                f"{found.name} has observations of {found.observation.shape[1]} and actions of "
                f"{found.action.shape[1]} dimensions; {point.algo} was trained with {sizes[0]} and "
                f"{sizes[1]}"
            )
        if point.about.get("layout"):  # not of an older release
            trained_on = layout.from_json(point.about["layout"], f"the config of {point.algo}")
            layout.check(trained_on, layout.of(found), (f"the data of {point.algo}", found.name))
    check_recording(found)
    return found


def _own(points: Sequence[Any]) -> Dataset:
    """The dataset that all points name, read as their runs read it."""
    about = points[0].about
    name, config = about["run"].get("dataset", ""), f"the config of {points[0].folder}"
    hints = datasets.hints_from_json(about.get("hints"), config)
    env = workdir.usable_env(about["run"].get("env"))
    try:
        found = datasets.load(name, hints=hints)
        if env and _stranger(points, found):  # its bounds of actions were those of --env
            found = datasets.load(name, env=env, hints=hints)
    except DataError as error:
        raise DataError(f"the run's own dataset, {error}; --dataset names another") from error
    if other := _stranger(points, found):
        raise DataError(
            f"{found.name} has changed since {other.folder} was trained on it, or was read in "
            f"another way (their checksums differ); --dataset={found.name} judges on it as it is"
        )
    return found


def _stranger(points: Sequence[Any], found: Dataset) -> Any:
    """The first point that was not trained on exactly these data, by their checksum, or None."""
    known: dict[Any, str] = {}
    for point in points:
        run = point.about["run"]
        fields = {name: run[name] for name in Processing._fields if name in run}
        expected = point.about.get("data", {}).get("sha256")
        share, n = float(run.get("holdout", 0)), int(run.get("n_step", 1))
        if not expected:  # of an older release
            continue
        key = (*fields.items(), share, n, point.chunk)
        if key not in known:
            try:
                prepared = datasets.split(datasets.prepare(found, Processing(**fields)), share)
                trained_on = datasets.multi_step(prepared, n, point.chunk)
            except DataError:  # such as actions that lie outside of other bounds
                return point
            known[key] = fingerprints.of(trained_on)
        if known[key] != expected:
            return point
    return None


def _sparse(points: Sequence[Any]) -> bool:
    """Whether the points were trained on rewards of -1 and 0 in place of the recorded ones.

    Raises:
        ConfigError: if some were and others were not.
    """
    found = {point.about.get("run", {}).get("reward") == "sparse" for point in points}
    if len(found) > 1:
        raise ConfigError(
            "some of the runs were trained with reward=sparse and others without: their values "
            "are of different rewards. Estimate them one at a time"
        )
    return found.pop()


def _played_together(points: Sequence[Any], estimator: str) -> int:
    """How many actions the policies play at a time.

    Raises:
        ConfigError: if they differ in it, or an estimator cannot take chunks.
    """
    found = {point.chunk.executed for point in points}
    if len(found) > 1:
        raise ConfigError(
            f"some policies look again after {min(found)} action(s) and others after {max(found)}: "
            "they are estimated from other rows. Estimate them one at a time"
        )
    if estimator != "fqe" and any(point.chunk.length > 1 for point in points):
        raise ConfigError(
            f"{estimator} weighs single actions, and these policies choose action chunks; "
            "--estimator=fqe takes every policy"
        )
    return found.pop()


# --- The policies ---------------------------------------------------------------------------------


def _names(point: Any, policies: Sequence[str], estimator: str) -> list[str]:
    known = point.method.policies
    if not policies and estimator == "fqe":
        return [point.headline]
    if not policies:
        return [name for name in known if known[name].log_density is not None]
    if "all" in policies:
        return list(known)
    if not (wanted := [name for name in policies if name in known]):
        raise ConfigError(f"no policy {policies[0]!r}; {point.algo} has {', '.join(known)}")
    return wanted


def _entry(point: Any, name: str, used: EvaluationData, config: fqe.Config) -> Entry:
    recording, width = used.dataset.recording, len(used.dataset.action.shift)

    def table(states: np.ndarray) -> np.ndarray:
        found = action_tables.actions(point, name, states, config.draws)[..., :width]
        return np.clip(used.dataset.action.apply(found), -1, 1).astype(np.float32)

    following = table(recording.next_observation[used.last])
    first = table(recording.observation[used.starts[used.data.first]])
    return Entry(point, name, fqe.Actions(following, first))


def _distances(entry: Entry, used: EvaluationData) -> np.ndarray:
    """Root mean square distance to the recorded actions of held-out episodes, by seed: [S]."""
    rows = used.dataset.transitions
    goes_on = np.asarray(rows.has_next_action)[used.rows] > 0
    at = np.flatnonzero(goes_on & used.held_out)
    at = at if len(at) else np.flatnonzero(goes_on)
    if not len(at):
        return np.full(len(entry.point.seeds), np.nan)
    recorded = np.asarray(rows.next_action[used.rows[at]])
    gap = entry.actions.following[:, at] - recorded[None, :, None]
    return np.sqrt(np.square(gap).sum(-1).mean((1, 2)))


# --- The estimators -------------------------------------------------------------------------------


def _by_fqe(
    entries: Sequence[Entry], used: EvaluationData, config: fqe.Config, say: Say
) -> list[PolicyValue]:
    found: dict[int, list[PolicyValue]] = {}
    for group in _together(entries):
        fitted, _, _ = _fitted([entries[number] for number in group], used, config, say)
        place = 0
        for number in group:
            entry = entries[number]
            for distance, seed in zip(_distances(entry, used), entry.point.seeds, strict=True):
                value = PolicyValue(
                    entry.point.settings,
                    entry.name,
                    seed,
                    fitted.members[place],
                    float(distance),
                    float(fitted.bellman[place]),
                    float(fitted.clipped[place]),
                )
                found.setdefault(number, []).append(value)
                place += 1
    return [value for number in range(len(entries)) for value in found[number]]


def _together(entries: Sequence[Entry]) -> list[list[int]]:
    """The numbers of the entries in groups, whose tables have one shape and fit into memory."""
    groups: list[list[int]] = []
    sizes: list[int] = []
    latest: dict[tuple[int, ...], int] = {}
    for number, entry in enumerate(entries):
        shape, own = entry.actions.following.shape[2:], entry.actions.following.nbytes
        place = latest.get(shape)
        if place is None or sizes[place] + own > GROUP_BYTES:
            place = latest[shape] = len(groups)
            groups.append([])
            sizes.append(0)
        groups[place].append(number)
        sizes[place] += own
    return groups


def _fitted(group: Sequence[Entry], used: EvaluationData, config: fqe.Config, say: Say) -> tuple:
    actions = fqe.Actions(
        *(np.concatenate([getattr(x.actions, k) for x in group]) for k in fqe.Actions._fields)
    )
    mesh = mesh_for(len(actions.first), devices.found())
    ten = max(config.updates // 10, 1)

    def progress(done: int) -> None:
        if done // ten != (done - 1) // ten or done % ten == 0:
            say(f"fitted {done:,} of {config.updates:,} updates for {len(actions.first)} policies")

    fitted = fqe.fit(
        used.data,
        actions,
        config,
        used.unit,
        mesh,
        held_out=used.held_out,
        progress=progress,
    )
    return fitted, actions, mesh


def _by_weights(
    entries: Sequence[Entry],
    used: EvaluationData,
    config: fqe.Config,
    gamma: float,
    estimator: str,
    behavior: tuple[Any, str],
    say: Say,
) -> list[PolicyValue]:
    recording = used.dataset.recording
    states, recorded = recording.observation[used.starts], recording.action[used.starts]
    density = action_tables.log_density(*behavior, states, recorded)
    assert density is not None
    log_mu = density[0]
    raw = recording.reward[used.starts].astype(np.float64)
    counts = np.random.default_rng(0).exponential(size=(RESAMPLES, used.episodes))
    found: list[PolicyValue] = []
    for entry in entries:
        log_pi = action_tables.log_density(entry.point, entry.name, states, recorded)
        if log_pi is None:
            say(
                f"skipped: {entry.point.algo}/{entry.name} has no action density, which "
                f"{estimator} needs"
            )
            continue
        zeros = np.zeros((len(entry.point.seeds), len(raw)))
        q, after, start = zeros, zeros, np.zeros((len(log_pi), used.episodes))
        if estimator == "dr":
            fitted, actions, mesh = _fitted([entry], used, config, say)
            q, after = fqe.row_values(fitted, used.data, actions, config, used.unit, mesh)
            start = fqe.first_values(fitted, used.data, actions, config, used.unit, mesh)
            after = after * used.data.discount
        distances = _distances(entry, used)
        for own, seed in enumerate(entry.point.seeds):
            rows = (log_pi[own] - log_mu, raw, q[own], after[own], np.ones(len(raw), bool))
            steps = importance.Steps(*(importance.padded(x, used.data.episode) for x in rows))
            value = importance.weighted(steps, start[own], gamma, counts)
            found.append(
                PolicyValue(
                    entry.point.settings,
                    entry.name,
                    seed,
                    value.members,
                    float(distances[own]),
                    effective=value.effective,
                )
            )
    return found


def _behavior(named: Sequence[tuple[Any, str]], estimator: str, behavior: Any) -> tuple[Any, str]:
    """The behaviour with a density: a policy of the run that was named, or of the run itself."""
    if all(point.method.policies[name].log_density is None for point, name in named):
        raise ConfigError(
            f"{estimator} needs a policy that draws from a density, and none of these does; "
            "--estimator=fqe takes every policy"
        )
    where = [behavior] if behavior is not None else [point for point, _ in named]
    for point in where:
        for name, policy in point.method.policies.items():
            if policy.log_density is not None and (behavior is not None or name == "behavior"):
                return point, name
    raise ConfigError(
        "wis and dr need a density of the behaviour: train bc with --set policy=gaussian on the "
        "same data, and name its folder by --behavior"
    )
