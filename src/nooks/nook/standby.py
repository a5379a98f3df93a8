"""A supervisor's process before it knows its nook: it imports while the command line still parses and resolves.

``nooks start`` has 0.7 s in all, and a supervisor's imports take half of that. So its process is started first thing,
and gets its orders when the specification and the image are in place: one packet on a socket pair with the nook's
name and four descriptors. If the socket closes before that, the start was broken off and the process ends.
"""

import contextlib
import os
import select
import signal
import socket
import sys
from types import TracebackType
from typing import Self

from nooks.keeper.client import KeeperClient
from nooks.keeper.server import Refused, close_all_but, receive
from nooks.keeper.start import reap_daemons, start_daemon

SUPERVISOR_KEY = "supervisor"
"""Under this key the keeper holds the supervisor's pidfd, so that a supervisor that hangs can be ended for sure."""

COMMAND = ("-I", "-m", "nooks.nook.standby")
"""The interpreter's arguments for this process; the socket's number follows."""

_DESCRIPTORS = 5


class Standby:
    """The launcher's side: a supervisor's process that waits for its orders."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                self.pid = start_daemon([*COMMAND, str(theirs.fileno())], fds=[theirs.fileno()], output=null)
            except BaseException:
                ours.close()
                raise
            finally:
                os.close(null)
        self._socket = ours
        self._pidfd = os.pidfd_open(self.pid)

    def hand_over(self, name: str, *, lock: int, control: int, keeper: int, ready: int, log: int) -> None:
        """Make it the supervisor of ``name``; it gets duplicates of the descriptors. Raises OSError if it died."""
        socket.send_fds(self._socket, [name.encode()], [lock, control, keeper, ready, log])
        self._socket.close()

    def wait(self, seconds: float) -> bool:
        """Wait for the process to end, and reap it; False if it still runs after ``seconds``."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        reap_daemons()
        return True

    def end(self, *, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL if it still runs after ``grace_seconds`` (0: at once)."""
        for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
            if number == signal.SIGTERM and not seconds:
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            if self.wait(seconds):
                return

    def discard(self) -> None:
        """End it if it never got orders."""
        if self._socket.fileno() >= 0:
            self._socket.close()
            self.end(grace_seconds=0.0)

    def close(self) -> None:
        """Give up the pidfd; the process goes on."""
        self.discard()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main() -> int:
    """The process's side: import, wait for orders, become the supervisor."""
    close_all_but(int(sys.argv[1]))
    orders = socket.socket(fileno=int(sys.argv[1]))
    try:
        from nooks.nook import side, supervisor

        side.preload()
    except BaseException:
        _take_orders(orders)  # so that the traceback lands in the nook's log
        raise
    taken = _take_orders(orders)
    if taken is None:
        return 0
    name, fds = taken
    lock, control, keeper, ready = fds
    client = KeeperClient.from_fd(keeper)
    register(client)
    client.detach()
    numbers = {"lock": lock, "control": control, "keeper": keeper, "ready": ready}
    sys.argv = ["nooks.nook.supervisor", f"--name={name}", *(f"--{what}-fd={fd}" for what, fd in numbers.items())]
    return supervisor.main()


def _take_orders(orders: socket.socket) -> tuple[str, list[int]] | None:
    """Wait for the name and the descriptors; None if the start was broken off. The log becomes our output."""
    fds: list[int] = []
    with orders:
        try:
            packet = receive(orders, fds)
        except (Refused, OSError):
            return None
    if not packet or len(fds) != _DESCRIPTORS:
        return None
    log = fds.pop()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir("/")
    return packet.decode(), fds


def register(keeper: KeeperClient) -> None:
    """Have the keeper hold the calling supervisor's pidfd. Raises KeeperError."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        keeper.put(SUPERVISOR_KEY, pidfd)
    finally:
        os.close(pidfd)


if __name__ == "__main__":
    sys.exit(main())
