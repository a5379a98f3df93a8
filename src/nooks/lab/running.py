"""How a command of the lab runs its coroutine: errors come out as the product's own, not in groups."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from nooks.host.errors import NooksError
from nooks.host.interrupts import INTERRUPTS

T = TypeVar("T")


def run_lab(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end and return the result. Of a group of errors the first NooksError is raised, if it has one.

    The first interrupt has the coroutine clean up, further ones don't disturb that. Raises KeyboardInterrupt then.
    """
    interrupts = 0
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    heard = [number for number, handler in before.items() if handler != signal.SIG_IGN]

    async def supervised() -> T:
        task = asyncio.ensure_future(coroutine)

        def interrupt() -> None:
            nonlocal interrupts
            interrupts += 1
            if interrupts == 1:
                task.cancel()

        for number in heard:
            asyncio.get_running_loop().add_signal_handler(number, interrupt)
        return await task

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        if not interrupts:
            raise
        raise KeyboardInterrupt from None
    except BaseExceptionGroup as group:
        told = first_of(group)
        if told is None:
            raise
        raise told from None
    finally:
        for number, handler in before.items():  # the loop leaves Python's own
            signal.signal(number, handler)


def first_of(group: BaseExceptionGroup[BaseException]) -> NooksError | None:
    """The first NooksError in a group, however deep."""
    for error in group.exceptions:
        if isinstance(error, NooksError):
            return error
        if isinstance(error, BaseExceptionGroup) and (found := first_of(error)) is not None:
            return found
    return None
