"""What a worker that died leaves behind: its processes, its nook, its namespaces. All carry names of its own."""

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nooks.host.errors import NooksError
from nooks.host.marks import Look, carriers, look
from nooks.host.paths import nook_dir
from nooks.host.process import run, send_signal
from nooks.lab.workers import python
from nooks.nook import leftovers

TOKEN = "NOOKS_LAB_WORKER"
"""This variable tells a worker's descendants from everybody else's processes."""
_CLEAN_LOOKS = 2
_END_SECONDS = 10.0
_STOP_SECONDS = 60.0

Remains = Mapping[str, Sequence[str]]
"""Names by kind: ``nooks``, ``guests`` (native controls), ``mounts``, ``namespaces``, ``folders``."""


def sweep(token: str, remains: Remains) -> None:
    """End and remove all of it. Raises NooksError if something doesn't go."""
    _end_descendants(f"{TOKEN}={token}")
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


def _end_descendants(mark: str) -> None:
    """End all that carry the mark: over when two looks in a row find none, since one may be handed on during a look."""
    deadline = time.monotonic() + _END_SECONDS
    clean = 0
    while clean < _CLEAN_LOOKS:
        descendants = carriers(mark)
        if descendants and time.monotonic() > deadline:
            raise NooksError(f"processes {descendants} of a dead worker don't end", "end them by hand")
        for pid in descendants:
            _kill(pid, mark)
        clean = 0 if descendants else clean + 1
        time.sleep(0.02)


def _kill(pid: int, mark: str) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if look(pid, mark) is Look.CARRIER:
            send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
