"""PCI devices: finding them, taking one from the host's driver for VFIO, giving it back.

Knows no class and no nook. Sources: Documentation/PCI/sysfs-pci.rst, Documentation/ABI/testing/sysfs-bus-pci,
Documentation/driver-api/vfio.rst. Calls block: a driver takes seconds to let go of some devices.
"""

import difflib
import errno
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nooks.device import pci_config, vfio
from nooks.device.belongings import Belonging, belongings, owners
from nooks.device.pci_ids import describe
from nooks.device.sysfs import HOST, GoneError, RefusedError, Sysfs, wait_until
from nooks.device.vfio import iommu_on, vfio_available
from nooks.host.errors import InputError, NooksError, StateError

__all__ = ["iommu_on", "vfio_available"]

BIND_SECONDS = 10.0
"""How long a driver may take to bind: it may have to be loaded, or wait for another one (-EPROBE_DEFER)."""
RELEASE_SECONDS = 5.0
"""How long a killed domain's QEMU may take to let go of the group."""
UNKNOWN_RESET = "unknown"
"""The reset method of a kernel before 5.15, which does not name them."""

_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)
_BASE_CLASS_BRIDGE = 0x06


@dataclass(frozen=True)
class PciDevice:
    """A PCI function as sysfs shows it. ``class_code`` has 24 bits: base class, sub-class, programming interface.

    ``driver`` is the bound one, ``module`` the module that it is in (None: built in, or nothing bound); ``group`` the
    IOMMU group; ``reset_methods`` in the order in which the kernel tries them.
    """

    address: str
    vendor: int
    device: int
    class_code: int
    modalias: str
    driver: str | None = None
    module: str | None = None
    group: int | None = None
    reset_methods: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    sounds: tuple[str, ...] = ()
    description: str = ""
    is_bridge: bool = False


class PciTaken(msgspec.Struct, frozen=True, tag="pci", tag_field="bus"):
    """How the host had a PCI device, to be recorded before it is taken and to give it back by.

    ``driver_override`` is "" where there was none; ``interfaces``, ``blocks`` and ``sounds`` are what its driver made.
    """

    address: str
    vendor: int
    device: int
    driver: str | None
    module: str | None
    driver_override: str
    group: int | None
    interfaces: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    sounds: tuple[str, ...] = ()


def parse_address(text: str) -> str | None:
    """The full form of "03:00.0" or "0000:03:00.0"; None for what is no PCI address."""
    match = _ADDRESS.fullmatch(text.strip())
    return f"{match[1] or '0000'}:{match[2]}:{match[3]}.{match[4]}".lower() if match else None


def devices(sysfs: Sysfs = HOST) -> list[PciDevice]:
    """All PCI devices, by address. One that vanishes meanwhile is left out."""
    made = belongings(sysfs)
    found = (_read(address, made, sysfs) for address in sysfs.names(sysfs.at("sys/bus/pci/devices")))
    return [device for device in found if device is not None]


def find(address: str, sysfs: Sysfs = HOST) -> PciDevice:
    """The device at an address, "03:00.0" or "0000:03:00.0". Raises InputError with the nearest addresses."""
    full = parse_address(address)
    if full is None:
        raise InputError(f"{address!r} is no PCI address", "write it like 0000:03:00.0, as 'lspci -D' does")
    device = _read(full, belongings(sysfs), sysfs)
    if device is None:
        known = sysfs.names(sysfs.at("sys/bus/pci/devices"))
        near = difflib.get_close_matches(full, known, 4, 0.75)
        hint = f"near it: {', '.join(near)}" if near else "'nooks doctor' lists the devices of this machine"
        raise InputError(f"there is no PCI device {full}", hint)
    return device


def of_interface(name: str, sysfs: Sysfs = HOST) -> str | None:
    """The PCI address, or the USB port path ("1-2"), of the device that makes a network interface."""
    return next((owner.key for owner in owners("net", name, sysfs)), None)


def of_block(name: str, sysfs: Sysfs = HOST) -> str | None:
    """The PCI address, or the USB port path, of the device that makes a disk or its partition."""
    return next((owner.key for owner in owners("block", name, sysfs)), None)


def group_members(group: int, sysfs: Sysfs = HOST) -> list[PciDevice]:
    """The devices in an IOMMU group: they can reach each other without the IOMMU seeing it."""
    made = belongings(sysfs)
    names = sysfs.names(sysfs.at("sys/kernel/iommu_groups", str(group), "devices"))
    found = (_read(name, made, sysfs) for name in names)
    return [device for device in found if device is not None]


def group_path(address: str, sysfs: Sysfs = HOST) -> Path:
    """The device node by which VFIO gives access to the device's group. Raises InputError, StateError."""
    device = find(address, sysfs)
    if device.group is None:
        message, fix = vfio.iommu_lack(sysfs) or (f"{device.address} is in no IOMMU group", "use another slot")
        raise StateError(message, fix)
    return vfio.node(device.group)


def plan_taking(address: str, sysfs: Sysfs = HOST) -> PciTaken:
    """What is to be remembered of a device before it is taken. Changes nothing. Raises InputError."""
    device = find(address, sysfs)
    override = sysfs.text(_directory(device.address, sysfs) / "driver_override") or ""
    return PciTaken(
        address=device.address,
        vendor=device.vendor,
        device=device.device,
        driver=device.driver,
        module=device.module,
        driver_override="" if override == "(null)" else override,
        group=device.group,
        interfaces=device.interfaces,
        blocks=device.blocks,
        sounds=device.sounds,
    )


def take(taken: PciTaken, sysfs: Sysfs = HOST) -> None:
    """Bind a device to vfio-pci. Does nothing if it is. Everything is as before if that fails.

    Raises MachineError (no vfio-pci, not root), GoneError, StateError.
    """
    vfio.load(sysfs)
    if not is_there(taken, sysfs):
        raise GoneError(f"{taken.address} is not the device that it was, or gone", "look for it with 'nooks doctor'")
    _set_override(taken.address, vfio.DRIVER, sysfs)
    try:
        if _driver(taken.address, sysfs) != vfio.DRIVER:
            _unbind(taken.address, sysfs)
            _probe(taken.address, sysfs)
        if not wait_until(lambda: _driver(taken.address, sysfs) == vfio.DRIVER, BIND_SECONDS):
            raise StateError(f"vfio-pci did not bind {taken.address}", "the kernel's log says why: dmesg | tail")
    except NooksError as error:
        _undo(taken, error, sysfs)
        raise


def give_back(taken: PciTaken, within_seconds: float = BIND_SECONDS, sysfs: Sysfs = HOST) -> str | None:
    """Let the host's driver have a device again, and return its name; None: none had it, or the device is gone.

    May be called at any time, also twice or after a half-done ``take``. Raises StateError if a process still has the
    device or the driver doesn't bind, MachineError.
    """
    try:
        return _give_back(taken, within_seconds, sysfs)
    except GoneError:
        return None


def reset(address: str, sysfs: Sysfs = HOST) -> str:
    """Reset a device by the best method that it has, and return the method's name.

    "none": it has none; then it was only forbidden to reach memory and to interrupt. Raises InputError, GoneError,
    MachineError and StateError (the device did not come back from its reset).
    """
    device = find(address, sysfs)
    if device.reset_methods:
        path = _directory(device.address, sysfs) / "reset"
        try:
            sysfs.write(path, "1")
            return device.reset_methods[0]
        except RefusedError as error:
            # No method fits just now, e.g. a bus reset while others are on that bus (pci_reset_function in the kernel).
            if error.errno != errno.ENOTTY:
                raise StateError(f"{device.address} did not come back from its reset: {error.message}", _DEAD) from None
    _configure(device.address, sysfs, bus_master_only=False)
    return "none"


def clear_bus_master(address: str, sysfs: Sysfs = HOST) -> None:
    """Forbid a device to reach memory (PCI 3.0, 6.2.2). Raises InputError, GoneError, MachineError, StateError."""
    _configure(find(address, sysfs).address, sysfs, bus_master_only=True)


_DEAD = "switch the machine off and on; if it happens again, the device is broken"


def _configure(address: str, sysfs: Sysfs, *, bus_master_only: bool) -> None:
    path = _directory(address, sysfs) / "config"
    try:
        (pci_config.clear_bus_master if bus_master_only else pci_config.quiesce)(path)
    except OSError as error:
        raise sysfs.failure(error, path, "can't be written") from None
    except EOFError as error:
        raise StateError(f"{path}: {error}", "run nooks as root, outside of a container") from None


def _give_back(taken: PciTaken, within_seconds: float, sysfs: Sysfs) -> str | None:
    if not is_there(taken, sysfs):
        return None
    bound = _driver(taken.address, sysfs)
    if bound == vfio.DRIVER and taken.driver != vfio.DRIVER:
        _wait_for_release(taken, sysfs)
        _unbind(taken.address, sysfs)
        bound = None
    _set_override(taken.address, taken.driver_override, sysfs)
    if bound is not None or taken.driver is None:
        return bound
    _rebind(taken, within_seconds, sysfs)
    return taken.driver


def _rebind(taken: PciTaken, within_seconds: float, sysfs: Sysfs) -> None:
    home = sysfs.at("sys/bus/pci/drivers", taken.driver or "")
    if taken.module and not home.is_dir():
        sysfs.load_module(taken.module)
    failure = ""
    # A driver that was told of the device by hand (new_id, or bind after an override) is not found by probing.
    for file in (sysfs.at("sys/bus/pci/drivers_probe"), home / "bind"):
        try:
            if _driver(taken.address, sysfs) is None:
                sysfs.write(file, taken.address)
        except RefusedError as error:
            failure = f": {error.message}"
        except GoneError:
            if not is_there(taken, sysfs):
                raise
    if not wait_until(lambda: _driver(taken.address, sysfs) == taken.driver, within_seconds):
        if not is_there(taken, sysfs):
            raise GoneError(f"{taken.address} is gone", "")
        now = _driver(taken.address, sysfs)
        raise StateError(
            f"{taken.driver} did not take {taken.address} back{failure}, {now or 'no driver'} has it",
            f"see 'dmesg | tail', then: echo {taken.address} > /sys/bus/pci/drivers/{taken.driver}/bind",
        )


def _wait_for_release(taken: PciTaken, sysfs: Sysfs) -> None:
    """Unbinding a device that a process has open would hang for as long as it does."""
    group = _group(taken.address, sysfs)
    if group is None:
        return
    node = vfio.node(group)
    if not wait_until(lambda: not vfio.users([node], sysfs), RELEASE_SECONDS):
        pids = ", ".join(map(str, vfio.users([node], sysfs)))
        raise StateError(f"process {pids} still has {taken.address} ({node})", "end it, then try again")


def _undo(taken: PciTaken, error: NooksError, sysfs: Sysfs) -> None:
    try:
        give_back(taken, BIND_SECONDS, sysfs)
    except NooksError as second:
        message = f"{error.message}; and undoing that failed: {second.message}"
        raise StateError(message, second.fix or error.fix) from error


def _read(address: str, made: list[Belonging], sysfs: Sysfs) -> PciDevice | None:
    place = _directory(address, sysfs)
    vendor, device = (sysfs.number(place / name, 16) for name in ("vendor", "device"))
    code = sysfs.number(place / "class", 16)
    if vendor is None or device is None or code is None:
        return None
    own = [item for item in made if item.owner.bus == "pci" and item.owner.key == address]
    return PciDevice(
        address=address,
        vendor=vendor,
        device=device,
        class_code=code,
        modalias=sysfs.text(place / "modalias") or "",
        driver=sysfs.target_name(place / "driver"),
        module=sysfs.target_name(place / "driver/module"),
        group=_group(address, sysfs),
        reset_methods=_reset_methods(place, sysfs),
        interfaces=tuple(item.name for item in own if item.kind == "net"),
        blocks=tuple(item.name for item in own if item.kind == "block"),
        sounds=tuple(item.name for item in own if item.kind == "sound"),
        description=describe(vendor, device, sysfs),
        is_bridge=code >> 16 == _BASE_CLASS_BRIDGE,
    )


def _reset_methods(place: Path, sysfs: Sysfs) -> tuple[str, ...]:
    named = sysfs.text(place / "reset_method")
    if named is not None:
        return tuple(named.split())
    return (UNKNOWN_RESET,) if (place / "reset").exists() else ()


def _directory(address: str, sysfs: Sysfs) -> Path:
    return sysfs.at("sys/bus/pci/devices", address)


def _driver(address: str, sysfs: Sysfs) -> str | None:
    return sysfs.target_name(_directory(address, sysfs) / "driver")


def _group(address: str, sysfs: Sysfs) -> int | None:
    group = sysfs.target_name(_directory(address, sysfs) / "iommu_group")
    return int(group) if group is not None and group.isdigit() and vfio.is_real(int(group), sysfs) else None


def is_there(taken: PciTaken, sysfs: Sysfs = HOST) -> bool:
    """Whether the device that was taken is still in its slot."""
    place = _directory(taken.address, sysfs)
    return tuple(sysfs.number(place / name, 16) for name in ("vendor", "device")) == (taken.vendor, taken.device)


def _set_override(address: str, driver: str, sysfs: Sysfs) -> None:
    path = _directory(address, sysfs) / "driver_override"
    if sysfs.text(path) not in ((driver,) if driver else ("", "(null)")):
        sysfs.write(path, f"{driver}\n")


def _unbind(address: str, sysfs: Sysfs) -> None:
    """Unbind whatever driver there is; one that went meanwhile is fine."""
    if _driver(address, sysfs) is None:
        return
    try:
        sysfs.write(_directory(address, sysfs) / "driver/unbind", address)
    except GoneError:
        if _driver(address, sysfs) is not None:
            raise
    if not wait_until(lambda: _driver(address, sysfs) is None, RELEASE_SECONDS):
        raise StateError(f"{_driver(address, sysfs)} does not let go of {address}", "see 'dmesg | tail'")


def _probe(address: str, sysfs: Sysfs) -> None:
    sysfs.write(sysfs.at("sys/bus/pci/drivers_probe"), address)
