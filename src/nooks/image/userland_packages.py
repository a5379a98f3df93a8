"""CPython from packages: which ones, and unpacking them into a cache entry."""

import hashlib
import re
import shutil
from pathlib import Path

from nooks.host import cache
from nooks.image.apt import Archive, ArchiveError, Package
from nooks.image.progress import Progress
from nooks.image.userland import KIND

_METAPACKAGE = "python3-minimal"
_LIBRARIES = re.compile(r"libc6|zlib1g|libexpat1|libffi\d+|libpython3\.\d+-minimal")
"""The packages that hold what the interpreter and the extension modules of an agent are linked with."""


def fetch(architecture: str, progress: Progress) -> str:
    """Find, download and unpack the newest packages; returns the key of their cache entry.

    Raises ArchiveError if the archive can't be used, DiskFullError.
    """
    archive = Archive(architecture, progress)
    return archive.consult(lambda: _fetch(archive))


def _fetch(archive: Archive) -> str:
    packages = _packages(archive)
    named = packages[0]
    versions = hashlib.sha256(" ".join(sorted(package.exact for package in packages)).encode()).hexdigest()
    key = re.sub(r"[^A-Za-z0-9._+-]", "-", f"{named.name}_{named.version}_{archive.architecture}_{versions[:16]}")

    def build(place: Path) -> None:
        archive.unpack(packages, place)
        for name in ("usr/share", "etc", "var"):
            shutil.rmtree(place / name, ignore_errors=True)

    cache.entry(KIND, key, build)
    return key


def _packages(archive: Archive) -> list[Package]:
    """The minimal interpreter, its standard library, and what they are linked with; the interpreter first."""
    names = [n for n in archive.package(_METAPACKAGE).depends if re.fullmatch(r"python3\.\d+-minimal", n)]
    if not names:
        raise ArchiveError(f"{_METAPACKAGE} depends on no interpreter", "check the sources of apt")
    interpreter = archive.package(names[0])
    library = archive.package(f"lib{interpreter.name.removesuffix('-minimal')}-stdlib")
    needed = dict.fromkeys(n for n in (*interpreter.depends, *library.depends) if _LIBRARIES.fullmatch(n))
    return [interpreter, library, *(archive.package(name) for name in needed)]
