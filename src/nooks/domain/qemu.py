"""What a domain's QEMU is told: binary, machine, devices, kernel command line. Knows nothing of classes or nooks."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nooks.domain.accel import Accelerator
from nooks.domain.emulator import PROGRAM, SYSTEM, Emulator, program, version
from nooks.host.errors import InputError, MachineError
from nooks.host.process import ProcessError, run

MINIMUM_VERSION = (7, 2)
FIRMWARE = "qboot.rom"
FIRMWARE_DIRECTORIES = (Path("/usr/share/qemu"), Path("/usr/share/qboot"), Path("/usr/local/share/qemu"))

OVERHEAD_BYTES = 1 << 30
"""Address space that QEMU itself may take beside the guest's memory (stacks, libraries, translation buffer)."""

FILE_THREADS_BYTES = 64 * (8 + 64 << 20)
"""Address space of the threads that read and write files for it: up to 64 (util/thread-pool.c), each with a stack of 8
MiB and, in glibc's malloc, an arena of 64. Without it a disk with many requests under way ended in an abort."""

GUEST_ARGUMENTS = (
    # Boot quickly and quietly (FACTS: 1.8-2.1 s to the driver).
    "console=ttyS0 quiet tsc=reliable no_timer_check mitigations=off random.trust_cpu=on cryptomgr.notests"
    " nokaslr rdinit=/init"
    # 8 MB and 0.13 s less; and no packets of the domain's own.
    " initcall_blacklist=tracer_init_tracefs noreplace-smp ipv6.disable=1"
    # The agent may reach a card behind its driver's back, to fail it on purpose.
    " iomem=relaxed"
    # Make every failure fail-stop (Documentation/admin-guide/kernel-parameters.txt, sysctl/kernel.rst).
    " panic=-1 oops=panic softlockup_panic=1 hung_task_panic=1 sysctl.vm.panic_on_oom=1"
)

MACHINE = "pc,usb=off,vmport=off,graphics=off"

MODULES = "0xffffffffa0000000..0xfffffffffeffffff,0xc4000000..0xffffffff"
"""Where kernels of 64 and of 32 bits have their modules: of no other code a log of translations tells
(Documentation/x86/x86_64/mm.rst; VMALLOC_START of 32 bits is 8 MB above the memory)."""

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


_KINDS = {"netdev": "network card", "drive": "disk or drive", "audiodev": "sound card"}
"""What a device is that has a property of that name."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a domain is; two domains of equal plans may share a snapshot.

    ``region_bytes`` of memory, which the launcher hands over as ``region``, are shared with the host and no part of a
    snapshot. ``writes_files``: one of the descriptors in its hardware is a file, of whatever size.

    ``hardware`` are QEMU arguments in which ``{name}`` stands for a descriptor that the launcher hands over.
    ``snapshottable`` is false if a device of the plan cannot be part of a snapshot. ``pinned``: a device will be
    plugged in that reaches all memory by DMA, so that the memory is locked (VFIO). ``shared``: one that another process
    serves will be, which maps the same memory (vfio-user). ``inherited`` are descriptors, the caller's, that every
    domain gets under the same numbers. ``guest_arguments`` are added to the kernel's command line. ``memory_bytes`` is
    the guest's memory.
    """

    vmlinux: Path
    initramfs: Path
    image_digest: str
    memory_bytes: int
    hardware: tuple[str, ...]
    accelerator: Accelerator
    snapshottable: bool = True
    pinned: bool = False
    shared: bool = False
    inherited: tuple[int, ...] = ()
    debug: bool = False
    guest_arguments: str = ""
    emulator: Emulator = SYSTEM
    region_bytes: int = 0
    writes_files: bool = False

    @property
    def address_space_bytes(self) -> int:
        """The most that its QEMU may map."""
        return self.all_memory_bytes + OVERHEAD_BYTES + (FILE_THREADS_BYTES if self.writes_files else 0)

    @property
    def all_memory_bytes(self) -> int:
        """What QEMU maps for the guest."""
        return self.memory_bytes + self.region_bytes

    def key(self, extra: str = "") -> str:
        """The snapshot's key: a hash over all that must agree between the one who took it and the one who uses it."""
        parts = (
            self.emulator.identity,
            self.image_digest,
            str(self.memory_bytes),
            str(self.region_bytes),
            *self.hardware,
            self.accelerator.arguments,
            self.accelerator.processor,
            self.accelerator.guest_arguments,
            GUEST_ARGUMENTS,
            self.guest_arguments,
            str(self.debug),
            extra,
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def check_version() -> None:
    """Raises MachineError if QEMU is too old for what we ask of it."""
    found = version()
    if found < MINIMUM_VERSION:
        raise MachineError(
            f"QEMU {found[0]}.{found[1]} is too old, {MINIMUM_VERSION[0]}.{MINIMUM_VERSION[1]} is needed",
            "install a newer qemu-system-x86",
        )


@cache
def firmware() -> Path:
    """qboot, the firmware that starts an ELF kernel by PVH at once. Raises MachineError if it is missing."""
    for directory in FIRMWARE_DIRECTORIES:
        if (directory / FIRMWARE).is_file():
            return directory / FIRMWARE
    raise MachineError(f"{FIRMWARE} is missing", "apt-get install qemu-system-data")


def check_device(model: str, hardware: Sequence[str]) -> None:
    """Start QEMU with nothing but a device, as a domain will have it, and end it at once (40 ms).

    ``hardware`` are QEMU's arguments for the device ``model``, with something harmless behind it. Raises InputError
    with QEMU's own words if it does not emulate the model, or not with these options; MachineError.
    """
    argv = [
        *(program(), "-nodefaults", "-no-user-config", "-display", "none", "-S", "-sandbox", SANDBOX),
        *("-accel", "tcg", "-machine", MACHINE, "-m", "16M", "-bios", str(firmware())),
        *("-global", "pci-device.romfile=", "-monitor", "stdio"),
        *(argument.format() for argument in hardware),
    ]
    try:
        run(argv, timeout_seconds=20, stdin="quit\n")
    except ProcessError as error:
        said = " ".join(str(error).split()).rpartition(f"{PROGRAM}: ")[2]
        if "not a valid device model" in said:
            raise InputError(f"QEMU does not emulate a device {model!r}", f"see '{PROGRAM} -device help'") from None
        for wanted, kind in _KINDS.items():
            if f"Property '{model}.{wanted}' not found" in said:
                raise InputError(f"the device {model!r} is no {kind}", "'nooks drivers' lists some") from None
        complaint = re.sub(r"^-device \S+: ", "", said)
        raise InputError(f"QEMU refuses the device: {complaint}", f"see '{PROGRAM} -device {model},help'") from None


def command(plan: Plan, descriptors: Mapping[str, int], *, incoming: bool, paused: bool, shared: bool) -> list[str]:
    """QEMU's command line.

    ``descriptors`` has ``memory``, ``vmlinux``, ``initramfs``, ``qmp``, ``xpc``, ``heartbeat``, ``console``, with
    ``debug``, ``emulator`` and ``region`` if the plan says so, and every name that the plan's hardware uses.
    ``shared`` maps the memory shared (to make a snapshot), else copy-on-write.
    """
    place = f"/proc/self/fd/{descriptors['emulator']}" if "emulator" in descriptors else None
    argv = [
        *plan.emulator.command(place),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-sandbox", SANDBOX),
        *("-accel", plan.accelerator.arguments),
        *("-cpu", plan.accelerator.cpu),
        *_memory(plan, descriptors, shared=shared),
        *("-bios", str(firmware())),
        *("-kernel", f"/proc/self/fd/{descriptors['vmlinux']}"),
        *("-initrd", f"/proc/self/fd/{descriptors['initramfs']}"),
        *("-append", kernel_arguments(plan)),
        *("-action", "panic=pause"),
        *("-global", "pci-device.romfile="),
        *("-device", "pvpanic"),
        *("-chardev", f"socket,id=qmp,fd={descriptors['qmp']}"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={descriptors['console']}"),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-pci,max_ports=4"),
        *("-chardev", f"socket,id=xpc,fd={descriptors['xpc']}"),
        *("-device", "virtserialport,chardev=xpc,nr=1,name=nooks.xpc"),
        *("-chardev", f"socket,id=heartbeat,fd={descriptors['heartbeat']}"),
        *("-device", "virtserialport,chardev=heartbeat,nr=2,name=nooks.heartbeat"),
        *(argument.format(**descriptors) for argument in plan.hardware),
    ]
    if plan.debug:
        argv += ["-chardev", f"socket,id=debug,fd={descriptors['debug']}", "-gdb", "chardev:debug"]
        argv += ["-dfilter", MODULES]
    if incoming:
        argv += ["-incoming", "defer"]
    if paused:
        argv += ["-S"]
    return argv


def _memory(plan: Plan, descriptors: Mapping[str, int], *, shared: bool) -> list[str]:
    """The machine and its memory: one piece, or, with a region, two that lie one behind the other."""

    def backend(name: str, descriptor: int, size_bytes: int, share: bool) -> str:
        path = f"/proc/self/fd/{descriptor}"
        return f"memory-backend-file,id={name},size={size_bytes},mem-path={path},share={'on' if share else 'off'}"

    ram = ("-object", backend("ram", descriptors["memory"], plan.memory_bytes, shared))
    size = f"{plan.all_memory_bytes >> 20}M"
    if not plan.region_bytes:
        return ["-machine", f"{MACHINE},memory-backend=ram", "-m", size, *ram]
    return [
        *("-machine", MACHINE, "-m", size, *ram),
        *("-object", backend("region", descriptors["region"], plan.region_bytes, True)),
        *("-numa", "node,nodeid=0,cpus=0,memdev=ram", "-numa", "node,nodeid=1,memdev=region"),
    ]


def kernel_arguments(plan: Plan) -> str:
    """The kernel's command line in a domain."""
    own = (plan.accelerator.guest_arguments, plan.guest_arguments, _region_arguments(plan))
    return " ".join(filter(None, (GUEST_ARGUMENTS, *own)))


def _region_arguments(plan: Plan) -> str:
    """Have the guest's kernel leave the region alone and offer it as a device-dax node.

    Its memory type is changed from RAM to "soft reserved" (Documentation/admin-guide/kernel-parameters.txt, memmap=;
    arch/x86/include/asm/e820/types.h), of which drivers/dax/hmem makes a device.
    """
    if not plan.region_bytes:
        return ""
    return f"numa=off memmap={plan.region_bytes:#x}%{plan.memory_bytes:#x}-1+0xefffffff"
