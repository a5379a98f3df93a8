"""Detector of a device that is no longer in the machine: a USB adapter that was pulled out, a card in a hot-plug slot.

Knows no bus: it is told how to look.
"""

import asyncio
from collections.abc import Callable

from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.host.clock import Clock

LOOK_SECONDS = 0.2
"""A look is one question to the file system; who pulls a plug does not notice a fifth of a second."""

DETECTOR = "presence"


class PresenceDetector:
    """Looks every LOOK_SECONDS whether the device is ``present``, while an incarnation serves."""

    def __init__(self, present: Callable[[], bool], clock: Clock, report: ReportSink) -> None:
        self._present = present
        self._clock = clock
        self._report = report
        self._looking: asyncio.Task[None] | None = None

    def begin(self, incarnation: int) -> None:
        """Watch over ``incarnation``; needs a running event loop."""
        self.end()
        self._looking = asyncio.create_task(self._look(incarnation), name="presence")

    def end(self) -> None:
        """Stop watching. Safe to call twice."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self, incarnation: int) -> None:
        while self._present():
            await self._clock.sleep(LOOK_SECONDS)
        self._report(FailureReport(incarnation, Reason.UNPLUGGED, self._clock.monotonic(), DETECTOR))
