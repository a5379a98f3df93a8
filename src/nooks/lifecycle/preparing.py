"""What a start needs first: a machine that can run nooks, an emulator that takes the device, an image."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nooks.drivers import Driver, suggestion
from nooks.host.errors import InputError, MachineError
from nooks.host.paths import cache_dir
from nooks.image.progress import Progress, quiet
from nooks.spec import Spec

if TYPE_CHECKING:
    from nooks.image.kernel import Kernel

DEVICES_REMEMBERED = 64

CLASS_MODULES: Mapping[str, tuple[str, ...]] = {"block": ("dax_hmem", "device_dax")}
"""Modules that the agent of a class needs, whatever the driver: those that make a node of the buffer region, say."""

DISK_MODULES = ("sd_mod",)
"""What makes a disk of what a driver finds, for real disks whose driver has no row that says so."""

NODES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "network": (("/dev/net/tun", "modprobe tun"),),
    "block": (("/dev/fuse", "modprobe fuse"), ("/dev/loop-control", "modprobe loop")),
}
"""What each class needs of the host's /dev, and what makes it."""


def prepare_image(spec: Spec, driver: Driver, progress: Progress = quiet) -> dict[str, Any]:
    """Resolve the kernel and build the image of a driver; returns what goes into ``image.json``.

    Raises InputError if the kernel or the module does not exist, NooksError if they can't be had.
    """
    from nooks.device import passthrough
    from nooks.image import initramfs, kernel

    resolved = kernel.resolve(spec.kernel, driver.flavour, progress)
    try:
        modules = [
            *passthrough.modules(spec.parsed_device.kind),
            *CLASS_MODULES.get(driver.driver_class, ()),
            *(DISK_MODULES if spec.real and driver.driver_class == "block" and not driver.known else ()),
            *driver.with_modules,
            driver.module,
        ]
        moving = driver.driver_class == "block"
        image = initramfs.build(resolved, modules, firmware=driver.firmware, progress=progress, moving=moving)
    except InputError as error:
        if driver.known:
            raise
        raise InputError(error.message, error.fix or suggestion(driver.name)) from None
    return {
        "kernel": resolved.version,
        "flavour": resolved.flavour,
        "vmlinux": str(resolved.vmlinux),
        "initramfs": str(image.initramfs),
        "digest": image.digest,
        "base_order": list(image.base_order),
        "load_order": list(image.load_order),
        "parameters": {driver.module: driver.parameters},
        "emulator": _emulator(spec, progress),
        "module_files": _module_files(resolved, image.load_order) if spec.debug else {},
    }


def _emulator(spec: Spec, progress: Progress) -> str | None:
    """The directory of the emulator that the nook's domains run on; None for the distribution's. Raises NooksError."""
    if not spec.modelled:
        return None
    from nooks.image import emulator

    found = emulator.with_vfio_user(progress).directory
    return str(found) if found is not None else None


def _module_files(kernel: "Kernel", names: Iterable[str]) -> dict[str, str]:
    """Where the modules of an image are on the host, for the injector, which reads their code."""
    from nooks.image.modules import ModuleTree

    tree = ModuleTree(kernel.modules, kernel.version)
    found = {name: tree.find(name) for name in names}
    return {name: str(module.path) for name, module in found.items() if module is not None}


def check_machine(spec: Spec) -> None:
    """Quick checks of what a nook needs, so that the commonest lacks are told in one line. Raises MachineError."""
    if os.geteuid() != 0 and not (spec.driver_class == "sound" and spec.emulated):
        with_what = f" with the device {spec.device}" if spec.driver_class == "sound" else ""
        raise MachineError(f"a {spec.driver_class} nook{with_what} needs root", "run the command with sudo")
    for node, fix in NODES.get(spec.driver_class or "", ()):
        if not Path(node).exists():
            raise MachineError(f"{node} is missing", f"load it with '{fix}', or grant it to this container")
    if shutil.which("qemu-system-x86_64") is None:
        raise MachineError("QEMU is not installed", "apt-get install qemu-system-x86")


def check_emulator(spec: Spec) -> None:
    """Whether QEMU is new enough and takes the device for its class; asked once for each build: that takes 50 ms.

    Raises MachineError or InputError.
    """
    from nooks.device.emulated import trial
    from nooks.domain import emulator, qemu
    from nooks.host import cache

    path, build, device = cache_dir() / "qemu.json", emulator.version_text(), spec.parsed_device
    asked = f"{spec.driver_class} {spec.device}"
    record: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        record = json.loads(path.read_bytes())
    if record.get("build") != build:
        qemu.check_version()
        record = {"build": build}
    elif device.kind != "emulated" or asked in record.get("taken", ()):
        return
    if device.kind == "emulated":
        qemu.check_device(device.model, trial(spec.driver_class or "", device.model, device.options))
        record["taken"] = [*record.get("taken", ()), asked][-DEVICES_REMEMBERED:]
    path.parent.mkdir(parents=True, exist_ok=True)
    cache.write_file(path, json.dumps(record))
