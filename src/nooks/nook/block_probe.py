"""Who works on a disk's requests behind the driver: QEMU's worker threads, and what QEMU has counted.

A worker that carries out a read or a write stands in a system call for as long as the host's disk takes
(proc(5), /proc/PID/task/TID/syscall: the call's number, or "running").
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

from nooks.domain.domain import Domain
from nooks.domain.medium import operations
from nooks.domain.monitor import MonitorError
from nooks.failure.block import Work

# arch/x86/entry/syscalls/syscall_64.tbl: p{read,write}64, f{,data}sync, fallocate, p{read,write}v and their newer forms
_IO_CALLS = frozenset(("17", "18", "74", "75", "285", "295", "296", "327", "328"))


class EmulatedWork:
    """Looks at the domain that ``live`` gives, if there is one. Implements WorkProbe."""

    def __init__(self, live: Callable[[], Domain | None]) -> None:
        self._live = live

    async def look(self) -> Work | None:
        """See WorkProbe."""
        domain = self._live()
        if domain is None:
            return None
        if _works(domain.pid):
            return Work(busy=True, done=0)
        try:
            return Work(busy=False, done=(await operations(domain))[0])
        except MonitorError:
            return None

    async def refused(self) -> int | None:
        """See WorkProbe."""
        domain = self._live()
        if domain is None:
            return None
        try:
            return (await operations(domain))[1]
        except MonitorError:
            return None


class UnseenWork:
    """A real device's work, of which nothing can be seen."""

    async def look(self) -> Work | None:
        """Nothing."""
        return None

    async def refused(self) -> int | None:
        """Nothing."""
        return None


def _works(pid: int) -> bool:
    """Whether a thread of the process stands in a system call that reads or writes a file."""
    for task in Path(f"/proc/{pid}/task").glob("*/syscall"):
        with contextlib.suppress(OSError):
            if task.read_text().partition(" ")[0] in _IO_CALLS:
                return True
    return False
