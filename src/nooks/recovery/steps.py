"""One step of a recovery: bounded in time, interruptible by a failure, and never left running behind.

Time comes from the injected clock, so asyncio's own timeouts are of no use here.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from nooks.host.clock import Clock

T = TypeVar("T")


class StepTimeoutError(Exception):
    """The step did not end in time; it was cancelled."""


class StepInterruptedError(Exception):
    """A failure was reported while the step ran; it was cancelled."""


class StepStuckError(Exception):
    """The step was cancelled and did not end: whatever it was doing may still be done."""


@dataclass(frozen=True)
class Timeouts:
    """The longest that each step may take, in seconds, on an idle machine."""

    fence: float = 10.0
    restart: float = 60.0
    replay: float = 10.0
    stage: float = 120.0
    cancel: float = 10.0

    def scaled(self, factor: float) -> "Timeouts":
        """All of them, ``factor`` times as long; a factor below 1 counts as 1."""
        factor = max(1.0, factor)
        return Timeouts(**{field.name: getattr(self, field.name) * factor for field in fields(self)})


async def bounded(
    clock: Clock,
    work: Coroutine[Any, Any, T],
    *,
    timeout_seconds: float,
    cancel_seconds: float,
    interrupt: asyncio.Event | None = None,
) -> T:
    """Await ``work`` for at most ``timeout_seconds``, or until ``interrupt`` is set; an interrupt beats a result.

    Raises what ``work`` raises; StepTimeoutError; StepInterruptedError; StepStuckError if ``work``, once cancelled,
    goes on for more than ``cancel_seconds``. When the caller is cancelled, ``work`` is ended first.
    """
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(timeout_seconds))
    waits: set[asyncio.Future[Any]] = {task, timer}
    if interrupt is not None:
        waits.add(asyncio.ensure_future(interrupt.wait()))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if interrupt is not None and interrupt.is_set():
            raise StepInterruptedError
        if not task.done():
            raise StepTimeoutError(f"it took more than {timeout_seconds:.0f} s")
        if task.cancelled():
            raise StepInterruptedError  # by itself: must not look like a cancellation of the caller
        return task.result()
    finally:
        for helper in waits - {task}:
            helper.cancel()
        await end(clock, task, cancel_seconds)


async def end(clock: Clock, task: "asyncio.Future[Any]", cancel_seconds: float) -> None:
    """Cancel ``task`` and return once it has ended, however it did. Raises StepStuckError if it does not.

    The caller's own cancellation waits until then: nothing may follow while the task can still act.
    """
    cancelled = False
    if not task.done():
        task.cancel()
        timer = asyncio.ensure_future(clock.sleep(cancel_seconds))
        while not task.done() and not timer.done():
            try:
                await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                cancelled = True
        timer.cancel()
        if not task.done():
            raise StepStuckError
    if not task.cancelled():
        task.exception()  # retrieved: a late error of a cancelled step is no news
    if cancelled:
        raise asyncio.CancelledError
