"""The object tracker: owns every host resource that a nook holds and releases each exactly once.

Nooks' object tracker (SOSP 2003, section 3.3) recorded the kernel objects that an extension used, so that recovery
could free them. Here it records descriptors, processes, cgroups, namespaces and files of the host.
"""

import inspect
from collections.abc import Awaitable, Callable

import structlog

Release = Callable[[], None] | Callable[[], Awaitable[None]]


class ObjectTracker:
    """Named resources with their release functions; released in reverse order of acquisition."""

    def __init__(self, owner: str) -> None:
        self._log = structlog.get_logger(owner=owner)
        self._held: dict[str, Release] = {}

    @property
    def held(self) -> tuple[str, ...]:
        """The names of what is held, oldest first."""
        return tuple(self._held)

    def own(self, name: str, release: Release) -> None:
        """Take a resource under ``name``. Raises ValueError if the name is held already."""
        if name in self._held:
            raise ValueError(f"{name} is held already")
        self._held[name] = release

    def disown(self, name: str) -> None:
        """Forget a resource without releasing it: somebody else owns it now. Raises KeyError if unknown."""
        del self._held[name]

    async def release(self, name: str) -> None:
        """Release one resource; nothing happens if it is not held (any more)."""
        function = self._held.pop(name, None)
        if function is None:
            return
        outcome = function()
        if inspect.isawaitable(outcome):
            await outcome

    async def release_all(self) -> list[str]:
        """Release everything, newest first; one failure does not keep the rest. Returns what failed."""
        failed: list[str] = []
        while self._held:
            name = next(reversed(self._held))
            try:
                await self.release(name)
            except Exception as error:  # noqa: BLE001 - the rest must still be released; the failure is reported
                self._log.error("release failed", resource=name, error=repr(error))
                failed.append(name)
        return failed
