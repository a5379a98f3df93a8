"""Real devices as a domain's QEMU is told of them: PCI by VFIO, USB by its device node."""

from pathlib import Path

USB_CONTROLLER = ("-device", "qemu-xhci,id=usb")
USB_CONTROLLER_MODULES = ("xhci_pci",)


def controller(kind: str) -> tuple[str, ...]:
    """What a domain needs so that a device of ``kind`` can be plugged in later: its PCI bus is there anyway."""
    return USB_CONTROLLER if kind == "usb" else ()


def modules(kind: str) -> tuple[str, ...]:
    """The kernel modules of that controller, which the image needs beside the driver's."""
    return USB_CONTROLLER_MODULES if kind == "usb" else ()


def pci_function(address: str) -> dict[str, str]:
    """A PCI function for ``device_add``; it must be bound to vfio-pci, and the group's node open to QEMU's user."""
    return {"driver": "vfio-pci", "host": address}


def usb_device(node: Path) -> dict[str, str]:
    """A USB device for ``device_add``, by its node below /dev/bus/usb, which must be open to QEMU's user."""
    return {"driver": "usb-host", "bus": "usb.0", "hostdevice": str(node)}
