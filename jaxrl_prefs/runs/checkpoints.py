"""Checkpoints: the state of exactly S seeds as host arrays, so any number of devices goes on.

A thin use of Orbax: it writes in the background, into a temporary folder that is renamed when it is
whole, so a killed process leaves either the old checkpoints or the old ones and the new one. We add
what it lacks: a checksum per array (a flipped bit in a shard is otherwise restored as if it were a
weight) and the way back to the checkpoint before a damaged one.

Of several processes all must call the same functions in the same order with the same arrays and the
same folder, which they share: Orbax lets the first of them write. Each save is waited for, since
Orbax's background thread synchronises the processes on the devices, as ours do, and processes that
reach two such points in different orders wait for ever.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxrl_prefs.errors import CheckpointError, CheckpointMismatch

Tree = TypeVar("Tree")
Leaves = dict[str, list[Any]]  # path of a leaf -> [dtype, shape, checksum]


class Checkpoints:
    """The newest `keep` checkpoints of a run, in `directory`.

    Use it as a context manager: leaving it waits for the last save.

        with Checkpoints(workdir / "checkpoints", keep=2, metadata=config) as checkpoints:
            found = checkpoints.restore(abstract)  # None in a new run
            checkpoints.save(step, tree)

    `metadata` (JSON) is stored with every checkpoint. Raises CheckpointError if the folder cannot
    be made or used.
    """

    def __init__(
        self, directory: str | Path, *, keep: int = 2, metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.directory = Path(directory).absolute()
        self._metadata = dict(metadata or {})
        self._pending: tuple[int, Any] | None = None
        self._damaged: list[int] = []
        self._tidy = False
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._orbax = ocp.training.Checkpointer(
                self.directory,
                # Every log point that asks for a save gets one.
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            )
        except OSError as error:
            raise CheckpointError(f"{self.directory} cannot hold checkpoints: {error}") from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except CheckpointError:
            if error is None:  # else the first error is the one to report
                raise
        finally:
            try:
                self._orbax.close()
            except Exception as failure:  # the same failure that `wait` has reported
                logging.getLogger(__name__).debug("while closing: %s", failure)

    def latest(self) -> int | None:
        """The step of the newest checkpoint not known to be damaged; None if there is none."""
        return max((found.step for found in self._checkpoints()), default=None)

    def save(self, step: int, tree: Any, progress: Mapping[str, Any] | None = None) -> None:
        """Starts writing `tree` (arrays [S, ...]) as the checkpoint of `step`, and returns.

        `progress` (JSON) is stored with it, and given back by `progress`. The arrays are copied
        first. Waits for the save before it; raises CheckpointError if that one or this one failed.
        A checkpoint of `step` that exists is replaced.
        """
        self.wait()
        tree = jax.tree.map(np.array, tree)
        try:
            self._clean()
            response = self._orbax.save_async(
                step,
                tree,
                overwrite=True,
                force=True,
                custom_metadata={
                    "metadata": self._metadata,
                    "leaves": _describe(tree),
                    **_sealed(progress or {}),
                },
            )
        except Exception as error:
            raise self._failure(step, error) from error
        self._pending = (step, response)
        if jax.process_count() > 1:
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is on the disk; raises CheckpointError if it failed."""
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        try:
            response.result()
        except Exception as error:  # tensorstore raises ValueError for a full disk
            raise self._failure(step, error) from error

    def restore(self, abstract: Tree) -> tuple[Tree, int] | None:
        """Reads the newest whole checkpoint as numpy arrays in the structure of `abstract`.

        `abstract` has leaves with shape and dtype (`jax.eval_shape`). Returns the tree and its
        step, or None if there is no checkpoint. A damaged one is passed over with a warning, and
        deleted by the first save.

        Raises CheckpointMismatch if a checkpoint holds other arrays than `abstract`,
        CheckpointError if all are damaged.
        """
        self.wait()
        for found in self._checkpoints():
            tree, reason = self._attempt(found.step, abstract)
            if tree is not None:
                return tree, found.step
            logging.getLogger(__name__).warning(
                "checkpoint of step %d in %s is damaged (%s); trying the one before it",
                found.step,
                self.directory,
                reason,
            )
            self._damaged.append(found.step)
        if self._damaged:
            steps, self._damaged = self._damaged, []  # none is deleted
            raise CheckpointError(f"all checkpoints in {self.directory} are damaged: {steps}")
        return None

    def metadata(self, step: int) -> dict[str, Any]:
        """Reads what was given as `metadata` to the run that wrote the checkpoint of `step`."""
        return dict(self._stored(step)["metadata"])

    def progress(self, step: int) -> dict[str, Any]:
        """Reads what `save` was given besides the tree; empty if that was nothing."""
        return dict(self._stored(step).get("progress") or {})

    def _checkpoints(self) -> list[Any]:
        """The newest first, without those known to be damaged."""
        return [x for x in reversed(self._orbax.checkpoints) if x.step not in self._damaged]

    def _clean(self) -> None:
        """Removes, before the first save, what killed processes and damage left behind.

        Not earlier: who only reads must not disturb a run that is still writing.
        """
        for step in self._damaged:
            self._orbax.delete(step)
        self._damaged = []
        if not self._tidy and jax.process_index() == 0:
            for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)
            self._tidy = True

    def _stored(self, step: int) -> dict[str, Any]:
        return dict(self._orbax.metadata(step).custom_metadata or {})

    def _attempt(self, step: int, abstract: Tree) -> tuple[Tree | None, str]:
        """Returns the tree, or what is wrong with the files of `step`."""
        try:
            return self._load(step, abstract), ""
        except (CheckpointMismatch, MemoryError):  # the files are not to blame
            raise
        except Exception as error:  # whatever broken files make of Orbax and tensorstore
            return None, _reason(error)

    def _load(self, step: int, abstract: Tree) -> Tree:
        about = self._stored(step)
        stored: Leaves = about["leaves"]
        wanted = {path: [str(x.dtype), list(x.shape)] for path, x in _leaves(abstract)}
        found = {path: described[:2] for path, described in stored.items()}
        differing = sorted(p for p in found | wanted if found.get(p) != wanted.get(p))
        if differing:
            first = differing[0]
            raise CheckpointMismatch(
                f"checkpoint of step {step} in {self.directory} does not fit: at {first!r} it has "
                f"{found.get(first, 'nothing')}, not {wanted.get(first, 'nothing')} "
                f"({len(differing)} such places). It belongs to another config."
            )
        # Numpy leaves ask for numpy results; these take no memory.
        shapes = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), abstract)
        try:
            tree: Tree = self._orbax.load(step, shapes)
        except (LookupError, ValueError):  # a state of an earlier release may lack empty fields
            fewer = _without_empty_fields(shapes)
            if fewer is shapes:
                raise
            tree = _like(abstract, self._orbax.load(step, fewer))
        broken = [path for path, found in _describe(tree).items() if found != stored[path]]
        if broken:
            raise ValueError(f"the checksum of {broken[0]!r} is wrong")
        if "progress" in about and _sealed(about["progress"]) != {
            name: about.get(name) for name in ("progress", "progress_checksum")
        }:
            raise ValueError("the checksum of its progress is wrong")
        return tree

    def _failure(self, step: int, error: Exception) -> CheckpointError:
        # Orbax's own list is ahead of the disk here; a folder has its final name once it is whole.
        names = [path.name for path in self.directory.iterdir() if path.name.isdigit()]
        kept = max((int(name) for name in names if int(name) != step), default=None)
        before = "there is none before" if kept is None else f"the last good one is step {kept}"
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {self.directory}; {before}. "
            f"Is the disk full? {_reason(error)}"
        )


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]


def _without_empty_fields(state: Any) -> Any:
    """A state, also inside a sweep's, without its fields that are None; itself if it has none."""
    if not dataclasses.is_dataclass(state) or isinstance(state, type):
        return state
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    full = {name: value for name, value in fields.items() if value is not None}
    if "inner" in full and (inner := _without_empty_fields(full["inner"])) is not full["inner"]:
        return dataclasses.replace(state, inner=inner)
    return full if len(full) < len(fields) else state


def _like(abstract: Any, stored: Any) -> Any:
    """Puts the fields that `_without_empty_fields` left out back as None."""
    if isinstance(stored, dict):
        missing = {field.name: None for field in dataclasses.fields(abstract)}
        return type(abstract)(**missing | stored)
    return dataclasses.replace(stored, inner=_like(abstract.inner, stored.inner))


def _describe(tree: Any) -> Leaves:
    """Says of each numpy leaf what it is, and its CRC-32."""
    return {
        path: [str(x.dtype), list(x.shape), zlib.crc32(np.ascontiguousarray(x).data)]
        for path, x in _leaves(tree)
    }


def _sealed(progress: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of `progress`, with its CRC-32."""
    content = json.loads(json.dumps(progress))
    text = json.dumps(content, sort_keys=True)
    return {"progress": content, "progress_checksum": zlib.crc32(text.encode())}


def _reason(error: BaseException) -> str:
    """The first line of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
