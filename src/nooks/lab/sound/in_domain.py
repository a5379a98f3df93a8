"""The baseline of ``bench sound``: the same QEMU, kernel, driver and card, and a player inside, none of our code.

The guest's init is a shell script: mpg123's ``out123`` plays noise for ever, and the script tells each second where the
card is (/proc/asound: Documentation/sound/designs/procfile.rst), which begins anew if it ran dry.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from nooks.device.emulated import SOUND_LINE, as_argument, buses, sound_card
from nooks.domain.qemu import GUEST_ARGUMENTS, MACHINE
from nooks.drivers import find
from nooks.lab import bare_guest
from nooks.lab.processor import Window, of_processes
from nooks.lab.sound.music import write_music
from nooks.lab.workers import Worker, worker
from nooks.spec import parse_device

BOOT_SECONDS = 120.0
MEMORY = "192M"
MUSIC_SECONDS = 4
TAKEN_OVER = ("-accel", "-cpu", "-bios")
PROGRAMS = ("sh", "mount", "insmod", "cat", "sleep", "out123")
MPG123, ALSA = Path("/usr/lib/x86_64-linux-gnu/mpg123/output_alsa.so"), Path("/usr/share/alsa/alsa.conf")
FOREIGN_FLAVOURS = ("686",)
"""Kernels that can't run the host's programs."""

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order
until test -e /dev/snd/pcmC0D0p; do sleep 0.1; done
(while true; do cat /music; done) | out123 -o alsa -a hw:0,0 -r {rate} -c 2 -e s16 - &
while true; do
    while read -r key separator value; do
        if test "$key" = hw_ptr; then echo "{{\\"event\\": \\"ready\\", \\"frames\\": $value}}"; fi
    done < /proc/asound/card0/pcm0p/sub0/status
    sleep 1
done
"""


class Played(NamedTuple):
    """How a guest's card played: cores that it took, how often it ran dry, its rate beside what that should be."""

    cores: float
    dry: int
    rate: float


class Positions:
    """What a guest says of its card's position, and when."""

    def __init__(self) -> None:
        self.said: list[tuple[float, int]] = []

    def add(self, line: Mapping[str, Any]) -> None:
        """Take one line."""
        self.said.append((time.monotonic(), int(line["frames"])))

    def played(self, since: float, rate: int, cores: float) -> Played:
        """From ``since`` on."""
        said = [one for one in self.said if one[0] >= since]
        steps = [(after[1] - before[1], after[0] - before[0]) for before, after in pairwise(said)]
        forward = [step for step in steps if step[0] >= 0]
        frames, seconds = (sum(column) for column in zip(*forward, strict=True)) if forward else (0, 1.0)
        return Played(cores, len(steps) - len(forward), frames / seconds / rate)


def can(driver: str) -> bool:
    """Whether a guest can play with this driver: the host's programs run there, and QEMU has its card."""
    row = find(driver)
    device = parse_device(row.devices[0]) if row.devices else None
    return device is not None and device.kind == "emulated" and row.flavour not in FOREIGN_FLAVOURS


async def play(driver: str, domain_arguments: Mapping[str, str], rate: int, settle: float, seconds: float) -> Played:
    """Have a guest play, and watch it for ``seconds``. ``domain_arguments`` are those of a nook's domain.

    Raises MachineError if a program is missing, NooksError if the guest doesn't start.
    """
    positions = Positions()
    async with _guest(driver, domain_arguments, rate, positions) as guest:
        await asyncio.sleep(settle)
        window, since = Window(of_processes([guest.process.pid])), time.monotonic()
        window.begin()
        await asyncio.sleep(seconds)
        window.end()
    return positions.played(since, rate, window.cores)


@contextlib.asynccontextmanager
async def _guest(
    driver: str, domain_arguments: Mapping[str, str], rate: int, positions: Positions
) -> AsyncGenerator[Worker, None]:
    row = find(driver)
    device = parse_device(row.devices[0])
    vmlinux, code = bare_guest.kernel_of(row, [*row.with_modules, row.module])
    with tempfile.TemporaryDirectory(prefix="nooks-in-domain-") as folder:
        initramfs, music = Path(folder) / "initramfs.cpio", Path(folder) / "music"
        write_music(music, MUSIC_SECONDS * rate)
        files, named = [ALSA, MPG123], {"/music": music}
        with initramfs.open("wb") as file:
            bare_guest.build(file, INIT.format(rate=rate), PROGRAMS, code, files=files, named=named)
        argv = [
            "qemu-system-x86_64",
            *bare_guest.arguments(vmlinux, initramfs, TAKEN_OVER, domain_arguments),
            *("-machine", MACHINE, "-m", MEMORY),
            *("-append", f"{GUEST_ARGUMENTS} console=ttyS0"),
            *(*SOUND_LINE, *buses(device.model), *as_argument(sound_card(device.model, device.options))),
        ]
        async with worker("guest", argv, positions.add, new_session=True) as running:
            await running.until_ready(BOOT_SECONDS)
            yield running
