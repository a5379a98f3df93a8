"""Whether a shadow's driver serves, and asking it questions that end when it goes away. Common to all classes."""

import asyncio
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any, TypeVar

from nooks.host.errors import StateError
from nooks.shadow.errors import BusyError

T = TypeVar("T")


class Mode(StrEnum):
    """Passive: the driver serves. Active: it is away (or not there yet). Degraded: it will not come back by itself."""

    PASSIVE = "passive"
    ACTIVE = "active"
    DEGRADED = "degraded"


_TRANSITIONS = {
    Mode.PASSIVE: {Mode.ACTIVE, Mode.DEGRADED},
    Mode.ACTIVE: {Mode.ACTIVE, Mode.PASSIVE, Mode.DEGRADED},
    Mode.DEGRADED: {Mode.ACTIVE, Mode.DEGRADED},
}


class DriverAway(Exception):  # noqa: N818 - never leaves this room
    """The driver failed while it was asked."""


class Life:
    """The mode of one shadow. Starts active: there is no driver yet."""

    def __init__(self) -> None:
        self.mode = Mode.ACTIVE
        self._away = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether the driver serves."""
        return self.mode is Mode.PASSIVE

    def to(self, mode: Mode) -> None:
        """Change the mode; whoever waits for the driver's answer is told at once. Raises StateError."""
        if mode not in _TRANSITIONS[self.mode]:
            raise StateError(f"a shadow that is {self.mode} cannot become {mode}")
        self.mode = mode
        if mode is Mode.PASSIVE:
            self._away.clear()
        else:
            self._away.set()

    def raise_if_away(self) -> None:
        """Raises BusyError unless the driver serves."""
        if not self.serving:
            raise BusyError

    async def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """The driver's answer. Raises DriverAway as soon as the driver is known to be gone."""
        asking = asyncio.ensure_future(question)
        away = asyncio.ensure_future(self._away.wait())
        try:
            await asyncio.wait([asking, away], return_when=asyncio.FIRST_COMPLETED)
            if not self.serving:
                raise DriverAway
            return asking.result()
        finally:
            for task in (asking, away):
                task.cancel()
            await asyncio.gather(asking, away, return_exceptions=True)
