"""Takes a trained policy out of a run's folder, in the environment's own units.

    run = load_run("runs/bdpo-pendulum-mixed")
    policy = run.policy(seed=3)
    action = policy(observation)

The dataset is not needed: what a policy must know of it was written beside the checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.data.transforms import Affine
from jaxrl_prefs.errors import LoadError
from jaxrl_prefs.keys import seed_keys
from jaxrl_prefs.method import Method, State
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import renamed
from jaxrl_prefs.types import Array, Key, Spec

CONFIG, CHECKPOINTS = "config.json", "checkpoints"
PLATFORMS = ("cpu", "cuda", "tpu")  # an exported policy runs on all of them


class Actor:
    """One policy of one seed: raw observations to raw actions.

    A policy that draws at random does so from a stream of its own, which starts anew with every
    `Run.policy` call: the same observations in the same order give the same actions.
    """

    def __init__(self, act: Any, state: State, run: Run, key: int) -> None:
        self._act, self._state, self._run = act, state, run
        self._key, self._calls = jax.random.key(key), 0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Acts on one observation [O] or a batch [B, O]; returns [A] or [B, A]."""
        raw = np.asarray(observation, np.float32)
        if raw.ndim not in (1, 2) or raw.shape[-1] != self._run.spec.observation_dim:
            raise ValueError(
                f"an observation has shape [{self._run.spec.observation_dim}] or "
                f"[batch, {self._run.spec.observation_dim}], got {list(raw.shape)}"
            )
        seen = np.float32(self._run.observation.apply(np.atleast_2d(raw)))
        key = jax.random.fold_in(self._key, self._calls)
        self._calls += 1
        action = self._run.action.invert(np.asarray(self._act(self._state, seen, key)))
        return action[0] if raw.ndim == 1 else action


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained ensemble and the maps between the environment's units and its own."""

    algo: str
    config: Any  # the method's Config
    method: Method
    spec: Spec
    observation: Affine
    action: Affine
    seeds: tuple[int, ...]
    step: int  # updates that the loaded checkpoint has seen
    state: State  # numpy leaves [S, ...], in the order of `seeds`

    def policy(self, seed: int, name: str = "", key: int = 0) -> Actor:
        """Returns one seed's policy as a function from observations to actions.

        Args:
            seed: one of `seeds` (the seed itself, not its place).
            name: one of `method.policies`; empty takes the first, the headline.
            key: starts the random stream of policies that draw.

        Raises:
            LoadError: if the run has no such seed or policy.
        """
        act, state = self._find(seed, name)
        return Actor(jax.jit(act), jax.device_put(state), self, key)

    def export(
        self, seed: int, name: str = "", platforms: Sequence[str] = PLATFORMS
    ) -> jax.export.Exported:
        """Returns one seed's policy as a program that needs no code of ours, see `exported`.

        `bytes(run.export(seed=3).serialize())` is a file. Raises LoadError as `policy`.
        """
        return exported(*self._find(seed, name), self.observation, self.action, platforms)

    def _find(self, seed: int, name: str) -> tuple[Callable[..., Array], State]:
        if seed not in self.seeds:
            raise LoadError(f"the run has no seed {seed}; it has {list(self.seeds)}")
        name = name or next(iter(self.method.policies))
        if name not in self.method.policies:
            raise LoadError(f"no policy {name!r}; the run has {', '.join(self.method.policies)}")
        return self.method.policies[name].act, seed_axis.one(self.state, self.seeds.index(seed))


def exported(
    act: Callable[..., Array],
    state: State,
    observation: Affine,
    action: Affine,
    platforms: Sequence[str] = PLATFORMS,
) -> jax.export.Exported:
    """A policy with its parameters and its maps, as one program (jax.export).

    It takes raw observations [B, O] float32 of any batch size and a draw number (uint32), and
    returns raw actions [B, A]. A policy that draws at random gives the same actions for the same
    number and other ones for another; every row draws by itself, whatever the batch.
    """
    width = observation.shift.shape[0]

    def row(raw: Array, key: Key) -> Array:
        seen = (raw - observation.shift) / observation.scale
        return act(state, seen[None], key)[0] * action.scale + action.shift

    def whole(raw: Array, draw: Array) -> Array:
        # Row by row, so that no shape inside the policy depends on the batch.
        places = jnp.arange(raw.shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(draw), places)
        return jax.vmap(row)(raw, keys)

    (batch,) = jax.export.symbolic_shape("batch")
    seen = jax.ShapeDtypeStruct((batch, width), np.float32)
    draw = jax.ShapeDtypeStruct((), np.uint32)
    return jax.export.export(jax.jit(whole), platforms=tuple(platforms))(seen, draw)


def describe(spec: Spec, observation: Affine, action: Affine) -> dict[str, Any]:
    """What `load_run` must know of a dataset, for JSON; exact, since a double holds a float."""
    records: dict[str, Any] = {"spec": spec, "observation": observation, "action": action}
    return {
        name: {key: np.asarray(value).tolist() for key, value in record._asdict().items()}
        for name, record in records.items()
    }


def load_run(workdir: str | Path) -> Run:
    """Loads the newest checkpoint of a run, finished or not.

    Raises:
        LoadError: if the folder holds no run, or one without a checkpoint so far.
    """
    from jaxrl_prefs.runs.checkpoints import Checkpoints  # slow to import

    folder = Path(workdir)
    about = _about(folder)
    algo, seeds = about["run"]["algo"], tuple(about["run"]["seeds"])
    if not isinstance(algo, str) or algo not in METHODS:  # never imported on a folder's word
        raise LoadError(f"{folder} was trained by {algo!r}, which this version does not have")
    config = METHODS[algo].Config(**{name: _tuple(v) for name, v in about["method"].items()})
    release = about["release"]
    spec = Spec(**{name: _array(value) for name, value in release["spec"].items()})
    method = METHODS[algo].make(config, spec)
    found = None
    if (folder / CHECKPOINTS).is_dir():
        with Checkpoints(folder / CHECKPOINTS) as checkpoints:
            found = checkpoints.restore(abstract_state(method, spec, len(seeds)))
    if found is None:
        raise LoadError(f"{folder} holds no checkpoint yet; run its command again")
    state, step = found
    return Run(
        algo=algo,
        config=config,
        method=method,
        spec=spec,
        observation=_affine(release["observation"]),
        action=_affine(release["action"]),
        seeds=seeds,
        step=step,
        state=state,
    )


def abstract_state(method: Method, spec: Spec, seeds: int) -> State:
    """Shapes and dtypes [S, ...] of an ensemble's state, without computing one."""
    keys = jax.eval_shape(lambda: seed_keys(range(seeds)))
    return jax.eval_shape(jax.vmap(method.init, (0, None)), keys, spec.example())


def _about(folder: Path) -> Mapping[str, Any]:
    try:
        return renamed.present(json.loads((folder / CONFIG).read_text()))
    except FileNotFoundError:
        raise LoadError(f"{folder} holds no run ({CONFIG} is missing)") from None
    except ValueError as error:
        raise LoadError(f"{folder / CONFIG} is damaged: {error}") from error


def _affine(content: Mapping[str, Any]) -> Affine:
    return Affine(_array(content["shift"]), _array(content["scale"]))


def _array(value: Any) -> Any:
    return np.asarray(value, np.float32) if isinstance(value, list) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
