"""A real domain with the agent and no supervisor: a QEMU of the tests' own, and what the agent said."""

import asyncio
import json
import secrets
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nooks.host import tsc
from nooks.image.initramfs import Image
from nooks.xpc import messages
from nooks.xpc.channel import Channel
from nooks.xpc.errors import ProtocolError
from nooks.xpc.heartbeats import HeartbeatReader
from nooks.xpc.messages import Message
from nooks.xpc.settings import Settings

BOOT_SECONDS = 60
ARGUMENTS = "quiet tsc=reliable no_timer_check random.trust_cpu=on panic=-1 console=ttyS0"


@dataclass
class BareDomain:
    """A running domain, and what its agent said."""

    process: "subprocess.Popen[bytes]"
    channel: Channel
    heartbeats: HeartbeatReader
    qmp: socket.socket
    console: Path
    events: list[Message] = field(default_factory=list[Message])
    beats: list[tuple[float, int, dict[str, int] | None, int]] = field(
        default_factory=list[tuple[float, int, dict[str, int] | None, int]]
    )
    violations: list[ProtocolError] = field(default_factory=list[ProtocolError])

    async def resume(self, incarnation: int, settings: Settings) -> messages.ResumeReply:
        self.heartbeats.allow(incarnation)
        message = messages.Resume(incarnation, secrets.token_hex(8), time.time_ns(), secrets.token_hex(32), settings)
        reply = await self.channel.request(message, 10)
        assert reply.nonce == message.nonce
        return reply

    async def apply(self, **settings: Any) -> messages.ApplyReply:  # noqa: ANN401 - of all kinds
        wanted: Settings = {key.replace("__", "."): value for key, value in settings.items()}
        return await self.channel.request(messages.Apply(wanted), 10)

    def command(self, name: str, /, **arguments: object) -> None:
        """A QMP command; its answer is not awaited."""
        self.qmp.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())

    async def event(self, kind: type[Message], timeout_seconds: float) -> Message:
        """The next event of a kind, which is taken out."""
        async with asyncio.timeout(timeout_seconds):
            while True:
                for number, event in enumerate(self.events):
                    if isinstance(event, kind):
                        return self.events.pop(number)
                await asyncio.sleep(0.01)

    async def ended(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return self.process.poll() is not None


@asynccontextmanager
async def bare_domain(
    image: Image, folder: Path, hardware: Sequence[str], *, fds: Sequence[int] = ()
) -> AsyncGenerator[BareDomain]:
    """A domain of ``image`` with QEMU's arguments ``hardware``, for the block; it may break no rule of the protocol."""
    async with AsyncExitStack() as stack:
        domain = _launch(image, folder, hardware, fds, stack)
        stack.push_async_callback(domain.heartbeats.close)
        stack.push_async_callback(domain.channel.close)
        domain.channel.start()
        domain.heartbeats.start()
        try:
            yield domain
        except BaseException:
            print("console:", domain.console.read_text(errors="replace")[-6000:])
            raise
        assert not domain.violations


def _launch(
    image: Image, folder: Path, hardware: Sequence[str], fds: Sequence[int], stack: AsyncExitStack
) -> BareDomain:
    ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
    for end in (*ours, *theirs):
        stack.callback(end.close)
    handed = [end.fileno() for end in theirs]
    console = folder / "console"
    argv = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-accel", "tcg,tb-size=64", "-cpu", "max", "-m", "128", "-bios", "qboot.rom"),
        *("-kernel", str(image.kernel.vmlinux), "-initrd", str(image.initramfs)),
        *("-append", f"{ARGUMENTS} {tsc.kernel_argument()}"),
        *("-serial", f"file:{console}", "-global", "pci-device.romfile="),
        *("-chardev", f"socket,id=qmp,fd={handed[2]}", "-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=xpc,fd={handed[0]}", "-device", "virtserialport,chardev=xpc,name=nooks.xpc"),
        *("-chardev", f"socket,id=beat,fd={handed[1]}", "-device", "virtserialport,chardev=beat,name=nooks.heartbeat"),
        *hardware,
    ]
    process = subprocess.Popen(argv, pass_fds=[*handed, *fds], stdin=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    events: list[Message] = []
    beats: list[tuple[float, int, dict[str, int] | None, int]] = []
    violations: list[ProtocolError] = []

    def on_beat(count: int, counters: dict[str, int] | None, incarnation: int) -> None:
        beats.append((time.monotonic(), count, counters, incarnation))

    channel = Channel(ours[0].dup(), on_event=events.append, on_violation=violations.append)
    heartbeats = HeartbeatReader(ours[1].dup(), on_beat=on_beat, on_violation=violations.append)
    ours[2].sendall(b'{"execute": "qmp_capabilities"}')
    return BareDomain(process, channel, heartbeats, ours[2], console, events, beats, violations)
