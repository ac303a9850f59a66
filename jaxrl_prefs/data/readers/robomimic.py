"""Reads Robomimic's HDF5 files (layout of robomimic 0.2 to 0.5).

`data/demo_<i>` holds `actions`, `rewards`, `dones` and the groups `obs` and `next_obs`, one array
per observation key; `mask/<key>` lists the demonstrations of a subset. A key like `agentview_image`
holds images, uint8 [T, H, W, 3] (robomimic's documentation, "Extracting observations"; TFDS'
catalogue of robomimic has the sizes).
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data import images, observations
from jaxrl_prefs.data.families import words
from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.images import Images
from jaxrl_prefs.data.observations import Observed, nothing
from jaxrl_prefs.data.readers import container, default_task
from jaxrl_prefs.data.recording import Dataset, References, record
from jaxrl_prefs.data.steps import Steps
from jaxrl_prefs.environments import task, trust
from jaxrl_prefs.environments.trust import Claim, Refusal
from jaxrl_prefs.errors import DataError

ROBOT = ("eef_pos", "eef_quat", "gripper_qpos")
OBJECT = "object"
ROBOSUITE = 1  # robomimic's number of the kind of environment
CAMERAS = "images"  # stands for all keys of images in --observation_keys
FLAT = "flat"  # the one key of files that robomimic made of D4RL's

# Time limits of the evaluation by kind of data and task (robomimic's experiments); others take 400.
HORIZON = 400
HORIZONS = {
    "ph": {"TwoArmTransport": 700, "ToolHang": 700},
    "mh": {"Lift": 500, "PickPlaceCan": 500, "NutAssemblySquare": 500, "TwoArmTransport": 1100},
}


def keys(robots: int) -> tuple[str, ...]:
    """The observation keys in their order: every robot's hand, then the object."""
    return (*(f"robot{i}_{part}" for i in range(robots) for part in ROBOT), OBJECT)


def read(
    path: Path,
    mask: str = "",
    env: str = "",
    *,
    trust_env: bool = False,
    hints: Hints | None = None,
) -> Dataset:
    """Reads all demonstrations by their number, or those that the filter key `mask` lists.

    Rewards and dones are taken as stored: an episode goes on after a done, which may come again. In
    files of sparse rewards, 1 at success and 0 elsewhere, an episode's return is 1 if it ever
    succeeds, because the evaluation ends there. Such a file is evaluated in the task of robosuite
    that it names, where robosuite is installed; `trust_env` as in `data.load`. Actions must lie in
    [-1, 1]. Images are taken only if `hints` name their keys, or `images` for all; such a dataset
    has no environment here.

    Raises:
      DataError: if the file is damaged or incomplete, or has no such mask.
    """
    hints = hints or Hints()
    hints.check_fixed(path, "Robomimic", "observation_keys")
    with container.hdf5(path) as file:
        demos = _demos(path, file, mask)
        about = file["data"].attrs.get("env_args", "")
        sizes = file["data"].attrs.get(container.SIZES)
        names = _keys(path, demos[0], hints.observation_keys)
        left = [name for name in _cameras(demos[0]) if name not in names]
        demonstrations = [
            (demo.name, _demo(path, f"{path}: {demo.name}", demo, names)) for demo in demos
        ]
    full = [(demo, part) for demo, part in demonstrations if part is not None]
    parts = [part for _, part in full]
    if not parts:
        raise DataError(f"{path}: the dataset has no episodes with steps")
    _check_widths(path, full)
    container.check_sizes(path, sizes, parts[0].observation, parts[0].action)
    reward = np.concatenate([np.asarray(part.reward) for part in parts])
    sparse = bool(np.isin(reward, (0, 1)).all())
    where = Claim(task.named(env)) if env else Claim()
    shown = images.joined([f"{path}: {name}" for name, _ in full], [part.images for part in parts])
    if sparse and not env and not shown:
        where = _claim(path, about, names, trust_env)
    steps = Steps(
        observation=np.concatenate([part.observation for part in parts]),
        action=np.concatenate([part.action for part in parts]),
        reward=reward,
        terminal=np.concatenate([part.terminal for part in parts]),
        next_observation=np.concatenate([part.next_observation for part in parts]),
        lengths=np.array([0 if part is None else len(part.action) for _, part in demonstrations]),
        successor=np.concatenate([part.successor for part in parts]),
        notes=_notes(shown, left, env),
        images=shown,
    )
    box = default_task.box(where.task if env else None, steps.action.shape[1])
    references = (
        References((0.0, 1.0), "success: 0 and 1")
        if sparse
        else References(None, "none: the rewards are not those of success")
    )
    name = f"{path}#{mask}" if mask else str(path)
    family = "" if names == (FLAT,) else "robomimic"
    recording = record(name, steps, box, where, references, family=family, hints=hints)
    return recording._replace(returns=np.minimum(recording.returns, 1.0)) if sparse else recording


def _demos(path: Path, file: Any, mask: str) -> list[Any]:
    """The groups of the chosen demonstrations, by number."""
    names = [name for name in file["data"] if re.fullmatch(r"demo_\d+", name)]
    if mask:
        masks = file.get("mask", {})
        if not hasattr(masks, "keys"):
            raise DataError(f"{path}: mask is no group of masks")
        if mask not in masks:
            known = ", ".join(masks) or "none"
            raise DataError(f"{path} has no mask {mask!r}; it has {known}")
        chosen = container.texts(path, masks[mask])
        lost = sorted(set(chosen) - set(names))
        if lost:
            raise DataError(f"{path}: the mask {mask!r} lists {lost[0]}, which is not in the file")
        names = chosen
    if not names:
        raise DataError(f"{path}: the dataset has no episodes")
    return [file["data"][name] for name in sorted(names, key=lambda name: int(name[5:]))]


def _keys(path: Path, demo: Any, chosen: tuple[str, ...]) -> tuple[str, ...]:
    group = demo.get("obs", {}) if hasattr(demo, "keys") else {}
    stored = list(group) if hasattr(group, "keys") else []
    if chosen:
        cameras = _cameras(demo)
        every = cameras if CAMERAS in chosen and CAMERAS not in stored else []
        wanted = tuple(dict.fromkeys([*(name for name in chosen if name in stored), *every]))
        for name in chosen:
            if name not in stored and not (name == CAMERAS and every):
                raise DataError(f"{path}: no observations {name!r}; it has {', '.join(stored)}")
        return wanted
    if stored == [FLAT]:
        return (FLAT,)
    names = keys(2 if "robot1_eef_pos" in stored else 1)
    missing = [name for name in names if name not in stored]
    if missing:
        raise DataError(
            f"{path}: missing the observations {', '.join(missing)}; it has "
            f"{', '.join(stored) or 'none'} (--observation_keys names "
            "others, images too; a raw file must be converted)"
        )
    return names


def _cameras(demo: Any) -> list[str]:
    """The observation keys of a demonstration that hold images."""
    group = demo.get("obs", {}) if hasattr(demo, "keys") else {}
    keys = list(group) if hasattr(group, "keys") else []
    return [name for name in keys if _is_camera(group[name])]


def _is_camera(stored: Any) -> bool:
    return hasattr(stored, "shape") and stored.ndim == 4 and stored.dtype == np.uint8


def _notes(shown: Mapping[str, Images], left: Sequence[str], env: str) -> tuple[str, ...]:
    notes = []
    if left:
        notes.append(
            f"images that are left out: {', '.join(left)} (--observation_keys=...,{CAMERAS} takes "
            "them)"
        )
    if shown and not env:
        notes.append("robosuite's task is not made with images: name an environment (--env)")
    return tuple(notes)


def _demo(path: Path, place: str, demo: Any, names: Sequence[str]) -> Steps | None:
    """One demonstration, None without steps; without `next_obs`, its last step has no successor."""
    where = Path(place)
    if not hasattr(demo, "keys"):
        raise DataError(f"{place} is no group of arrays")
    container.need(where, demo, ("actions", "rewards", "dones", "obs"), "Robomimic's format")
    action = container.matrix(where, "actions", container.array(path, demo["actions"]))
    reward = container.column(where, "rewards", container.array(path, demo["rewards"]))
    terminal = container.flags(where, "dones", container.array(path, demo["dones"]))
    seen = _observations(path, where, demo["obs"], names)
    observation, last = seen.vector, np.arange(len(terminal)) == len(terminal) - 1
    arrays = {"actions": action, "rewards": reward, "dones": terminal, "obs": observation}
    after = None
    if "next_obs" in demo:
        after = _observations(path, where, demo["next_obs"], names)
        following = after.vector
        successor = np.ones_like(terminal)
        arrays["next_obs"] = following
    else:
        following = np.roll(observation, -1, axis=0)
        successor = terminal | ~last
    if not any(map(len, arrays.values())):
        return None
    count = container.check_rows(where, arrays)
    container.check_same_shape(where, ("obs", observation), ("next_obs", following))
    if "num_samples" in demo.attrs:
        said = demo.attrs["num_samples"]
        if np.ndim(said) or said != count:
            raise DataError(f"{place}: has {count} steps, but says {said} (num_samples)")
    if after is not None:
        shown = observations.of_pairs(place, seen, after, count)
    else:
        shown = observations.of_steps(place, seen, last)
    length = np.array([count])
    found = Steps(observation, action, reward, terminal, following, length, successor)
    return found._replace(images=shown)


def _observations(path: Path, where: Path, group: Any, names: Sequence[str]) -> Observed:
    if not hasattr(group, "keys"):
        raise DataError(f"{where}: {group.name} is no group of arrays")
    container.need(where, group, names, "its first demonstration")
    parts = {name: container.array(path, group[name]) for name in names}
    if any(part.size for part in parts.values()):
        container.check_rows(where, parts)
    frames = {name: part for name, part in parts.items() if images.is_image(part)}
    vectors = [part for name, part in parts.items() if name not in frames]
    flat = [part.reshape(len(part), int(np.prod(part.shape[1:]))) for part in vectors]
    if not flat:
        return Observed(nothing(len(next(iter(frames.values())))), frames)
    return Observed(np.concatenate(flat, axis=-1), frames)


def _check_widths(path: Path, parts: Sequence[tuple[str, Steps]]) -> None:
    """Refuses demonstrations whose vectors differ in size from the first one's."""
    for key in ("observation", "action"):
        sizes = {name: getattr(part, key).shape[1] for name, part in parts}
        first = next(iter(sizes.values()))
        for name, size in sizes.items():
            if size != first:
                raise DataError(
                    f"{path}: {name} has {key}s of {size} numbers, the first one of {first}"
                )


def _claim(path: Path, about: Any, names: Sequence[str], trust_env: bool) -> Claim:
    """The task of robosuite that a file's `env_args` describe, if it names one that is here."""
    try:
        args = json.loads(about or "{}")
        if not args or args.get("type", ROBOSUITE) != ROBOSUITE:
            return Claim()
        name, settings = args["env_name"], args["env_kwargs"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
        return Claim(refused=Refusal("", f"env_args are damaged: {fault!r}", trust_helps=False))
    limit = horizon(path, str(name))
    found = trust.robosuite(name, settings, names, limit, trust_env=trust_env)
    if found.task is not None and not importlib.util.find_spec("robosuite"):
        return Claim()
    return found


def horizon(path: Path, name: str) -> int:
    """The time limit in steps, by the kind of data in the file's path and robosuite's task.

    >>> horizon(Path("datasets/lift/mh/low_dim_v15.hdf5"), "Lift")
    500
    """
    kind = next((word for word in words(str(path)) if word in HORIZONS), "")
    return HORIZONS.get(kind, {}).get(name, HORIZON)
