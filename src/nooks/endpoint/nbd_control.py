"""Devices of the kernel's network block device, made and changed by generic netlink.

Numbers: include/uapi/linux/nbd-netlink.h. What is sent and answered over a device's socket is in nbd.py.
"""

import struct
from collections.abc import Iterable
from errno import ENOSPC
from pathlib import Path
from time import monotonic, sleep

from nooks.endpoint import netlink
from nooks.host.errors import MachineError
from nooks.host.kernel import has_module

FAMILY = "nbd"
SYSFS = Path("/sys/block")
DISCONNECT_ON_CLOSE = 2

_CONNECT, _DISCONNECT, _RECONFIGURE = 1, 2, 3
_INDEX, _SIZE, _BLOCK_SIZE, _TIMEOUT, _SERVER_FLAGS, _CLIENT_FLAGS, _SOCKETS, _DEAD_TIMEOUT = range(1, 9)
_IDENTIFIER = 10
_SOCKET_ITEM, _SOCKET_DESCRIPTOR = 1, 1

RECONNECT_SECONDS = 86400
"""How long requests wait for the next supervisor when one is dead."""

_NO_TIMEOUT = 0
"""The kernel shuts no connection down because a request takes long: the nook alone judges its driver. What a dead
supervisor left unanswered goes to the next one when its own timer (``io_timeout``) ends (nbd_xmit_timeout)."""

_NOTICE_SECONDS = 10.0


def is_there(*, load: bool) -> bool:
    """Whether this kernel has network block devices; ``load`` its module if it is none yet, or only look for it."""
    if not Path("/sys/module/nbd").exists():
        if not has_module(FAMILY, load=load):
            return False
        if not load:
            return True
    try:
        with netlink.generic_socket() as connection:
            return netlink.family_number(connection, FAMILY) > 0
    except OSError:
        return False


def connect(socket: int, name: str, *, size_bytes: int, block_bytes: int, flags: int) -> int:
    """Make a device whose requests go to the other end of ``socket``, a descriptor; returns its number.

    ``name`` is what it is known by from then on, ``flags`` what the server can do. Raises MachineError.
    """
    attributes = (
        *((_SIZE, size_bytes), (_BLOCK_SIZE, block_bytes), (_TIMEOUT, _NO_TIMEOUT), (_SERVER_FLAGS, flags)),
        (_DEAD_TIMEOUT, RECONNECT_SECONDS),
    )
    try:
        found = _ask(_CONNECT, name, attributes, _socket(socket))
    except OSError as error:
        raise MachineError(f"no network block device can be made: {error.strerror}", "see the kernel's log") from None
    index = netlink.number(found.get(_INDEX))
    if index is None:
        raise MachineError("the kernel does not say which network block device it made", "see the kernel's log")
    return index


def reconnect(index: int, name: str, socket: int) -> None:
    """Give the device another connection for the one that is dead, which the kernel may be about to notice.

    Raises OSError.
    """
    deadline = monotonic() + _NOTICE_SECONDS
    while True:
        try:
            _ask(_RECONFIGURE, name, (), _index(index) + _socket(socket))
            return
        except OSError as error:
            if error.errno != ENOSPC or monotonic() > deadline:
                raise
        sleep(0.01)


def resize(index: int, name: str, size_bytes: int) -> None:
    """The device has another size. Raises OSError."""
    _ask(_RECONFIGURE, name, ((_SIZE, size_bytes),), _index(index))


def leave(index: int, name: str) -> None:
    """Have the device go when its last user closes it, and let nobody wait for another connection. Raises OSError."""
    _ask(_RECONFIGURE, name, ((_CLIENT_FLAGS, DISCONNECT_ON_CLOSE), (_DEAD_TIMEOUT, 0)), _index(index))


def disconnect(index: int) -> None:
    """Take the device's connection away at once; whoever uses it gets errors. Raises OSError."""
    _ask(_DISCONNECT, "", (), _index(index))


def owner(path: Path) -> str:
    """The name that a device was made with; "" if it is not connected."""
    try:
        return (SYSFS / path.name / "backend").read_text().strip()
    except OSError:
        return ""


def index_of(path: Path) -> int:
    """The number of the device at /dev/nbdN."""
    return int(path.name.removeprefix("nbd"))


def _ask(command: int, name: str, values: Iterable[tuple[int, int]], more: bytes) -> dict[int, bytes]:
    body = b"".join(netlink.attribute(kind, struct.pack("=Q", value)) for kind, value in values)
    body += netlink.attribute(_IDENTIFIER, name.encode() + b"\0") if name else b""
    with netlink.generic_socket() as connection:
        kind = netlink.family_number(connection, FAMILY)
        request = netlink.message(kind, netlink.REQUEST | netlink.ACK, netlink.generic(command, body + more))
        found: dict[int, bytes] = {}
        for _, answer in netlink.exchange(connection, request):
            found |= netlink.generic_attributes(answer)
    return found


def _index(index: int) -> bytes:
    return netlink.attribute(_INDEX, struct.pack("=I", index))


def _socket(socket: int) -> bytes:
    item = netlink.attribute(_SOCKET_DESCRIPTOR, struct.pack("=I", socket))
    return netlink.attribute(_SOCKETS, netlink.attribute(_SOCKET_ITEM, item))
