"""Event files for TensorBoard, for those who want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl_prefs.errors import ConfigError


class Events:
    """Writes every metric of every seed as a scalar; does nothing where it is not wanted."""

    def __init__(self, folder: Path, *, wanted: bool, start: int) -> None:
        """Opens event files; rows beyond global step `start` of an earlier process are hidden.

        Raises:
            ConfigError: if they are wanted and tensorboardX is not installed.
        """
        self._writer = None
        if wanted:
            try:
                import tensorboardX
            except ImportError:
                raise ConfigError(
                    "tensorboard=true needs tensorboardX: pip install tensorboardX"
                ) from None
            self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=start + 1)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows of metrics or evaluations."""
        if self._writer is None:
            return
        for row in rows:
            values = row.get("metrics") or {f"score/{row['policy']}": row["score"]}
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(f"{name}/seed_{row['seed']}", value, row["step"])

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
