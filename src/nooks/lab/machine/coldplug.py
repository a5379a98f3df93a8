"""Inside a lab machine: loads the drivers of its cards, as udev does at boot, and finds where the cards are.

Standard library only.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

PCI = Path("/sys/bus/pci/devices")
USB = Path("/sys/bus/usb/devices")
NETWORK = Path("/sys/class/net")

APPEAR_SECONDS = 20.0
"""How long a USB device or an interface may take to appear."""

Found = TypeVar("Found")


def modprobe(names: Iterable[str]) -> None:
    """Load modules by name or alias; one that the kernel lacks is left out."""
    wanted = list(dict.fromkeys(names))
    if wanted:
        argv = ["/sbin/modprobe", "-abq", *wanted]
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def load_drivers(layout: Iterable[dict[str, Any]]) -> None:
    """Load the driver of every PCI device and of each USB device of the layout."""
    modprobe(_aliases(PCI.iterdir()))
    for device in layout:
        port = device["usb_port"]
        if port is not None:
            found = until(lambda port=port: _usb_device(port), f"the USB device at port {port}")
            # One by one and in order, as the kernel announces them: the first driver to register gets the device.
            for one in sorted(found.glob(f"{found.name}:*")):
                modprobe(_aliases([one]))


def interface(mac: str) -> str:
    """The name of the network interface with that address, once it is there. Raises TimeoutError."""

    def found() -> str | None:
        for path in NETWORK.iterdir():
            address = path / "address"
            if address.is_file() and address.read_text().strip() == mac:
                return path.name
        return None

    return until(found, f"the interface with the address {mac}")


def described(device: dict[str, Any]) -> dict[str, Any]:
    """A line of devices.json: the layout's, with where it ended up."""
    port = device["usb_port"]
    usb = _usb_device(port) if port is not None else None
    return {
        **{key: device[key] for key in ("number", "model", "bus")},
        "address": _pci_address(device["path"]) if device["path"] else None,
        "usb": usb.name if usb is not None else None,
        **{key: device[key] for key in ("mac", "wire", "wire_mac", "disk")},
    }


def until(look: Callable[[], Found | None], what: str) -> Found:
    """What ``look`` finds, as soon as it does. Raises TimeoutError."""
    deadline = time.monotonic() + APPEAR_SECONDS
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not appear in {APPEAR_SECONDS:.0f} s")
        time.sleep(0.02)
    return found


def _aliases(devices: Iterable[Path]) -> list[str]:
    return [path.read_text().strip() for device in devices if (path := device / "modalias").is_file()]


def _usb_device(port: int) -> Path | None:
    """The configured device at a root port: "1-PORT" or, of SuperSpeed, "2-PORT"."""
    for path in USB.glob(f"[0-9]*-{port}"):
        if any(path.glob(f"{path.name}:*")):
            return path
    return None


def _pci_address(steps: list[str]) -> str | None:
    """The address of the device to which slots and functions lead, bridge by bridge."""
    place = PCI / f"0000:00:{steps[0]}"
    for step in steps[1:]:
        pattern = re.compile(rf"[0-9a-f]{{4}}:[0-9a-f]{{2}}:{re.escape(step)}")
        behind = [path for path in place.iterdir() if pattern.fullmatch(path.name)] if place.is_dir() else []
        if not behind:
            return None
        place = behind[0]
    return place.name if place.is_dir() else None
