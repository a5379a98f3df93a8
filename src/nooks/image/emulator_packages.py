"""QEMU from packages: which suite has one that is new enough, which of its packages are needed, unpacking them."""

import hashlib
import re
import shutil
from pathlib import Path

from nooks.domain import emulator
from nooks.domain.emulator import Emulator
from nooks.host import cache
from nooks.image.apt import Archive
from nooks.image.emulator import KIND
from nooks.image.progress import Progress

SUITE = "trixie-backports"
"""The suite next to the stable ones that has QEMU 10.1 or newer; its libraries come from the release below it."""

_PACKAGE = "qemu-system-x86"
_NEEDED = re.compile(r"qemu-system-(?:x86|common|data)|seabios|lib.*")
"""Not what installing would need: maintainer scripts don't run."""

_KEPT = (emulator.BINARY, emulator.LIBRARIES, *emulator.DATA)


def fetch(progress: Progress) -> str:
    """Find, download and unpack; returns the key of the cache entry. Raises ArchiveError, DiskFullError, NooksError."""
    archive = Archive("amd64", progress, SUITE)
    return archive.consult(lambda: _fetch(archive))


def _fetch(archive: Archive) -> str:
    packages = archive.closure(_PACKAGE, _NEEDED)
    versions = hashlib.sha256(" ".join(sorted(package.exact for package in packages)).encode()).hexdigest()
    key = re.sub(r"[^A-Za-z0-9._+-]", "-", f"{_PACKAGE}_{packages[0].version}_{versions[:16]}")

    def build(place: Path) -> None:
        unpacked = place / "unpacked"
        archive.unpack(packages, unpacked)
        for kept in _KEPT:
            (place / kept).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / kept).rename(place / kept)
        shutil.rmtree(unpacked)
        emulator.version(Emulator(place))  # it runs: no library is missing

    cache.entry(KIND, key, build)
    return key
