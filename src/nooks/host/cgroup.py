"""Control groups (version 2): one for each domain, where the machine lets us make one.

Kernel document: Documentation/admin-guide/cgroup-v2.rst.
"""

import contextlib
from pathlib import Path

from nooks.host.errors import NooksError

MARK = "NOOKS_DOMAIN_OF"
"""In the environment of a domain's process: the prefix of its groups' names, for where none can be made."""


class CgroupError(NooksError):
    """A control group could not be emptied or removed."""


def parent_directory() -> Path | None:
    """The cgroup2 directory below which we may make groups, or None."""
    mount = next(
        (
            Path(fields[1])
            for fields in (line.split() for line in Path("/proc/mounts").read_text().splitlines())
            if fields[2] == "cgroup2"
        ),
        None,
    )
    if mount is None:
        return None
    own = next(
        (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")),
        "/",
    )
    # Controllers can't be used below a group that holds processes, so domains stand beside ours, not in it.
    beside = mount / own.strip("/")
    return beside.parent if beside != mount else mount


class Cgroup:
    """One domain's control group. ``path`` is None where none could be made: then the pidfd alone fences."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @classmethod
    def create(cls, name: str, memory_bytes: int) -> "Cgroup":
        """Make the group ``name``, with a memory limit where the controller is there."""
        parent = parent_directory()
        if parent is None:
            return cls(None)
        path = parent / name
        try:
            path.mkdir(exist_ok=True)
        except OSError:
            return cls(None)
        with contextlib.suppress(OSError):
            (path / "memory.max").write_text(str(memory_bytes))
            (path / "memory.swap.max").write_text("0")
        return cls(path)

    def add(self, pid: int) -> None:
        """Move a process into the group; where we may not, as an ordinary user perhaps, there is none from now on."""
        if self.path is not None:
            try:
                (self.path / "cgroup.procs").write_text(str(pid))
            except ProcessLookupError:
                return
            except PermissionError:
                self.path.rmdir()
                self.path = None

    def members(self) -> set[int]:
        """The processes inside; none if the group is gone."""
        if self.path is None:
            return set()
        with contextlib.suppress(OSError):
            return {int(line) for line in (self.path / "cgroup.procs").read_text().split()}
        return set()

    def kill(self) -> None:
        """SIGKILL to everything inside (Linux 5.14)."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                (self.path / "cgroup.kill").write_text("1")

    def is_empty(self) -> bool:
        """Whether no live process is inside (zombies do not count)."""
        if self.path is None or not self.path.exists():
            return True
        return "populated 0" in (self.path / "cgroup.events").read_text()

    def remove(self) -> None:
        """Remove the group. Raises CgroupError if something still lives in it."""
        if self.path is None:
            return
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            raise CgroupError(f"control group {self.path} can't be removed: {error.strerror}") from error
