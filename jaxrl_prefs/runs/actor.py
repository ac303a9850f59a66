"""A trained policy as a function, and one that chooses several actions at a time, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxrl_prefs.data.images import FrameStack
from jaxrl_prefs.runs.checked import as_batch, batch_of, checked_images, checked_observation
from jaxrl_prefs.types import STATE


class OpenLoop:
    """The next action for each observation of an episode.

    `plan` takes observations [O] or [B, O] and returns actions [A] or [B, A], of which each is
    played at once, or [k, A] or [B, k, A]: these are played one after the other, whatever is seen
    meanwhile, and then it is asked again. `observe` is shown what is seen meanwhile.
    """

    def __init__(
        self,
        plan: Callable[[np.ndarray], np.ndarray],
        observe: Callable[[np.ndarray], None] | None = None,
    ) -> None:
        self._plan, self._observe = plan, observe
        self.reset()

    def reset(self) -> None:
        """Forgets the actions that are left: the next observation begins an episode."""
        self._left: list[np.ndarray] = []
        self._shape: tuple[int, ...] = ()

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """The actions of one step, [A] or [B, A].

        Raises:
            ValueError: if actions are left for another number of observations.
        """
        shape = _lead(observation)
        if self._left and shape != self._shape:
            raise ValueError(
                f"{len(self._left)} chosen actions are left for observations of shape "
                f"{list(self._shape)}, and these have shape {list(shape)}: call reset() where an "
                "episode begins"
            )
        if not self._left:
            actions = np.asarray(self._plan(observation))
            if actions.ndim <= len(shape):
                return actions
            self._left, self._shape = list(np.moveaxis(actions, -2, 0)), shape
        elif self._observe is not None:
            self._observe(observation)
        return self._left.pop(0)


def _lead(observation: Any) -> tuple[int, ...]:
    """The shape of an observation, [O] or [B, O]; an image counts as one axis."""
    if not isinstance(observation, Mapping):
        return np.shape(observation)
    name, value = next(iter(observation.items()))
    shape = np.shape(value)
    return shape if name == STATE else (*shape[:-3], int(np.prod(shape[-3:])))


class Actor:
    """One policy of one seed: raw observations to raw actions.

    An observation with images is a dict, {camera: uint8 [H, W, C], "state": [O]}, of the newest
    frames. The policy remembers those before: call `reset` where an episode begins.

    A policy that draws at random does so from a stream of its own, which starts again with every
    `Run.policy` call: the same observations in the same order give the same actions.

    A policy of action chunks plays those that it has chosen before it looks again: call `reset`
    where an episode begins. `plan` gives all of them at once.
    """

    def __init__(self, point: Any, seed: int, name: str, key: int) -> None:
        act, state = point.find(seed, name)
        self._act, self._state, self._point = jax.jit(act), jax.device_put(state), point
        self._key, self._calls = jax.random.key(key), 0
        self._open_loop = OpenLoop(self._planned)
        self._frames = FrameStack(point.stack)
        self.seed, self.name = seed, name or point.headline

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Acts on one observation [O] or a batch [B, O]; returns [A] or [B, A].

        Raises:
            ValueError: for observations of another shape, or with a NaN or an infinity; and, of a
                policy of chunks, for another number of them before `reset`.
        """
        return self._open_loop(self._frames.push(self._checked(observation)))

    def reset(self) -> None:
        """Begins an episode: forgets the actions of a chunk that are not played yet."""
        self._open_loop.reset()
        self._frames.reset()

    def observe(self, observation: np.ndarray) -> None:
        """Takes in the frames of a step at which an action of `plan` is still being played.

        Raises:
            ValueError: as a call.
        """
        self._frames.push(self._checked(observation))

    def plan(self, observation: np.ndarray) -> np.ndarray:
        """The k actions that the policy plays from here, [k, A] or [B, k, A].

        [A] or [B, A] of a policy that looks before every action. A policy of images is shown the
        frames between two plans by `observe`.

        Raises:
            ValueError: as a call.
        """
        return self._planned(self._frames.push(self._checked(observation)))

    def _planned(self, raw: Any) -> np.ndarray:
        """As `plan`, of an observation that is checked and stacked."""
        key = jax.random.fold_in(self._key, self._calls)
        self._calls += 1
        chosen = np.asarray(self._act(self._state, self._seen(as_batch(raw)), key))
        action = self._point.chunk.answer(self._point.action.invert(chosen))
        return action if batch_of(raw) else action[0]

    def _seen(self, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return np.float32(self._point.observation.apply(raw))
        state = {STATE: self._seen(raw[STATE])} if STATE in raw else {}
        return raw | state

    def _checked(self, observation: Any) -> Any:
        spec = self._point.spec
        if spec.images:
            return checked_images(observation, spec.images, spec.observation_dim, self._point.stack)
        return checked_observation(observation, spec.observation_dim)

    @property
    def point(self) -> Any:
        """The point of the run that the policy belongs to (`runs.run.Point`)."""
        return self._point

    def __repr__(self) -> str:
        spec, chunk = self._point.spec, self._point.chunk
        played = f", {chunk.executed} at a time" if chunk.executed > 1 else ""
        images = "".join(f"image {each.name!r}, " for each in spec.images)
        return (
            f"policy {self.name!r} of {self._point.algo}, seed {self.seed}: "
            f"{images}[{spec.observation_dim}] observations to "
            f"[{spec.action_dim // chunk.length}] actions{played}"
        )
