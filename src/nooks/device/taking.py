"""One front for taking a real device from the host and giving it back, whatever its bus.

``plan`` first, record what it says, then ``take``: whatever happens in between, ``give_back`` of the record mends it.
"""

import msgspec

from nooks.device import disks, pci, usb
from nooks.device.belongings import Kind, belongings, owners
from nooks.device.pci import PciTaken
from nooks.device.sysfs import HOST, Sysfs, wait_until
from nooks.device.usb import UsbTaken
from nooks.host.errors import InputError

Taken = PciTaken | UsbTaken
"""A record of how the host had a device."""

_NAMED: dict[Kind, str] = {"net": "network interface", "block": "disk", "sound": "sound card"}


def resolve(text: str, sysfs: Sysfs = HOST) -> str:
    """The device string ("pci:0000:03:00.0", "usb:0bda:8153") of what a user may name a device by.

    That is an address, VID:PID, "pci:..." or "usb:...", or the name of a network interface, a disk or a sound card. A
    USB device that isn't the only one of its kind comes with its port: "usb:0bda:8153@1-2". Raises InputError.
    """
    kind, _, rest = text.partition(":")
    if kind == "usb":
        return usb_name(usb.find(rest, sysfs), sysfs)
    if kind == "pci":
        return f"pci:{pci.find(rest, sysfs).address}"
    if pci.parse_address(text):
        return f"pci:{pci.find(text, sysfs).address}"
    if ":" in text:
        return usb_name(usb.find(text, sysfs), sysfs)
    return _by_name(text.removeprefix("/dev/"), sysfs)


def usb_name(device: usb.UsbDevice, sysfs: Sysfs) -> str:
    """How to say which USB device: "usb:0bda:8153", with its port if there are several of its kind."""
    same = [other for other in usb.devices(sysfs) if other.ids == device.ids]
    return f"usb:{device.ids}@{device.port}" if len(same) > 1 else f"usb:{device.ids}"


def plan(device: str, sysfs: Sysfs = HOST) -> Taken:
    """What is to be recorded before a device ("pci:...", "usb:...") is taken. Changes nothing. Raises InputError."""
    kind, _, rest = device.partition(":")
    if kind == "pci":
        return pci.plan_taking(rest, sysfs)
    if kind == "usb":
        return usb.plan_taking(rest, sysfs)
    raise InputError(f"{device!r} is no real device", "give pci:0000:03:00.0 or usb:VID:PID")


def take(taken: Taken, sysfs: Sysfs = HOST) -> usb.UsbDevice | None:
    """Take a device from the host's driver; the USB device as it is now. Raises as the bus's ``take``.

    StateError also if somebody uses a disk that it makes: since it was put back, for one.
    """
    with disks.held(_made(taken, "block", 0, 0.0, sysfs) if taken.blocks else (), sysfs):
        if isinstance(taken, PciTaken):
            pci.take(taken, sysfs)
            return None
        return usb.take(taken, sysfs)


def give_back(taken: Taken, within_seconds: float = pci.BIND_SECONDS, sysfs: Sysfs = HOST) -> str | None:
    """Give a device back; the name of the driver that has it now, None if none had it or it is gone. Idempotent."""
    if isinstance(taken, PciTaken):
        return pci.give_back(taken, within_seconds, sysfs)
    return usb.give_back(taken, within_seconds, sysfs)


def interfaces_back(taken: Taken, within_seconds: float = pci.BIND_SECONDS, sysfs: Sysfs = HOST) -> tuple[str, ...]:
    """The network interfaces that the device makes now, once there are as many as there were, or the time is over.

    The host may have given one another name than it had.
    """
    return _made(taken, "net", len(taken.interfaces), within_seconds, sysfs)


def card(taken: Taken, within_seconds: float = 0.0, sysfs: Sysfs = HOST) -> str | None:
    """The sound card that the device makes, as soon as it does; None if the time is over."""
    return next(iter(_made(taken, "sound", 1, within_seconds, sysfs)), None)


def disks_back(taken: Taken, within_seconds: float = pci.BIND_SECONDS, sysfs: Sysfs = HOST) -> tuple[str, ...]:
    """The disks that the device makes now, once there are as many as there were, or the time is over."""
    return _made(taken, "block", len(taken.blocks), within_seconds, sysfs)


def _made(taken: Taken, kind: Kind, count: int, within_seconds: float, sysfs: Sysfs) -> tuple[str, ...]:
    found: list[str] = []

    def came() -> bool:
        made = [item for item in belongings(sysfs) if item.kind == kind and item.owner.bus == _bus(taken)]
        found[:] = [item.name for item in made if item.owner.key == _key(taken, sysfs)]
        return len(found) >= count

    wait_until(came, within_seconds)
    return tuple(found)


def encode(taken: Taken) -> bytes:
    """A record as JSON."""
    return msgspec.json.encode(taken)


def decode(document: bytes) -> Taken:
    """The reverse of ``encode``. Raises InputError."""
    try:
        return msgspec.json.decode(document, type=Taken)
    except msgspec.DecodeError as error:
        raise InputError(
            f"the record of a taken device is damaged: {error}", "reboot to give the device back"
        ) from None


def _bus(taken: Taken) -> str:
    return "pci" if isinstance(taken, PciTaken) else "usb"


def _key(taken: Taken, sysfs: Sysfs) -> str:
    if isinstance(taken, PciTaken):
        return taken.address
    device = usb.current(taken, sysfs)
    return taken.port if device is None else device.port


def _by_name(name: str, sysfs: Sysfs) -> str:
    block = sysfs.at("sys/class/block", name or ".")
    if (block / "partition").exists():
        disk = block.resolve().parent.name
        raise InputError(f"{name} is a partition of {disk}", f"give {disk}: a nook takes the whole disk")
    for kind, what in _NAMED.items():
        found = owners(kind, name, sysfs)
        if found and found[0].bus == "pci":
            return f"pci:{found[0].key}"
        if found:
            device = usb.at_port(found[0].key, sysfs)
            if device is not None:
                return usb_name(device, sysfs)
        if name and "/" not in name and sysfs.at("sys/class", kind, name).exists():
            raise InputError(f"the {what} {name} is no device of its own", "give one that a PCI or USB device makes")
    raise InputError(
        f"there is no device, network interface, disk or sound card {name!r}",
        "give an address such as 0000:03:00.0, usb:VID:PID, or a name that 'ip link', 'lsblk' or /proc/asound shows",
    )
