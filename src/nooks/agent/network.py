"""The network class inside the domain: finds the driver's interface and wires it to the host's.

``host0`` is the virtio interface, whose other end is the host's TAP; ``nic0`` belongs to the driver. Whatever
one receives goes out of the other, in the kernel; no address, no IPv6, nothing of our own on the wire.
"""

import os
import select
import time

from nooks.agent import interrupts, system
from nooks.agent.netlink import IFF_PROMISC, IFF_UP, IFLA_IFNAME, IFLA_TXQLEN, LinkMonitor, Netlink, attribute, text
from nooks.agent.network_settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HOST, NIC = "host0", "nic0"
_DEVICES = "/sys/class/net"
_APPEAR_TIMEOUT_SECONDS = 6.0
_CARRIER_TIMEOUT_SECONDS = 10.0
_QUEUE_PACKETS = 1000
_PCI_COMMAND = 4
_PCI_COMMAND_MASTER = 0x4
_NO_IPV6 = ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "/proc/sys/net/ipv6/conf/default/disable_ipv6")


class Network:
    """The one network device of this domain."""

    def __init__(self) -> None:
        for path in _NO_IPV6:
            try:  # noqa: SIM105 - contextlib costs too much here
                system.write(path, "1")
            except OSError:
                pass  # a kernel without IPv6
        self._netlink = Netlink()
        self._monitor = LinkMonitor()
        self._driver = ""
        self._settings: Settings  # from bring_up on
        self._reported: dict[str, Any] = {}

    def bring_up(self, wanted: "dict[str, Any]", claim_seconds: float) -> "dict[str, Any]":
        """See the ``bring_up`` message. Raises Unable if no interface of a device appears in time."""
        started = time.monotonic()
        within_seconds = max(_APPEAR_TIMEOUT_SECONDS, claim_seconds)
        nic = _wait_for_interface(within_seconds, virtio=False)
        host = _wait_for_interface(within_seconds, virtio=True)
        self._driver = os.path.basename(os.readlink(f"{_DEVICES}/{nic}/device/driver"))  # noqa: PTH115, PTH119
        host_index, nic_index = self._name(host, HOST), self._name(nic, NIC)
        self._netlink.redirect(host_index, nic_index)
        self._netlink.redirect(nic_index, host_index)
        self._settings = Settings(self._netlink, nic_index, NIC, host_index)
        queue = attribute(IFLA_TXQLEN, _QUEUE_PACKETS.to_bytes(4, "little"))
        self._netlink.change(host_index, queue, flags=IFF_UP | IFF_PROMISC, mask=IFF_UP | IFF_PROMISC)
        appeared = time.monotonic()
        _, refused = self._settings.apply({"up": True, **wanted})
        if wanted.get("up", True):
            self._wait_for_carrier()
        return {
            "driver": self._driver,
            "state": self._report(),
            "seconds": {"probe": appeared - started, "link": time.monotonic() - appeared},
            "readback": self._settings.read(),
            "refused": refused,
        }

    def apply(self, wanted: "dict[str, Any]") -> "dict[str, Any]":
        """Make the settings so."""
        readback, refused = self._settings.apply(wanted)
        speed, duplex = readback.get("link.speed", -1), readback.get("link.duplex", "unknown")
        return {"readback": readback, "refused": refused, "state": _state(self._settings.carrier(), speed, duplex)}

    def read(self) -> "dict[str, Any]":
        """The present state."""
        link = self._settings.link()
        speed, duplex = self._settings.speed_and_duplex()
        return {
            "readback": self._settings.read(),
            "state": _state(link.carrier, speed, duplex),
            "statistics": link.statistics(),
        }

    def counters(self) -> "dict[str, str]":
        """Packets in and out on both sides, and the card's interrupts where it is on PCI."""
        packets = {
            f"{side}_{way}": f"{_DEVICES}/{side}{0}/statistics/{way}_packets"
            for side in ("host", "nic")
            for way in ("rx", "tx")
        }
        try:
            counter = interrupts.counter(system.read(f"{_DEVICES}/{NIC}/device/irq").strip())
            system.read(counter)
        except OSError:
            return packets  # no PCI card, or an old kernel
        return {**packets, "interrupts": counter}

    def device(self) -> str:
        """The folder of the card, or of the controller that a USB adapter is plugged into."""
        folder = os.path.realpath(f"{_DEVICES}/{NIC}/device")
        while not os.path.exists(f"{folder}/config"):  # noqa: PTH110 - pathlib costs too much here
            folder = os.path.dirname(folder)  # noqa: PTH120
        return folder

    def silence(self) -> None:
        """Forbid the card to reach memory, behind the driver's back (PCI command register, bus master)."""
        descriptor = os.open(f"{self.device()}/config", os.O_RDWR | os.O_CLOEXEC)
        try:
            command = int.from_bytes(os.pread(descriptor, 2, _PCI_COMMAND), "little")
            os.pwrite(descriptor, (command & ~_PCI_COMMAND_MASTER).to_bytes(2, "little"), _PCI_COMMAND)
        finally:
            os.close(descriptor)

    def fileno(self) -> int:
        """Readable when the kernel has news of an interface."""
        return self._monitor.fileno()

    def events(self) -> "list[dict[str, Any]]":
        """A ``changed`` event if carrier, speed or duplex have changed."""
        self._monitor.drain()
        before = self._reported
        state = self._report()
        return [] if state == before else [{"type": "changed", "state": state}]

    def _report(self) -> "dict[str, Any]":
        """The link's state, noted as that which the host knows."""
        carrier = self._settings.carrier()
        speed, duplex = self._settings.speed_and_duplex() if carrier else (-1, "unknown")
        self._reported = _state(carrier, speed, duplex)
        return self._reported

    def _name(self, interface: str, name: str) -> int:
        """Rename an interface; its index."""
        index = int(system.read(f"{_DEVICES}/{interface}/ifindex"))
        if interface != name:
            self._netlink.change(index, text(IFLA_IFNAME, name))
        return index

    def _wait_for_carrier(self) -> None:
        deadline = time.monotonic() + _CARRIER_TIMEOUT_SECONDS
        poller = select.poll()
        poller.register(self._monitor.fileno(), select.POLLIN)
        while not self._settings.carrier():
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not poller.poll(remaining * 1000):
                return
            self._monitor.drain()


def create() -> Network:
    """The class's entry point for the agent."""
    return Network()


def _state(carrier: bool, speed: int, duplex: str) -> "dict[str, Any]":
    return {"class": "network", "carrier": carrier, "speed": speed, "duplex": duplex}


def _wait_for_interface(within_seconds: float, *, virtio: bool) -> str:
    """The first interface of a device, whose bus is virtio or is not."""
    deadline = time.monotonic() + within_seconds
    while True:
        for name in sorted(os.listdir(_DEVICES)):  # noqa: PTH208 - pathlib costs too much here
            bus = _bus(name)
            if bus and (bus == "virtio") == virtio:
                return name
        if time.monotonic() > deadline:
            raise system.Unable(f"no network interface of {'the host side' if virtio else 'its own'} appeared")
        time.sleep(0.002)


def _bus(interface: str) -> str:
    """The bus that an interface's device is on; empty for virtual interfaces."""
    try:
        return os.path.basename(os.readlink(f"{_DEVICES}/{interface}/device/subsystem"))  # noqa: PTH115, PTH119
    except OSError:
        return ""
