"""An application that tells of itself in lines, wherever it runs, and comes to an end when it is told to."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from nooks.lab.gauge import Gauge


class ToldApplication:
    """``tell`` has it come to its end; its last line has a true ``LAST``."""

    LAST: str

    def __init__(self, tell: Callable[[], object] = lambda: None) -> None:
        self.gauge = Gauge()
        self.tell = tell
        self._last = asyncio.Event()

    def add(self, line: dict[str, Any]) -> None:
        """Take one of its lines."""
        self.gauge.add(line)
        if line.get(self.LAST):
            self._last.set()

    def errors(self) -> list[str]:
        """What went wrong so far."""
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """Whether its last line came."""
        return self._last.is_set()

    def tell_to_finish(self) -> None:
        """It is to come to an end, unless it has."""
        if not self.ended:
            with contextlib.suppress(OSError):
                self.tell()

    async def finish(self, within_seconds: float) -> list[str]:
        """Tell it to finish, and wait for its last line; the errors."""
        self.tell_to_finish()
        try:
            async with asyncio.timeout(within_seconds):
                await self._last.wait()
        except TimeoutError:
            return [*self.errors(), f"it did not come to an end within {within_seconds:.0f} s"]
        return self.errors()
