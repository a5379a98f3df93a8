"""What a nook leaves when its keeper and its supervisor both died: domains that nobody serves.

They are found and ended by their control groups, never by a recorded process id.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from nooks.host.cgroup import Cgroup, CgroupError

END_SECONDS = 10.0
_POLL_SECONDS = 0.01


def fence(name: str) -> int:
    """End every domain of a dead nook and wait until it is gone; returns how many there were.

    To be called with the name claimed and no keeper alive. Raises CgroupError if one does not end.
    """
    groups = list(_groups(name))
    for group in groups:
        group.kill()
    deadline = time.monotonic() + END_SECONDS
    for group in groups:
        while not group.is_empty():
            if time.monotonic() >= deadline:
                raise CgroupError(f"a domain of {name} does not end", f"look at the processes in {group.path}")
            time.sleep(_POLL_SECONDS)
        group.remove()
    return len(groups)


def _groups(name: str) -> Iterator[Cgroup]:
    """The control groups of a nook's domains: nooks-NAME-PID-COUNT, wherever the supervisor stood."""
    pattern = re.compile(rf"nooks-{re.escape(name)}-[0-9]+-[0-9]+")
    for mount in _mounts():
        for path in mount.rglob(f"nooks-{name}-*"):
            if pattern.fullmatch(path.name):
                yield Cgroup(path)


def _mounts() -> list[Path]:
    lines = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return [Path(fields[1]) for fields in lines if fields[2] == "cgroup2"]
