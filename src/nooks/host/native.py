"""Libraries of ours in C, for this machine: compiled when they are first wanted, and kept in the cache.

Each does what something in Python does, sooner. Where no C compiler makes programs for this machine, or the cache can't
be written, that goes on alone. ``CC`` names the compiler, as for make; empty, there is none.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from nooks.host import cache
from nooks.host.errors import NooksError
from nooks.host.process import run

PACKAGES = "gcc libc6-dev"
"""The Debian packages that it takes to compile."""

COMPILE_SECONDS = 60.0

_ARCHITECTURES = {"amd64": "x86_64"}
"""By Debian's name the kernel's; what we have in C was tried on no other architecture."""

_OPTIONS = ("-std=gnu11", "-O2", "-shared", "-fPIC")
_KIND = "libraries"
_KEPT, _UNUSED_SECONDS = 2, 30 * 24 * 3600.0


def find_compiler(architecture: str = "amd64") -> str | None:
    """The compiler for programs of this architecture; None if there is none here."""
    wanted = os.environ.get("CC", "cc")
    here = os.uname().machine == _ARCHITECTURES.get(architecture)
    return shutil.which(wanted) if wanted and here else None


def library(source: Path, failed: Callable[[str], None]) -> Path | None:
    """The library made of one source file (0.1 s when it is first wanted); None without a compiler.

    If there is one, and all the same no library, ``failed`` is told why.
    """
    compiler = find_compiler()
    if compiler is None:
        return None
    name = f"{source.stem}.so"
    key = hashlib.sha256("\0".join((compiler, *_OPTIONS, source.read_text())).encode()).hexdigest()[:32]

    def build(place: Path) -> None:
        run([compiler, *_OPTIONS, "-o", str(place / name), str(source)], timeout_seconds=COMPILE_SECONDS)

    try:
        place = cache.entry(_KIND, key, build)
        cache.prune(_KIND, keep=_KEPT, unused_seconds=_UNUSED_SECONDS)
    except (NooksError, OSError) as error:
        failed(str(error))
        return None
    return place / name
