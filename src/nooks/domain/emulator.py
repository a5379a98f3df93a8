"""Which QEMU a domain runs: the distribution's own, or another build in a directory, which brings its libraries.

Such a build is started by its own dynamic loader (ld.so(8)), so that nothing of it has to be installed. A domain's user
can't walk into our cache: the directory is handed over as a descriptor.
"""

import os
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nooks.host.errors import MachineError
from nooks.host.process import run

PROGRAM = "qemu-system-x86_64"

BINARY = Path("usr/bin") / PROGRAM
LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
LOADER = LIBRARIES / "ld-linux-x86-64.so.2"
DATA = (Path("usr/share/qemu"), Path("usr/share/seabios"))
"""What a build has below its directory, as Debian's packages lay it out."""


@dataclass(frozen=True)
class Emulator:
    """A QEMU build. ``directory`` None: the distribution's."""

    directory: Path | None = None

    @property
    def identity(self) -> str:
        """What tells this build from others. Raises MachineError if there is none."""
        return version_text() if self.directory is None else self.directory.name

    def command(self, place: str | None = None) -> list[str]:
        """How it is started; ``place`` is how whoever starts it reaches the directory. Raises MachineError."""
        if self.directory is None:
            return [program()]
        base = Path(place) if place is not None else self.directory
        data = (argument for folder in DATA for argument in ("-L", str(base / folder)))
        return [str(base / LOADER), "--library-path", str(base / LIBRARIES), str(base / BINARY), *data]

    def open(self) -> int | None:
        """A descriptor of the directory to hand over, which the caller closes; None where that is not needed."""
        if self.directory is None:
            return None
        return os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


SYSTEM = Emulator()


def program() -> str:
    """The path of the distribution's QEMU. Raises MachineError if it is missing."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise MachineError(f"{PROGRAM} is missing", "apt-get install qemu-system-x86")
    return found


@cache
def version_text() -> str:
    """What identifies the distribution's build: its path, size and time of change (asking it would take 50 ms)."""
    path = Path(program()).resolve()
    status = path.stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"


def version(emulator: Emulator = SYSTEM) -> tuple[int, int]:
    """A build's version, major and minor. Raises MachineError if it does not tell."""
    said = run([*emulator.command(), "--version"], timeout_seconds=20).stdout
    match = re.search(r"version (\d+)\.(\d+)", said)
    if match is None:
        raise MachineError(f"{PROGRAM} --version says {said[:80]!r}", "apt-get install --reinstall qemu-system-x86")
    return int(match[1]), int(match[2])
