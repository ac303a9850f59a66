"""What people look for in data before they train: ends, dead dimensions, bounds, gaps, modes.

All of it is measured on raw units. Where a measure takes neighbours, a fixed sample is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import layout
from jaxrl_prefs.data.recording import Dataset

EDGE = 1e-3  # an action this close to a bound, as a share of the range, counts as at it
GAP = 1.5  # a step that takes more than this multiple of the usual time is a gap
QUERIES, CANDIDATES, NEIGHBOURS = 256, 20_000, 24
FAR = 12  # modes are separated by this multiple of the usual distance of neighbouring actions
NARROWEST = 0.05  # and by at least this share of the range
FEWEST = 4  # actions in a mode
CELLS = 20  # per dimension, to measure coverage
AT_BOUND_SHARE = 0.5  # above this share of entries at a bound, warn
FROZEN_SHARE = 0.05  # above this share of unchanged states, warn
NARROW = 0.1  # below this share of its range, an action is narrow: warn


class Health(NamedTuple):
    """Measures by name, for programs, and what deserves a look, for people."""

    measures: dict[str, Any]
    warnings: tuple[str, ...]


def of(dataset: Dataset) -> Health:
    """Measures a dataset; the same data give the same numbers.

    Every measure is a number, a text, a list or a dict of these; None where it cannot be taken.
    """
    parts: list[tuple[dict[str, Any], list[str]]] = [
        _ends(dataset),
        _dimensions(dataset, "observation"),
        _dimensions(dataset, "action"),
        _bounds(dataset),
        _rewards(dataset),
        _states(dataset),
        _times(dataset),
        _modes(dataset),
        _coverage(dataset),
    ]
    measures = {key: value for part, _ in parts for key, value in part.items()}
    return Health(measures, tuple(text for _, told in parts for text in told))


def described(dataset: Dataset, found: Health) -> dict[str, Any]:
    """What `info --json` prints."""
    return {
        "name": dataset.name,
        "family": dataset.family,
        "env": dataset.task.env_id if dataset.task else None,
        "transitions": dataset.size,
        "episodes": len(dataset.lengths),
        "steps": int(dataset.lengths.sum()),
        "layout": layout.to_json(layout.of(dataset)),
        "returns": {
            "min": float(dataset.returns.min()),
            "mean": float(dataset.returns.mean()),
            "max": float(dataset.returns.max()),
        },
        "health": found.measures,
        "warnings": list(found.warnings),
        "notes": list(dataset.notes),
        **({"images": images(dataset)} if dataset.images else {}),
    }


def images(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Of each camera, the size of its frames, their number, and what they take in memory."""
    return {
        camera: {
            "shape": list(each.frames.shape[1:]),
            "frames": len(each.frames),
            "megabytes": each.frames.nbytes / 1e6,
        }
        for camera, each in sorted(dataset.images.items())
    }


def told(dataset: Dataset, found: Health) -> dict[str, str]:
    """Measures as text for people, beside what `info` says of sizes, ends and rewards."""
    of = found.measures
    cells = ", ".join(f"{100 * part:.0f} %" for part in of["action_cells_visited"])
    text = {
        "states": _states_told(dataset, of),
        "coverage": f"share of {CELLS} equal cells visited, per action: {cells}",
    }
    if of["action_modes"] is not None:
        several = f"{100 * of['multimodal_states']:.0f} % of the states have several"
        text["modes of actions"] = f"{of['action_modes']:.2f} per state on average; {several}"
    if of["time_step"] is not None:
        text["time"] = f"{of['time_step']:.4g} per step, {of['time_gaps']:,} gaps"
    for kind in ("observation", "action"):
        if names := getattr(dataset, f"{kind}_names"):
            text[f"{kind} names"] = ", ".join(names)
    return text


def _states_told(dataset: Dataset, of: dict[str, Any]) -> str:
    if of["states_repeated"] is None:
        return "not measured: repeated and frozen states, and modes of actions, take a vector"
    repeated, frozen = (100 * of[key] for key in ("states_repeated", "states_frozen"))
    return (
        f"{repeated:.1f} % repeated; {frozen:.1f} % of the steps leave the state unchanged; "
        f"effective dimension {of['state_directions']:.1f} of {dataset.observation.shape[1]}"
        + ("; images are not looked at" if dataset.images else "")
    )


def labels(dataset: Dataset, kind: str) -> Sequence[str]:
    """What the dimensions of 'observation' or 'action' are called: names, or numbers."""
    names: tuple[str, ...] = getattr(dataset, f"{kind}_names")
    return names or tuple(map(str, range(getattr(dataset, kind).shape[1])))


def _ends(dataset: Dataset) -> tuple[dict[str, Any], list[str]]:
    last = ~dataset.continues
    terminal = int((last & dataset.terminal).sum())
    count, told = int(last.sum()), []
    inside = int((dataset.continues & dataset.terminal).sum())
    if terminal == count and count > 1:
        told.append(
            f"all {count:,} episodes end in a terminal: where a time limit or the recording ended "
            "them, they must be marked as timeouts (--episode_ends=timeout)"
        )
    measures = {
        "pieces": count,
        "ends_terminal": terminal / count,
        "ends_cut": 1 - terminal / count,
        "terminals_inside": inside,
    }
    return measures, told


def _dimensions(dataset: Dataset, kind: str) -> tuple[dict[str, Any], list[str]]:
    values, names = getattr(dataset, kind), labels(dataset, kind)
    constant = [names[i] for i in np.flatnonzero((values == values[:1]).all(0)).tolist()]
    seen: dict[bytes, str] = {}
    copies = []
    for place, name in enumerate(names):
        key = np.ascontiguousarray(values[:, place]).tobytes()
        if name not in constant and key in seen:
            copies.append([seen[key], name])
        seen.setdefault(key, name)
    told = []
    if constant:
        told.append(f"{kind}s that never change: {', '.join(constant)}")
    if copies:
        pairs = ", ".join(f"{a} = {b}" for a, b in copies)
        told.append(f"duplicated {kind}s: {pairs}")
    return {f"{kind}_constant": constant, f"{kind}_duplicate": copies}, told


def at_bounds(dataset: Dataset) -> np.ndarray:
    """The part of each action's entries that lies at a bound, [A]; 0 where the bounds are equal."""
    width = dataset.action_high - dataset.action_low
    near = np.minimum(dataset.action - dataset.action_low, dataset.action_high - dataset.action)
    return np.where(width > 0, (near <= EDGE * width).mean(0), 0.0)


def _bounds(dataset: Dataset) -> tuple[dict[str, Any], list[str]]:
    width = dataset.action_high - dataset.action_low
    names = labels(dataset, "action")
    edge = at_bounds(dataset)
    spread = dataset.action.max(0) - dataset.action.min(0)
    used = np.divide(spread, width, out=np.ones_like(spread), where=width > 0)
    told = [
        f"action {name}: {100 * part:.0f} % of its entries lie at a bound"
        for name, part in zip(names, edge, strict=True)
        if part > AT_BOUND_SHARE
    ]
    told += [
        f"action {name} uses {100 * part:.2g} % of its range: the bounds may be in other units "
        "(--action_low, --action_high)"
        for name, part in zip(names, used, strict=True)
        if 0 < part < NARROW
    ]
    if dataset.outside:
        told.append(f"{dataset.outside}: clip_actions=true clips them")
    return {"actions_at_bounds": edge.tolist(), "action_range_used": used.tolist()}, told


def _rewards(dataset: Dataset) -> tuple[dict[str, Any], list[str]]:
    if not dataset.has_rewards:
        return {"reward": None}, ["there are no rewards: only methods that use none can be trained"]
    reward, told = dataset.reward.astype(np.float64), []
    if (reward == reward[0]).all():
        told.append(f"every reward is {reward[0]:g}: there is nothing to learn from them")
    elif np.abs(reward).max() > 1000:
        told.append(
            f"rewards reach {np.abs(reward).max():.3g}: penalties and temperatures are in "
            "units of the reward, and presets may not fit (--set reward_scale=...)"
        )
    measures = {
        "min": reward.min(),
        "max": reward.max(),
        "mean": reward.mean(),
        "std": reward.std(),
        "zero": (reward == 0).mean(),
    }
    whole: dict[str, Any] = {key: float(value) for key, value in measures.items()}
    return {"reward": whole | {"values": len(np.unique(dataset.reward))}}, told


def _states(dataset: Dataset) -> tuple[dict[str, Any], list[str]]:
    if not dataset.observation.shape[1]:
        return {"states_repeated": None, "states_frozen": None, "jumps": None}, []
    rows = np.ascontiguousarray(dataset.observation)
    whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
    repeated = 1 - len(np.unique(whole)) / len(rows)
    frozen = float((dataset.observation == dataset.next_observation).all(1).mean())
    on = np.flatnonzero(dataset.continues)
    jumps = int((dataset.next_observation[on] != dataset.observation[on + 1]).any(1).sum())
    told = []
    if frozen > FROZEN_SHARE and not dataset.images:  # those may change where the vector does not
        told.append(
            f"in {100 * frozen:.1f} % of the steps nothing changes: a sensor may be frozen, or the "
            "recording faster than the machine"
        )
    if jumps:
        told.append(f"{jumps:,} steps do not lead to the next row's observation")
    measures = {"states_repeated": repeated, "states_frozen": frozen, "jumps": jumps}
    return measures, told


def _times(dataset: Dataset) -> tuple[dict[str, Any], list[str]]:
    if dataset.time is None or not dataset.continues.any():
        return {"time_step": None, "time_gaps": None}, []
    steps = np.diff(dataset.time)[dataset.continues[:-1]]
    usual = float(np.median(steps))
    gaps = int((steps > GAP * usual).sum()) + int((steps <= 0).sum())
    told = []
    if gaps:
        told.append(
            f"{gaps:,} of {len(steps):,} steps take no time, or more than {GAP:g} times the usual "
            f"{usual:.3g}: rows are missing there, or out of order"
        )
    return {"time_step": usual, "time_gaps": gaps}, told


# --- Neighbours -----------------------------------------------------------------------------------


def _modes(dataset: Dataset) -> tuple[dict[str, Any], list[str]]:
    """How many groups the actions of the nearest states fall into, on a sample of states."""
    count = len(dataset.observation)
    if count < 4 * NEIGHBOURS or not dataset.observation.shape[1]:
        return {"action_modes": None, "multimodal_states": None}, []
    generator = np.random.default_rng(0)
    pool = generator.permutation(count)[:CANDIDATES]
    queries = pool[:QUERIES]
    state = dataset.observation.astype(np.float64)
    state = (state - state.mean(0)) / (state.std(0) + 1e-6)
    width = np.maximum(dataset.action_high - dataset.action_low, 1e-12)
    action = (dataset.action[pool] - dataset.action_low) / width
    near = state[pool]
    square = (near**2).sum(1)
    found = []
    for row in queries:
        distance = square - 2 * near @ state[row]
        chosen = np.argpartition(distance, NEIGHBOURS)[:NEIGHBOURS]
        found.append(modes(action[chosen]))
    several = float(np.mean([number > 1 for number in found]))
    return {"action_modes": float(np.mean(found)), "multimodal_states": several}, []


def modes(actions: np.ndarray) -> int:
    """How many groups actions [K, A] of similar states fall into, in parts of their bounds.

    They are sorted along their principal axis and parted where the distance to the next is far
    larger than most distances. A group of fewer than four is no mode.
    """
    centred = actions - actions.mean(0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    gaps = np.diff(np.sort(centred @ axis))
    usual = np.sort(gaps)[: 3 * len(gaps) // 4].mean()
    sizes = np.diff(np.r_[-1, np.flatnonzero(gaps > max(NARROWEST, FAR * usual)), len(gaps)])
    return max(1, int((sizes >= FEWEST).sum()))


def _coverage(dataset: Dataset) -> tuple[dict[str, Any], list[str]]:
    """How many directions states vary in, and how much of the actions' box is visited."""
    directions = _directions(dataset.observation) if dataset.observation.shape[1] else None
    width = np.maximum(dataset.action_high - dataset.action_low, 1e-12)
    parts = (dataset.action - dataset.action_low) / width
    cells = np.clip((parts * CELLS).astype(int), 0, CELLS - 1)
    visited = [len(np.unique(cells[:, place])) / CELLS for place in range(cells.shape[1])]
    return {"state_directions": directions, "action_cells_visited": visited}, []


def _directions(states: np.ndarray) -> float:
    """The effective dimension of states [N, O]."""
    spread = projected(states, states.shape[1])[1]
    total = spread.sum()
    return float(total**2 / (spread**2).sum()) if total > 0 else 0.0


def projected(states: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """States on their first principal axes, standardised before: [N, size], and variances [O]."""
    rows = states.astype(np.float64)
    rows = (rows - rows.mean(0)) / (rows.std(0) + 1e-6)
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(rows, rowvar=False, bias=True)))
    order = np.argsort(variances)[::-1]
    return rows @ axes[:, order[:size]], np.maximum(variances[order], 0)
