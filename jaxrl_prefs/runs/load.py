"""Reads a run's folder, finished or not, back into Python.

    run = load_run("runs/bdpo-pendulum-mixed")
    policy = run.policy(seed=3)
    action = policy(observation)

The dataset is not needed: what a policy must know of it was written beside the checkpoints. The
folder of a sweep or of a comparison gives a Run with a point for each of its settings.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl_prefs.data.transforms import ActionChunk, Affine
from jaxrl_prefs.errors import ConfigError, LoadError, WorkdirError
from jaxrl_prefs.keys import seed_keys
from jaxrl_prefs.method import Method, State
from jaxrl_prefs.runs import overrides, renamed
from jaxrl_prefs.runs.config import chunk_of
from jaxrl_prefs.runs.methods import bound, find_method, known_method, name_of
from jaxrl_prefs.runs.run import Point, Row, Run, Settings, damage_is_named
from jaxrl_prefs.runs.workdir import CHECKPOINTS, CONFIG, Rows, check_file, is_hidden, is_joining
from jaxrl_prefs.training.sweep import SweptState, with_settings
from jaxrl_prefs.types import ImageSpec, Spec

LARGEST_IMAGE = 10_000  # height, width, channels
DEEPEST = 4  # folders between that of a sweep or a comparison and a run's config.json


class _Unfinished(LoadError):
    """A run without a checkpoint so far."""


def describe(spec: Spec, observation: Affine, action: Affine) -> dict[str, Any]:
    """What `load_run` must know of a dataset, for JSON; exact, since a double holds a float."""
    records: dict[str, Any] = {"spec": spec, "observation": observation, "action": action}
    found: dict[str, Any] = {
        name: {
            key: np.asarray(value).tolist()
            for key, value in record._asdict().items()
            if key not in ("images", "views")
        }
        for name, record in records.items()
    }
    if spec.images:
        found["spec"]["images"] = [list(each) for each in spec.images]
    return found


def load_run(workdir: str | Path, *, method: Any = None) -> Run:
    """Loads the newest checkpoint of a run, finished or not.

    Args:
        workdir: the folder of a run, of a sweep, or of a comparison.
        method: the module of a method of your own, or its dotted name. It is not needed for the
            methods of this library, and for a module that is imported already; a folder never
            chooses what code is imported.

    Raises:
        LoadError: if the folder holds no run, one without a checkpoint so far, or one that is
            damaged; if its method is not at hand; the message says which.
    """
    folder = Path(workdir)
    with damage_is_named(folder):
        given = None if method is None else _given(method)
        if (folder / CONFIG).exists():
            return Run(_read(folder, given), folder)
        if not folder.is_dir():
            kind = "is a file, not a folder" if folder.exists() else "does not exist"
            raise LoadError(f"{folder} {kind}; load_run takes the folder of a run")
        return Run(_collection(folder, given), folder)


def abstract_state(method: Method, spec: Spec, seeds: int) -> State:
    """Shapes and dtypes [S, ...] of the state of S members, without computing one."""
    keys = jax.eval_shape(lambda: seed_keys(range(seeds)))
    return jax.eval_shape(jax.vmap(method.init, (0, None)), keys, spec.example())


def _given(method: Any) -> Any:
    try:
        return find_method(method)
    except ConfigError as error:
        raise LoadError(str(error)) from error


# --- A folder with one config.json ----------------------------------------------------------------


def _read(folder: Path, given: Any) -> list[Point]:
    """The points of one folder: one, or those of a sweep that trained together."""
    if is_joining(folder):
        raise LoadError(
            f"a process was stopped while it joined seeds in {folder}; run its command again"
        )
    about = _about(folder)
    algo, seeds = about["run"]["algo"], _seeds(about["run"]["seeds"])
    module = _module(folder, algo, given)
    config = config_of(module.Config, about["method"])
    release = about["release"]
    spec = _spec(release["spec"])
    observation = _affine(release["observation"], spec.observation_dim)
    action = _affine(release["action"], spec.action_dim)
    chunk = _chunk(about["run"], spec.action_dim)
    swept = dict(about.get("sweep") or {})
    values = list(zip(*swept.values(), strict=True)) if swept else [()]
    settings = [dict(zip(swept, map(float, each), strict=True)) for each in values]
    configs = [with_settings(config, each) for each in settings]
    methods = [bound(module, each, spec, about["run"]) for each in configs]
    state, step = _restored(folder, methods[0], spec, len(seeds), settings if swept else [])
    cache: dict[str, list[Row]] = {}
    return [
        Point(
            settings=settings[place],
            algo=algo,
            config=configs[place],
            method=methods[place],
            spec=spec,
            observation=observation,
            action=action,
            seeds=seeds,
            step=step,
            state=_members(state, place * len(seeds), len(seeds)),
            about=about,
            folder=folder,
            rows=functools.partial(_rows, folder, settings[place], cache),
            chunk=chunk,
        )
        for place in range(len(settings))
    ]


def _about(folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG
    try:
        check_file(path)
        about = renamed.present(json.loads(path.read_text()))
    except WorkdirError as error:
        raise LoadError(str(error)) from error
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise LoadError(f"{path} is damaged: {error}") from error
    for section in ("run", "method", "release"):
        if not isinstance(about.get(section), dict):
            raise LoadError(f"{path} is damaged: it has no section {section!r}")
    for section, name in (("run", "algo"), ("run", "seeds"), ("release", "spec")):
        if name not in about[section]:
            raise LoadError(f"{path} is damaged: section {section!r} has no {name!r}")
    return about


def _module(folder: Path, algo: Any, given: Any) -> Any:
    """The method's module: what the caller gave, ours, or one that is imported already."""
    if given is not None and (not isinstance(algo, str) or name_of(given) != algo):
        raise LoadError(f"{folder} was trained by {algo!r}, not by {name_of(given)!r}")
    module = known_method(algo) if given is None else given
    if module is None:
        hint = ""
        if isinstance(algo, str) and algo.replace(".", "").isidentifier():
            hint = (
                f". If it is a module of your own, import it first, or name it: "
                f"load_run(folder, method={algo!r}), --algo={algo}"
            )
        raise LoadError(
            f"{folder} was trained by {algo!r}, which is no method of this version and no module "
            f"that is imported{hint}"
        )
    return module


def _seeds(seeds: Any) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise LoadError(f"{CONFIG} is damaged: seeds are {str(seeds)[:80]}")
    return tuple(seeds)


def config_of(config_class: Any, fields: Mapping[str, Any]) -> Any:
    """The method's Config, every value of its field's type.

    Raises:
        LoadError, ConfigError: for a field or a value that it does not take.
    """
    types = overrides.field_types(config_class)
    for name in fields:
        if name not in types:
            raise LoadError(f"its method has a field {name!r} that this version does not have")
    return config_class(**{k: overrides.check(k, v, types[k]) for k, v in fields.items()})


def _spec(content: Mapping[str, Any]) -> Spec:
    images = _images(content.get("images", []))
    vectors = {name: _array(value) for name, value in content.items() if name != "images"}
    spec = Spec(**vectors)._replace(images=images)
    sizes = {"observation": spec.observation_dim, "action": spec.action_dim, "": spec.size}
    for name, size in sizes.items():
        least = 0 if name == "observation" and images else 1
        if type(size) is not int or size < least:
            raise LoadError(f"{CONFIG} is damaged: {name or 'data'} has size {size!r}")
    for name, value in vectors.items():
        kind = name.partition("_")[0]
        if not name.endswith(("_dim", "size")) and np.shape(value) != (sizes[kind],):
            raise LoadError(f"{CONFIG} is damaged: {name} has shape {np.shape(value)}")
    return spec


def _images(content: Any) -> tuple[ImageSpec, ...]:
    images = tuple(ImageSpec(*each) for each in content)
    for each in images:
        whole = all(type(size) is int and 1 <= size <= LARGEST_IMAGE for size in each.shape)
        if not isinstance(each.name, str) or not whole:
            raise LoadError(f"{CONFIG} is damaged: an image is {str(each)[:80]}")
    return images


def _chunk(run: Mapping[str, Any], width: int) -> ActionChunk:
    length, replan = run["action_chunk"], run["replan"]
    whole = type(length) is int and type(replan) is int
    if not whole or not 0 <= replan <= length or length < 1 or width % length:
        raise LoadError(
            f"{CONFIG} is damaged: action_chunk={length!r} and replan={replan!r} with {width} "
            "numbers in an action"
        )
    return chunk_of(length, replan)


def _affine(content: Mapping[str, Any], width: int) -> Affine:
    found = Affine(_array(content["shift"]), _array(content["scale"]))
    for value in found:
        if np.shape(value) != (width,) or not np.isfinite(value).all():
            raise LoadError(f"{CONFIG} is damaged: a map of {width} numbers is {str(value)[:80]}")
    if not np.all(found.scale):
        raise LoadError(f"{CONFIG} is damaged: a map has the scale 0")
    return found


def _array(value: Any) -> Any:
    return np.asarray(value, np.float32) if isinstance(value, list) else value


def _restored(
    folder: Path, method: Method, spec: Spec, seeds: int, settings: list[dict[str, float]]
) -> tuple[State, int]:
    """The newest state of all members [M, ...], without the settings of a sweep, and its step."""
    from jaxrl_prefs.runs.checkpoints import Checkpoints  # slow to import

    members = seeds * max(1, len(settings))
    abstract = abstract_state(method, spec, members)
    if settings:
        scalar = jax.ShapeDtypeStruct((members,), np.float32)
        abstract = SweptState(dict.fromkeys(settings[0], scalar), abstract)  # type: ignore[arg-type]
    found = None
    if (folder / CHECKPOINTS).is_dir():
        with Checkpoints(folder / CHECKPOINTS) as checkpoints:
            found = checkpoints.restore(abstract)
    if found is None:
        raise _Unfinished(f"{folder} holds no checkpoint yet; run its command again")
    state, step = found
    return (state.inner if settings else state), step


def _members(state: State, first: int, count: int) -> State:
    return jax.tree.map(lambda leaf: leaf[first : first + count], state)


def _rows(folder: Path, settings: Settings, cache: dict[str, list[Row]], name: str) -> list[Row]:
    """The rows of a file that belong to a point; every file is read once."""
    if name not in cache:
        cache[name] = list(Rows(folder / name))
    return rows_of(cache[name], settings)


def rows_of(rows: Iterable[Row], settings: Settings) -> list[Row]:
    """Those rows that carry a point's settings; rows of timings carry none and belong to all."""
    return [row for row in rows if all(row.get(name, x) == x for name, x in settings.items())]


# --- The folder of a sweep or a comparison --------------------------------------------------------


def _collection(folder: Path, given: Any) -> list[Point]:
    """The points of all runs below a folder, told apart by what differs between them."""
    paths = [path for depth in range(1, DEEPEST + 1) for path in folder.glob("*/" * depth + CONFIG)]
    paths = [path for path in paths if not is_hidden(path, folder)]
    points, waiting = list[Point](), list[Path]()
    for path in sorted(paths):
        try:
            algo = _about(path.parent)["run"]["algo"]
            own = given if given is not None and name_of(given) == algo else None
            points += _read(path.parent, own)
        except _Unfinished:
            waiting.append(path.parent)
    if waiting and not points:
        raise _Unfinished(f"no run below {folder} holds a checkpoint yet; run its command again")
    if not points:
        raise LoadError(f"{folder} holds no run ({CONFIG} is missing)")
    return _told_apart(points)


def _told_apart(points: list[Point]) -> list[Point]:
    """The points with the settings in which they differ: method, dataset, fields."""
    whole = [
        {
            "method": point.algo,
            "dataset": point.about["run"].get("dataset", ""),
            "fields": {
                **{k: v for k, v in point.about["run"].items() if k not in ("algo", "dataset")},
                **dataclasses.asdict(point.config),
            },
        }
        for point in points
    ]
    names = [k for k in ("method", "dataset") if len({each[k] for each in whole}) > 1]
    found = []
    for point, each in zip(points, whole, strict=True):
        beside = [o["fields"] for o in whole if all(o[k] == each[k] for k in ("method", "dataset"))]
        fields = {
            name: value
            for name, value in each["fields"].items()
            if any(other.get(name) != value for other in beside)
        }
        settings = {**{name: each[name] for name in names}, **fields}
        found.append(dataclasses.replace(point, settings=settings))
    same = [p for p in found if sum(p.settings == other.settings for other in found) > 1]
    return [
        dataclasses.replace(p, settings={**p.settings, "folder": str(p.folder)}) if p in same else p
        for p in found
    ]
