"""The baseline of ``bench network``: the same QEMU, kernel and card, wired to TAPs by hand, none of our code inside.

The guest's init is a shell script with Debian's own ip, tc and insmod, taken from the host.
"""

import contextlib
import json
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from nooks.device import model
from nooks.domain.emulator import SYSTEM, Emulator
from nooks.drivers import find
from nooks.endpoint.multiqueue import MultiQueueTap
from nooks.host.errors import InputError
from nooks.host.pace import slowness
from nooks.host.process import run
from nooks.image.emulator import with_vfio_user
from nooks.lab import bare_guest
from nooks.lab.bed import Bed, address_peer, quiet_ipv6
from nooks.lab.model_card import powered
from nooks.lab.workers import Worker, worker
from nooks.spec import Device, parse_device

BOOT_SECONDS = 60.0
MODULES = ("virtio_ring", "virtio", "virtio_pci", "virtio_net", "sch_ingress", "cls_matchall", "act_mirred")
PROGRAMS = ("sh", "mount", "insmod", "ip", "tc", "sleep", "readlink")
TAKEN_OVER = ("-accel", "-cpu", "-m", "-bios", "-append")

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
while read -r module; do insmod "/modules/$module"; done < /modules/order
sleep 0.2
for path in /sys/class/net/*; do
    case "$(readlink "$path/device/driver")" in
        */virtio_net) host=${path##*/} ;;
        ?*) card=${path##*/} ;;
    esac
done
read -r address < "/sys/class/net/$host/address"
ip link set "$host" up promisc on
ip link set "$card" address "$address"
ip link set "$card" up
tc qdisc add dev "$host" clsact
tc qdisc add dev "$card" clsact
tc filter add dev "$host" ingress matchall action mirred egress redirect dev "$card"
tc filter add dev "$card" ingress matchall action mirred egress redirect dev "$host"
while read -r carrier < "/sys/class/net/$card/carrier" && test "$carrier" != 1; do sleep 0.1; done
echo '{"event": "ready"}'
while true; do sleep 1000; done
"""


@contextlib.asynccontextmanager
async def wired_by_hand(
    bed: Bed, driver: str, domain_arguments: Mapping[str, str]
) -> AsyncGenerator[tuple[Worker, list[int]], None]:
    """The bed's cable and interface joined by a guest that knows nothing of us; yields its QEMU, and all processes.

    ``domain_arguments`` are the arguments of a nook's domain (``arguments_of``), so that both are alike.
    Raises InputError if the driver has no device, MachineError if a program is missing.
    """
    row = find(driver)
    if not row.devices:
        raise InputError(f"{driver} has no device to measure with", "use a driver of 'nooks drivers'")
    vmlinux, code = bare_guest.kernel_of(row, [*MODULES, row.module])
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nooks-by-hand-")))
        mac = stack.enter_context(_host_tap(bed))
        card = stack.enter_context(_card(bed, parse_device(row.devices[0]), mac, folder))
        initramfs = folder / "initramfs.cpio"
        with initramfs.open("wb") as file:
            bare_guest.build(file, INIT, PROGRAMS, code)
        size = domain_arguments["-m"]
        argv = [
            *card.emulator.command(),
            *bare_guest.arguments(vmlinux, initramfs, TAKEN_OVER, domain_arguments),
            *("-machine", "pc,usb=off,vmport=off,graphics=off,memory-backend=ram"),
            *("-object", f"memory-backend-memfd,id=ram,size={size},share={'on' if card.shared else 'off'}"),
            *("-global", "pci-device.romfile="),
            *("-netdev", f"tap,id=host,ifname={bed.nook},script=no,downscript=no,vhost=off"),
            *("-device", f"virtio-net-pci,netdev=host,mac={mac}"),
            *card.arguments,
        ]
        async with worker("hand-wired guest", argv, new_session=True) as running:
            await running.until_ready(BOOT_SECONDS * slowness())
            run(["ip", "link", "set", bed.wire, "netns", bed.netns])
            address_peer(bed)
            yield running, [running.process.pid, *card.processes]


@dataclass(frozen=True)
class _Card:
    """QEMU's arguments for a card, the QEMU that has it, and the processes that it consists of beside."""

    arguments: Sequence[str]
    emulator: Emulator = SYSTEM
    shared: bool = False
    processes: Sequence[int] = ()


@contextlib.contextmanager
def _card(bed: Bed, device: Device, mac: str, folder: Path) -> Generator[_Card, None, None]:
    """The card on the bed's cable, which is made: one of QEMU's, or a model of ours."""
    if device.kind != "model":
        run(["ip", "tuntap", "add", "dev", bed.wire, "mode", "tap"])
        try:
            wire = f"tap,id=wire,ifname={bed.wire},script=no,downscript=no,vhost=off,vnet_hdr=off"
            yield _Card(["-netdev", wire, "-device", f"{device.model},netdev=wire,mac={mac}"])
        finally:
            _delete(bed.wire, bed.netns)
        return
    emulator = with_vfio_user()
    tap = MultiQueueTap.open(bed.wire, namespace=None, vnet_header=False, exclusive=True)
    try:
        place = folder / "card"
        with powered(device.model, place, {"cable": tap.queue_fds[0]}, serial=bed.suffix) as pid:
            yield _Card(["-device", json.dumps(model.properties(str(place)))], emulator, True, [pid])
    finally:
        tap.close()


@contextlib.contextmanager
def _host_tap(bed: Bed) -> Generator[str, None, None]:
    """The host's TAP, as a user would make it; yields its MAC address."""
    run(["ip", "tuntap", "add", "dev", bed.nook, "mode", "tap", "vnet_hdr"])
    try:
        quiet_ipv6(bed.nook, None)
        run(["ip", "address", "add", f"{bed.host}/{bed.prefix}", "dev", bed.nook])
        run(["ip", "link", "set", bed.nook, "up"])
        yield Path("/sys/class/net", bed.nook, "address").read_text().strip()
    finally:
        _delete(bed.nook, None)


def arguments_of(pid: int) -> dict[str, str]:
    """The options on the command line of a process, with the word that follows each."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return {word: follower for word, follower in pairwise(words) if word.startswith("-")}


def _delete(interface: str, netns: str | None) -> None:
    for where in ([], *([["-n", netns]] if netns else [])):
        with contextlib.suppress(Exception):
            run(["ip", *where, "link", "delete", interface])
