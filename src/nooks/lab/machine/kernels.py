"""Kernels of lab machines: what ``image.kernel`` resolves, and those of other Debian releases, by their names."""

import re
from functools import partial
from pathlib import Path

from nooks.host import cache
from nooks.host.errors import InputError
from nooks.image import kernel as kernels
from nooks.image import recent
from nooks.image.apt import Archive
from nooks.image.kernel import Kernel
from nooks.image.progress import Progress, quiet

RELEASES = ("bookworm", "trixie")
"""Debian 12 and 13."""

_KIND = "release-kernels"
_METAPACKAGE = "linux-image-amd64"
_LAYOUT = "1"


def resolve(kernel: str, progress: Progress = quiet) -> Kernel:
    """The kernel of a lab: whatever ``image.kernel.resolve`` knows, or "bookworm" or "trixie" for that release's.

    Raises InputError if there is no such kernel, NooksError if it can't be had.
    """
    if kernel not in RELEASES:
        return kernels.whole(kernels.resolve(kernel, progress=progress), progress)
    return kernels.whole(kernels.resolve(str(_unpacked(kernel, progress)), progress=progress), progress)


def _unpacked(release: str, progress: Progress) -> Path:
    """The directory of a release's newest kernel package, unpacked."""
    question = f"kernel-{release}-amd64"
    key = recent.recall(question)
    place = cache.find(_KIND, key, watch=()) if key is not None else None
    if place is None:
        archive = Archive("amd64", progress, release)
        key = recent.newest(
            question,
            lambda: archive.consult(partial(_fetch, archive, release)),
            partial(_newest_cached, release),
            progress,
        )
        place = cache.find(_KIND, key, watch=())
    if place is None:
        raise InputError(f"the kernel of {release} vanished from the cache", "try again")
    cache.touch(place)
    return place


def _fetch(archive: Archive, release: str) -> str:
    wanted = archive.package(_METAPACKAGE)
    package = archive.package(next(name for name in wanted.depends if name.startswith("linux-image-")))
    key = re.sub(r"[^A-Za-z0-9._+-]", "-", f"{release}_{package.name}_{package.version}_{_LAYOUT}")
    cache.entry(_KIND, key, lambda place: _unpack(archive, package.name, place), watch=())
    return key


def _unpack(archive: Archive, name: str, place: Path) -> None:
    archive.unpack([archive.package(name)], place)


def _newest_cached(release: str) -> str | None:
    keys = [key for key in cache.keys(_KIND) if key.startswith(f"{release}_") and key.endswith(f"_{_LAYOUT}")]
    return max(keys, key=kernels.by_version, default=None)
