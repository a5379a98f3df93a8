"""Stock kernels: from the distribution's packages, from the running host, or from a directory.

A Kernel is an ELF vmlinux, which QEMU boots by PVH, and its module tree. What was resolved is remembered for a day, so
that no command waits for apt; packages that were unpacked stay in the cache.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nooks.host import cache
from nooks.host.errors import InputError, NooksError
from nooks.host.process import run
from nooks.image import recent, vmlinux
from nooks.image.apt import Archive, NotInArchiveError, Package
from nooks.image.progress import Progress, quiet

_DEPMOD_TIMEOUT_SECONDS = 120.0
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~-]{0,80}")
_NEWEST = "debian"
_WATCH = ("vmlinux",)
_KIND = "kernels"
_LAYOUT = "3"
"""Changes when entries are made in another way."""
_KEEP = 4
_UNUSED_SECONDS = 14 * 24 * 3600.0


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
    """Changes whenever the kernel or one of its modules does."""
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
    if cache.find(_KIND, kernel.entry) is not None:
        return kernel
    progress(f"the cached kernel {kernel.version} is damaged; getting it again")
    cache.discard(_KIND, kernel.entry)
    if kernel.origin:
        return _from_tree(Path(kernel.origin), FLAVOURS[kernel.flavour], progress, version=kernel.version)
    return resolve(kernel.version, kernel.flavour, progress)


# --- packages ---------------------------------------------------------------------------------------------------


def _from_package(kernel: str, flavour: Flavour, progress: Progress) -> Kernel:
    known = recent.recall(_question(kernel, flavour))
    if known is None and kernel != _NEWEST:
        known = _newest_cached(kernel, flavour)  # of one version, the cached package is as good as any
    found = _packaged(known, flavour) if known is not None else None
    if found is None:
        found = _packaged(_resolve_package(kernel, flavour, progress), flavour)
    if found is None:
        raise NooksError(f"the kernel {kernel} vanished from the cache while it was resolved", "try again")
    return found


def _resolve_package(kernel: str, flavour: Flavour, progress: Progress) -> str:
    def fetch() -> str:
        suites = ["", *flavour.elsewhere]
        while True:
            archive = Archive(flavour.architecture, progress, suites.pop(0))
            try:
                return archive.consult(partial(_fetch, archive, kernel, flavour, progress))
            except NotInArchiveError:
                if not suites:
                    raise

    key = recent.newest(_question(kernel, flavour), fetch, lambda: _newest_cached(kernel, flavour), progress)
    cache.prune(_KIND, keep=_KEEP, unused_seconds=_UNUSED_SECONDS)
    return key


def _fetch(archive: Archive, kernel: str, flavour: Flavour, progress: Progress) -> str:
    """Find, download and unpack a kernel package; returns the key of its cache entry."""
    package = _find_package(archive, kernel, flavour)
    version = package.name.removeprefix("linux-image-")
    key = re.sub(r"[^A-Za-z0-9._+-]", "-", f"{version}_{package.version}_{_LAYOUT}")

    def build(place: Path) -> None:
        unpacked = place / "unpacked"
        archive.unpack([package], unpacked)
        _install(unpacked, version, place, progress)
        shutil.rmtree(unpacked)

    cache.entry(_KIND, key, build, watch=_WATCH)
    return key


def _find_package(archive: Archive, kernel: str, flavour: Flavour) -> Package:
    if kernel == _NEWEST:
        return _image_package(archive, flavour.metapackage)
    name = f"linux-image-{kernel}-{flavour.name}"
    known = archive.names("linux-image-")
    if name in known:
        return _image_package(archive, name)
    pattern = re.compile(rf"linux-image-(\d[^-]*(?:-\d+)?-{flavour.name})")
    versions = sorted((match[1] for match in map(pattern.fullmatch, known) if match), key=_by_version)
    raise InputError(
        f"unknown kernel {kernel!r} for flavour {flavour.name}",
        f"use debian, host, a directory, or one of {', '.join(versions) or 'no versions'}",
    )


def _image_package(archive: Archive, name: str) -> Package:
    """The package of that name, or the one that it depends on if it is a metapackage."""
    package = archive.package(name)
    images = [needed for needed in package.depends if needed.startswith("linux-image-")]
    return archive.package(images[0]) if images else package


def _install(unpacked: Path, version: str, place: Path, progress: Progress) -> None:
    """Arrange what a package brings as an entry: ``vmlinux`` and ``lib/modules/VERSION``."""
    progress(f"extracting kernel {version}")
    _extract(unpacked / f"boot/vmlinuz-{version}", place)
    merged, old = (unpacked / prefix / "modules" / version for prefix in ("usr/lib", "lib"))
    (place / "lib/modules").mkdir(parents=True)
    (merged if merged.is_dir() else old).rename(place / "lib/modules" / version)
    run(["depmod", "-b", str(place), version], timeout_seconds=_DEPMOD_TIMEOUT_SECONDS)


def _extract(image: Path, place: Path) -> None:
    # Imported here: it brings pyelftools, which nothing needs while all is cached.
    from nooks.image import pvh

    vmlinux.extract(image, place / "vmlinux")
    pvh.ensure_entry(place / "vmlinux")


def _packaged(key: str, flavour: Flavour) -> Kernel | None:
    """The kernel in a cache entry made from a package; None if it is missing or damaged."""
    place = cache.find(_KIND, key, watch=_WATCH)
    if place is None:
        return None
    cache.touch(place)
    version = key.partition("_")[0]
    modules = place / "lib/modules" / version
    return Kernel(version, flavour.name, vmlinux=place / "vmlinux", modules=modules, digest=key, entry=key)


def _newest_cached(kernel: str, flavour: Flavour) -> str | None:
    version = r"[^_]+" if kernel == _NEWEST else re.escape(kernel)
    pattern = re.compile(rf"{version}-{flavour.name}_(?!tree-).*_{_LAYOUT}")
    keys = [key for key in cache.keys(_KIND) if pattern.fullmatch(key) and cache.find(_KIND, key, watch=_WATCH)]
    return max(keys, key=_by_version, default=None)


def _by_version(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _question(kernel: str, flavour: Flavour) -> str:
    return f"kernel-{kernel}-{flavour.name}"


# --- trees ------------------------------------------------------------------------------------------------------


def _from_tree(root: Path, flavour: Flavour, progress: Progress, version: str | None = None) -> Kernel:
    """A kernel whose files lie in a directory: the modules stay there, vmlinux and indexes go into the cache."""
    image, modules = _find_in_tree(root, version)
    state = hashlib.sha256("\n".join(_states(image, modules)).encode()).hexdigest()
    key = f"{modules.name}_tree-{state[:24]}_{_LAYOUT}"

    def build(place: Path) -> None:
        progress(f"extracting kernel {modules.name}")
        _extract(image, place)
        _link_modules(modules, place / "lib/modules" / modules.name)
        if not (place / "lib/modules" / modules.name / "modules.dep").exists():
            run(["depmod", "-b", str(place), modules.name], timeout_seconds=_DEPMOD_TIMEOUT_SECONDS)

    place = cache.entry(_KIND, key, build, watch=_WATCH)
    if vmlinux.bits(place / "vmlinux") != flavour.bits:
        raise InputError(f"{image} is not a {flavour.bits}-bit kernel", "choose the other flavour")
    return Kernel(
        version=modules.name,
        flavour=flavour.name,
        vmlinux=place / "vmlinux",
        modules=place / "lib/modules" / modules.name,
        digest=state,
        entry=key,
        origin=str(root),
    )


def _find_in_tree(root: Path, version: str | None) -> tuple[Path, Path]:
    """The kernel image and the module directory below ``root``; they must agree in the version."""
    if not root.is_dir():
        raise InputError(f"there is no directory {root}", "give one with boot/vmlinuz-* and lib/modules/*")
    found: dict[str, tuple[Path, Path]] = {}
    for pattern in ("lib/modules/*", "usr/lib/modules/*"):
        for modules in root.glob(pattern):
            names = [root / f"boot/vmlinu{letter}-{modules.name}" for letter in "xz"] + [modules / "vmlinuz"]
            image = next((name for name in names if name.is_file()), None)
            if image is not None and (modules / "kernel").is_dir():
                found[modules.name] = image, modules
    if version is not None and version not in found:
        raise InputError(f"kernel {version} is not installed below {root}", "use --kernel debian, or give a directory")
    if version is None and len(found) != 1:
        what = f"kernels {', '.join(sorted(found))}" if found else "no kernel with its modules"
        raise InputError(f"{root} has {what}", "give a directory with one boot/vmlinuz-V and lib/modules/V")
    image, modules = found[version if version is not None else next(iter(found))]
    if not _VERSION.fullmatch(modules.name):
        raise InputError(f"{modules.name!r} is no kernel version", "rename the directory below lib/modules")
    return image.resolve(), modules.resolve()


def _states(image: Path, modules: Path) -> Iterator[str]:
    """What changes when somebody rebuilds the kernel or a module: name, size and time of each file."""
    for path in [image, *sorted(modules.rglob("*"))]:
        status = path.stat() if path.exists() else path.lstat()
        if not path.is_dir():
            yield f"{path} {status.st_size} {status.st_mtime_ns}"


def _link_modules(modules: Path, place: Path) -> None:
    place.mkdir(parents=True)
    for path in modules.iterdir():
        if path.is_dir() and path.name not in ("build", "source"):
            (place / path.name).symlink_to(path)
        elif path.name.startswith("modules."):
            shutil.copyfile(path, place / path.name)
