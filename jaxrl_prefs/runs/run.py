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

from jaxrl_prefs.data.transforms import Affine
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import LoadError
from jaxrl_prefs.method import Method, State
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import statistics
from jaxrl_prefs.runs.export import PLATFORMS, exported
from jaxrl_prefs.runs.workdir import EVALUATIONS, METRICS, TIMINGS, write_bytes
from jaxrl_prefs.types import Array, Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


class Actor:
    """One policy of one seed: raw observations to raw actions.

    A policy that draws at random does so from a stream of its own, which starts again with every
    `Run.policy` call: the same observations in the same order give the same actions.
    """

    def __init__(self, point: Point, seed: int, name: str, key: int) -> None:
        act, state = point.find(seed, name)
        self._act, self._state, self._point = jax.jit(act), jax.device_put(state), point
        self._key, self._calls = jax.random.key(key), 0
        self.seed, self.name = seed, name or point.headline

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Acts on one observation [O] or a batch [B, O]; returns [A] or [B, A].

        Raises:
            ValueError: for observations of another shape.
        """
        raw, width = np.asarray(observation, np.float32), self._point.spec.observation_dim
        if raw.ndim not in (1, 2) or raw.shape[-1] != width:
            raise ValueError(
                f"an observation has shape [{width}] or [batch, {width}], got {list(raw.shape)}"
            )
        seen = np.float32(self._point.observation.apply(np.atleast_2d(raw)))
        key = jax.random.fold_in(self._key, self._calls)
        self._calls += 1
        action = self._point.action.invert(np.asarray(self._act(self._state, seen, key)))
        return action[0] if raw.ndim == 1 else action

    @property
    def point(self) -> Point:
        """The point of the run that the policy belongs to."""
        return self._point

    def __repr__(self) -> str:
        spec = self._point.spec
        return (
            f"policy {self.name!r} of {self._point.algo}, seed {self.seed}: "
            f"[{spec.observation_dim}] observations to [{spec.action_dim}] actions"
        )


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
        whole = exported(*found.find(seed, name), found.observation, found.action, platforms)
        if path is not None:
            write_bytes(Path(path), bytes(whole.serialize()))
        return whole

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
