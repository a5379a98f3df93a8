"""What of a PCI or USB device matters for a nook, in one form for both buses, with the problems that are the bus's own.

Sources: PCI Code and ID Assignment Specification (classes), USB class codes (usb.org), and of the kernel
Documentation/driver-api/vfio.rst.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from nooks.device import pci, usb, vfio
from nooks.device.driver_files import KernelFiles
from nooks.device.pci import PciDevice
from nooks.device.problem import Problem
from nooks.device.sysfs import HOST, Sysfs
from nooks.device.usb import UsbDevice, UsbInterface
from nooks.spec import DriverClass

USB_RESET = "port"
"""Every USB device can be reset by the port that it is plugged into."""

_PCI_CLASSES: dict[int, DriverClass] = {0x02: "network", 0x01: "block"}
_PCI_SOUND = (0x0401, 0x0403)
_IDE, _IDE_NATIVE = 0x0101, 0x05
"""The class of IDE controllers, and the bits that say that both channels have ports of their own."""
_USB_CLASSES: dict[int, DriverClass] = {0x01: "sound", 0x08: "block"}
_USB_COMMUNICATION, _USB_WIRELESS = 0x02, 0xE0
_USB_ETHERNET = (0x06, 0x0C, 0x0D, 0x0E)
"""Communication sub-classes: ECM, EEM, NCM, MBIM."""
_RNDIS = (0x01, 0x03)


@dataclass(frozen=True)
class Candidate:
    """``module`` is what would drive it in a nook, ``built_in`` that the running kernel has that driver inside."""

    device: str
    description: str
    driver_class: DriverClass | None
    driver: str | None
    module: str | None
    built_in: bool
    reset: str
    nets: tuple[str, ...]
    blocks: tuple[str, ...]
    sounds: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def of_pci(device: PciDevice, files: KernelFiles, sysfs: Sysfs = HOST) -> Candidate:
    """A PCI device as a candidate."""
    held = is_vfio(device.driver)
    driver = None if held else device.driver
    driver_class = pci_class(device.class_code)
    module = device.module
    if driver is None:
        # Looking through all aliases of a kernel takes a while, and most of what has no driver is no business of ours.
        module = files.module_for([device.modalias]) if driver_class is not None else None
    return Candidate(
        device=f"pci:{device.address}",
        description=device.description,
        driver_class=driver_class,
        driver=driver,
        module=module,
        built_in=driver is not None and module is None,
        reset=next(iter(device.reset_methods), "none"),
        nets=device.interfaces,
        blocks=device.blocks,
        sounds=device.sounds,
        problems=tuple(_pci_problems(device, sysfs)),
        notes=tuple(_pci_notes(device, sysfs)),
    )


def of_usb(device: UsbDevice, name: str, files: KernelFiles, sysfs: Sysfs = HOST) -> Candidate:
    """A USB device as a candidate; ``name`` is how to say which it is."""
    bound = [interface for interface in device.interfaces if interface.driver not in (None, usb.USER_DRIVER)]
    # What has made something comes first: an Ethernet adapter may have a serial port or a disk with drivers, too.
    bound.sort(key=lambda interface: not (interface.nets or interface.blocks or interface.sounds))
    driver = bound[0].driver if bound else None
    aliases = [interface.modalias for interface in device.interfaces]
    module = bound[0].module if bound else files.module_for(aliases)
    return Candidate(
        device=name,
        description=device.description,
        driver_class=usb_class(device, files.class_of(module) if module else None),
        driver=driver,
        module=module,
        built_in=driver is not None and module is None,
        reset=USB_RESET,
        nets=device.nets,
        blocks=device.blocks,
        sounds=device.sounds,
        problems=tuple(_usb_problems(device, sysfs)),
    )


def pci_class(code: int) -> DriverClass | None:
    """The class of drivers of a PCI class code of 24 bits."""
    if code >> 8 in _PCI_SOUND:
        return "sound"
    return _PCI_CLASSES.get(code >> 16)


def usb_class(device: UsbDevice, module_class: DriverClass | None) -> DriverClass | None:
    """The class of a USB device: by what its drivers made, else by its interfaces, else by the module it would get."""
    if device.device_class == usb.CLASS_HUB:
        return None
    if device.nets:
        return "network"
    if device.blocks:
        return "block"
    if device.sounds:
        return "sound"
    for interface in device.interfaces:
        found = _interface_class(interface)
        if found is not None:
            return found
    return module_class


def is_vfio(driver: str | None) -> bool:
    """Whether a driver hands devices to user space: vfio-pci and its variants (mlx5_vfio_pci ...)."""
    return driver is not None and driver.replace("_", "-").endswith(vfio.DRIVER)


def _interface_class(interface: UsbInterface) -> DriverClass | None:
    kind = (interface.subclass, interface.protocol)
    if interface.interface_class == _USB_COMMUNICATION:
        return "network" if interface.subclass in _USB_ETHERNET else None
    if interface.interface_class == _USB_WIRELESS:
        return "network" if kind == _RNDIS else None
    return _USB_CLASSES.get(interface.interface_class)


def _pci_problems(device: PciDevice, sysfs: Sysfs) -> Iterator[Problem]:
    lack = vfio.iommu_lack(sysfs)
    if lack is not None:
        yield Problem(*lack)
    elif device.group is None:
        yield Problem(f"{device.address} is in no IOMMU group", "put it into another slot; see IOMMU in 'dmesg'")
    else:
        yield from _group_problems(device, device.group, sysfs)
    lack = vfio.vfio_lack(sysfs)
    if lack is not None:
        yield Problem(*lack)
    if device.class_code >> 8 == _IDE and device.class_code & _IDE_NATIVE != _IDE_NATIVE:
        yield Problem("its ports are where IDE's always were, and those can't be handed over", "use AHCI or NVMe")
    virtual = sysfs.number(sysfs.at("sys/bus/pci/devices", device.address, "sriov_numvfs")) or 0
    if virtual:
        file = f"/sys/bus/pci/devices/{device.address}/sriov_numvfs"
        yield Problem(f"its {virtual} virtual functions would vanish with it", f"echo 0 > {file}")


def _group_problems(device: PciDevice, group: int, sysfs: Sysfs) -> Iterator[Problem]:
    users = vfio.users([vfio.node(group)], sysfs)
    if users:
        pids = ", ".join(map(str, users))
        yield Problem(f"process {pids} has it already ({vfio.node(group)})", "detach that nook, or end that process")
    for other in pci.group_members(group, sysfs):
        # A bridge's port driver leaves DMA alone, and what has no driver does none.
        if other.address == device.address or other.driver is None or is_vfio(other.driver):
            continue
        if other.driver in vfio.SAFE_DRIVERS:
            continue
        what = ", ".join((other.driver, *other.interfaces, *other.blocks, *other.sounds))
        yield Problem(
            f"it shares IOMMU group {group} with {other.address} {other.description} ({what})",
            "put one of them into another slot, or take that one from its driver, too: "
            f"echo {other.address} > /sys/bus/pci/drivers/{other.driver}/unbind",
        )
    regions = sysfs.lines(sysfs.at("sys/kernel/iommu_groups", str(group), "reserved_regions"))
    if any(line.split()[2:] == ["direct"] for line in regions):
        # vfio_iommu_type1 and iommufd refuse such devices (RMRR: Intel VT-d specification, 8.4).
        yield Problem("the firmware uses memory of its own by this device (RMRR)", "see the machine's firmware set-up")


def _pci_notes(device: PciDevice, sysfs: Sysfs) -> Iterator[str]:
    if not device.reset_methods:
        yield "it has no reset: the next domain gets it as the failed one left it, forbidden to reach memory"
    if is_vfio(device.driver):
        yield f"it is bound to {device.driver} already, and will be when it is given back"
    if device.group is not None:
        idle = [other for other in pci.group_members(device.group, sysfs) if not other.is_bridge]
        names = ", ".join(other.address for other in idle if other.address != device.address and not other.driver)
        if names:
            yield f"{names} in its IOMMU group must stay without a driver"
        if vfio.unsafe_interrupts(sysfs):
            yield "interrupt remapping seems off, then VFIO refuses: vfio_iommu_type1.allow_unsafe_interrupts=1"


def _usb_problems(device: UsbDevice, sysfs: Sysfs) -> Iterator[Problem]:
    if not sysfs.at(str(device.node).lstrip("/")).exists():
        yield Problem(f"its device node {device.node} is missing", "mount a devtmpfs on /dev, or start udev")
    if any(interface.driver == usb.USER_DRIVER for interface in device.interfaces):
        pids = ", ".join(map(str, vfio.users([device.node], sysfs))) or "unknown"
        yield Problem(f"process {pids} has it already ({device.node})", "detach that nook, or end that process")
