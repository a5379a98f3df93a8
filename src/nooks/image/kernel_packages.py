"""Kernels from packages: finding them in the archive, and arranging what they bring as cache entries."""

import re
import shutil
from functools import partial
from pathlib import Path

from nooks.host import cache
from nooks.host.errors import InputError
from nooks.host.process import run
from nooks.image import pvh, vmlinux
from nooks.image.apt import Archive, NotInArchiveError, Package
from nooks.image.kernel import KIND, LAYOUT, NEWEST, WATCH, Flavour, by_version
from nooks.image.progress import Progress

_DEPMOD_TIMEOUT_SECONDS = 120.0


def fetch(kernel: str, flavour: Flavour, progress: Progress) -> str:
    """Find, download and unpack a kernel; returns the key of its cache entry.

    Raises InputError for an unknown version, ArchiveError if the archive can't be used, DiskFullError.
    """
    suites = ["", *flavour.elsewhere]
    while True:
        archive = Archive(flavour.architecture, progress, suites.pop(0))
        try:
            return archive.consult(partial(_fetch, archive, kernel, flavour, progress))
        except NotInArchiveError:
            if not suites:
                raise


def _fetch(archive: Archive, kernel: str, flavour: Flavour, progress: Progress) -> str:
    """Find, download and unpack a kernel package; returns the key of its cache entry."""
    package = _find_package(archive, kernel, flavour)
    version = package.name.removeprefix("linux-image-")
    key = re.sub(r"[^A-Za-z0-9._+-]", "-", f"{version}_{package.version}_{LAYOUT}")

    def build(place: Path) -> None:
        unpacked = place / "unpacked"
        archive.unpack([package], unpacked)
        _install(unpacked, version, place, flavour, progress)
        shutil.rmtree(unpacked)

    cache.entry(KIND, key, build, watch=WATCH)
    return key


def _find_package(archive: Archive, kernel: str, flavour: Flavour) -> Package:
    if kernel == NEWEST:
        return _image_package(archive, flavour.metapackage)
    name = f"linux-image-{kernel}-{flavour.name}"
    known = archive.names("linux-image-")
    if name in known:
        return _image_package(archive, name)
    pattern = re.compile(rf"linux-image-(\d[^-]*(?:-\d+)?-{flavour.name})")
    versions = sorted((match[1] for match in map(pattern.fullmatch, known) if match), key=by_version)
    raise InputError(
        f"unknown kernel {kernel!r} for flavour {flavour.name}",
        f"use debian, host, a directory, or one of {', '.join(versions) or 'no versions'}",
    )


def _image_package(archive: Archive, name: str) -> Package:
    """The package of that name, or the one that it depends on if it is a metapackage."""
    package = archive.package(name)
    images = [needed for needed in package.depends if needed.startswith("linux-image-")]
    return archive.package(images[0]) if images else package


def _install(unpacked: Path, version: str, place: Path, flavour: Flavour, progress: Progress) -> None:
    """Arrange what a package brings as an entry: ``vmlinux`` and ``lib/modules/VERSION``."""
    progress(f"extracting kernel {version}")
    extract(unpacked / f"boot/vmlinuz-{version}", place, flavour)
    merged, old = (unpacked / prefix / "modules" / version for prefix in ("usr/lib", "lib"))
    (place / "lib/modules").mkdir(parents=True)
    (merged if merged.is_dir() else old).rename(place / "lib/modules" / version)
    index_modules(place, version)


def extract(image: Path, place: Path, flavour: Flavour) -> None:
    """Put the bootable kernel of ``image`` into an entry. Raises InputError if it is none of that flavour."""
    vmlinux.extract(image, place / "vmlinux")
    if vmlinux.bits(place / "vmlinux") != flavour.bits:
        raise InputError(f"{image} is not a {flavour.bits}-bit kernel", "choose the other flavour")
    pvh.ensure_entry(place / "vmlinux")


def index_modules(place: Path, version: str) -> None:
    """Let depmod write the indexes of an entry's modules, unless they came with them."""
    if not (place / "lib/modules" / version / "modules.dep").exists():
        run(["depmod", "-b", str(place), version], timeout_seconds=_DEPMOD_TIMEOUT_SECONDS)
