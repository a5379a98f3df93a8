"""The kernel's files below /sys, /proc and /dev, read and written so that a device may vanish at any moment.

Knows no bus. ``root`` is another directory in tests. Reading what is not there, or vanishes meanwhile, gives None or
nothing; writing says in words what the kernel refused.
"""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nooks.host.errors import MachineError, StateError
from nooks.host.process import ProcessError, run

POLL_SECONDS = 0.02
_MODPROBE_SECONDS = 30.0
_VANISHED = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR)


class GoneError(StateError):
    """The device is no longer in the machine."""


class RefusedError(StateError):
    """The kernel refused what was written to one of its files; ``errno`` says how."""

    def __init__(self, message: str, fix: str, number: int | None) -> None:
        super().__init__(message, fix)
        self.errno = number


@dataclass(frozen=True)
class Sysfs:
    """The kernel's files below ``root``."""

    root: Path = Path("/")

    def at(self, *parts: str) -> Path:
        """The path of a file, e.g. ``at("sys/bus/pci/devices", address)``."""
        return self.root.joinpath(*parts)

    def text(self, path: Path) -> str | None:
        """The content without surrounding white space; None if it can't be read: not there, vanished, not permitted."""
        try:
            return path.read_bytes().decode("utf-8", "replace").strip()
        except OSError:
            return None

    def number(self, path: Path, base: int = 10) -> int | None:
        """The number in a file; None if there is none."""
        try:
            return int(self.text(path) or "", base)
        except ValueError:
            return None

    def lines(self, path: Path) -> list[str]:
        """The lines of a file; none if it can't be read."""
        return (self.text(path) or "").splitlines()

    def target(self, path: Path) -> Path | None:
        """Where a link leads in the end; None if there is no such link."""
        try:
            return path.resolve(strict=True) if path.is_symlink() else None
        except (OSError, RuntimeError):
            return None

    def target_name(self, path: Path) -> str | None:
        """The last part of where a link leads, e.g. the name of the driver that ``DEVICE/driver`` links to."""
        target = self.target(path)
        return None if target is None else target.name

    def names(self, path: Path) -> list[str]:
        """What is in a directory, sorted; nothing if it can't be read."""
        try:
            return sorted(entry.name for entry in path.iterdir())
        except OSError:
            return []

    def write(self, path: Path, text: str) -> None:
        """Write ``text`` in one piece, as sysfs wants it.

        Raises GoneError, MachineError (not permitted) and RefusedError.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self.failure(error, path, f"took no {text.strip()!r}") from None

    def failure(self, error: OSError, path: Path, what: str) -> StateError | MachineError:
        """An error at a kernel's file, in words."""
        if error.errno in _VANISHED:
            return GoneError(f"{path} is gone", "plug the device in again, or look for it with 'nooks doctor'")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return MachineError(f"{path} {what}: {error.strerror}", "run nooks as root, outside of a container")
        return RefusedError(f"{path} {what}: {error.strerror}", "the kernel's log says why: dmesg | tail", error.errno)

    def load_module(self, name: str) -> None:
        """Have a module in the running kernel. Raises MachineError."""
        try:
            run(["modprobe", name], timeout_seconds=_MODPROBE_SECONDS)
        except ProcessError as error:
            raise MachineError(f"the module {name} can't be loaded: {error.message}", "run nooks as root") from None


HOST = Sysfs()
"""The machine that this runs on."""


def wait_until(holds: Callable[[], bool], within_seconds: float) -> bool:
    """Whether ``holds`` became true in time. Blocks the thread."""
    deadline = time.monotonic() + within_seconds
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
