"""A trained run in Python: its scores, its policies, its curves.

`train` and `load_run` return a `Run`. It has one point, or several: those of a sweep, or the runs
of a comparison. Every point has its seeds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.export
import numpy as np

from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.data.transforms import SINGLE, ActionChunk, Affine
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import ExportError, LoadError, restated
from jaxrl_prefs.method import Method, State
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import statistics
from jaxrl_prefs.runs.actor import Actor
from jaxrl_prefs.runs.export import PLATFORMS, exported
from jaxrl_prefs.runs.workdir import EVALUATIONS, METRICS, TIMINGS, write_bytes
from jaxrl_prefs.types import Array, Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxrl_prefs.runs.policy_values import PolicyValues

ROWS = (METRICS, EVALUATIONS, TIMINGS)
Row = Mapping[str, Any]
Settings = dict[str, Any]  # what tells a point from the others: {"alpha": 2.5}


@contextlib.contextmanager
def damage_is_named(place: Path | str) -> Iterator[None]:
    """Raises whatever a folder's files bring about as a LoadError that names the folder."""
    try:
        yield
    except LoadError:
        raise
    except Exception as error:  # files that somebody changed may bring about anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise LoadError(f"{place} cannot be loaded ({type(error).__name__}: {first})") from error


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Point:
    """The seeds that were trained with the same settings, and the maps between the environment's
    units and the method's."""

    settings: Settings  # empty where the run has no other point
    algo: str
    config: Any  # the method's Config
    method: Method
    spec: Spec
    observation: Affine
    action: Affine
    seeds: tuple[int, ...]
    step: int  # updates that the loaded checkpoint has seen
    state: State  # numpy leaves [S, ...], in the order of `seeds`
    about: Mapping[str, Any]  # the content of config.json
    folder: Path | None  # None: kept in memory only
    rows: Callable[[str], list[Row]]  # of a file of ROWS, those of this point
    task: Task | None = None  # where it was evaluated; None: not known by more than its id
    data: Dataset | None = None  # what it was trained on; None: not known by more than its name
    chunk: ActionChunk = SINGLE  # how many actions its policies choose at a time

    @property
    def stack(self) -> int:
        """Frames of an image that its policies see at once."""
        return int(self.about["run"].get("frame_stack", 1))

    @property
    def headline(self) -> str:
        """The policy whose score stands for the run: the method's first."""
        return next(iter(self.method.policies))

    def find(self, seed: int, name: str) -> tuple[Callable[..., Array], State]:
        """A policy's `act` and one seed's state. Raises LoadError if there is no such one."""
        if seed not in self.seeds:
            raise LoadError(f"the run has no seed {seed}; it has {list(self.seeds)}")
        name = name or self.headline
        if name not in self.method.policies:
            raise LoadError(f"no policy {name!r}; the run has {', '.join(self.method.policies)}")
        return self.method.policies[name].act, seed_axis.one(self.state, self.seeds.index(seed))

    def scores(self) -> dict[str, dict[int, float]]:
        """{policy: {seed: score}} of the last evaluation; empty if there was none."""
        rows = self.rows(EVALUATIONS)
        found: dict[str, dict[int, float]] = {}
        for row in rows:
            if row["step"] == rows[-1]["step"]:
                found.setdefault(row["policy"], {})[int(row["seed"])] = float(row["score"])
        return found

    def summary(self) -> dict[str, Any]:
        """As result.json, of this point."""
        about = {**self.about, "sweep": {}}
        return statistics.result(about, self.rows(EVALUATIONS), self.rows(TIMINGS))

    @property
    def place(self) -> Path | str:
        """What an error names: the folder, or "the run" in memory."""
        return self.folder or "the run"


class Run:
    """A trained run: its seeds, their scores and policies, at one point or several.

    >>> import jaxrl_prefs as jp                                              # doctest: +SKIP
    >>> run = jp.load_run("runs/bdpo-pendulum-mixed")                         # doctest: +SKIP
    >>> action = run.policy(seed=3)(observation)                              # doctest: +SKIP
    """

    def __init__(self, points: Sequence[Point], workdir: Path | None) -> None:
        self._points = tuple(points)
        self._workdir = workdir

    @property
    def workdir(self) -> Path | None:
        """The folder that the run is kept in; None for a run in memory."""
        return self._workdir

    @property
    def points(self) -> list[Settings]:
        """What tells the points apart, such as [{"alpha": 1.0}, {"alpha": 2.5}].

        A plain run has the one point {}. In the folder of a sweep over several methods, or of a
        comparison, settings may be "method" and "dataset" too.
        """
        return [dict(point.settings) for point in self._points]

    def at(self, point: Mapping[str, Any] | None = None) -> Run:
        """The run of one point.

        Args:
            point: settings that exactly one point has; None for a run with a single point.

        Raises:
            LoadError: if no point has them, or several.
        """
        return Run([self._at(point)], self._workdir)

    def select(self, point: Mapping[str, Any] | None = None) -> list[Point]:
        """The points that have these settings; all of them without settings.

        Raises:
            LoadError: if there is none.
        """
        wanted = dict(point or {})
        found = [p for p in self._points if wanted.items() <= p.settings.items()]
        if not found:
            self._at(wanted)  # which says what there is
        return found

    def _at(self, point: Mapping[str, Any] | None = None) -> Point:
        wanted = dict(point or {})
        found = [
            each
            for each in self._points
            if all(name in each.settings and each.settings[name] == x for name, x in wanted.items())
        ]
        if len(found) == 1:
            return found[0]
        listed = ", ".join(str(each.settings) for each in (found or self._points)[:8])
        more = "" if len(found or self._points) <= 8 else ", ..."
        if not found:
            raise LoadError(f"no point {wanted}; the run has {listed}{more}")
        raise LoadError(f"the run has several such points; name one, point=...: {listed}{more}")

    # --- Of the one point, or of `at(point)` ---

    @property
    def algo(self) -> str:
        """The method's name."""
        return self._at().algo

    @property
    def config(self) -> Any:
        """The method's Config."""
        return self._at().config

    @property
    def method(self) -> Method:
        """The method, bound to its config and to the data's sizes."""
        return self._at().method

    @property
    def spec(self) -> Spec:
        """Sizes, bounds and moments of the data."""
        return self._at().spec

    @property
    def observation(self) -> Affine:
        """The map from the environment's observations to the method's."""
        return self._at().observation

    @property
    def action(self) -> Affine:
        """The map from the environment's actions to the method's; `invert` is the inverse."""
        return self._at().action

    @property
    def action_chunk(self) -> ActionChunk:
        """How many actions the policies choose at a time, and how many of these are played."""
        return self._at().chunk

    @property
    def step(self) -> int:
        """Updates that the loaded checkpoint has seen."""
        return self._at().step

    @property
    def state(self) -> State:
        """What was trained: numpy leaves [S, ...], in the order of `seeds`."""
        return self._at().state

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds; of several points, those of any."""
        return tuple(dict.fromkeys(seed for point in self._points for seed in point.seeds))

    @property
    def scores(self) -> dict[str, dict[int, float]]:
        """{policy: {seed: score}} of the last evaluation; empty if the run was not evaluated.

        Scores lie on the 0 to 100 scale of the dataset's references, and are raw returns where it
        has none.

        Raises:
            LoadError: if the run has several points, or its rows are damaged.
        """
        point = self._at()
        with damage_is_named(point.place):
            return point.scores()

    def policy(
        self, seed: int, name: str = "", key: int = 0, *, point: Mapping[str, Any] | None = None
    ) -> Actor:
        """Returns one seed's policy as a function from observations to actions.

        A policy of action chunks remembers what it has chosen: `reset` begins an episode.

        Args:
            seed: one of `seeds` (the seed itself, not its place).
            name: one of `method.policies`; empty takes the first, the headline.
            key: starts the random stream of policies that draw.
            point: settings that exactly one of `points` has, {"alpha": 2.5}.

        Raises:
            LoadError: if the run has no such seed, policy or point.
        """
        return Actor(self._at(point), seed, name, key)

    def export(
        self,
        seed: int,
        name: str = "",
        platforms: Sequence[str] = PLATFORMS,
        *,
        point: Mapping[str, Any] | None = None,
        path: str | Path | None = None,
    ) -> jax.export.Exported:
        """Returns one seed's policy as a program that needs no code of ours, see `exported`.

        Args:
            seed: as in `policy`, and so is `name`.
            name: of the policy.
            platforms: that the program runs on.
            point: as in `policy`.
            path: also write the program to this file.

        Raises:
            LoadError: as `policy`.
        """
        found = self._at(point)
        maps = (found.observation, found.action)
        whole = exported(
            *found.find(seed, name),
            *maps,
            platforms,
            chunk=found.chunk,
            images=found.spec.images,
            stack=found.stack,
        )
        if path is not None:
            write_bytes(Path(path), bytes(whole.serialize()))
        return whole

    def estimate(
        self,
        data: Any = None,
        *,
        estimator: str = "fqe",
        policies: Sequence[str] = (),
        holdout: float | None = None,
        gamma: float | None = None,
        behavior: Run | None = None,
        **fields: Any,
    ) -> PolicyValues:
        """Estimates what every policy is worth from recorded data, without playing it.

        >>> values = run.estimate()                                           # doctest: +SKIP
        >>> values.chosen.policy, values.chosen.seed                          # doctest: +SKIP
        >>> print(values)                        # table, choice, warning signs # doctest: +SKIP

        Args:
            data: a `Dataset` or what `load_dataset` takes; None takes the run's own dataset.
            estimator: "fqe", fitted Q evaluation; "wis", weighted importance sampling; "dr", its
                doubly robust form. The last two need densities of policy and behaviour.
            policies: names, or "all"; by default the headline of every point, and for "wis" and
                "dr" the policies that have a density.
            holdout: share of the episodes that no Q function is fitted on, on which its Bellman
                error is measured; None takes the run's own, or 0.1.
            gamma: discount per step; None takes the run's.
            behavior: for "wis" and "dr", a run whose policy has the density of the behaviour.
            fields: of `jaxrl_prefs.estimation.fqe.Config`, such as updates=50_000.

        Raises:
            ConfigError: for an unknown estimator, policy or field; without a needed density.
            DataError: if the data cannot be used for these policies.
        """
        from jaxrl_prefs.runs import off_policy_evaluation

        with restated():
            return off_policy_evaluation.estimate(
                self._points,
                data,
                estimator=estimator,
                policies=policies,
                holdout=holdout,
                gamma=gamma,
                behavior=None if behavior is None else behavior._at(),
                config=off_policy_evaluation.settings(fields),
            )

    def export_onnx(
        self,
        seed: int,
        name: str = "",
        *,
        point: Mapping[str, Any] | None = None,
        path: str | Path | None = None,
    ) -> bytes:
        """Returns one seed's policy as the content of an ONNX file, see `to_onnx`.

        Args:
            seed: as in `policy`, and so are `name` and `point`.
            name: of the policy.
            point: settings of one point.
            path: also write the content to this file.

        Raises:
            LoadError: as `policy`.
            ExportError: if ONNX cannot hold the policy; the message names it and the operation.
            ConfigError: if the package onnx is missing.
        """
        from jaxrl_prefs.runs.onnx_export import to_onnx

        found = self._at(point)
        name = name or found.headline
        notes = {"method": found.algo, "policy": name, "seed": str(seed)}
        if found.chunk.length > 1:
            notes |= {"action_chunk": str(found.chunk.length), "replan": str(found.chunk.executed)}
        maps = (found.observation, found.action)
        try:
            content = to_onnx(
                *found.find(seed, name),
                *maps,
                notes,
                chunk=found.chunk,
                images=found.spec.images,
                stack=found.stack,
            )
        except ExportError as error:
            raise ExportError(
                f"the policy {name!r} of {found.algo} cannot be written as ONNX: {error}. "
                "A file for JAX takes any policy"
            ) from error
        if path is not None:
            write_bytes(Path(path), content)
        return content

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draws the learning curves: scores of every policy, then every metric.

        Args:
            path: also write the figure to this file, a PNG.

        Raises:
            LoadError: as `scores`.
        """
        from jaxrl_prefs.runs import curves

        point = self._at()
        with damage_is_named(point.place):
            figure = curves.figure(point.rows(EVALUATIONS), point.rows(METRICS))
        setattr(figure, "_repr_png_", functools.partial(_png, figure))  # noqa: B010 - for notebooks
        if path is not None:
            figure.savefig(path, dpi=120, format="png")
        return figure

    def table(self) -> str:
        """The final table as text: a row per seed, or a row per point where there are several.

        Raises:
            LoadError: if the rows are damaged.
        """
        if len(self._points) > 1:
            return _comparison(self._points)
        (point,) = self._points
        with damage_is_named(point.place):
            summary = point.summary()
            if not summary["policies"]:
                return f"{point.algo} on {summary['dataset']}: not evaluated"
            return _text(statistics.table(summary))

    def __repr__(self) -> str:
        """At most five lines: what was trained on what, how it did, what there is to ask for."""
        first, *rest = self._points
        data = first.about.get("data", {}).get("name", "?")
        seeds = ", ".join(map(str, self.seeds[:8])) + (", ..." if len(self.seeds) > 8 else "")
        if rest:
            shown = ", ".join(map(str, self.points[:4])) + (", ..." if len(rest) > 3 else "")
            lines = [f"Run with {len(self._points)} points, seeds {seeds}", f"  points: {shown}"]
        else:
            lines = [f"Run of {first.algo} on {data}, seeds {seeds}, {first.step:,} updates"]
            lines += [f"  {_headline(first)}", f"  policies: {', '.join(first.method.policies)}"]
        lines.append(f"  in {self._workdir}" if self._workdir else "  in memory, no folder")
        return "\n".join(lines)


def _headline(point: Point) -> str:
    try:
        scores = point.scores()
    except Exception:  # a repr never fails
        return "scores unreadable"
    if not scores:
        return "not evaluated"
    name, values = next(iter(scores.items()))
    bounds = statistics.interval(list(values.values()))
    spread = f" ({statistics.spread(bounds)})" if bounds else ""
    kind = point.about.get("data", {}).get("score_kind", "score")
    return f"{kind} of {name}: {np.mean(list(values.values())):.1f}{spread}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _text(view: Any) -> str:
    """A rich table as text, as wide as it needs."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200, force_jupyter=False, color_system=None)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _comparison(points: Sequence[Point]) -> str:
    """A row per point: its settings, then every policy's mean score with its interval."""
    from rich.table import Table

    settings = list(dict.fromkeys(name for point in points for name in point.settings))
    scored = []
    for point in points:
        with damage_is_named(point.place):
            scored.append(point.scores())
    policies = list(dict.fromkeys(name for scores in scored for name in scores))
    view = Table(*settings, *policies)
    for point, scores in zip(points, scored, strict=True):
        cells = [str(point.settings.get(name, "")) for name in settings]
        for name in policies:
            values = list(scores.get(name, {}).values())
            bounds = statistics.interval(values) if values else None
            spread = f" ({statistics.spread(bounds)})" if bounds else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "")
        view.add_row(*cells)
    return _text(view)
