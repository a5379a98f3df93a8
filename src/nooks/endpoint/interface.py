"""One network interface, by ioctl: flags, addresses, MTU, queue length, counters (netdevice(7)).

ioctl rather than netlink for what a start needs: no library to load, and every call takes some microseconds.
What ethtool does is in ethtool.py, what only netlink can say in rtnl.py.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from nooks.endpoint import netns

IFF_UP = 0x1
_ARPHRD_ETHER = 1
_IFREQ_BYTES = 40
_NAME_BYTES = 16
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCGIFMTU, _SIOCSIFMTU = 0x8921, 0x8922
_SIOCSIFHWADDR, _SIOCGIFHWADDR = 0x8924, 0x8927
_SIOCGIFINDEX = 0x8933
_SIOCGIFTXQLEN, _SIOCSIFTXQLEN = 0x8942, 0x8943
_SIOCETHTOOL = 0x8946
_SIOCBRADDBR, _SIOCBRADDIF = 0x89A0, 0x89A2

Name = Callable[[], str]


@dataclass(frozen=True)
class Statistics:
    """The interface's counters since it was made. Transmit is what the host sends."""

    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


class Interface:
    """An interface in one namespace. ``name`` is asked for at each call, since a user may rename it.

    Every method raises OSError as the kernel does (ENODEV: it is gone).
    """

    def __init__(self, name: Name, namespace: int | None = None) -> None:
        with netns.entered(namespace):
            self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                self._counters = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._control.close()
                raise
        self._name = name

    @property
    def name(self) -> str:
        """Its present name."""
        return self._name()

    @property
    def index(self) -> int:
        """The number that stays the same when it is renamed."""
        return int(struct.unpack_from("i", self._get(_SIOCGIFINDEX))[0])

    @property
    def up(self) -> bool:
        """Whether a user has it switched on."""
        return bool(struct.unpack_from("H", self._get(_SIOCGIFFLAGS))[0] & IFF_UP)

    @up.setter
    def up(self, value: bool) -> None:
        flags = int(struct.unpack_from("H", self._get(_SIOCGIFFLAGS))[0])
        self._set(_SIOCSIFFLAGS, struct.pack("H", flags | IFF_UP if value else flags & ~IFF_UP))

    @property
    def mtu(self) -> int:
        """Payload bytes of a frame."""
        return int(struct.unpack_from("i", self._get(_SIOCGIFMTU))[0])

    @mtu.setter
    def mtu(self, value: int) -> None:
        self._set(_SIOCSIFMTU, struct.pack("i", value))

    @property
    def mac(self) -> str:
        """The hardware address, as 02:00:00:00:00:01."""
        return self._get(_SIOCGIFHWADDR)[2:8].hex(":")

    @mac.setter
    def mac(self, value: str) -> None:
        self._set(_SIOCSIFHWADDR, struct.pack("H", _ARPHRD_ETHER) + bytes.fromhex(value.replace(":", "")))

    @property
    def queue_length(self) -> int:
        """How many frames each of a TAP's queues holds."""
        return int(struct.unpack_from("i", self._get(_SIOCGIFTXQLEN))[0])

    @queue_length.setter
    def queue_length(self, value: int) -> None:
        self._set(_SIOCSIFTXQLEN, struct.pack("i", value))

    def make_bridge(self) -> None:
        """Make a bridge of this name."""
        name = self.name.encode() + b"\0"
        fcntl.ioctl(self._control, _SIOCBRADDBR, name)

    def add_port(self, index: int) -> None:
        """Add the interface with this index to this bridge."""
        self._set(_SIOCBRADDIF, struct.pack("i", index))

    def statistics(self) -> Statistics:
        """Its counters, from /proc/net/dev (columns: proc_pid_net(5)). Raises OSError if it is gone."""
        wanted = self.name + ":"
        for line in read_all(self._counters).decode().splitlines():
            name, *columns = line.split()
            if name == wanted:
                numbers = [int(column) for column in columns]
                return Statistics(*numbers[0:4], *numbers[8:12])
        raise OSError(19, "no such interface", self.name)

    def ethtool(self, address: int) -> None:
        """An ethtool command: ``address`` is that of its structure, which the kernel reads and fills in."""
        self._set(_SIOCETHTOOL, struct.pack("P", address))

    def close(self) -> None:
        """Close the descriptors; again is harmless."""
        self._control.close()
        if self._counters >= 0:
            os.close(self._counters)
            self._counters = -1

    def _get(self, number: int) -> bytes:
        return self._ioctl(number, b"")

    def _set(self, number: int, payload: bytes) -> None:
        self._ioctl(number, payload)

    def _ioctl(self, number: int, payload: bytes) -> bytes:
        name = self.name.encode().ljust(_NAME_BYTES, b"\0")
        request = (name + payload).ljust(_IFREQ_BYTES, b"\0")
        return fcntl.ioctl(self._control, number, request)[_NAME_BYTES:]


def read_all(fd: int) -> bytes:
    """A file of /proc from its beginning; the descriptor decides which namespace's."""
    parts: list[bytes] = []
    offset = 0
    while part := os.pread(fd, 65536, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
