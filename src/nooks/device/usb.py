"""USB devices: finding them, taking one from the host's drivers for QEMU's usb-host, giving it back.

A USB device has interfaces, each with a driver of its own. QEMU reaches it through its node (usbfs), which needs no
IOMMU. Sources: Documentation/ABI/testing/sysfs-bus-usb, Documentation/driver-api/usb/usb.rst. Calls block.
"""

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nooks.device import vfio
from nooks.device.belongings import Belonging, belongings
from nooks.device.sysfs import HOST, GoneError, Sysfs, wait_until
from nooks.host.errors import InputError, NooksError, StateError

BIND_SECONDS = 10.0
RELEASE_SECONDS = 5.0
CLASS_HUB = 0x09
USER_DRIVER = "usbfs"
"""The driver that stands for a program which has claimed an interface."""

_WANTED = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})(?:@([0-9]+-[0-9]+(?:\.[0-9]+)*))?", re.IGNORECASE)
_PORT = re.compile(r"[0-9]+-[0-9]+(\.[0-9]+)*")
_USBDEVFS_RESET = 0x5514
"""_IO('U', 20) of include/uapi/linux/usbdevice_fs.h."""


@dataclass(frozen=True)
class UsbInterface:
    """One interface of a device, "1-2:1.0". ``driver`` is the bound one, ``module`` its module (None: built in)."""

    name: str
    interface_class: int
    subclass: int
    protocol: int
    modalias: str
    driver: str | None = None
    module: str | None = None
    nets: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    sounds: tuple[str, ...] = ()


@dataclass(frozen=True)
class UsbDevice:
    """A USB device as sysfs shows it. ``port`` ("1-2") is where it is plugged in; ``address`` counts its arrivals."""

    vendor: int
    product: int
    bus: int
    address: int
    port: str
    device_class: int
    configuration: str
    serial: str = ""
    description: str = ""
    interfaces: tuple[UsbInterface, ...] = ()

    @property
    def node(self) -> Path:
        """Its device node."""
        return Path(f"/dev/bus/usb/{self.bus:03d}/{self.address:03d}")

    @property
    def ids(self) -> str:
        """ "0bda:8153"."""
        return f"{self.vendor:04x}:{self.product:04x}"

    @property
    def nets(self) -> tuple[str, ...]:
        """The network interfaces that it makes."""
        return tuple(name for interface in self.interfaces for name in interface.nets)

    @property
    def blocks(self) -> tuple[str, ...]:
        """The disks that it makes."""
        return tuple(name for interface in self.interfaces for name in interface.blocks)

    @property
    def sounds(self) -> tuple[str, ...]:
        """The sound cards that it makes."""
        return tuple(name for interface in self.interfaces for name in interface.sounds)


class UsbTaken(msgspec.Struct, frozen=True, tag="usb", tag_field="bus"):
    """How the host had a USB device; ``drivers`` by interface without the port, e.g. {"1.0": "r8152"}."""

    vendor: int
    product: int
    port: str
    serial: str
    configuration: str
    drivers: dict[str, str]
    modules: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    sounds: tuple[str, ...] = ()


def devices(sysfs: Sysfs = HOST) -> list[UsbDevice]:
    """All USB devices but root hubs, by port. One that vanishes meanwhile is left out."""
    made = belongings(sysfs)
    names = sysfs.names(sysfs.at("sys/bus/usb/devices"))
    found = (_read(name, made, sysfs) for name in names if _PORT.fullmatch(name))
    return [device for device in found if device is not None]


def find(text: str, sysfs: Sysfs = HOST) -> UsbDevice:
    """The device "VID:PID", or "VID:PID@1-2" at a port. Raises InputError: no such one, or several."""
    match = _WANTED.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is no USB device", "write it like 0bda:8153, as 'lsusb' does")
    everything = devices(sysfs)
    same = [device for device in everything if device.ids == f"{match[1]}:{match[2]}".lower()]
    found = [device for device in same if match[3] in (None, device.port)]
    if len(found) == 1:
        return found[0]
    if found:
        ports = " or ".join(f"usb:{device.ids}@{device.port}" for device in found)
        raise InputError(f"there are {len(found)} USB devices {found[0].ids}", f"say which: {ports}")
    there = same or [device for device in everything if device.device_class != CLASS_HUB]
    listed = ", ".join(f"{device.ids}@{device.port}" for device in there)
    raise InputError(f"there is no USB device {text.lower()}", f"there are {listed}" if there else "plug it in")


def at_port(port: str, sysfs: Sysfs = HOST) -> UsbDevice | None:
    """The device at a port; None if there is none."""
    return _read(port, belongings(sysfs), sysfs) if _PORT.fullmatch(port) else None


def present(device: UsbDevice, sysfs: Sysfs = HOST) -> bool:
    """Whether this very device has been there ever since: pulled and put back, it has another address."""
    place = _directory(device.port, sysfs)
    now = (sysfs.number(place / "idVendor", 16), sysfs.number(place / "idProduct", 16))
    return now == (device.vendor, device.product) and sysfs.number(place / "devnum") == device.address


def wait_for(
    vendor: int, product: int, within_seconds: float, sysfs: Sysfs = HOST, *, serial: str = ""
) -> UsbDevice | None:
    """The device with these numbers (and this serial, if one is given) as soon as it is there; None: not in time."""
    found: list[UsbDevice] = []

    def came() -> bool:
        found[:] = [device for device in devices(sysfs) if (device.vendor, device.product) == (vendor, product)]
        found[:] = [device for device in found if serial in ("", device.serial) and device.interfaces]
        return bool(found)

    return found[0] if wait_until(came, within_seconds) else None


def plan_taking(text: str, sysfs: Sysfs = HOST) -> UsbTaken:
    """What is to be remembered of a device before it is taken. Changes nothing. Raises InputError."""
    device = find(text, sysfs)
    bound = [interface for interface in device.interfaces if interface.driver not in (None, USER_DRIVER)]
    return UsbTaken(
        vendor=device.vendor,
        product=device.product,
        port=device.port,
        serial=device.serial,
        configuration=device.configuration,
        drivers={interface.name.partition(":")[2]: interface.driver or "" for interface in bound},
        modules=tuple(dict.fromkeys(interface.module for interface in bound if interface.module)),
        interfaces=device.nets,
        blocks=device.blocks,
        sounds=device.sounds,
    )


def take(taken: UsbTaken, sysfs: Sysfs = HOST) -> UsbDevice:
    """Take a device from the host's drivers; returns it as it is now. Does nothing where they don't have it.

    May be called again when the device was pulled and put back. Everything is as before if it fails. Raises GoneError,
    MachineError (not root), StateError (a program has it, or a driver does not let go).
    """
    device = current(taken, sysfs)
    if device is None:
        raise GoneError(f"the USB device {taken.vendor:04x}:{taken.product:04x} is gone", "plug it in again")
    try:
        for interface in device.interfaces:
            _unbind(interface.name, device, sysfs)
    except NooksError as error:
        try:
            give_back(taken, sysfs=sysfs)
        except NooksError as second:
            message = f"{error.message}; and undoing that failed: {second.message}"
            raise StateError(message, second.fix or error.fix) from error
        raise
    return device


def give_back(taken: UsbTaken, within_seconds: float = BIND_SECONDS, sysfs: Sysfs = HOST) -> str | None:
    """Let the host's drivers have a device again; returns their names, None: none had it, or the device is gone.

    May be called at any time, also twice or after a half-done ``take``. Raises StateError if a process still has the
    device or a driver doesn't bind, MachineError.
    """
    try:
        device = current(taken, sysfs)
        if device is None:
            return None
        if any(_driver(interface.name, sysfs) == USER_DRIVER for interface in device.interfaces):
            _wait_for_release(device, sysfs)
        return _give_back(taken, device, within_seconds, sysfs)
    except GoneError:
        return None


def current(taken: UsbTaken, sysfs: Sysfs = HOST) -> UsbDevice | None:
    """The device of a record as it is plugged in now, at its old port or at another one; None if it is not."""
    same = [device for device in devices(sysfs) if (device.vendor, device.product) == (taken.vendor, taken.product)]
    same = [device for device in same if device.serial == taken.serial]
    there = [device for device in same if device.port == taken.port]
    return there[0] if there else same[0] if len(same) == 1 else None


def reset(device: UsbDevice) -> None:
    """Reset the device's port; its address stays. Raises GoneError, MachineError, StateError (it didn't come back)."""
    try:
        descriptor = os.open(device.node, os.O_WRONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _USBDEVFS_RESET, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HOST.failure(error, device.node, "was not reset") from None


def _give_back(taken: UsbTaken, device: UsbDevice, within_seconds: float, sysfs: Sysfs) -> str | None:
    place = _directory(device.port, sysfs)
    if taken.configuration and sysfs.text(place / "bConfigurationValue") != taken.configuration:
        # A domain's driver may have chosen another configuration, which has other interfaces.
        sysfs.write(place / "bConfigurationValue", taken.configuration)
    for module in taken.modules:
        if not sysfs.at("sys/module", module).is_dir():
            sysfs.load_module(module)
    wanted = {f"{device.port}:{suffix}": driver for suffix, driver in taken.drivers.items()}
    for name in wanted:
        if sysfs.at("sys/bus/usb/devices", name).exists() and _driver(name, sysfs) is None:
            sysfs.write(sysfs.at("sys/bus/usb/drivers_probe"), name)

    def lacking() -> list[str]:
        return [name for name, driver in wanted.items() if _driver(name, sysfs) != driver]

    if not wait_until(lambda: not lacking(), within_seconds):
        if not present(device, sysfs):
            raise GoneError(f"the USB device {device.ids} is gone", "")
        name = lacking()[0]
        now = _driver(name, sysfs) or "no driver"
        raise StateError(
            f"{wanted[name]} did not take the USB device {device.ids} back, {now} has it",
            f"pull it and put it back, or: echo {name} > /sys/bus/usb/drivers_probe",
        )
    return ", ".join(dict.fromkeys(wanted.values())) or None


def _wait_for_release(device: UsbDevice, sysfs: Sysfs) -> None:
    def busy() -> bool:
        return any(_driver(interface.name, sysfs) == USER_DRIVER for interface in device.interfaces)

    if not wait_until(lambda: not busy(), RELEASE_SECONDS):
        raise _in_use(device, sysfs)


def _in_use(device: UsbDevice, sysfs: Sysfs) -> StateError:
    pids = ", ".join(map(str, vfio.users([device.node], sysfs))) or "unknown"
    return StateError(f"process {pids} has the USB device {device.ids} ({device.node})", "end it, then try again")


def _unbind(interface: str, device: UsbDevice, sysfs: Sysfs) -> None:
    """Unbind one interface; a driver that had several lets go of all of them at once."""
    driver = _driver(interface, sysfs)
    if driver == USER_DRIVER:
        raise _in_use(device, sysfs)
    if driver is None:
        return
    try:
        sysfs.write(sysfs.at("sys/bus/usb/drivers", driver, "unbind"), interface)
    except NooksError:
        if _driver(interface, sysfs) is not None:
            raise
    if not wait_until(lambda: _driver(interface, sysfs) is None, RELEASE_SECONDS):
        raise StateError(f"{driver} does not let go of the USB device {device.ids}", "see 'dmesg | tail'")
    if not present(device, sysfs):
        raise GoneError(f"the USB device {device.ids} is gone", "plug it in again")


def _read(port: str, made: list[Belonging], sysfs: Sysfs) -> UsbDevice | None:
    place = _directory(port, sysfs)
    vendor, product = (sysfs.number(place / name, 16) for name in ("idVendor", "idProduct"))
    bus, address = (sysfs.number(place / name) for name in ("busnum", "devnum"))
    if vendor is None or product is None or bus is None or address is None:
        return None
    texts = (sysfs.text(place / name) or "" for name in ("manufacturer", "product"))
    inside = (name for name in sysfs.names(sysfs.at("sys/bus/usb/devices")) if name.startswith(f"{port}:"))
    return UsbDevice(
        vendor=vendor,
        product=product,
        bus=bus,
        address=address,
        port=port,
        device_class=sysfs.number(place / "bDeviceClass", 16) or 0,
        configuration=sysfs.text(place / "bConfigurationValue") or "",
        serial=sysfs.text(place / "serial") or "",
        description=" ".join(filter(None, texts)) or f"{vendor:04x}:{product:04x}",
        interfaces=tuple(_read_interface(name, made, sysfs) for name in inside),
    )


def _read_interface(name: str, made: list[Belonging], sysfs: Sysfs) -> UsbInterface:
    place = _directory(name, sysfs)
    numbers = (sysfs.number(place / f"bInterface{field}", 16) for field in ("Class", "SubClass", "Protocol"))
    codes = [number or 0 for number in numbers]
    own = [item for item in made if item.owner.bus == "usb" and item.owner.part == name]
    return UsbInterface(
        name=name,
        interface_class=codes[0],
        subclass=codes[1],
        protocol=codes[2],
        modalias=sysfs.text(place / "modalias") or "",
        driver=_driver(name, sysfs),
        module=sysfs.target_name(place / "driver/module"),
        nets=tuple(item.name for item in own if item.kind == "net"),
        blocks=tuple(item.name for item in own if item.kind == "block"),
        sounds=tuple(item.name for item in own if item.kind == "sound"),
    )


def _directory(name: str, sysfs: Sysfs) -> Path:
    return sysfs.at("sys/bus/usb/devices", name)


def _driver(interface: str, sysfs: Sysfs) -> str | None:
    return sysfs.target_name(_directory(interface, sysfs) / "driver")
