"""Can a device be put in a nook, and if not, why and what to change? Reads only; nothing is touched.

What a person is told of a device (``nooks doctor``, ``nooks attach --dry-run``) comes from here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from nooks.device import candidate, disks, pci, routes, taking, usage, usb
from nooks.device.candidate import Candidate
from nooks.device.driver_files import Firmware, KernelFiles
from nooks.device.problem import Problem
from nooks.device.routes import KernelRoutes, Routes
from nooks.device.sysfs import HOST, Sysfs
from nooks.spec import DriverClass

__all__ = ["Problem", "Verdict", "examine", "survey"]

HOST_KERNEL = "host"
_ETHERNET = 1
"""ARPHRD_ETHER (include/uapi/linux/if_arp.h)."""


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one device.

    ``device`` is "pci:0000:03:00.0" or "usb:0bda:8153"; ``name`` those of its interfaces, disks or cards; ``driver``
    the one that has it now; ``module`` what would drive it in a nook; ``reset`` the kernel's name of the reset method
    ("flr", "bus", "pm", "device_specific" ...; "port" for USB; "none"); ``firmware`` the files that the module names
    and that are installed.
    """

    device: str
    name: str
    description: str
    driver_class: DriverClass | None
    driver: str | None
    module: str | None
    reset: str
    firmware: tuple[str, ...] = ()
    missing_firmware: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def possible(self) -> bool:
        """Whether nothing stands against it."""
        return not self.problems

    @property
    def forcible(self) -> bool:
        """Whether nothing stands against it that a user can't decide to accept."""
        return all(problem.force for problem in self.problems)


def examine(text: str, *, kernel: str = HOST_KERNEL, sysfs: Sysfs = HOST, routing: Routes | None = None) -> Verdict:
    """Judge one device, named as ``taking.resolve`` allows. ``kernel``: whose driver it is to have in a nook.

    Raises InputError: there is no such device (any more).
    """
    files = KernelFiles(sysfs)
    found = _candidate(taking.resolve(text, sysfs), files, sysfs)
    return _Judge(files, kernel, sysfs, routing or KernelRoutes()).judge(found)


def survey(*, kernel: str = HOST_KERNEL, sysfs: Sysfs = HOST, routing: Routes | None = None) -> list[Verdict]:
    """Judge all network cards, disk controllers and sound cards of the machine. What vanishes meanwhile is left out."""
    files = KernelFiles(sysfs)
    judge = _Judge(files, kernel, sysfs, routing or KernelRoutes())
    devices = (device for device in pci.devices(sysfs) if candidate.pci_class(device.class_code) is not None)
    found = [candidate.of_pci(device, files, sysfs) for device in devices]
    for device in usb.devices(sysfs):
        found.append(candidate.of_usb(device, taking.usb_name(device, sysfs), files, sysfs))
    return [judge.judge(one) for one in found if one.driver_class is not None]


def _candidate(device: str, files: KernelFiles, sysfs: Sysfs) -> Candidate:
    kind, _, rest = device.partition(":")
    if kind == "pci":
        return candidate.of_pci(pci.find(rest, sysfs), files, sysfs)
    return candidate.of_usb(usb.find(rest, sysfs), device, files, sysfs)


@dataclass(frozen=True)
class _Judge:
    files: KernelFiles
    kernel: str
    sysfs: Sysfs
    routing: Routes

    def judge(self, one: Candidate) -> Verdict:
        firmware = self.files.firmware(one.module) if one.module else Firmware()
        return Verdict(
            device=one.device,
            name=", ".join((*one.nets, *one.blocks, *one.sounds)),
            description=one.description,
            driver_class=one.driver_class,
            driver=one.driver,
            module=one.module,
            reset=one.reset,
            firmware=firmware.present,
            missing_firmware=firmware.missing,
            problems=tuple(self._problems(one, firmware)),
            notes=tuple(self._notes(one, firmware)),
        )

    def _problems(self, one: Candidate, firmware: Firmware) -> Iterator[Problem]:
        if one.driver_class is None:
            what = "it is no network card, disk controller or sound card"
            yield Problem(what, "'nooks doctor' lists the devices that may be")
        if one.driver_class == "block":
            yield from disks.problems(one.blocks, one.driver, self.sysfs)
        for disk in one.blocks:
            yield from usage.of_disk(disk, self.sysfs)
        yield from one.problems
        yield from self._driver_problems(one)
        for interface in one.nets:
            yield from usage.of_interface(interface, self.sysfs)
            yield from routes.losses(interface, self.sysfs, self.routing)
        for card in one.sounds:
            yield from usage.of_card(card, self.sysfs)
        if one.driver_class == "network":
            yield from self._network_problems(one)
        elif one.driver_class == "sound":
            yield from self._sound_problems(one)
        if firmware.missing and not firmware.present and not (one.nets or one.blocks or one.sounds):
            what = f"{one.module} names firmware, and none of it is installed: {_some(firmware.missing)}"
            yield Problem(what, "install the package that has it (firmware-linux on Debian)", force=True)

    def _driver_problems(self, one: Candidate) -> Iterator[Problem]:
        if self.kernel != HOST_KERNEL:
            return
        release = self.files.release
        if self.files.problem is not None:
            yield self.files.problem
        elif one.built_in:
            what = f"its driver {one.driver} is built into kernel {release}; a nook needs it as a module"
            yield Problem(what, "give --kernel debian")
        elif one.module is None:
            yield Problem(f"kernel {release} has no module for it", "give a kernel that has its driver, with --kernel")

    def _network_problems(self, one: Candidate) -> Iterator[Problem]:
        if one.driver is not None and not one.nets:
            what = f"{one.driver} has made no network interface here"
            yield Problem(what, "look into other network namespaces (ip netns) and 'dmesg'", force=True)
        if len(one.nets) > 1:
            yield Problem(f"it makes {len(one.nets)} network interfaces; a nook has one", "use another card")
        for interface in one.nets:
            place = self.sysfs.at("sys/class/net", interface)
            if (place / "phy80211").exists():
                yield Problem(f"{interface} is Wi-Fi; a nook carries Ethernet only", "use an Ethernet card")
            elif self.sysfs.number(place / "type") not in (_ETHERNET, None):
                yield Problem(f"{interface} is not Ethernet", "use an Ethernet card")
            yield from self._between(one, "net", interface)

    def _sound_problems(self, one: Candidate) -> Iterator[Problem]:
        if one.driver is not None and not one.sounds:
            yield Problem(f"{one.driver} has made no sound card here", "see 'dmesg'", force=True)
        if len(one.sounds) > 1:
            yield Problem(f"it makes {len(one.sounds)} sound cards; a nook has one", "use another card")
        for card in one.sounds:
            yield from self._between(one, "sound", card)

    def _between(self, one: Candidate, kind: str, name: str) -> Iterator[Problem]:
        """Another driver than the device's own makes what the device is for."""
        between = self.sysfs.target_name(self.sysfs.at("sys/class", kind, name) / "device/driver/module")
        if between not in (one.module, None):
            what = f"two drivers make {name} ({one.module or one.driver}, {between}); a nook has one"
            yield Problem(what, "use a card whose driver does all")

    def _notes(self, one: Candidate, firmware: Firmware) -> Iterator[str]:
        yield from one.notes
        for interface in one.nets:
            if routes.carries_default(interface, self.sysfs, self.routing):
                yield f"the default route goes by {interface}"
        if firmware.missing:
            yield f"firmware that {one.module} names and that is not installed: {_some(firmware.missing)}"


def _some(names: tuple[str, ...], at_most: int = 4) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
