"""What a nook's dead daemons left: domains that nobody holds, a network namespace that nobody removes.

Domains are found by their control groups and by the user that they alone run as, never by a recorded process id. An
ordinary user's run as that user, and are told by a mark in their environment.
"""

import contextlib
import os
import re
import select
import signal
import time
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from nooks.host.cgroup import MARK, Cgroup, CgroupError
from nooks.host.errors import NooksError
from nooks.host.marks import carriers
from nooks.host.paths import nook_dir
from nooks.host.proc import all_pids, user_of
from nooks.nook.claims import BLOCK_DEVICE, DEVICE, NAMESPACE

END_SECONDS = 10.0
INTERFACE_SECONDS = 2.0
_POLL_SECONDS = 0.01

_USER_IDS = 1_900_000_000
"""Each nook's domains run under a user id of their own, from here on; no account has such a number."""


def domain_user(name: str) -> int:
    """The user and group id of a nook's domains: ours, where we may take no other."""
    return os.geteuid() or _USER_IDS + zlib.crc32(name.encode()) % (1 << 24)


def fence(name: str, *, keep: Collection[int] = ()) -> int:
    """End every domain of a nook but the processes in ``keep``, and wait until they are gone; returns how many.

    To be called with the name claimed: by a new supervisor with what the keeper holds as ``keep``, or when no keeper
    is alive. A supervisor that is killed while it starts a domain leaves one that no keeper knows. Raises CgroupError
    or NooksError if one does not end.
    """
    count = 0
    for group in [group for group in _groups(name) if not keep or not group.members().intersection(keep)]:
        group.kill()
        deadline = time.monotonic() + END_SECONDS
        while not group.is_empty():
            if time.monotonic() >= deadline:
                raise CgroupError(f"a domain of {name} does not end", f"look at the processes in {group.path}")
            time.sleep(_POLL_SECONDS)
        group.remove()
        count += 1
    for pid in _processes(name):
        if pid not in keep:
            _kill(pid, name)
            count += 1
    return count


def clear(name: str) -> None:
    """End and give back all that is left of a nook whose keeper and supervisor are dead, with its name claimed.

    Its interface goes with its domains, a little later than they. Raises NooksError.
    """
    if fence(name):
        deadline = time.monotonic() + INTERFACE_SECONDS
        while Path("/sys/class/net", name).exists() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    remove_namespace(name)
    detach_block_device(name)
    give_back_device(name)


def remove_namespace(name: str) -> None:
    """Remove the network namespace that a dead nook had made, if it noted one. Raises MachineError."""
    from nooks.endpoint import netns

    with contextlib.suppress(FileNotFoundError):
        netns.remove((nook_dir(name) / NAMESPACE).read_text())


def detach_block_device(name: str) -> None:
    """Take away a dead block nook's device, which nobody serves any more. Raises NooksError."""
    from nooks.endpoint import disk

    link = nook_dir(name) / BLOCK_DEVICE
    disk.detach_left(link.readlink() if link.is_symlink() else None, name)


def give_back_device(name: str) -> None:
    """Let the host's driver have a nook's real device again, if it has one. Raises NooksError."""
    directory = nook_dir(name)
    if (directory / DEVICE).exists():
        from nooks.nook import possession

        possession.give_back(directory)


def _groups(name: str) -> Iterator[Cgroup]:
    """The control groups of a nook's domains: nooks-NAME-PID-COUNT, wherever the supervisor stood."""
    pattern = re.compile(rf"nooks-{re.escape(name)}-(?:[0-9]+-[0-9]+|probe)")
    for mount in _mounts():
        for path in mount.rglob(f"nooks-{name}-*"):
            if pattern.fullmatch(path.name):
                yield Cgroup(path)


def _mounts() -> list[Path]:
    lines = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return [Path(fields[1]) for fields in lines if fields[2] == "cgroup2"]


def _processes(name: str) -> list[int]:
    """The domains of a nook by their user (proc(5): a process's folder belongs to its effective user)."""
    user_id = domain_user(name)
    if user_id == os.geteuid():
        return carriers(f"{MARK}=nooks-{name}")
    return [pid for pid in all_pids() if user_of(pid) == user_id]


def _kill(pid: int, name: str) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(END_SECONDS * 1000):
            raise NooksError(f"a domain of {name} does not end", f"look at the process {pid}")
    finally:
        os.close(pidfd)
