"""What the kernel tells of its devices: added, bound to a driver, changed.

Source: the kernel's lib/kobject_uevent.c and drivers/base/dd.c (``bind`` is sent once a probe is over).
"""

from _socket import AF_NETLINK, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_RAW, SOL_SOCKET, socket

_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
_NETLINK_KOBJECT_UEVENT = 15
_GROUP_KERNEL = 1
_UEVENT_BYTES = 8192
_BUFFER_BYTES = 1 << 20
"""A controller with many ports makes hundreds of devices before anybody reads of them."""


class Uevents:
    """The kernel's news of devices since this was made. Raises OSError if there is no such socket."""

    def __init__(self) -> None:
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, _NETLINK_KOBJECT_UEVENT)
        self._socket.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind((0, _GROUP_KERNEL))

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._socket.fileno()

    def read(self) -> "list[tuple[str, str]]":
        """What happened since the last call: action and device, its folder under /sys without that."""
        news: list[tuple[str, str]] = []
        while True:
            try:
                message = self._socket.recv(_UEVENT_BYTES)
            except OSError:
                return news  # read empty
            action, _, device = message.split(b"\0", 1)[0].decode("ascii", "replace").partition("@")
            news.append((action, device))

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()
