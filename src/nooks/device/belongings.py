"""Which network interfaces, disks and sound cards of the host belong to which PCI or USB device.

Every entry of /sys/class links into the tree of devices (Documentation/admin-guide/sysfs-rules.rst); the nearest
ancestor on a PCI or USB bus is the device that makes it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nooks.device.sysfs import HOST, Sysfs

Kind = Literal["net", "block", "sound"]
Bus = Literal["pci", "usb"]

_CARD = re.compile(r"card[0-9]+")
_CONTROLLER = re.compile(r"nvme[0-9]+")


@dataclass(frozen=True)
class Owner:
    """A device: ``key`` is a PCI address or a USB port path such as "1-2"; ``part`` the USB interface "1-2:1.0"."""

    bus: Bus
    key: str
    part: str = ""


@dataclass(frozen=True)
class Belonging:
    """An interface, a whole disk or a sound card ("card0"), and the device that makes it."""

    kind: Kind
    name: str
    owner: Owner


def belongings(sysfs: Sysfs = HOST) -> list[Belonging]:
    """All interfaces, disks and sound cards that a PCI or USB device makes."""
    found: list[Belonging] = []
    for kind in ("net", "block", "sound"):
        for name in sysfs.names(sysfs.at("sys/class", kind)):
            if _counts(kind, name, sysfs):
                found += [Belonging(kind, name, owner) for owner in owners(kind, name, sysfs)]
    return found


def owners(kind: Kind, name: str, sysfs: Sysfs = HOST) -> list[Owner]:
    """The devices that make an interface, a disk (or the disk of a partition) or a card: one, or several paths to one.

    None for what is made of software, or isn't there.
    """
    if not name or "/" in name:
        return []
    place = sysfs.target(sysfs.at("sys/class", kind, name))
    if place is None:
        return []
    starts = [place]
    if place.parent.parent.name == "nvme-subsystem":
        # Native multipath: the disk lies below its subsystem, which links to the controllers that lead to it.
        inside = (place.parent / entry for entry in sysfs.names(place.parent) if _CONTROLLER.fullmatch(entry))
        starts = [target for path in inside if (target := sysfs.target(path)) is not None]
    found = (_nearest(start, sysfs) for start in starts)
    return [owner for owner in dict.fromkeys(found) if owner is not None]


def _counts(kind: Kind, name: str, sysfs: Sysfs) -> bool:
    place = sysfs.at("sys/class", kind, name)
    if kind == "sound":
        return _CARD.fullmatch(name) is not None
    if kind == "block":
        return not (place / "partition").exists() and sysfs.text(place / "hidden") != "1"
    return place.is_symlink()


def _nearest(place: Path, sysfs: Sysfs) -> Owner | None:
    part = ""
    top = sysfs.at("sys").resolve()
    while place != top and place != place.parent:
        bus = sysfs.target_name(place / "subsystem")
        if bus == "pci":
            return Owner("pci", place.name)
        if bus == "usb" and ":" in place.name:
            part = place.name
        elif bus == "usb":
            return Owner("usb", place.name, part)
        place = place.parent
    return None
