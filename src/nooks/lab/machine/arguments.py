"""QEMU's command line for a lab machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nooks.domain.emulator import Emulator
from nooks.host import tsc
from nooks.lab.machine.layout import CACHE_SLOT, ROOT_BUS, ROOT_SLOT, SERIAL_SLOT, Placed, has_own, shared_arguments
from nooks.lab.machine.options import Wishes
from nooks.lab.machine.wire import PORTS, port_name

ROOT_TAG, CACHE_TAG = "root", "cache"
"""The mount tags of both shares."""

GUEST_ARGUMENTS = (
    "console=ttyS0 earlyprintk=serial,ttyS0 tsc=reliable no_timer_check mitigations=off random.trust_cpu=on"
    " cryptomgr.notests nokaslr rdinit=/init panic=-1"
)
"""What makes it boot quickly, as in a domain, but not quietly: the console log is to tell. A panic ends QEMU (with
-no-reboot)."""

IOMMU_ARGUMENTS = "intel_iommu=on"

CPU = "EPYC,-xsave,-avx,-avx2"
"""With the nested SVM that TCG has. Without the wide registers all that runs takes a third less time to emulate."""

TRANSLATIONS_MB = 512
"""TCG's buffer of translated code: a small one is flushed again and again by all that a whole userland runs."""


_SHARED = ",memory-backend=ram"


@dataclass(frozen=True)
class Files:
    """What QEMU opens: the kernel, the descriptor of the initramfs, the shared cache, the console log, the folder with
    disks' media and models' sockets; and the descriptors of the cables of network cards of ours, by number."""

    vmlinux: Path
    initramfs: int
    cache: Path
    console: Path
    media: Path
    cables: Mapping[int, int]


def command(
    wishes: Wishes, placed: Sequence[Placed], files: Files, ports: Mapping[str, int], emulator: Emulator
) -> list[str]:
    """QEMU's command line. ``ports`` are the descriptors of the sockets for ``wire.PORTS``."""
    own = has_own(wishes.cards)
    return [
        *(*emulator.command(), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-name", "nooks-lab"),
        *("-accel", f"tcg,thread=multi,tb-size={TRANSLATIONS_MB}"),
        *("-machine", f"q35,usb=off,vmport=off,graphics=off,sata=off,smbus=off{_SHARED if own else ''}"),
        *(_memory_of(wishes) if own else ()),
        *("-cpu", CPU),
        *("-smp", str(wishes.cpus), "-m", f"{wishes.memory_bytes >> 20}M"),
        # With caching-mode, models outside of QEMU are told of what the kernel maps.
        *(("-device", f"intel-iommu,intremap=on{',caching-mode=on' if own else ''}") if wishes.iommu else ()),
        # SeaBIOS, QEMU's default: qboot halts before the kernel where a card's cable leads to a hub.
        *("-kernel", str(files.vmlinux), "-initrd", f"/proc/self/fd/{files.initramfs}"),
        *("-append", kernel_arguments(wishes)),
        *("-global", "pci-device.romfile="),
        *("-chardev", f"file,id=console,path={_escaped(files.console)}", "-serial", "chardev:console"),
        *_ports(ports),
        *_share(ROOT_TAG, Path("/"), ROOT_SLOT, "readonly=on,multidevs=remap"),
        *_share(CACHE_TAG, files.cache, CACHE_SLOT, "multidevs=remap"),
        *shared_arguments(placed),
        *(_filled(argument, one, files) for one in placed for argument in one.arguments),
    ]


def _memory_of(wishes: Wishes) -> tuple[str, str]:
    """Memory that a model of ours can map."""
    return "-object", f"memory-backend-memfd,id=ram,size={wishes.memory_bytes >> 20}M,share=on"


def _filled(argument: str, one: Placed, files: Files) -> str:
    """An argument with what was not known when the card was placed."""
    cable = files.cables.get(one.number)
    return argument.replace("{media}", _escaped(files.media)).replace(f"{{cable{one.number}}}", str(cable))


def kernel_arguments(wishes: Wishes) -> str:
    """The kernel's command line; the user's own words come last."""
    parts = (GUEST_ARGUMENTS, tsc.kernel_argument(), IOMMU_ARGUMENTS if wishes.iommu else "", wishes.arguments)
    return " ".join(part for part in parts if part)


def _ports(ports: Mapping[str, int]) -> list[str]:
    argv = ["-device", f"virtio-serial-pci,bus={ROOT_BUS},addr={SERIAL_SLOT:#x},max_ports={len(PORTS) + 1}"]
    for number, kind in enumerate(PORTS, start=1):
        argv += ["-chardev", f"socket,id={kind},fd={ports[kind]}"]
        argv += ["-device", f"virtserialport,chardev={kind},nr={number},name={port_name(kind)}"]
    return argv


def _share(tag: str, path: Path, slot: int, options: str) -> tuple[str, ...]:
    # security_model=none: files have the owners and modes that they have; what an ordinary user may not do is
    # left undone in silence.
    return (
        *("-fsdev", f"local,id={tag},path={_escaped(path)},security_model=none,{options}"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag},bus={ROOT_BUS},addr={slot:#x}"),
    )


def _escaped(path: Path) -> str:
    """A path as the value of an option: a comma is written twice."""
    return str(path).replace(",", ",,")
