"""Which module of a kernel drives a device, of which class it is, and the firmware files that it names."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nooks.device.problem import Problem
from nooks.device.sysfs import HOST, Sysfs
from nooks.host.errors import InputError, NooksError
from nooks.image import kernel_trees, modinfo
from nooks.image.modules import ModuleTree
from nooks.spec import DriverClass

_PLACES = ("lib/modules", "usr/lib/modules")
_FIRMWARE = ("lib/firmware", "usr/lib/firmware")
_COMPRESSED = ("", ".xz", ".zst")
_FOLDERS: tuple[tuple[str, DriverClass], ...] = (
    ("kernel/drivers/net/", "network"),
    ("kernel/sound/", "sound"),
    ("kernel/drivers/usb/storage/", "block"),
    ("kernel/drivers/ata/", "block"),
    ("kernel/drivers/scsi/", "block"),
    ("kernel/drivers/nvme/", "block"),
)


@dataclass(frozen=True)
class Firmware:
    """The firmware files that a driver names: those that are installed, and those that are not."""

    present: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class KernelFiles:
    """The files of one installed kernel; ``release`` as uname(1) says it, None: the running one's."""

    def __init__(self, sysfs: Sysfs = HOST, release: str | None = None) -> None:
        self._sysfs = sysfs
        self.release = release or os.uname().release

    @cached_property
    def problem(self) -> Problem | None:
        """What is missing of this kernel, so that no image can be made of it."""
        try:
            kernel_trees.find(self._sysfs.root, self.release)
        except InputError as error:
            return Problem(
                f"{error.message}, so a nook can't run the running kernel's driver",
                f"apt-get install linux-image-{self.release}, or give --kernel debian",
            )
        return None

    def module_for(self, modaliases: list[str]) -> str | None:
        """The module that binds a device with one of these modaliases; None if the kernel has none."""
        if self._tree is None:
            return None
        for modalias in filter(None, modaliases):
            found = self._tree.for_device(modalias)
            if found:
                return found[0]
        return None

    def class_of(self, module: str) -> DriverClass | None:
        """The class of a module, by the folder of the kernel's sources that it comes from."""
        try:
            found = self._tree.find(module) if self._tree is not None else None
        except NooksError:
            return None
        path = "" if found is None else str(found.path)
        return next((driver_class for folder, driver_class in _FOLDERS if f"/{folder}" in path), None)

    def firmware(self, module: str) -> Firmware:
        """The firmware that a module, and those that it needs, name. Empty if they can't be read."""
        try:
            modules = self._tree.closure([module]) if self._tree is not None else []
            named = [name for needed in modules for name in modinfo.parse(needed.read()).firmware]
        except NooksError:
            return Firmware()
        names = list(dict.fromkeys(named))
        present = tuple(name for name in names if self._has(name))
        return Firmware(present, tuple(name for name in names if name not in present))

    def _has(self, name: str) -> bool:
        places = [self._sysfs.at(folder) for folder in _FIRMWARE]
        places += [place / self.release for place in places]
        return any((place / f"{name}{ending}").is_file() for place in places for ending in _COMPRESSED)

    @cached_property
    def _tree(self) -> ModuleTree | None:
        directories: list[Path] = [self._sysfs.at(folder, self.release) for folder in _PLACES]
        place = next((path for path in directories if (path / "modules.dep").is_file()), None)
        return None if place is None else ModuleTree(place, self.release)
