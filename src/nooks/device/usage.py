"""Who uses a network interface, a disk or a sound card of the host right now. Reads only.

Sources: Documentation/ABI/testing/sysfs-class-net and sysfs-block, proc_pid_mountinfo(5), swapon(8).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nooks.device.problem import Problem
from nooks.device.sysfs import HOST, Sysfs
from nooks.device.vfio import users

_OCTAL = re.compile(r"\\([0-7]{3})")
_NODE = re.compile(r"(?:control|pcm|hw|midi)C(\d+)(?:D\d+[cp]?)?")
_MOUNT_TABLES = ("proc/self/mountinfo", "proc/1/mountinfo")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. ``device`` is "major:minor"; ``options`` are those of the file system."""

    device: str
    point: str
    kind: str
    source: str
    options: str = ""


def parse_mounts(text: str) -> list[Mount]:
    """The mounts of a mountinfo file; lines of another form are left out."""
    found: list[Mount] = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if separator and len(left) >= 6 and len(right) >= 2:
            options = right[2] if len(right) > 2 else ""
            found.append(Mount(left[2], _plain(left[4]), right[0], _plain(right[1]), options))
    return found


def mounts(sysfs: Sysfs = HOST) -> list[Mount]:
    """What is mounted, for us and for the machine's first process, each once."""
    found = (mount for name in _MOUNT_TABLES for mount in parse_mounts(sysfs.text(sysfs.at(name)) or ""))
    return list(dict.fromkeys(found))


def above(interface: str, sysfs: Sysfs = HOST) -> list[str]:
    """The interfaces that stand on one: its bridge or bond, its VLANs and the like."""
    names = sysfs.names(sysfs.at("sys/class/net", interface))
    return [name.removeprefix("upper_") for name in names if name.startswith("upper_")]


def below(interface: str, sysfs: Sysfs = HOST) -> set[str]:
    """An interface and all those that it stands on, however deep."""
    found: set[str] = set()
    waiting = [interface]
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            entries = sysfs.names(sysfs.at("sys/class/net", name))
            waiting += [entry.removeprefix("lower_") for entry in entries if entry.startswith("lower_")]
    return found


def of_interface(interface: str, sysfs: Sysfs = HOST) -> Iterator[Problem]:
    """What of the host's configuration stands on an interface and would go with it."""
    for name in above(interface, sysfs):
        place = sysfs.at("sys/class/net", name)
        uevent = sysfs.lines(place / "uevent")
        if (place / "bridge").is_dir():
            yield Problem(
                f"{interface} is a port of the bridge {name}", f"ip link set {interface} nomaster", force=True
            )
        elif (place / "bonding").is_dir():
            yield Problem(f"{interface} is in the bond {name}", f"ip link set {interface} nomaster", force=True)
        elif "DEVTYPE=vlan" in uevent:
            yield Problem(f"{interface} has the VLAN {name} on top", f"ip link delete {name}", force=True)
        else:
            yield Problem(f"{interface} has {name} on top", f"take {interface} out of {name}", force=True)


def of_disk(disk: str, sysfs: Sysfs = HOST) -> Iterator[Problem]:
    """What uses a disk, its partitions, or what is made of them. None of it can be forced: data would be lost."""
    parts = _with_partitions(disk, sysfs)
    everything = parts + _holders(parts, sysfs)
    busy: set[str] = set()
    found = mounted(disk, sysfs)
    roots = [name for name, mount in found if mount.point == "/"]
    if roots:
        yield Problem(f"the root file system is on {roots[0]}", "a nook can't have the disk that the machine runs from")
        return
    for name, mount in found:
        busy.add(name)
        yield Problem(f"{name} is mounted on {mount.point}", f"umount {mount.point}")
    for line in sysfs.lines(sysfs.at("proc/swaps"))[1:]:
        name = _named(line.split()[0], everything, sysfs) if line.split() else None
        if name is not None:
            busy.add(name)
            yield Problem(f"{name} is swap space", f"swapoff /dev/{name}")
    if not busy:
        for name in everything[len(parts) :]:
            title = sysfs.text(sysfs.at("sys/class/block", name, "dm/name")) or name
            yield Problem(
                f"{disk} is part of {title}", f"deactivate {title} (vgchange -an, dmsetup remove, mdadm --stop)"
            )


def mounted(disk: str, sysfs: Sysfs = HOST) -> list[tuple[str, Mount]]:
    """The mounts of a disk, its partitions, or what is made of them, each with the name of the block device."""
    parts = _with_partitions(disk, sysfs)
    everything = parts + _holders(parts, sysfs)
    numbers = {sysfs.text(sysfs.at("sys/class/block", name, "dev")): name for name in everything}
    found = ((numbers.get(mount.device) or _named(mount.source, everything, sysfs), mount) for mount in mounts(sysfs))
    return [(name, mount) for name, mount in found if name is not None]


def of_card(card: str, sysfs: Sysfs = HOST) -> Iterator[Problem]:
    """Who has a sound card ("card0") open and would lose it."""
    number = card.removeprefix("card")
    names = [name for name in sysfs.names(sysfs.at("dev/snd")) if _NODE.fullmatch(name)]
    own = [Path("/dev/snd", name) for name in names if _NODE.sub(r"\1", name) == number]
    for pid in users(own, sysfs):
        program = sysfs.text(sysfs.at("proc", str(pid), "comm")) or "?"
        yield Problem(f"process {pid} ({program}) has {card} open", f"end it, or have it let {card} go", force=True)


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _named(source: str, names: list[str], sysfs: Sysfs) -> str | None:
    """Which of the block devices a path such as /dev/disk/by-id/X leads to; for file systems without a number."""
    if not source.startswith("/dev/"):
        return None
    path = sysfs.at(source.lstrip("/"))
    name = sysfs.target_name(path) or path.name
    return name if name in names else None


def _with_partitions(disk: str, sysfs: Sysfs) -> list[str]:
    place = sysfs.at("sys/class/block", disk)
    return [disk, *(name for name in sysfs.names(place) if (place / name / "partition").exists())]


def _holders(names: list[str], sysfs: Sysfs) -> list[str]:
    found: list[str] = []
    waiting = list(names)
    while waiting:
        for name in sysfs.names(sysfs.at("sys/class/block", waiting.pop(), "holders")):
            if name not in found and name not in names:
                found.append(name)
                waiting += _with_partitions(name, sysfs)
    return found
