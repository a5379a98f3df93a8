"""Processes told by a variable in their environment, which their descendants inherit."""

import time
from enum import Enum, auto

from nooks.host.pace import slowness
from nooks.host.proc import all_pids, command_line, environment, runs_a_program

_START_SECONDS = 1.0
_POLL_SECONDS = 0.005


class Look(Enum):
    """What one look at a process shows."""

    CARRIER = auto()
    STARTS = auto()
    OTHER = auto()


def carriers(mark: str) -> list[int]:
    """The ids of the processes that have ``mark`` (``NAME=value``) in their environment, of those that are ours to see.

    Waits for those that are being started, in whose environment it may turn out to be; no longer than a second on an
    idle machine.
    """
    deadline = time.monotonic() + _START_SECONDS * slowness()
    while True:
        seen = {pid: look(pid, mark) for pid in all_pids()}
        if Look.STARTS not in seen.values() or time.monotonic() > deadline:
            return [pid for pid, what in seen.items() if what is Look.CARRIER]
        time.sleep(_POLL_SECONDS)


def look(pid: int, mark: str) -> Look:
    """What a process is, by one reading of its environment: none can be seen in the midst of execve(2).

    Then it may be a carrier, and whoever started it may be dead already, since it is told of success a little earlier.
    A command line that is there before and after tells a process that really has no environment.
    """
    before = command_line(pid)
    found = environment(pid)
    if found:
        return Look.CARRIER if mark.encode() in found.split(b"\0") else Look.OTHER
    stays = before and command_line(pid) == before
    return Look.STARTS if not stays and runs_a_program(pid) else Look.OTHER
