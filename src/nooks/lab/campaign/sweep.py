"""What a worker that died leaves behind: its processes, its nook, its namespaces. All carry names of its own."""

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
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
_END_SECONDS = 10.0
_START_SECONDS = 1.0
_STOP_SECONDS = 60.0

Remains = Mapping[str, Sequence[str]]
"""Names by kind: ``nooks``, ``guests`` (native controls), ``mounts``, ``namespaces``, ``folders``."""


def sweep(token: str, remains: Remains) -> None:
    """End and remove all of it. Raises NooksError if something doesn't go."""
    mark = f"{TOKEN}={token}".encode()
    began = time.monotonic()
    while (descendants := [pid for pid in all_pids() if _carries(pid, mark)]) or _one_starts(began):
        if time.monotonic() > began + _END_SECONDS:
            raise NooksError(f"processes {descendants} of a dead worker don't end", "end them by hand")
        for pid in descendants:
            _kill(pid, mark)
        time.sleep(0.02)
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


def _carries(pid: int, mark: bytes) -> bool:
    return mark in environment(pid).split(b"\0")


def _one_starts(began: float) -> bool:
    """Whether a process is in the midst of execve(2), when its environment can't be seen: it may be a descendant.

    Whoever started it may be dead already, since it is told of success a little earlier.
    """
    if time.monotonic() > began + _START_SECONDS * slowness():
        return False  # then there is one that really has none
    return any(runs_a_program(pid) and not environment(pid) and not command_line(pid) for pid in all_pids())


def _kill(pid: int, mark: bytes) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _carries(pid, mark):
            send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
