"""What a worker that died leaves behind: its processes, its nook, its namespaces. All carry names of its own."""

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from pathlib import Path

from nooks.host.errors import NooksError
from nooks.host.pace import slowness
from nooks.host.paths import nook_dir
from nooks.host.process import run, send_signal
from nooks.lab.processes import all_pids, command_line, environment, runs_a_program
from nooks.lab.workers import python
from nooks.nook import leftovers

TOKEN = "NOOKS_LAB_WORKER"
"""This variable tells a worker's descendants from everybody else's processes."""
_CLEAN_LOOKS = 2
_END_SECONDS = 10.0
_START_SECONDS = 1.0
_STOP_SECONDS = 60.0

Remains = Mapping[str, Sequence[str]]
"""Names by kind: ``nooks``, ``guests`` (native controls), ``mounts``, ``namespaces``, ``folders``."""


class Look(Enum):
    """What a process is to a sweep."""

    DESCENDANT = auto()
    STARTS = auto()
    OTHER = auto()


def sweep(token: str, remains: Remains) -> None:
    """End and remove all of it. Raises NooksError if something doesn't go."""
    _end_descendants(f"{TOKEN}={token}".encode())
    for name in remains.get("mounts", ()):
        if Path(name).is_mount():
            run(["umount", "--lazy", name])
    for name in remains.get("nooks", ()):
        if nook_dir(name).exists():
            run(python("nooks.cli.main", "stop", name, "--force"), timeout_seconds=_STOP_SECONDS)
    for name in remains.get("guests", ()):
        leftovers.fence(name)
    for name in remains.get("namespaces", ()):
        if Path("/run/netns", name).exists():
            run(["ip", "netns", "delete", name])
    for name in remains.get("folders", ()):
        shutil.rmtree(name, ignore_errors=True)


def _end_descendants(mark: bytes) -> None:
    """End all that carry the mark: over when two looks in a row find none, since one may be handed on during a look."""
    began = time.monotonic()
    clean = 0
    while clean < _CLEAN_LOOKS:
        seen = {pid: look(pid, mark) for pid in all_pids()}
        descendants = [pid for pid, what in seen.items() if what is Look.DESCENDANT]
        if time.monotonic() > began + _END_SECONDS and descendants:
            raise NooksError(f"processes {descendants} of a dead worker don't end", "end them by hand")
        for pid in descendants:
            _kill(pid, mark)
        starting = Look.STARTS in seen.values() and time.monotonic() < began + _START_SECONDS * slowness()
        clean = 0 if descendants or starting else clean + 1
        time.sleep(0.02)


def look(pid: int, mark: bytes) -> Look:
    """What a process is, by one reading of its environment; none can be seen in the midst of execve(2).

    Then it may be a descendant, and whoever started it may be dead already, since it is told of success a little
    earlier. A command line that is there before and after tells a process that really has no environment.
    """
    before = command_line(pid)
    found = environment(pid)
    if found:
        return Look.DESCENDANT if mark in found.split(b"\0") else Look.OTHER
    stays = before and command_line(pid) == before
    return Look.STARTS if not stays and runs_a_program(pid) else Look.OTHER


def _kill(pid: int, mark: bytes) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if look(pid, mark) is Look.DESCENDANT:
            send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
