"""The names of PCI vendors and devices, from the file pci.ids where a package has installed it."""

from functools import lru_cache
from pathlib import Path

from nooks.device.sysfs import HOST, Sysfs

_NAMES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")


def describe(vendor: int, device: int, sysfs: Sysfs = HOST) -> str:
    """The names of vendor and device from pci.ids, where that is installed; otherwise "8086:100e"."""
    numbers = f"{vendor:04x}:{device:04x}"
    for name in _NAMES:
        path = sysfs.at(name)
        if path.is_file():
            vendor_name, names = _vendor(path, f"{vendor:04x}")
            return f"{vendor_name} {names.get(f'{device:04x}', numbers)}" if vendor_name else numbers
    return numbers


@lru_cache(maxsize=64)
def _vendor(path: Path, vendor: str) -> tuple[str, dict[str, str]]:
    """A vendor's name and those of its devices. Lines: "8086  Name", "\\t100e  Name", "\\t\\tsubsystem ..."."""
    name, names, inside = "", {}, False
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(("\t", "#")) or not line.strip():
                if inside and line.startswith("\t") and not line.startswith("\t\t"):
                    key, _, text = line.strip().partition("  ")
                    names[key] = text
                continue
            if inside:
                break
            inside = line.startswith(f"{vendor}  ")
            name = line.strip().partition("  ")[2] if inside else ""
    return name, names
