"""Kernels whose files lie in a directory: the modules stay there, vmlinux and indexes go into the cache."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from nooks.host.errors import InputError

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~-]{0,80}")


def find(root: Path, version: str | None) -> tuple[Path, Path]:
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


def states(image: Path, modules: Path) -> Iterator[str]:
    """What changes when somebody rebuilds the kernel or installs modules: name, size and time of its files.

    Of the modules it is the indexes that depmod writes; a module that was copied over by hand changes the state of
    the images that contain it (``state_of``). To look at all four thousand would take longer than all else, so it is
    done only where depmod has not been.
    """
    indexes = sorted(modules.glob("modules.*"))
    indexed = modules / "modules.dep" in indexes
    for path in (image, *indexes, *(() if indexed else sorted((modules / "kernel").rglob("*.ko*")))):
        yield state_of(path)


def state_of(path: Path) -> str:
    """What changes when somebody replaces a file."""
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def link_modules(modules: Path, place: Path) -> None:
    """Arrange a module directory of links to ``modules``, with copies of its indexes."""
    place.mkdir(parents=True)
    for path in modules.iterdir():
        if path.is_dir() and path.name not in ("build", "source"):
            (place / path.name).symlink_to(path)
        elif path.name.startswith("modules."):
            shutil.copyfile(path, place / path.name)
