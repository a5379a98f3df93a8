"""The baseline of ``bench block``: the same QEMU, kernel, driver and disk, and fio inside, none of our code.

The guest's init is a shell script: it runs fio with each line of options that comes over its port.
"""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from nooks.device.emulated import as_argument, drive, drive_buses
from nooks.domain.qemu import GUEST_ARGUMENTS, MACHINE
from nooks.drivers import find
from nooks.host.errors import InputError, NooksError
from nooks.lab import bare_guest
from nooks.lab.workers import worker
from nooks.spec import parse_device

BOOT_SECONDS = 120.0
JOB_SECONDS = 120.0
MEMORY = "640M"
MODULES = ("virtio_ring", "virtio", "virtio_pci", "virtio_console")
PROGRAMS = ("sh", "mount", "insmod", "fio", "cat", "sleep")
TAKEN_OVER = ("-accel", "-cpu", "-bios")
END = "end of the answer"
_LINE_BYTES_MAX = 1 << 24

INIT = f"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order
until test -e /dev/vport1p1 || test -e /dev/vport0p1; do sleep 0.1; done
for port in /dev/vport*p1; do exec 3<>"$port"; done
disk=
until test -n "$disk"; do
    sleep 0.1
    for path in /sys/block/*; do
        if test -e "$path/device"; then disk=/dev/${{path##*/}}; fi
    done
done
echo '{{"event": "ready"}}'
while true; do
    while read -r line <&3; do
        fio --filename="$disk" $line --output-format=json --output=/answer >/said 2>&1 || cat /said >/answer
        cat /answer >&3
        echo '{END}' >&3
    done
    sleep 0.1  # nobody holds the other end
done
"""


class Guest:
    """The guest, which runs one job after the other. ``pid`` is that of its QEMU."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer

    async def fio(self, options: str) -> dict[str, Any]:
        """Run fio on the guest's disk; its document. Raises NooksError."""
        self._writer.write(options.encode() + b"\n")
        said: list[str] = []
        try:
            async with asyncio.timeout(JOB_SECONDS):
                while (line := (await self._reader.readline()).decode()) and line.strip() != END:
                    said.append(line)
            return json.loads("".join(said))
        except (TimeoutError, ValueError):
            raise NooksError(f"the guest's fio said {''.join(said)[-300:]!r}") from None


@contextlib.asynccontextmanager
async def guest_with(driver: str, medium: Path, domain_arguments: Mapping[str, str]) -> AsyncGenerator[Guest, None]:
    """A guest with that disk. ``domain_arguments`` are those of a nook's domain, so that both are alike.

    Raises InputError if the driver has no emulated device, MachineError if a program is missing.
    """
    row = find(driver)
    if not row.devices:
        raise InputError(f"{driver} has no device to measure with", "use a driver of 'nooks drivers'")
    device = parse_device(row.devices[0])
    vmlinux, code = bare_guest.kernel_of(row, [*MODULES, *row.with_modules, row.module])
    with tempfile.TemporaryDirectory(prefix="nooks-in-domain-") as folder:
        initramfs, orders = Path(folder) / "initramfs.cpio", Path(folder) / "orders"
        with initramfs.open("wb") as file:
            bare_guest.build(file, INIT, PROGRAMS, code)
        disk = drive(device.model, device.options, "medium", "unit")
        argv = [
            "qemu-system-x86_64",
            *bare_guest.arguments(vmlinux, initramfs, TAKEN_OVER, domain_arguments),
            *("-machine", MACHINE, "-m", MEMORY),
            *("-append", f"{GUEST_ARGUMENTS} console=ttyS0"),
            *("-chardev", f"socket,id=orders,path={orders},server=on,wait=off"),
            *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=orders,nr=1"),
            *("-blockdev", f"driver=file,node-name=file,filename={medium},aio=threads,cache.direct=on,discard=unmap"),
            *("-blockdev", "driver=raw,node-name=medium,file=file,discard=unmap"),
            *drive_buses(device.model, device.options),
            *as_argument(disk),
        ]
        async with worker("guest", argv, new_session=True) as running:
            await running.until_ready(BOOT_SECONDS)
            reader, writer = await asyncio.open_unix_connection(orders, limit=_LINE_BYTES_MAX)
            try:
                yield Guest(running.process.pid, reader, writer)
            finally:
                writer.close()
