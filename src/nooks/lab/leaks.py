"""What may be left behind: a picture of all that a nook could leave on a host, and what is new since.

Used by tests, which start and end with one, and by ``nooks bench cycles``.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from nooks.host.paths import cache_dir, run_dir
from nooks.host.proc import all_pids, command_line

_MARKS = ("nooks.", "qemu-system", "slirp4netns", "iperf3")
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
_CGROUPS = Path("/sys/fs/cgroup")
BLOCK_DEVICES = Path("/sys/block")


@dataclass(frozen=True)
class Picture:
    """Names of all that is there now, by kind."""

    processes: frozenset[str]
    interfaces: frozenset[str]
    namespaces: frozenset[str]
    cgroups: frozenset[str]
    mounts: frozenset[str]
    disks: frozenset[str]
    files: frozenset[str]
    descriptors: frozenset[str]

    @classmethod
    def now(cls) -> Self:
        """As it is now."""
        return cls(
            processes=frozenset(_processes()),
            interfaces=frozenset(_names(Path("/sys/class/net"))),
            namespaces=frozenset(_names(Path("/run/netns"))),
            cgroups=frozenset(str(path) for path in _CGROUPS.rglob("*nook*") if path.is_dir()),
            mounts=frozenset(_words(Path("/proc/self/mounts"), 1)),
            disks=frozenset(_disks()),
            files=frozenset(_files()),
            descriptors=frozenset(_descriptors()),
        )

    def left_since(self, before: "Picture") -> list[str]:
        """What is there now and was not ``before``, as readable lines."""
        return [
            f"{kind.name}: {name}"
            for kind in fields(self)
            for name in sorted(getattr(self, kind.name) - getattr(before, kind.name))
        ]


def _processes() -> Iterable[str]:
    for pid in all_pids():
        words = command_line(pid)
        if pid != os.getpid() and any(mark in word for word in words for mark in _MARKS):
            yield f"{pid} {' '.join(words)[:200]}"


def _disks() -> Iterable[str]:
    """Block devices of nooks: ublk's, and those whose file or server is called after one."""
    yield from (name for name in _names(Path("/dev")) if name.startswith("ublkc"))
    for device in _names(BLOCK_DEVICES):
        for file in ("loop/backing_file", "backend"):
            try:
                name = (BLOCK_DEVICES / device / file).read_text()
            except OSError:  # it is no such device, or not in use
                continue
            if "nooks-" in name:
                yield f"{device} {name.strip()}"


def _files() -> Iterable[str]:
    for folder in (run_dir(), cache_dir() / "snapshots"):
        yield from (str(path) for path in folder.rglob("*") if _is_partial(folder, path))
    for folder in _TEMPORARY:
        yield from (f"{folder}/{name}" for name in _names(Path(folder)) if "nook" in name)


def _is_partial(folder: Path, path: Path) -> bool:
    """Everything in the run directory counts; of the cache only what is half-made."""
    return folder == run_dir() or ".part" in path.name or ".tmp" in path.name


def _descriptors() -> Iterable[str]:
    for entry in _names(Path("/proc/self/fd")):
        try:
            yield f"{entry} {Path('/proc/self/fd', entry).readlink()}"
        except OSError:  # the descriptor of the listing itself
            continue


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _words(file: Path, column: int) -> list[str]:
    return [line.split()[column] for line in file.read_text().splitlines()]
