"""Other processes, as proc(5) shows them. What is gone, or is not ours to see, shows nothing."""

from pathlib import Path


def all_pids() -> list[int]:
    """The ids of all processes."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def command_line(pid: int) -> list[str]:
    """The words of a process's command line; none if it is gone or a kernel thread, or in the midst of execve(2)."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0")
    except OSError:
        return []
    return text.split("\0") if text else []


def name_of(pid: int) -> str:
    """The name of a process's program, its first 15 bytes."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


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


def stat_fields(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) after the program's name, from ``state`` on; none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def parent_of(pid: int) -> int:
    """The id of a process's parent; 0 if it is gone."""
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0


def user_of(pid: int) -> int | None:
    """The effective user of a process, to whom its folder belongs."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def open_sockets(pid: int) -> set[str]:
    """The inodes of the sockets that a process has open; it may open and close others meanwhile."""
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return set()
    links = [_target(entry) for entry in entries]
    return {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:[")}


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
