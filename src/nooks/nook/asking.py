"""What every class asks an agent, with the patience that the machine's load calls for."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from nooks.host.errors import NooksError
from nooks.host.pace import slowness
from nooks.nook.incarnation import Incarnation
from nooks.xpc.channel import Channel
from nooks.xpc.errors import XpcError, XpcTimeout
from nooks.xpc.messages import Resume
from nooks.xpc.settings import Settings

T = TypeVar("T")

ANSWER_SECONDS = 10.0
"""How long the agent may take over a request: a driver's reset takes seconds, on a busy host longer."""


class NoAnswer(NooksError):  # noqa: N818 - the name says what happened
    """The agent did not answer, or its channel is closed."""


def patience() -> float:
    """How long to wait for an answer now, in seconds."""
    return ANSWER_SECONDS * slowness()


def resume(incarnation: int, settings: Settings) -> Resume:
    """The request that tells a domain who it is now, and its driver's settings."""
    return Resume(
        incarnation=incarnation,
        nonce=secrets.token_hex(16),
        time_ns=time.time_ns(),
        entropy=secrets.token_hex(32),
        settings=settings,
    )


async def ask(live: Incarnation | None, question: Callable[[Channel], Awaitable[T]]) -> T:
    """The live agent's answer. Raises NoAnswer."""
    if live is None:
        raise NoAnswer("there is no driver at the moment", "try again in a second")
    try:
        return await question(live.channel)
    except XpcTimeout as error:
        raise NoAnswer(f"the agent does not answer: {error}") from error
    except XpcError as error:
        raise NoAnswer(f"the agent did not do it: {error}") from error


async def surely(asking: Coroutine[Any, Any, T]) -> T:
    """Ask to the end even if nobody waits any more: an answer that nobody expects would be a violation."""
    asked = asyncio.ensure_future(asking)
    asked.add_done_callback(_forget)
    return await asyncio.shield(asked)


def _forget(future: "asyncio.Future[Any]") -> None:
    """Retrieve the error of a request that nobody may be waiting for any more."""
    if not future.cancelled():
        future.exception()
