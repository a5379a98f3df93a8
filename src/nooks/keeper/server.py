"""The keeper's process: holds descriptors under keys and hands them out again. Standard library only.

It knows nothing of nooks, domains or recovery. It runs as a script (``python -I -S server.py FD``) with a listening
SOCK_SEQPACKET socket that its parent made. One request is one packet: an operation byte and a key, with at most
one descriptor beside it (SCM_RIGHTS, unix(7)); one reply is one packet: OK or ERROR and a text.

It ends when it is told to, or when its last client leaves while it holds nothing: a start that was broken off
leaves no keeper behind.
"""

import array
import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import sys

PUT, GET, DROP, LIST, QUIT = b"P", b"G", b"D", b"L", b"Q"
OK, ERROR = b"K", b"E"

DESCRIPTORS_MAX = 64
CLIENTS_MAX = 16
KEY_BYTES_MAX = 48
PACKET_BYTES_MAX = 8192
RIGHTS_MAX = 8
"""Room for more descriptors than a request may carry, so that a wrong request is seen as one."""

KEY_CHARACTERS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._:-")

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_PR_SET_IO_FLUSHER = 57
_OOM_SCORE_ADJUSTMENT = b"-900"
_PEER_CREDENTIALS = struct.Struct("3i")


class Refused(Exception):  # noqa: N818 - not an error of the keeper's: an answer to its client
    """A request that the keeper does not carry out; the text goes back to the client."""


def protect_this_process() -> None:
    """Keep the kernel from stopping us for memory: locked pages, no OOM kill, no write-back through ourselves.

    Each measure needs privilege and is taken as far as it is granted (mlock(2), proc(5), prctl(2) PR_SET_IO_FLUSHER).
    """
    libc = ctypes.CDLL(None)
    libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)
    libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, _OOM_SCORE_ADJUSTMENT)
        finally:
            os.close(fd)


def close_all_but(fd: int) -> None:
    """Close what a shell may have left open in us beside standard input, output, error and ``fd``.

    Else somebody who waits for the end of such a pipe would wait for as long as we live.
    """
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))


def checked_key(raw: bytes) -> str:
    """The key of a request as text. Raises Refused unless it is 1 to 48 of ``a-z 0-9 . _ : -``."""
    if not 0 < len(raw) <= KEY_BYTES_MAX or not KEY_CHARACTERS.issuperset(raw):
        raise Refused(f"a key is 1 to {KEY_BYTES_MAX} of a-z 0-9 . _ : -")
    return raw.decode("ascii")


class Store:
    """The descriptors, by key. It owns every one of them."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def put(self, key: str, fds: list[int]) -> None:
        """Take one descriptor; an older one of the same key is closed. Raises Refused."""
        if len(fds) != 1:
            raise Refused(f"put takes one descriptor, not {len(fds)}")
        if key not in self._held and len(self._held) >= DESCRIPTORS_MAX:
            raise Refused(f"{DESCRIPTORS_MAX} descriptors are held already")
        self.drop(key)
        self._held[key] = fds.pop()

    def get(self, key: str) -> int:
        """The descriptor of ``key``, still owned by the store. Raises Refused if there is none."""
        if key not in self._held:
            raise Refused(f"nothing is held under {key}")
        return self._held[key]

    def drop(self, key: str) -> None:
        """Close the descriptor of ``key``, if there is one."""
        fd = self._held.pop(key, None)
        if fd is not None:
            os.close(fd)

    def keys(self) -> str:
        """All keys, one a line."""
        return "\n".join(sorted(self._held))


class Keeper:
    """Serves one listening socket until it is told to quit."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._store = Store()
        self._clients: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._quit = False

    def run(self) -> None:
        """Serve until QUIT, or until nobody is connected and nothing is held."""
        self._listener.setblocking(False)
        self._poll.register(self._listener, select.POLLIN)
        while not self._quit:
            for fd, _ in self._poll.poll():
                if fd == self._listener.fileno():
                    self._accept()
                elif fd in self._clients:
                    self._serve(self._clients[fd])

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        user_id = _PEER_CREDENTIALS.unpack(credentials)[1]
        if user_id not in (0, os.geteuid()) or len(self._clients) >= CLIENTS_MAX:
            client.close()
            return
        client.setblocking(False)
        self._clients[client.fileno()] = client
        self._poll.register(client, select.POLLIN)

    def _leave(self, client: socket.socket) -> None:
        self._poll.unregister(client)
        del self._clients[client.fileno()]
        client.close()
        if not self._clients and not len(self._store):
            self._quit = True

    def _serve(self, client: socket.socket) -> None:
        fds: list[int] = []
        try:
            packet = receive(client, fds)
            if not packet:
                self._leave(client)
                return
            text, reply_fd = self._answer(packet, fds)
            send(client, OK, text, reply_fd)
        except Refused as refusal:
            self._refuse(client, str(refusal))
        except OSError:
            self._leave(client)
        finally:
            for fd in fds:
                os.close(fd)

    def _refuse(self, client: socket.socket, text: str) -> None:
        try:
            send(client, ERROR, text, None)
        except OSError:
            self._leave(client)

    def _answer(self, packet: bytes, fds: list[int]) -> tuple[str, int | None]:
        operation, raw_key = packet[:1], packet[1:]
        if operation == LIST:
            return self._store.keys(), None
        if operation == QUIT:
            self._quit = True
            return "", None
        key = checked_key(raw_key)
        if operation == PUT:
            self._store.put(key, fds)
            return "", None
        if operation == GET:
            return "", self._store.get(key)
        if operation == DROP:
            self._store.drop(key)
            return "", None
        raise Refused("an operation that the keeper does not know")


def receive(connection: socket.socket, fds: list[int]) -> bytes:
    """One packet; its descriptors are appended to ``fds``. Empty at the end of the connection.

    Raises Refused if the packet or its descriptors did not fit, OSError if the connection is broken.
    """
    size = array.array("i").itemsize
    data, ancillary, flags, _ = connection.recvmsg(
        PACKET_BYTES_MAX, socket.CMSG_SPACE(RIGHTS_MAX * size), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(payload[: len(payload) // size * size])
            fds.extend(numbers)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise Refused("the packet is too long")
    return data


def send(connection: socket.socket, head: bytes, text: str, fd: int | None) -> None:
    """Send one packet, with a descriptor unless ``fd`` is None. Raises OSError."""
    ancillary = []
    if fd is not None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    connection.sendmsg([head + text.encode()], ancillary, socket.MSG_NOSIGNAL)


def main() -> None:
    """Keep, on the listening socket whose number is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    listener = int(sys.argv[1])
    close_all_but(listener)
    protect_this_process()
    os.chdir("/")
    Keeper(socket.socket(fileno=listener)).run()


if __name__ == "__main__":
    main()
