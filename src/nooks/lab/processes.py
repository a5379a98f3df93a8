"""What processes cost: memory and processor time, from /proc (proc(5))."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from nooks.host.paths import nook_dir
from nooks.host.proc import all_pids, command_line, open_sockets, parent_of, stat_fields

_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12  # among the fields after the command's name, counted from 0


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its threads so far; 0 if it is gone."""
    fields = stat_fields(pid)
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS if fields else 0.0


def pss_bytes(pid: int) -> dict[str, int]:
    """The proportional set size of a process, ``total`` and by kind (``anonymous``, ``file``, ``shared``).

    Empty if it is gone.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return {}
    found = {key: int(size) << 10 for key, size in re.findall(r"^(Pss\w*): +(\d+) kB", text, re.MULTILINE)}
    return {
        "total": found.get("Pss", 0),
        "anonymous": found.get("Pss_Anon", 0),
        "file": found.get("Pss_File", 0),
        "shared": found.get("Pss_Shmem", 0),
    }


def family_of(nook: str, known: Iterable[int]) -> dict[int, str]:
    """The processes of a nook, each with its role: those at its sockets, the ``known`` ones, and all their children."""
    everybody = all_pids()
    inodes = _socket_inodes(nook_dir(nook))
    members = {pid for pid in known if command_line(pid)}
    members |= {pid for pid in everybody if inodes & open_sockets(pid)}
    parents = {pid: parent_of(pid) for pid in everybody}
    while children := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= children
    return {pid: _role(command_line(pid)) for pid in sorted(members) if command_line(pid)}


def _socket_inodes(folder: Path) -> set[str]:
    """The inodes of the Unix sockets bound below a directory."""
    rows = (line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return {row[6] for row in rows if len(row) == 8 and row[7].startswith(f"{folder}/")}


def _role(words: list[str]) -> str:
    text = " ".join(words)
    for mark, role in (
        ("nooks.nook.supervisor", "supervisor"),
        ("nooks.nook.standby", "supervisor"),
        ("keeper/server.py", "keeper"),
        ("qemu-system", "domain"),
        ("slirp4netns", "slirp4netns"),
    ):
        if mark in text:
            return role
    return words[0].rpartition("/")[2]
