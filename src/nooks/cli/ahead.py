"""The supervisor's process that the entry point starts ahead of time for ``nooks start`` (see ``standby``)."""

from nooks.nook.standby import Standby

_waiting: list[Standby] = []


def begin() -> None:
    """Start a supervisor's process now."""
    _waiting.append(Standby())


def take() -> Standby | None:
    """That process, if there is one; the caller owns it."""
    return _waiting.pop() if _waiting else None


def discard() -> None:
    """End it if nobody took it."""
    standby = take()
    if standby is not None:
        standby.close()
