"""The checks behind ``nooks doctor``: each looks at one thing and says how to mend it. Nothing is changed."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nooks.domain import accel, qemu
from nooks.host import cgroup, paths
from nooks.host.errors import NooksError
from nooks.host.process import run

if TYPE_CHECKING:
    from nooks.device.verdict import Verdict

Status = Literal["ok", "warn", "fail"]

PYTHON_MIN = (3, 11)
DISK_NEEDED_BYTES = 2 << 30
"""Kernel packages unpacked, images and snapshots of a few drivers."""
DISK_LEAST_BYTES = 600 << 20
MEMORY_NEEDED_BYTES = 512 << 20
MEMORY_LEAST_BYTES = 300 << 20

PROGRAMS: dict[str, tuple[Status, str, str]] = {
    "apt-get": ("fail", "apt", "gets kernel packages"),
    "dpkg-deb": ("fail", "dpkg", "unpacks kernel packages"),
    "depmod": ("fail", "kmod", "finds what modules depend on"),
    "setpriv": ("fail", "util-linux", "takes privileges from QEMU"),
    "nsenter": ("fail", "util-linux", "takes the network from QEMU"),
    "cc": ("warn", "gcc libc6-dev", "makes what serves disks and device models sooner than Python does"),
    "slirp4netns": ("warn", "slirp4netns", "connects a card's cable with 'wire = \"user\"'"),
    "curl": ("warn", "curl", "is the client of 'nooks demo'"),
    "iperf3": ("warn", "iperf3", "is the load of 'nooks bench network'"),
}
"""What is missing without each: how bad that is, the Debian package, and what for."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; ``fix`` is a command or what to do, empty if all is well."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def examine() -> list[Check]:
    """All checks, in the order in which they matter."""
    checks: list[Check] = []
    for look in LOOKS:
        try:
            checks.extend(look())
        except NooksError as error:
            checks.append(Check(look.__name__, "fail", error.message, error.fix))
        except OSError as error:
            checks.append(Check(look.__name__, "warn", f"could not be looked at: {error}", "look with sudo"))
    return checks


def python() -> Iterator[Check]:
    """The interpreter's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    enough = sys.version_info >= PYTHON_MIN
    wanted = ".".join(map(str, PYTHON_MIN))
    yield Check("python", "ok" if enough else "fail", version, "" if enough else f"install Python {wanted} or newer")


def root() -> Iterator[Check]:
    """Privilege: all nooks but those of emulated sound cards make interfaces, disks, and namespaces for all."""
    if os.geteuid() == 0:
        yield Check("root", "ok", "running as root")
    else:
        yield Check(
            "root", "warn", "without root only sound nooks with emulated cards can be started", "sudo nooks ..."
        )
        yield from _user_namespaces()


def _user_namespaces() -> Iterator[Check]:
    """What takes the network from an ordinary user's domains."""
    try:
        run(["unshare", "--user", "--map-current-user", "--net", "true"])
    except NooksError as error:
        fix = "sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)"
        yield Check("user namespaces", "fail", f"an ordinary user may make none: {error.message}", fix)
    else:
        yield Check("user namespaces", "ok", "can be made: domains get no network")


def tun() -> Iterator[Check]:
    """/dev/net/tun, openable."""
    path = Path("/dev/net/tun")
    if not path.exists():
        yield Check("tun", "fail", f"{path} is missing", "modprobe tun")
        return
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        yield Check("tun", "warn", f"{path} can't be opened by this user", "sudo nooks doctor")
    except OSError as error:
        yield Check("tun", "fail", f"{path} can't be opened: {error.strerror}", "modprobe tun")
    else:
        yield Check("tun", "ok", str(path))


def emulator() -> Iterator[Check]:
    """QEMU: there, new enough, with its quick firmware."""
    program = qemu.program()
    version = qemu.version()
    text = ".".join(map(str, version))
    if version >= qemu.MINIMUM_VERSION:
        yield Check("qemu", "ok", f"{text} at {program}")
    else:
        wanted = ".".join(map(str, qemu.MINIMUM_VERSION))
        yield Check("qemu", "fail", f"{text} is too old, {wanted} is needed", "apt-get install qemu-system-x86")
    yield Check("qboot", "ok", str(qemu.firmware()))


def _group_of(device: Path) -> str:
    """The name of a file's group, or its number if it has none."""
    try:
        return device.group()
    except KeyError:
        return str(device.stat().st_gid)


def kvm() -> Iterator[Check]:
    """Hardware virtualisation: there, and what a probe boot said. Emulation does without."""
    device = accel.KVM
    if not os.access(device, os.R_OK | os.W_OK):
        why, fix = "is missing", "modprobe kvm"
        if device.exists():
            why, fix = "can't be opened by this user", f"usermod -aG {_group_of(device)} $USER, then log in again"
        yield Check("kvm", "warn", f"{device} {why}: domains are emulated, which is slower", fix)
        return
    works = accel.verdict()
    if works is None:
        yield Check("kvm", "ok", f"{device} opens; the first start tries whether a kernel boots on it")
    elif works:
        yield Check("kvm", "ok", "a kernel booted on it")
    else:
        yield Check("kvm", "warn", "a kernel did not boot on it: domains are emulated, which is slower")


def cgroups() -> Iterator[Check]:
    """Control groups, which bound what a domain may use and make fencing sure."""
    parent = cgroup.parent_directory()
    if parent is not None and os.access(parent, os.W_OK):
        yield Check("cgroup", "ok", f"groups can be made in {parent}")
    else:
        why = "no cgroup2 is mounted" if parent is None else f"{parent} can't be written"
        fix = "mount -t cgroup2 none /sys/fs/cgroup" if parent is None else "sudo nooks doctor"
        yield Check("cgroup", "warn", f"{why}: domains are bounded by resource limits alone", fix)


def programs() -> Iterator[Check]:
    """The programs that nooks calls."""
    for program, (severity, package, purpose) in PROGRAMS.items():
        path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if path:
            yield Check(program, "ok", path)
        else:
            yield Check(program, severity, f"missing: it {purpose}", f"apt-get install {package}")


def disk() -> Iterator[Check]:
    """Space for kernels, images and snapshots."""
    place = paths.cache_dir()
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    yield _amount("disk", free, DISK_NEEDED_BYTES, DISK_LEAST_BYTES, f"free for {place}", "free some space")


def memory() -> Iterator[Check]:
    """Memory for a domain, its spare and the daemons."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) << 10
    yield _amount("memory", free, MEMORY_NEEDED_BYTES, MEMORY_LEAST_BYTES, "available", "end some programs")


def caches() -> Iterator[Check]:
    """What earlier starts have prepared."""
    place = paths.cache_dir()
    kinds = ("kernels", "images", "snapshots")
    counts = {kind: len([entry for entry in _listed(place / kind) if not entry.name.startswith(".")]) for kind in kinds}
    text = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    if counts["kernels"]:
        yield Check("caches", "ok", f"{text} in {place}")
    else:
        yield Check("caches", "ok", f"empty: the first start gets a kernel package, into {place}")


def iommu() -> Iterator[Check]:
    """The IOMMU, without which no PCI device can be put in a nook."""
    from nooks.device import vfio

    lack = vfio.iommu_lack()
    if lack is None:
        yield Check("iommu", "ok", f"on, with {len(vfio.groups())} groups: PCI devices can be put in a nook")
    else:
        message, fix = lack
        yield Check("iommu", "warn", f"{message}: no PCI device can be put in a nook", fix)


def devices() -> Iterator[Check]:
    """Each network card, disk controller and sound card of the machine: whether a nook can have it."""
    from nooks.device.verdict import survey

    verdicts = survey()
    for verdict in verdicts:
        yield device(verdict)
    if not verdicts:
        yield Check("devices", "ok", "this machine has no PCI or USB device of a class that nooks knows")


def device(verdict: "Verdict") -> Check:
    """What is to be said of one device. It is never a failure: nooks runs emulated devices without any."""
    what = f"{verdict.description} ({', '.join(filter(None, (verdict.name, verdict.driver or verdict.module)))})"
    what = what.removesuffix(" ()")
    problems = verdict.problems
    name = f"device {verdict.device}"
    if verdict.possible:
        reset = "can't be reset" if verdict.reset == "none" else f"reset by {verdict.reset}"
        return Check(name, "ok", "; ".join((f"{what}: can be put in a nook", reset, *verdict.notes)))
    why = "; ".join(problem.message for problem in problems)
    fixes = "; ".join(dict.fromkeys(problem.fix for problem in problems))
    if verdict.forcible:
        return Check(name, "warn", f"{what}: can be put in a nook with --force only: {why}", fixes)
    return Check(name, "warn", f"{what}: can't be put in a nook: {why}", fixes)


def _listed(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _amount(name: str, have: int, need: int, least: int, what: str, fix: str) -> Check:
    text = f"{have / (1 << 20):.0f} MB {what}"
    if have >= need:
        return Check(name, "ok", text)
    return Check(name, "warn" if have >= least else "fail", f"{text}, {need >> 20} MB are wanted", fix)


def disk_endpoint() -> Iterator[Check]:
    """What applications see of a disk, and whether it outlives a supervisor."""
    from nooks.endpoint import disk as endpoints

    kind = endpoints.kind(load=False)
    if kind == "ublk":
        yield Check(
            "disk endpoint", "ok", "a userspace block device (ublk); of a drive with media a loop device or nbd"
        )
    elif kind == "fuse":
        yield Check("disk endpoint", "ok", "a loop device on FUSE")
    elif kind == "nbd":
        yield Check("disk endpoint", "ok", "a network block device (this kernel's FUSE would not outlive a supervisor)")
    else:
        told = "a loop device on FUSE: what is under way when a supervisor is killed waits for ever"
        yield Check("disk endpoint", "warn", told, "modprobe ublk_drv or nbd, or Linux 6.9 or newer")


LOOKS: tuple[Callable[[], Iterator[Check]], ...] = (
    python,
    root,
    tun,
    emulator,
    kvm,
    cgroups,
    programs,
    disk_endpoint,
    disk,
    memory,
    caches,
    iommu,
    devices,
)
