"""Names of nooks: one folder each in the run directory, claimed by a lock that dies with its holders.

RUN/NAME/ holds ``lock``, ``control``, ``keeper``, ``spec.json``, ``image.json``, ``pid`` and perhaps ``namespace`` or
``device.json``. The lock is held by the command that starts a nook and then, by inheritance, by its
supervisor. The keeper does not hold it: a nook whose supervisor died can be claimed by the next one.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from nooks.host.errors import MachineError, StateError
from nooks.host.paths import is_name, nook_dir, run_dir

LOCK = "lock"
CONTROL = "control"
KEEPER = "keeper"
SPEC = "spec.json"
IMAGE = "image.json"
NAMESPACE = "namespace"
"""The name of a network namespace that goes when the nook goes, noted before it is made."""
DEVICE = "device.json"
"""How the host had the real device that the nook has: noted before it is touched."""
BLOCK_DEVICE = "device"
"""A link to the block device of a nook of that class."""
PID = "pid"
"""The supervisor's process id, for systemd (PIDFile); nothing of ours trusts it."""

_POLL_SECONDS = 0.01


class NameTaken(StateError):  # noqa: N818 - the name says what happened
    """Somebody else holds the name."""


@dataclass
class Claim:
    """A held name. Closing it gives the name back, unless somebody inherited the lock."""

    name: str
    directory: Path
    lock: int

    @property
    def control(self) -> Path:
        """The control socket's path."""
        return self.directory / CONTROL

    @property
    def keeper(self) -> Path:
        """The keeper's socket's path."""
        return self.directory / KEEPER

    def clear(self) -> None:
        """Remove everything in the folder but the lock."""
        for path in self.directory.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def remove(self) -> None:
        """Remove the folder. The name stays claimed, by an unlinked lock, until this is closed."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _is_bare(self) -> bool:
        return [path.name for path in self.directory.iterdir()] == [LOCK]

    def close(self) -> None:
        """Let go of the lock, and of a folder with nothing else in it: of a start that was broken off at once."""
        if self.lock >= 0:
            with contextlib.suppress(OSError):
                if _is_current(self.lock, self.directory / LOCK) and self._is_bare():
                    self.remove()
            os.close(self.lock)
            self.lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def claim(name: str, *, within_seconds: float = 0.0) -> Claim:
    """Claim a name, making its folder. Raises NameTaken, or MachineError if the folder can't be made."""
    directory = nook_dir(name)
    deadline = time.monotonic() + within_seconds
    while True:
        fd = _open_lock(directory)
        if fd is not None:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
            else:
                if _is_current(fd, directory / LOCK):
                    return Claim(name, directory, fd)
                os.close(fd)  # its folder was removed while we waited: claim the next one
                continue
        if time.monotonic() >= deadline:
            raise NameTaken(f"the name {name} is in use", f"see 'nooks status {name}', or choose another name")
        time.sleep(_POLL_SECONDS)


def is_claimed(name: str) -> bool:
    """Whether somebody holds the name: a supervisor, or a command that starts one."""
    try:
        fd = os.open(nook_dir(name) / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def names() -> Iterator[str]:
    """The names that have a folder, sorted."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(run_dir().iterdir()):
            if is_name(path.name) and (path / LOCK).exists():
                yield path.name


def forget(name: str) -> None:
    """Remove the folder of a nook that has ended. For its supervisor, which holds the lock."""
    shutil.rmtree(nook_dir(name), ignore_errors=True)


def _open_lock(directory: Path) -> int | None:
    """The lock file's descriptor; None if the folder was removed at this very moment."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from None
    try:
        return os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(directory, error) from None


def _unusable(directory: Path, error: OSError) -> MachineError:
    return MachineError(
        f"the run directory {directory} can't be used: {error.strerror}",
        "use sudo, free some space, or set XDG_RUNTIME_DIR or NOOKS_RUN_DIR to a directory of yours",
    )


def _is_current(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
