"""What VFIO needs of the machine: an IOMMU that is on, its driver, and nobody else at the group.

Source of the rules: Documentation/driver-api/vfio.rst and Documentation/admin-guide/kernel-parameters.txt.
"""

import os
from collections.abc import Collection
from pathlib import Path

from nooks.device.sysfs import HOST, Sysfs
from nooks.host.errors import MachineError, NooksError
from nooks.image.modules import ModuleTree

DRIVER = "vfio-pci"
SAFE_DRIVERS = ("pci-stub", "pcieport")
"""Drivers that leave the DMA of a group to its user (``driver_managed_dma`` in struct pci_driver)."""

_MODULES = ("vfio-pci", "vfio_iommu_type1")
_UNSAFE = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"


def groups(sysfs: Sysfs = HOST) -> list[int]:
    """The IOMMU groups, without those that VFIO makes up where there is no IOMMU ("vfio-noiommu")."""
    names = sysfs.names(sysfs.at("sys/kernel/iommu_groups"))
    return sorted(int(name) for name in names if name.isdigit() and is_real(int(name), sysfs))


def is_real(group: int, sysfs: Sysfs = HOST) -> bool:
    """Whether a group is an IOMMU's."""
    return sysfs.text(sysfs.at("sys/kernel/iommu_groups", str(group), "name")) != "vfio-noiommu"


def iommu_on(sysfs: Sysfs = HOST) -> bool:
    """Whether an IOMMU stands between devices and memory."""
    return bool(groups(sysfs))


def iommu_lack(sysfs: Sysfs = HOST) -> tuple[str, str] | None:
    """Why there is no IOMMU and what to change; None if it is on.

    The firmware describes an IOMMU in the ACPI table DMAR (Intel), IVRS (AMD), IORT (Arm) or VIOT (virtio).
    """
    if iommu_on(sysfs):
        return None
    arguments = (sysfs.text(sysfs.at("proc/cmdline")) or "").split()
    tables = set(sysfs.names(sysfs.at("sys/firmware/acpi/tables")))
    off = [word for word in ("iommu=off", "intel_iommu=off", "amd_iommu=off") if word in arguments]
    if off:
        return f"the IOMMU is off by the kernel argument {off[0]}", "remove it from the kernel command line and reboot"
    if "DMAR" in tables:
        return "the IOMMU is off in the kernel", "add intel_iommu=on to the kernel command line and reboot"
    if "IVRS" in tables:
        return "the IOMMU is not in use", "look for AMD-Vi in 'dmesg', and switch IOMMU from auto to on in the firmware"
    if tables & {"IORT", "VIOT"}:
        return "the IOMMU is not in use", "look for iommu in 'dmesg'; the kernel may lack the IOMMU's driver"
    return (
        "there is no IOMMU, or the firmware has it off",
        "switch on VT-d, AMD-Vi or IOMMU in the firmware's set-up, and reboot; USB devices do without",
    )


def unsafe_interrupts(sysfs: Sysfs = HOST) -> bool:
    """Whether interrupt remapping seems off, so that VFIO will refuse (x86: its interrupts are named "IR-...")."""
    if (sysfs.text(sysfs.at(_UNSAFE.lstrip("/"))) or "N") == "Y":
        return False
    text = sysfs.text(sysfs.at("proc/interrupts")) or ""
    return "IO-APIC" in text and "IR-IO-APIC" not in text


def vfio_available(sysfs: Sysfs = HOST) -> bool:
    """Whether the driver vfio-pci is there, or its module can be loaded. Loads nothing."""
    if _driver_directory(sysfs).is_dir():
        return True
    release = os.uname().release
    places = (sysfs.at(folder, release) for folder in ("lib/modules", "usr/lib/modules"))
    try:
        return any(place.is_dir() and ModuleTree(place, release).has(DRIVER) for place in places)
    except NooksError:
        return False


def vfio_lack(sysfs: Sysfs = HOST) -> tuple[str, str] | None:
    """That the driver vfio-pci is missing, and what to do; None if it is there or can be loaded."""
    if vfio_available(sysfs):
        return None
    release = os.uname().release
    return (
        f"kernel {release} has no vfio-pci",
        f"install the package with all of its modules (linux-image-{release}), or a kernel with CONFIG_VFIO_PCI",
    )


def load(sysfs: Sysfs = HOST) -> None:
    """Have vfio-pci in the kernel. Raises MachineError."""
    if _driver_directory(sysfs).is_dir():
        return
    lack = vfio_lack(sysfs)
    if lack is not None:
        raise MachineError(*lack)
    for module in _MODULES:
        sysfs.load_module(module)
    if not _driver_directory(sysfs).is_dir():
        raise MachineError("vfio-pci was loaded, but the kernel has no such driver", "see 'dmesg | tail'")


def node(group: int) -> Path:
    """The device node of a group."""
    return Path(f"/dev/vfio/{group}")


def users(nodes: Collection[Path], sysfs: Sysfs = HOST) -> list[int]:
    """The processes that have one of some device nodes open, as far as this user may see (proc(5): fd)."""
    wanted = {str(path) for path in nodes}
    found: list[int] = []
    for pid in filter(str.isdigit, sysfs.names(sysfs.at("proc"))):
        folder = sysfs.at("proc", pid, "fd")
        if any(_link(folder / name) in wanted for name in sysfs.names(folder)):
            found.append(int(pid))
    return sorted(found)


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _driver_directory(sysfs: Sysfs) -> Path:
    return sysfs.at("sys/bus/pci/drivers", DRIVER)
