"""A made-up machine: /sys, /proc and /dev in a folder, with a kernel that binds drivers when its files are written."""

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from nooks.device.sysfs import Sysfs
from nooks.host.errors import MachineError

RELEASE = os.uname().release


@dataclass(frozen=True)
class FakeKernel(Sysfs):
    """Acts on what is written as drivers/base/bus.c and drivers/pci/pci-sysfs.c do.

    ``matches``: the driver that probing binds, by device; ``refuse``: the error that a file gives, by its path's end;
    ``makes``: the interface that a driver makes of a device; ``vanishing``: the files that make a device vanish when
    they are written; ``loadable``: modules; ``dead``: drivers that bind nothing; ``written``: all writes, in order.
    """

    matches: dict[str, str] = field(default_factory=dict[str, str])
    refuse: dict[str, int] = field(default_factory=dict[str, int])
    makes: dict[str, str] = field(default_factory=dict[str, str])
    written: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    vanishing: set[str] = field(default_factory=set[str])
    loadable: set[str] = field(default_factory=set[str])
    dead: set[str] = field(default_factory=set[str])

    def write(self, path: Path, text: str) -> None:
        name = str(path.relative_to(self.root))
        self.written.append((name, text.strip()))
        for ending, number in self.refuse.items():
            if name.endswith(ending):
                raise self.failure(OSError(number, os.strerror(number)), path, f"took no {text.strip()!r}")
        if path.name in self.vanishing:
            self.unplug(text.strip())
        if path.name in ("unbind", "bind", "drivers_probe"):
            self._bind(path, text.strip())
        elif not path.exists():
            raise self.failure(OSError(errno.ENOENT, "gone"), path, "")
        else:
            path.write_text(text if text.strip() else "(null)\n")

    def load_module(self, name: str) -> None:
        if name not in self.loadable:
            raise MachineError(f"the module {name} can't be loaded", "install it")
        self.driver("pci", name.replace("_", "-") if name.startswith("vfio") else name, name)
        self.folder("sys/module", name)

    def _bind(self, path: Path, device: str) -> None:
        bus = self.at("sys/bus", path.relative_to(self.at("sys/bus")).parts[0])
        place = bus / "devices" / device
        if not place.exists():
            raise self.failure(OSError(errno.ENODEV, "No such device"), path, "")
        if path.name == "unbind":
            self.unbind(place.resolve())
        elif path.name == "bind":
            self.bind(place.resolve(), path.parent.resolve())
        else:
            override = (self.text(place / "driver_override") or "(null)").replace("(null)", "")
            wanted = override or self.matches.get(device, "")
            if wanted and (bus / "drivers" / wanted).is_dir() and not (place / "driver").exists():
                self.bind(place.resolve(), (bus / "drivers" / wanted).resolve())

    def bind(self, place: Path, driver: Path) -> None:
        if driver.name in self.dead:
            return
        (place / "driver").symlink_to(driver)
        if driver.name not in ("vfio-pci", "usbfs") and place.name in self.makes:
            self.interface(place, self.makes[place.name])

    def unbind(self, place: Path) -> None:
        (place / "driver").unlink()
        for interface in self.names(place / "net"):
            self.at("sys/class/net", interface).unlink()
        shutil.rmtree(place / "net", ignore_errors=True)

    def unplug(self, device: str) -> None:
        for bus in ("pci", "usb"):
            for entry in self.at("sys/bus", bus, "devices").glob(
                f"{device.partition(':')[0] if bus == 'usb' else device}*"
            ):
                shutil.rmtree(entry.resolve(), ignore_errors=True)
                entry.unlink()

    def folder(self, *parts: str) -> Path:
        path = self.at(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def file(self, path: str, text: str) -> Path:
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def link(self, path: str, target: Path) -> None:
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def driver(self, bus: str, name: str, module: str | None = None) -> Path:
        place = self.folder("sys/bus", bus, "drivers", name)
        if module is not None and not (place / "module").exists():
            (place / "module").symlink_to(self.folder("sys/module", module))
        return place

    def interface(self, device: Path, name: str) -> Path:
        place = device / "net" / name
        place.mkdir(parents=True)
        (place / "type").write_text("1\n")
        (place / "device").symlink_to(device)
        self.link(f"sys/class/net/{name}", place)
        return place

    def virtual_interface(self, name: str, *below: str) -> Path:
        place = self.folder("sys/devices/virtual/net", name)
        self.link(f"sys/class/net/{name}", place)
        for lower in below:
            (place / f"lower_{lower}").symlink_to(self.at("sys/class/net", lower))
            (self.at("sys/class/net", lower) / f"upper_{name}").symlink_to(place)
        return place

    def disk(self, device: Path, name: str, number: str, *partitions: str) -> Path:
        place = device / "block" / name
        (place / "holders").mkdir(parents=True)
        (place / "dev").write_text(f"{number}:0\n")
        self.link(f"sys/class/block/{name}", place)
        for index, part in enumerate(partitions, start=1):
            (place / part / "holders").mkdir(parents=True)
            (place / part / "partition").write_text(f"{index}\n")
            (place / part / "dev").write_text(f"{number}:{index}\n")
            self.link(f"sys/class/block/{part}", place / part)
        return place

    def pci(
        self,
        address: str,
        ids: str = "8086:100e",
        code: str = "020000",
        driver: str | None = None,
        module: str | None = None,
        group: int | None = None,
        reset: str | None = None,
        net: str | None = None,
    ) -> Path:
        place = self.folder("sys/devices/pci0000:00", address)
        vendor, device = ids.split(":")
        files = {"vendor": f"0x{vendor}", "device": f"0x{device}", "class": f"0x{code}", "driver_override": "(null)"}
        upper = f"pci:v0000{vendor}d0000{device}".upper().replace("PCI:V", "pci:v").replace("D0000", "d0000")
        files["modalias"] = f"{upper}sv00001AF4sd00001100bc{code[:2]}sc{code[2:4]}i{code[4:]}"
        for name, text in files.items():
            (place / name).write_text(f"{text}\n")
        if reset is not None:
            (place / "reset_method").write_text(f"{reset}\n")
            (place / "reset").write_text("")
        self.link(f"sys/bus/pci/devices/{address}", place)
        (place / "subsystem").symlink_to(self.at("sys/bus/pci"))
        if group is not None:
            number = self.folder("sys/kernel/iommu_groups", str(group))
            (place / "iommu_group").symlink_to(number)
            self.link(f"sys/kernel/iommu_groups/{group}/devices/{address}", place)
        if driver is not None:
            (place / "driver").symlink_to(self.driver("pci", driver, module))
            self.matches[address] = driver
        if net is not None:
            self.interface(place, net)
            self.makes[address] = net
        return place

    def usb(self, port: str, ids: str = "0bda:8153", serial: str = "S1", number: int = 2) -> Path:
        """A device with one interface, "PORT:1.0", without a driver, below a PCI controller."""
        place = self.folder("sys/devices/pci0000:00/0000:00:14.0/usb1", port)
        vendor, product = ids.split(":")
        files = {"idVendor": vendor, "idProduct": product, "busnum": "1", "devnum": str(number), "serial": serial}
        files |= {"bDeviceClass": "00", "bConfigurationValue": "1", "manufacturer": "Realtek", "product": "LAN"}
        for name, text in files.items():
            (place / name).write_text(f"{text}\n")
        self.link(f"sys/bus/usb/devices/{port}", place)
        (place / "subsystem").symlink_to(self.at("sys/bus/usb"))
        self.file(f"dev/bus/usb/001/{number:03d}", "")
        return place

    def usb_interface(
        self, port: str, suffix: str, codes: str = "ff:ff:00", driver: str | None = None, net: str | None = None
    ) -> Path:
        name = f"{port}:{suffix}"
        place = self.at("sys/bus/usb/devices", port).resolve() / name
        place.mkdir()
        for file, text in zip(("Class", "SubClass", "Protocol"), codes.split(":"), strict=True):
            (place / f"bInterface{file}").write_text(f"{text}\n")
        (place / "modalias").write_text(f"usb:v0BDAp8153{suffix}\n")
        (place / "subsystem").symlink_to(self.at("sys/bus/usb"))
        self.link(f"sys/bus/usb/devices/{name}", place)
        if driver is not None:
            (place / "driver").symlink_to(self.driver("usb", driver, driver))
            self.matches[name] = driver
        if net is not None:
            self.interface(place, net)
            self.makes[name] = net
        return place

    def process(
        self, pid: int, parent: int = 1, comm: str = "sh", environ: str = "", opened: str | None = None
    ) -> None:
        self.file(f"proc/{pid}/stat", f"{pid} ({comm}) S {parent} 1 1")
        self.file(f"proc/{pid}/comm", f"{comm}\n")
        self.file(f"proc/{pid}/environ", environ)
        self.folder("proc", str(pid), "fd")
        if opened is not None:
            os.symlink(opened, self.at("proc", str(pid), "fd/3"))

    def kernel_files(self, aliases: str = "") -> None:
        """The running kernel's files, with the modules e1000 and vfio-pci."""
        place = self.folder("lib/modules", RELEASE)
        (place / "kernel/drivers/net").mkdir(parents=True)
        lines = ("kernel/drivers/net/e1000.ko:", "kernel/drivers/net/r8152.ko:", "kernel/drivers/vfio/vfio-pci.ko:")
        (place / "modules.dep").write_text("\n".join(lines) + "\n")
        (place / "modules.alias").write_text(aliases)
        self.file(f"boot/vmlinuz-{RELEASE}", "")


def machine(root: Path) -> FakeKernel:
    """An empty machine with an IOMMU and the driver vfio-pci."""
    kernel = FakeKernel(root)
    for folder in ("sys/class/net", "sys/class/block", "sys/class/sound", "proc", "dev", "sys/kernel/iommu_groups"):
        kernel.folder(folder)
    for bus in ("pci", "usb"):
        kernel.folder("sys/bus", bus, "devices")
        kernel.folder("sys/bus", bus, "drivers")
        kernel.file(f"sys/bus/{bus}/drivers_probe", "")
    kernel.driver("pci", "vfio-pci", "vfio_pci")
    kernel.driver("usb", "usbfs")
    return kernel
