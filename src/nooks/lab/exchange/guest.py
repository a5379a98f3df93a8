"""An exchange's client in the very kernel that the network driver is in."""

import fcntl
import os
import socket
import struct

from nooks.agent import system
from nooks.lab import guest
from nooks.lab.exchange.client import Exchange

_DEVICES = "/sys/class/net"
_APPEAR_SECONDS = 20.0
_CARRIER_SECONDS = 20.0
# include/uapi/linux/sockios.h, if.h
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP = 1


class NetworkGuest:
    """A card with an address, and the client."""

    def bring_up(self, order: guest.Order) -> None:
        """Give the driver's interface its address and wait for the carrier. Raises Unable."""
        name = guest.wait_for(lambda: _interface(), _APPEAR_SECONDS, "no network interface appeared")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            for request, address in ((_SIOCSIFADDR, order["address"]), (_SIOCSIFNETMASK, order["netmask"])):
                where = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
                fcntl.ioctl(any_socket, request, struct.pack("16s16s", name.encode(), where))
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), _IFF_UP))
        guest.wait_for(lambda: _carrier(name), _CARRIER_SECONDS, "the card has no carrier")

    def use(self, order: guest.Order, report: guest.Report, control: int) -> None:
        """Exchange with the far end."""
        Exchange(order["address"], order["port"], order["seed"], report).run(control)


def _interface() -> str:
    names = sorted(os.listdir(_DEVICES))  # noqa: PTH208 - pathlib costs too much here
    return next((name for name in names if os.path.exists(f"{_DEVICES}/{name}/device")), "")  # noqa: PTH110


def _carrier(name: str) -> str:
    try:
        return "up" if system.read(f"{_DEVICES}/{name}/carrier").strip() == "1" else ""
    except OSError:
        return ""


def main() -> None:
    """Be the guest's init."""
    guest.serve(NetworkGuest())
