"""Which preset a run took, and what of its settings is not the method's default."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from jaxrl_prefs.runs import cpu_presets, presets
from jaxrl_prefs.runs.config import OWN_FLAGS, RunConfig

SHOWN = 8  # fields that a line names


def differing(config: Any) -> dict[str, Any]:
    """Returns {field: value} of a config dataclass where it is not its class's default."""
    default = type(config)()
    named = (*OWN_FLAGS, "preset")  # which `describe` names first
    names = [field.name for field in dataclasses.fields(config) if field.name not in named]
    return {x: getattr(config, x) for x in names if getattr(config, x) != getattr(default, x)}


def text(value: Any) -> str:
    """A field's value as --set takes it.

    >>> text((64, 64)), text(True), text(0.1)
    ('64,64', 'true', '0.1')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(text, value)) if isinstance(value, tuple) else str(value)


def describe(
    run: RunConfig, method: Any, family: str, env_id: str = "", swept: Collection[str] = ()
) -> str:
    """One line: the preset, and the fields that differ from the defaults.

    Fields whose value is not the preset's come first; those that the user set are among them.

    Args:
        run: the run's config.
        method: the method's config.
        family: the data family.
        env_id: of the environment that the dataset names.
        swept: fields of which every member has its own value.
    """
    preset = presets.preset(run.dataset, family, run.algo, env_id, run.preset)
    found = differing(method) | differing(run)
    names = sorted(
        (name for name in found if name not in swept),
        key=lambda name: found[name] == preset.fields.get(name),
    )
    parts = [f"{name}={text(found[name])}" for name in names]
    if len(parts) > SHOWN:
        parts = [*parts[:SHOWN], f"and {len(parts) - SHOWN} more"]
    changed = f"other than its defaults: {', '.join(parts)}" if parts else "all at their defaults"
    return f"{preset.source}; {changed}"


def cpu_note(run: RunConfig) -> str:
    """Says that `--preset=cpu` would train less, where it would; else empty."""
    is_smaller = run.preset == presets.DEFAULT and run.dataset not in cpu_presets.EMBEDDED
    if not is_smaller or not presets.has_cpu(run.dataset, run.algo):
        return ""
    return f"--preset=cpu has smaller networks and fewer updates of {run.algo} on {run.dataset}"
