"""Time, injected: policy takes a Clock, so that its tests jump instead of sleeping."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds (not counting suspend) and a way to wait for them to pass."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` at the earliest."""
        ...


class SystemClock:
    """The machine's own clock (CLOCK_MONOTONIC, which stands still during suspend)."""

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
