"""What of ours is not Python: the mover of a disk's data in a domain, and the host's checksums of them.

They do what ``agent/mover.py`` and the package crc32c do, sooner. Where no C compiler makes programs for the domain,
images go without the mover; where none does for the host, or the cache can't be written, the host goes without the
library. ``CC`` names the compiler, as for make; empty, there is none.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import nooks
from nooks.host import cache
from nooks.host.errors import NooksError
from nooks.host.process import run
from nooks.image.progress import Progress, quiet
from nooks.xpc import block

SOURCE = Path(nooks.__path__[0], "agent/mover.c")
CHECKSUMS_SOURCE = Path(nooks.__path__[0], "shadow/checksums.c")
PACKAGES = "gcc libc6-dev"
"""The Debian packages that it takes to make it."""

_ARCHITECTURES = {"amd64": "x86_64"}
"""By Debian's name the kernel's; with another architecture's kernels no disk has been tried."""

_HOST = "amd64"
"""What the library is for: it uses an instruction of this architecture."""

_SECONDS = 60.0
_KIND, _LIBRARY = "libraries", "checksums.so"
_UNUSED_SECONDS = 30 * 24 * 3600.0
_SHARED = (
    *("READ", "WRITE", "FLUSH", "ZERO", "DISCARD", "BARRIER", "KICK", "FUA"),
    *("REQUEST_MAGIC", "REQUEST_MARK", "REPLY_MAGIC", "REPLY_MARK"),
    *("RING", "REQUESTED", "BEGUN", "AWAKE", "REPLIED", "TAKEN", "REQUESTS_AT", "REPLIES_AT", "BELL_IO_PORT"),
)
"""The constants of ``xpc/block.py`` that the program is compiled with."""


def digest(architecture: str) -> str:
    """Changes with the program that an image for this architecture would have; "" if it would have none."""
    compiler = find_compiler(architecture)
    if compiler is None:
        return ""
    parts = (compiler, *definitions(), SOURCE.read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def find_compiler(architecture: str) -> str | None:
    """The compiler for programs of a domain of this architecture; None if there is none."""
    wanted = os.environ.get("CC", "cc")
    here = os.uname().machine == _ARCHITECTURES.get(architecture)
    return shutil.which(wanted) if wanted and here else None


def definitions() -> list[str]:
    """What the compiler is told of the protocol."""
    numbers = {name: int(getattr(block, name)) for name in _SHARED}
    numbers |= {"REQUEST_SIZE": block.REQUEST.size, "REPLY_SIZE": block.REPLY.size}
    return [f"-DXPC_{name}={number:#x}" for name, number in numbers.items()]


def compile_mover(compiler: str, target: Path, options: Sequence[str] = ()) -> None:
    """Make the program for this machine. Raises ProcessError, with what was said, if libc's headers lack, say."""
    argv = [compiler, "-std=gnu11", "-O2", *options, *definitions(), "-o", str(target), str(SOURCE), "-pthread"]
    run(argv, timeout_seconds=_SECONDS)


def checksums_library(progress: Progress = quiet) -> Path | None:
    """The host's library of checksums, which is made when it is first wanted (0.1 s); None if it can't be had."""
    compiler = find_compiler(_HOST)
    if compiler is None:
        return None
    options = ("-O2", "-shared", "-fPIC")
    key = hashlib.sha256("\0".join((compiler, *options, CHECKSUMS_SOURCE.read_text())).encode()).hexdigest()[:32]

    def build(place: Path) -> None:
        run([compiler, *options, "-o", str(place / _LIBRARY), str(CHECKSUMS_SOURCE)], timeout_seconds=_SECONDS)

    try:
        place = cache.entry(_KIND, key, build)
        cache.prune(_KIND, keep=1, unused_seconds=_UNUSED_SECONDS)
    except (NooksError, OSError) as error:
        progress(f"checksums of disks will be made one by one, which is slower: {error}")
        return None
    return place / _LIBRARY
