"""Progress of slow work, shown as a bar unless the caller takes the numbers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, of how much


def in_kernel() -> bool:
    """Whether the standard error stream is a notebook's, which says that it is a terminal."""
    return type(sys.stderr).__module__.startswith("ipykernel")


def has_screen(console: Console) -> bool:
    """Whether a bar can move on a console: it is a terminal, and no notebook."""
    return console.is_terminal and not in_kernel()


@contextlib.contextmanager
def shown(on_progress: Progress | None) -> Iterator[Progress]:
    """Yields `on_progress`, or a function that draws a bar on the standard error stream."""
    if on_progress is not None:
        yield on_progress
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True, force_jupyter=False)
    console.quiet = in_kernel()
    with Bars(console=console) as bars:
        tasks: dict[str, int] = {}

        def draw(text: str, done: int, total: int) -> None:
            if text not in tasks:
                tasks[text] = bars.add_task(text, total=total)
            bars.update(tasks[text], completed=done)  # type: ignore[arg-type]

        yield draw
