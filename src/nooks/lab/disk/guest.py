"""The program of ``raw`` in the very kernel that the disk's driver is in."""

import os
import select
import threading
import time
from pathlib import Path

from nooks.lab import guest
from nooks.lab.disk.raw import Work

_DISKS = Path("/sys/block")
_APPEAR_SECONDS = 20.0
_POLL_SECONDS = 0.1


class DiskGuest:
    """A disk, and the program."""

    def __init__(self) -> None:
        self._path = Path()

    def bring_up(self, order: guest.Order) -> None:
        """Wait for the disk. Raises Unable."""
        del order
        self._path = Path("/dev", guest.wait_for(_disk, _APPEAR_SECONDS, "no disk appeared"))

    def use(self, order: guest.Order, report: guest.Report, control: int) -> None:
        """Write, read and compare."""
        work = Work(self._path, order["seed"], report, reads_only=order["reads_only"])
        work.report(time.time())
        listening = threading.Thread(target=_listen, args=(work.ending, control))
        listening.start()
        work.run()
        work.ending.set()
        listening.join()


def _disk() -> str:
    """The name of the first disk that is a driver's."""
    return min((path.name for path in _DISKS.iterdir() if (path / "device").exists()), default="")


def _listen(ending: threading.Event, control: int) -> None:
    """Have the work end when something comes."""
    while not ending.is_set():
        readable, _, _ = select.select([control], [], [], _POLL_SECONDS)
        if readable and os.read(control, 4096):
            ending.set()


def main() -> None:
    """Be the guest's init."""
    guest.serve(DiskGuest())
