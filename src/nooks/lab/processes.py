"""What processes cost: memory and processor time, from /proc (proc(5))."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from nooks.host.paths import nook_dir

_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12  # among the fields after the command's name, counted from 0


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its threads so far; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS


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


def command_line(pid: int) -> list[str]:
    """The words of a process's command line; none if it is gone or a kernel thread, or in the midst of execve(2)."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0")
    except OSError:
        return []
    return text.split("\0") if text else []


def environment(pid: int) -> bytes:
    """What a process was started with, NUL after each; empty as of ``command_line``, or if it is not ours to see."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def runs_a_program(pid: int) -> bool:
    """Whether it is no kernel thread, and not dead."""
    try:
        return bool(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return False


def all_pids() -> list[int]:
    """The ids of all processes."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def family_of(nook: str, known: Iterable[int]) -> dict[int, str]:
    """The processes of a nook, each with its role: those at its sockets, the ``known`` ones, and all their children."""
    everybody = all_pids()
    inodes = _socket_inodes(nook_dir(nook))
    members = {pid for pid in known if command_line(pid)}
    members |= {pid for pid in everybody if inodes & _open_sockets(pid)}
    parents = {pid: _parent(pid) for pid in everybody}
    while children := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= children
    return {pid: _role(command_line(pid)) for pid in sorted(members) if command_line(pid)}


def _socket_inodes(folder: Path) -> set[str]:
    """The inodes of the Unix sockets bound below a directory."""
    rows = (line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return {row[6] for row in rows if len(row) == 8 and row[7].startswith(f"{folder}/")}


def _open_sockets(pid: int) -> set[str]:
    """The inodes of the sockets that a process has open; none if it is gone."""
    try:
        links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return set()
    return {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:[")}


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


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
