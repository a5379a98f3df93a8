"""Starting a keeper, for the launcher and for a supervisor whose keeper died."""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from nooks.keeper.address import socket_address
from nooks.keeper.client import KeeperClient

_BACKLOG = 16
_SERVER = Path(__file__).with_name("server.py")

_daemons: set[int] = set()
"""What this process has started and not reaped. Most callers end first and leave that to init."""


def start_daemon(arguments: Sequence[str], *, fds: Sequence[int], output: int) -> int:
    """Start this interpreter with ``arguments`` in a session of its own; returns its process id.

    It inherits ``fds`` under their own numbers and writes to ``output``. posix_spawn instead of ``host.process``,
    whose imports alone cost a tenth of the time in which ``nooks start`` has to be ready.
    """
    actions: list[tuple[int, ...]] = [
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
        *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds),
    ]
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), *actions],
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGHUP],
        )
    finally:
        os.close(null)
    _daemons.add(pid)
    return pid


def reap_daemons() -> None:
    """Reap those of the daemons started by this process that have ended."""
    for pid in tuple(_daemons):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                continue
        _daemons.discard(pid)


def start_keeper(path: Path, *, output: int) -> tuple[int, KeeperClient]:
    """Start a keeper that listens at ``path``; returns its process id and a connection to it.

    The socket listens before the process exists, so there is no moment at which a connection is refused. What is
    at ``path`` is replaced. ``output`` takes what the keeper has to say. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with listener:
        with socket_address(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        client = KeeperClient.connect(path)
        pid = start_daemon(["-I", "-S", str(_SERVER), str(listener.fileno())], fds=[listener.fileno()], output=output)
    return pid, client
