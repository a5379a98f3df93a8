"""A sound card of ours with its stock driver in a domain without anything else of ours: for tests of the card."""

import base64
import json
import os
import socket
import subprocess
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nooks.device import model_process
from nooks.domain.snapshot import new_memory
from nooks.hardware.server import listen
from nooks.host import tsc
from nooks.host.pace import slowness
from nooks.image import emulator, initramfs, kernel
from nooks.image.payload import Payload

MEMORY_BYTES = 160 << 20
GUEST = Payload(Path(__file__).parent, ("guest",), "guest.sound")
BOOT_SECONDS = 120


@dataclass
class SoundBench:
    """A card's process, which outlives the domains that ``run`` boots."""

    model: str
    module: str
    folder: Path
    record: Path | None = None

    def __enter__(self) -> "SoundBench":
        self.socket = self.folder / "card"
        self.played = self.folder / "played.wav"
        listener = listen(str(self.socket))
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        play = os.open(self.played, os.O_RDWR | os.O_CREAT)
        descriptors = {"listener": listener.fileno(), "control": theirs.fileno(), "play": play}
        if self.record is not None:
            descriptors["record"] = os.open(self.record, os.O_RDONLY)
        argv = model_process.command(self.model, descriptors)
        self.card = subprocess.Popen(argv, pass_fds=list(descriptors.values()))
        listener.close()
        theirs.close()
        os.close(play)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """A card must end well, but what ends the test (an interrupt, say, that the card heard too) is told first."""
        self.control.close()
        try:
            assert self.card.wait(10) == 0 or kind is not None
        finally:
            self.card.kill()
            self.card.wait()

    def run(
        self, *steps: dict[str, Any], within_seconds: float = 60, until: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Boot a domain, have it do ``steps``; what it said of each, by name (the last of several).

        It is killed as soon as ``until`` holds.
        """
        image = initramfs.build(kernel.resolve(), [self.module], payload=GUEST)
        job = json.dumps({"modules": [*image.base_order, *image.load_order], "steps": steps}).encode()
        words = f"{tsc.kernel_argument()} tsc=reliable no_timer_check random.trust_cpu=on"
        words += f" job={base64.b64encode(zlib.compress(job)).decode()}"
        device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(self.socket)}}
        memory = new_memory(MEMORY_BYTES)
        size = f"{MEMORY_BYTES >> 20}M"
        argv = [
            *emulator.with_vfio_user().command(),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "pc,memory-backend=ram"),
            *("-accel", "tcg,tb-size=64", "-cpu", "qemu64,+rdrand", "-m", size, "-bios", "/usr/share/qemu/qboot.rom"),
            *("-object", f"memory-backend-file,id=ram,size={size},mem-path=/proc/self/fd/{memory},share=on"),
            *("-kernel", str(image.kernel.vmlinux), "-initrd", str(image.initramfs)),
            *("-append", f"console=ttyS0 quiet panic=-1 rdinit=/init {words}"),
            *("-serial", "stdio", "-global", "pci-device.romfile=", "-device", json.dumps(device)),
        ]
        try:
            return self._watch(argv, memory, within_seconds, until)
        finally:
            os.close(memory)

    def _watch(
        self, argv: Sequence[str], memory: int, within_seconds: float, until: Callable[[], bool]
    ) -> dict[str, Any]:
        deadline = time.monotonic() + (BOOT_SECONDS + within_seconds) * slowness()
        console = self.folder / "console"
        with console.open("wb") as file:
            domain = subprocess.Popen(
                argv, pass_fds=[memory], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
            try:
                while domain.poll() is None and not until():
                    assert time.monotonic() < deadline, console.read_text(errors="replace")[-2000:]
                    time.sleep(0.1)
            finally:
                domain.kill()
                domain.wait()
        lines = console.read_text(errors="replace").splitlines()
        said = [json.loads(line[line.index("@[") + 1 :]) for line in lines if "@[" in line]
        results = dict(said)
        assert "failed" not in results, "\n".join(lines[-40:])
        assert results, "\n".join(lines[-40:])
        return results
