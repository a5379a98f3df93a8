"""A network interface's settings: read from driver and kernel, and changed where they differ.

Settings come in groups that are read by one call and written by one call; a table below has them all. A
driver that knows nothing of a group simply lacks its keys.
"""

import fcntl
from struct import Struct

from nooks.agent import system
from nooks.agent.ethtool import Ethtool
from nooks.agent.netlink import (
    IFF_ALLMULTI,
    IFF_PROMISC,
    IFF_UP,
    IFLA_MTU,
    Link,
    Netlink,
    attribute,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SIOCADDMULTI, _SIOCDELMULTI = 0x8931, 0x8932
_IFREQ_ADDRESS = Struct("@16sH6s16x")
_AF_UNSPEC = 0
_UINT = Struct("=I")
_FLAGS = {"promisc": IFF_PROMISC, "allmulti": IFF_ALLMULTI, "up": IFF_UP}
_FEATURE = "feature."
_NEGOTIATED = ("link.speed", "link.duplex")
_UNKNOWN = (-1, "unknown")


class Group:
    """Settings that one call reads. One call also writes them, unless they are not to be written ``together``."""

    __slots__ = ("_read", "_together", "_write")

    def __init__(
        self,
        read: "Callable[[], dict[str, Any]]",
        write: "Callable[[dict[str, Any]], None]",
        together: bool = True,
    ) -> None:
        self._read = read
        self._write = write
        self._together = together

    def state(self) -> "dict[str, Any]":
        """The present values; none if this driver has nothing of the kind."""
        try:
            return self._read()
        except OSError:
            return {}

    def change(self, values: "dict[str, Any]") -> "dict[str, str]":
        """Write ``values``; the kernel's objections by setting."""
        errors: dict[str, str] = {}
        for part in [values] if self._together else [{key: value} for key, value in values.items()]:
            try:
                self._write(part)
            except OSError as error:
                errors.update(dict.fromkeys(part, error.strerror or str(error)))
        return errors


class Settings:
    """The settings of one interface, by the flat keys of XPC.

    Raises OSError only where even reading the kernel's own state fails; a driver's refusal is an answer.
    """

    def __init__(self, netlink: Netlink, index: int, interface: str, peer: int) -> None:
        """``peer``: the interface that it is wired to, whose MTU follows."""
        self._netlink = netlink
        self._index = index
        self._interface = interface
        self._peer = peer
        self._ethtool = Ethtool(interface)
        self._features_asked: set[str] = set()
        self._groups = (
            Group(self._read_link_layer, self._write_link_layer, together=False),
            Group(self._read_features, self._write_features),
            Group(self._read_rings, self._write_rings),
            Group(self._read_coalesce, self._write_coalesce),
            Group(self._read_pause, self._write_pause),
            Group(self._read_link, self._write_link),
            Group(self._read_multicast, self._write_multicast),
            Group(self._read_vlans, self._write_vlans),
        )

    def read(self) -> "dict[str, Any]":
        """The present state of everything that can be read."""
        state: dict[str, Any] = {}
        for group in self._groups:
            state.update(group.state())
        return state

    def apply(self, wanted: "dict[str, Any]") -> "tuple[dict[str, Any], dict[str, str]]":
        """Change what differs; the state read back, and for each setting that was not taken, why.

        The interface goes up last: what resets a card costs nothing before that.
        """
        wanted = {key: sorted(set(value)) if isinstance(value, list) else value for key, value in wanted.items()}
        self._features_asked.update(key for key in wanted if key.startswith(_FEATURE))
        before: dict[str, Any] = {}
        errors: dict[str, str] = {}
        changed = False
        for group in self._groups:
            present = group.state()
            before.update(present)
            differing = _differing(wanted, present)
            if differing.get("up"):
                del differing["up"]
            if differing:
                changed = True
                errors.update(group.change(differing))
        if wanted.get("up") and not before["up"]:
            changed = True
            errors.update(self._groups[0].change({"up": True}))
        after = self.read() if changed else before
        return after, _refused(wanted, after, errors)

    def carrier(self) -> bool:
        """Whether the interface is up and its driver reports a carrier."""
        return self._netlink.link(self._index).carrier

    def link(self) -> Link:
        """The kernel's view of the interface, with statistics."""
        return self._netlink.link(self._index, with_statistics=True)

    def speed_and_duplex(self) -> "tuple[int, str]":
        """In Mbit/s, or -1 if the driver does not say; and the duplex."""
        try:
            link = self._ethtool.link()
        except OSError:
            return -1, "unknown"
        return link.speed, link.duplex

    def _read_link_layer(self) -> "dict[str, Any]":
        link = self._netlink.link(self._index)
        state: dict[str, Any] = {"mac": link.mac, "mtu": link.mtu}
        for key, flag in _FLAGS.items():
            state[key] = bool(link.flags & flag)
        return state

    def _write_link_layer(self, wanted: "dict[str, Any]") -> None:
        for key, value in wanted.items():
            if key == "mac":
                self._netlink.set_mac(self._index, value)
            elif key == "mtu":
                mtu = attribute(IFLA_MTU, _UINT.pack(value))
                self._netlink.change(self._index, mtu)
                self._netlink.change(self._peer, mtu)
            else:
                flag = _FLAGS[key]
                self._netlink.change(self._index, flags=flag if value else 0, mask=flag)

    def _read_features(self) -> "dict[str, Any]":
        features = self._ethtool.features()
        state = {_FEATURE + name: item.active for name, item in features.items() if item.changeable}
        for key in self._features_asked:
            if key not in state:  # cannot be changed, but may be as it should be
                item = features.get(key[len(_FEATURE) :])
                state[key] = item is not None and item.active
        return state

    def _write_features(self, wanted: "dict[str, Any]") -> None:
        self._ethtool.set_features({key[len(_FEATURE) :]: on for key, on in wanted.items()})

    def _read_rings(self) -> "dict[str, Any]":
        return dict(zip(("ring.rx", "ring.tx"), self._ethtool.rings(), strict=True))

    def _write_rings(self, wanted: "dict[str, Any]") -> None:
        self._ethtool.set_rings(wanted.get("ring.rx"), wanted.get("ring.tx"))

    def _read_coalesce(self) -> "dict[str, Any]":
        return dict(zip(("coalesce.rx_usecs", "coalesce.tx_usecs"), self._ethtool.coalesce(), strict=True))

    def _write_coalesce(self, wanted: "dict[str, Any]") -> None:
        self._ethtool.set_coalesce(wanted.get("coalesce.rx_usecs"), wanted.get("coalesce.tx_usecs"))

    def _read_pause(self) -> "dict[str, Any]":
        return dict(zip(("pause.autoneg", "pause.rx", "pause.tx"), self._ethtool.pause(), strict=True))

    def _write_pause(self, wanted: "dict[str, Any]") -> None:
        self._ethtool.set_pause(wanted.get("pause.autoneg"), wanted.get("pause.rx"), wanted.get("pause.tx"))

    def _read_link(self) -> "dict[str, Any]":
        link = self._ethtool.link()
        return {"link.autoneg": link.autoneg, "link.speed": link.speed, "link.duplex": link.duplex}

    def _write_link(self, wanted: "dict[str, Any]") -> None:
        autoneg = wanted.get("link.autoneg", self._ethtool.link().autoneg)
        self._ethtool.set_link(autoneg, wanted.get("link.speed"), wanted.get("link.duplex"))

    def _read_multicast(self) -> "dict[str, Any]":
        """The driver's list, without what the kernel put there for itself.

        /proc/net/dev_mcast: index, name, users, global users, address. Ours, and only ours, are global.
        """
        found: list[str] = []
        for line in system.read("/proc/net/dev_mcast").splitlines():
            fields = line.split()
            if fields[1] == self._interface and fields[3] != "0":
                found.append(bytes.fromhex(fields[4]).hex(":"))
        return {"multicast": sorted(found)}

    def _write_multicast(self, wanted: "dict[str, Any]") -> None:
        listed, asked = set(self._read_multicast()["multicast"]), set(wanted["multicast"])
        self._edit_multicast(_SIOCADDMULTI, asked - listed)
        self._edit_multicast(_SIOCDELMULTI, listed - asked)

    def _edit_multicast(self, request: int, addresses: "set[str]") -> None:
        for mac in addresses:
            address = _IFREQ_ADDRESS.pack(self._interface.encode(), _AF_UNSPEC, bytes.fromhex(mac.replace(":", "")))
            fcntl.ioctl(self._ethtool.fileno(), request, address)

    def _read_vlans(self) -> "dict[str, Any]":
        """From /proc/net/vlan/config: two lines of headings, then name, id, parent."""
        found: list[int] = []
        for line in system.read("/proc/net/vlan/config").splitlines()[2:]:
            _, vlan, parent = line.split("|")
            if parent.strip() == self._interface:
                found.append(int(vlan))
        return {"vlans": sorted(found)}

    def _write_vlans(self, wanted: "dict[str, Any]") -> None:
        present, asked = set(self._read_vlans()["vlans"]), set(wanted["vlans"])
        for vlan in asked - present:
            self._netlink.add_vlan(self._index, f"{self._interface}.{vlan}", vlan)
        for vlan in present - asked:
            self._netlink.delete_by_name(f"{self._interface}.{vlan}")


def _differing(wanted: "dict[str, Any]", present: "dict[str, Any]") -> "dict[str, Any]":
    """What is to be changed. While the link is negotiated, its speed and duplex are results, not settings."""
    differing = {key: wanted[key] for key in present if key in wanted and wanted[key] != present[key]}
    if wanted.get("link.autoneg", present.get("link.autoneg")):
        for key in _NEGOTIATED:
            differing.pop(key, None)
    return differing


def _refused(wanted: "dict[str, Any]", after: "dict[str, Any]", errors: "dict[str, str]") -> "dict[str, str]":
    refused: dict[str, str] = {}
    for key in wanted:
        if key not in after:
            refused[key] = "not supported by this driver"
    for key in _differing(wanted, after):
        if after[key] not in _UNKNOWN:  # a link that is down tells neither speed nor duplex
            refused[key] = errors.get(key, f"the driver made it {after[key]}")[:500]
    return refused
