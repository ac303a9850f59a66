"""Suites: datasets that papers compare on together, with the settings that all their methods share.

`ogbench50` are the ten places of Li and Levine 2026 (arXiv 2601.14234, QAM) with five tasks each,
which RQL (arXiv 2606.17551) takes over. Sizes of the data are those of OGBench's own commands
(data_gen_scripts/commands.sh), and of its sets of 100 million steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

TASKS = tuple(f"task{number}" for number in range(1, 6))


class Row(NamedTuple):
    """Data that several tasks share."""

    data: str  # the name of the data without their version: "cube-double-play"
    observations: int
    actions: int
    transitions: int
    settings: tuple[str, ...] = ()  # field=value of the run, as --set takes them
    tasks: tuple[str, ...] = TASKS
    # The same of single methods, in place of presets that are for other rewards or other data.
    own: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names of the single tasks."""
        return tuple(f"{self.data}-singletask-{task}-v0" for task in self.tasks)

    @property
    def published(self) -> str:
        """What papers call the data, whatever their size."""
        return self.data.removesuffix("-100m")


_SPARSE = "reward=sparse"  # -1 until success, in place of the number of parts that are wrong
_FAR = "gamma=0.995"
_MILLION = 1_000_000


def _qam(alpha: str, expectile: str, penalty: str, *more: str) -> Mapping[str, tuple[str, ...]]:
    """FQL's alpha, IFQL's expectile, ReBRAC's weight and `more`, of QAM's experiments/reproduce.py.

    Of the rows for which FQL's paper has none: sparse rewards, and data that it does not use.
    They were chosen with ten critics, a pessimistic target and chunks of five actions. QAM's ReBRAC
    does not penalise its critic.
    """
    return {
        "fql": (f"alpha={alpha}",),
        "ifql": (f"expectile={expectile}",),
        "rebrac": (f"actor_penalty={penalty}", "critic_penalty=0", *more),
    }


_QUIET = "noise=0"  # of ReBRAC's target
SUITES: dict[str, tuple[Row, ...]] = {
    "ogbench50": (
        Row("antmaze-large-navigate", 29, 8, _MILLION),
        Row("antmaze-giant-navigate", 29, 8, _MILLION, (_FAR,)),
        Row("humanoidmaze-medium-navigate", 69, 21, 2 * _MILLION, (_FAR,)),
        Row("humanoidmaze-large-navigate", 69, 21, 2 * _MILLION, (_FAR,)),
        Row("scene-play", 40, 5, _MILLION, (_SPARSE,), own=_qam("300", "0.9", "0.03", _QUIET)),
        Row("puzzle-3x3-play", 55, 5, _MILLION, (_SPARSE,), own=_qam("300", "0.95", "0.1", _QUIET)),
        Row(
            "puzzle-4x4-play-100m", 83, 5, 100 * _MILLION, (_SPARSE,), own=_qam("1", "0.9", "0.01")
        ),
        Row("cube-double-play", 37, 5, _MILLION),
        Row("cube-triple-play", 46, 5, 3 * _MILLION, own=_qam("30", "0.95", "0.01")),
        Row("cube-quadruple-play-100m", 55, 5, 100 * _MILLION, own=_qam("100", "0.95", "0.01")),
    ),
}
