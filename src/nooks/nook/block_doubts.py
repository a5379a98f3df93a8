"""Errors that a driver told of, held back until somebody has judged whether its device has made them."""

from nooks.shadow.requests import Request
from nooks.xpc.block import FLUSH, READ, WRITE

MISMATCHES = 2
"""Read wrong so often, each time by a fresh driver, it is the medium that is wrong."""

_DOUBTED = (READ, WRITE, FLUSH)


class HeldErrors:
    """Requests that were answered with an error for the first time. Of ``wanted`` False none is held back."""

    def __init__(self) -> None:
        self.wanted = False
        self._held: list[tuple[Request, int]] = []

    def hold(self, request: Request, error: int) -> bool:
        """Hold the answer back, unless it is none of an error, or of one that another driver told of as well."""
        if not error or not self.wanted or request.doubted or request.operation not in _DOUBTED:
            return False
        request.doubted = True
        self._held.append((request, error))
        return True

    def __len__(self) -> int:
        return len(self._held)

    def release(self) -> list[tuple[Request, int]]:
        """What was held back, with its error."""
        held, self._held = self._held, []
        return held
