"""Progress of slow work, shown as a bar unless the caller takes the numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, of how much


@contextlib.contextmanager
def shown(on_progress: Progress | None) -> Iterator[Progress]:
    """Yields `on_progress`, or a function that draws a bar on the standard error stream."""
    if on_progress is not None:
        yield on_progress
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True, force_jupyter=False)) as bars:
        tasks: dict[str, int] = {}

        def draw(text: str, done: int, total: int) -> None:
            if text not in tasks:
                tasks[text] = bars.add_task(text, total=total)
            bars.update(tasks[text], completed=done)  # type: ignore[arg-type]

        yield draw
