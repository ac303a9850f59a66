"""The tables that the toy command prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

# What `study.compare` calls a number, and what the table calls it.
LABELS = {
    "value": "mean of V_N over noise",
    "net": "energy - eta * path KL",
    "energy": "energy of the policy",
    "paid": "eta * path KL",
    "behavior_energy": "energy of the behaviour",
}


def table(title: str, numbers: Mapping[str, Any]) -> Table:
    """One task: a row for each number, learned and exact; then a row for each mode."""
    view = Table(title=title, caption=f"trained in {numbers['train_seconds']:.0f} s")
    view.add_column("")
    for name in ("learned", "exact", "difference"):
        view.add_column(name, justify="right")
    for name, label in LABELS.items():
        learned, exact = numbers[name]
        error = f"{100 * (learned / exact - 1):+.1f} %"
        view.add_row(label, f"{learned:.4f}", f"{exact:.4f}", error)
    learned, exact = numbers["variation"], numbers["resampled"]
    view.add_row("total variation from resampled data", f"{learned:.4f}", f"{exact:.4f}", "")
    view.add_section()
    for mode, (learned, exact) in enumerate(numbers.get("mode_weights", [])):
        difference = f"{learned - exact:+.4f}"
        view.add_row(f"weight of mode {mode}", f"{learned:.4f}", f"{exact:.4f}", difference)
    return view


def summary(title: str, tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    """All tasks: values, and the largest error of a mode's weight."""
    view = Table(title=title)
    view.add_column("task")
    for name in (
        "mean V_N",
        "exact",
        "error",
        LABELS["net"],
        "total variation",
        "worst mode",
        "seconds",
    ):
        view.add_column(name, justify="right")
    for task, numbers in tasks.items():
        learned, exact = numbers["value"]
        view.add_row(
            task,
            f"{learned:.4f}",
            f"{exact:.4f}",
            f"{100 * numbers['value_error']:+.1f} %",
            f"{numbers['net'][0]:.4f}",
            f"{numbers['variation']:.3f}",
            f"{numbers['mode_error']:.3f}" if "mode_error" in numbers else "no modes",
            f"{numbers['seconds']:.0f}",
        )
    return view
