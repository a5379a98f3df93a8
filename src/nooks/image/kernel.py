"""Stock kernels: from the distribution's packages, from the running host, or from a directory.

A Kernel is an ELF vmlinux, which QEMU boots by PVH, and its module tree. What was resolved is remembered for a day, so
that no command waits for apt; packages that were unpacked stay in the cache.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from nooks.host import cache
from nooks.host.errors import InputError, NooksError
from nooks.image import kernel_trees, recent
from nooks.image.progress import Progress, quiet

NEWEST = "debian"
"""What means the newest kernel of the machine's suites."""

KIND = "kernels"
WATCH = ("vmlinux",)
LAYOUT = "3"
"""Changes when entries are made in another way."""

_KEEP = 2
_UNUSED_SECONDS = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Flavour:
    """A kernel flavour as Debian names it, and the package architecture that goes with it."""

    name: str
    architecture: str
    metapackage: str
    bits: int
    elsewhere: tuple[str, ...] = ()
    """Debian releases to look into where the machine's own has no such kernels."""


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour("amd64", "amd64", "linux-image-amd64", 64),
        Flavour("686", "i386", "linux-image-686", 32, elsewhere=("bookworm",)),
    )
}


@dataclass(frozen=True)
class Kernel:
    """A bootable kernel with its modules."""

    version: str
    """As ``uname -r`` says it."""
    flavour: str
    vmlinux: Path
    """An uncompressed ELF image."""
    modules: Path
    """The directory with ``modules.dep`` and ``kernel/``."""
    digest: str
    """Changes whenever the kernel or the set of its modules does; of a package, also with each module's content."""
    entry: str
    """The key of its cache entry."""
    origin: str = ""
    """The directory that it came from; empty if it was a package."""


def resolve(kernel: str = "debian", flavour: str = "amd64", progress: Progress = quiet) -> Kernel:
    """The kernel that a specification means.

    ``kernel`` is "debian" (the newest of the machine's suites), "host" (the running one, where its files are
    installed), a version ("6.1.0-50" or "6.1.0-50-amd64"), or a directory as a kernel package unpacks to.
    Raises InputError if there is no such kernel or flavour, NooksError if none can be had.
    """
    if flavour not in FLAVOURS:
        raise InputError(f"unknown kernel flavour {flavour!r}", f"known are {', '.join(FLAVOURS)}")
    if kernel == "host":
        return _from_tree(Path("/"), FLAVOURS[flavour], progress, version=os.uname().release)
    if "/" in kernel or kernel in (".", ".."):
        return _from_tree(Path(kernel), FLAVOURS[flavour], progress)
    return _from_package(kernel.removesuffix(f"-{flavour}"), FLAVOURS[flavour], progress)


def whole(kernel: Kernel, progress: Progress = quiet) -> Kernel:
    """The same kernel, after a look at each file of its module tree; fetched again if one is damaged."""
    if cache.find(KIND, kernel.entry) is not None:
        return kernel
    progress(f"the cached kernel {kernel.version} is damaged; getting it again")
    cache.discard(KIND, kernel.entry)
    if kernel.origin:
        return _from_tree(Path(kernel.origin), FLAVOURS[kernel.flavour], progress, version=kernel.version)
    return resolve(kernel.version, kernel.flavour, progress)


def _from_package(kernel: str, flavour: Flavour, progress: Progress) -> Kernel:
    known = recent.recall(_question(kernel, flavour))
    if known is None and kernel != NEWEST:
        known = _newest_cached(kernel, flavour)  # of one version, the cached package is as good as any
    found = _packaged(known, flavour) if known is not None else None
    if found is None:
        found = _packaged(_resolve_package(kernel, flavour, progress), flavour)
    if found is None:
        raise NooksError(f"the kernel {kernel} vanished from the cache while it was resolved", "try again")
    return found


def _resolve_package(kernel: str, flavour: Flavour, progress: Progress) -> str:
    def fetch() -> str:
        # Imported here: with all that it brings it would double the time of a command that finds everything cached.
        from nooks.image import kernel_packages

        return kernel_packages.fetch(kernel, flavour, progress)

    key = recent.newest(_question(kernel, flavour), fetch, lambda: _newest_cached(kernel, flavour), progress)
    cache.prune(KIND, keep=_KEEP, unused_seconds=_UNUSED_SECONDS)
    return key


def _packaged(key: str, flavour: Flavour) -> Kernel | None:
    """The kernel in a cache entry made from a package; None if it is missing or damaged."""
    place = cache.find(KIND, key, watch=WATCH)
    if place is None:
        return None
    cache.touch(place)
    version = key.partition("_")[0]
    modules = place / "lib/modules" / version
    return Kernel(version, flavour.name, vmlinux=place / "vmlinux", modules=modules, digest=key, entry=key)


def _newest_cached(kernel: str, flavour: Flavour) -> str | None:
    version = r"[^_]+" if kernel == NEWEST else re.escape(kernel)
    pattern = re.compile(rf"{version}-{flavour.name}_(?!tree-).*_{LAYOUT}")
    keys = [key for key in cache.keys(KIND) if pattern.fullmatch(key) and cache.find(KIND, key, watch=WATCH)]
    return max(keys, key=by_version, default=None)


def by_version(text: str) -> list[int]:
    """A sort key: the numbers in a version, by value."""
    return [int(number) for number in re.findall(r"\d+", text)]


def _question(kernel: str, flavour: Flavour) -> str:
    return f"kernel-{kernel}-{flavour.name}"


def _from_tree(root: Path, flavour: Flavour, progress: Progress, version: str | None = None) -> Kernel:
    image, modules = kernel_trees.find(root, version)
    state = hashlib.sha256("\n".join([flavour.name, *kernel_trees.states(image, modules)]).encode()).hexdigest()
    key = f"{modules.name}_tree-{state[:24]}_{LAYOUT}"

    def build(place: Path) -> None:
        from nooks.image import kernel_packages  # as above

        progress(f"extracting kernel {modules.name}")
        kernel_packages.extract(image, place, flavour)
        kernel_trees.link_modules(modules, place / "lib/modules" / modules.name)
        kernel_packages.index_modules(place, modules.name)

    place = cache.entry(KIND, key, build, watch=WATCH)
    return Kernel(
        version=modules.name,
        flavour=flavour.name,
        vmlinux=place / "vmlinux",
        modules=place / "lib/modules" / modules.name,
        digest=state,
        entry=key,
        origin=str(root),
    )
