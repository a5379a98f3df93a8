"""Progress of slow steps on a terminal. Nothing is imported or shown until there is something to show."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class TerminalProgress:
    """A ``nooks.image.progress.Progress`` that draws bars on stderr if that is a terminal."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled and sys.stderr.isatty()
        self._bars: Progress | None = None
        self._task: tuple[str, TaskID] | None = None

    def __call__(self, message: str, done: int | None = None, total: int | None = None) -> None:
        if not self._enabled:
            return
        bars = self._bars or self._begin()
        if self._task is None or self._task[0] != message:
            if self._task is not None:
                bars.remove_task(self._task[1])
            self._task = message, bars.add_task(message, total=total)
        bars.update(self._task[1], completed=done, total=total)

    def _begin(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bars.start()
        return self._bars

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
