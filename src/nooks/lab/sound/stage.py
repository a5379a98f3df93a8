"""A sound nook on a stage of its own: a player and a recorder on its server, and ears outside at its card's plugs.

The nook starts a private PulseAudio unless a user's server is given; whatever it is, the clients are the real ones.
"""

import asyncio
import contextlib
import os
import secrets
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nooks.drivers import find
from nooks.host.errors import NooksError
from nooks.host.paths import nook_dir
from nooks.host.process import Process, spawn
from nooks.lab.bed import own_logs
from nooks.lab.product import Product
from nooks.lab.sound.music import write_music
from nooks.lab.sound.recorder import Recorder, recorder
from nooks.lab.sound.wav_line import following

_END_SECONDS = 5.0
CLIENT_LATENCY_MSEC = 100


@dataclass
class Client:
    """An application that plays or records; ``said`` is the file that it writes its errors to."""

    name: str
    process: Process
    said: Path

    def errors(self, *, ended: bool = False) -> list[str]:
        """What it complained of, and how it ended unless that was well; ``ended``: it should have by now."""
        found = [f"{self.name}: {line}" for line in self.said.read_text(errors="replace").splitlines() if line.strip()]
        status = self.process.returncode
        return found + ([f"{self.name} ended with {status}"] if status or (status is None) == ended else [])

    async def end(self) -> None:
        """Interrupt it, as a user would. Safe to repeat."""
        if self.process.pidfd >= 0:
            await self.process.terminate(within_seconds=_END_SECONDS)


@dataclass
class Stage:
    """One nook with its surroundings. ``folder`` is for files that vanish with it."""

    product: Product
    started: dict[str, Any]
    ears: Recorder
    folder: Path
    rate: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """What clients need to find the nook's server."""
        return {**os.environ, "PULSE_SERVER": str(self.started["server"]), "PULSE_COOKIE": str(self.folder / "cookie")}

    @property
    def sink(self) -> str:
        """Where applications play to."""
        return str(self.started["sink"])

    @property
    def source(self) -> str | None:
        """Where they record from; None for a card that can't."""
        return self.started["source"]

    @contextlib.asynccontextmanager
    async def client(
        self, name: str, *argv: str, pass_fds: Sequence[int] = (), **environment: str
    ) -> AsyncGenerator[Client, None]:
        """A program on the stage for the block; at its end it is interrupted if it still runs."""
        said = self.folder / f"{name}-{secrets.token_hex(3)}.said"
        with said.open("wb") as file:
            env = self.environment | environment
            process = spawn(argv, stdout=file.fileno(), stderr=file.fileno(), env=env, pass_fds=pass_fds)
        running = Client(name, process, said)
        try:
            yield running
        finally:
            await asyncio.shield(running.end())
            process.close()

    @contextlib.asynccontextmanager
    async def player(
        self, seconds: float, seed: int = 0, latency_msec: int = CLIENT_LATENCY_MSEC
    ) -> AsyncGenerator[tuple[Client, Path], None]:
        """paplay, with so much music of which no two places are alike; the music's file."""
        music = self.folder / f"music-{seed}.raw"
        write_music(music, round(seconds * self.rate), seed)
        argv = ["paplay", "--raw", f"--device={self.sink}", *self._form(latency_msec), str(music)]
        async with self.client("player", *argv) as client:
            yield client, music

    @contextlib.asynccontextmanager
    async def recording(self) -> AsyncGenerator[tuple[Client, Path], None]:
        """parecord, with the file that it fills."""
        into = self.folder / f"recorded-{secrets.token_hex(3)}.raw"
        argv = ["parecord", "--raw", f"--device={self.source}", *self._form(), str(into)]
        async with self.client("recorder", *argv) as client:
            yield client, into

    def _form(self, latency_msec: int = CLIENT_LATENCY_MSEC) -> list[str]:
        form = ["--format=s16le", f"--rate={self.rate}", "--channels=2"]
        return [*form, f"--latency-msec={latency_msec}"]


@contextlib.asynccontextmanager
async def stage(driver: str, *flags: str, line: bool = True) -> AsyncGenerator[Stage, None]:
    """A nook of ``driver`` for the block. ``line`` puts ears at the card's plugs; a model of ours always has them.

    Raises NooksError.
    """
    product = Product(f"lab-{secrets.token_hex(2)}")
    with own_logs(), tempfile.TemporaryDirectory(prefix="nooks-stage-") as folder:
        async with contextlib.AsyncExitStack() as stack:
            ears = await stack.enter_async_context(recorder())
            lined = await stack.enter_async_context(plugged(driver, flags, ears, Path(folder), line=line))
            try:
                started = await product.start("--driver", driver, *flags, *lined)
                made = Stage(product, started, ears, Path(folder))
                made.rate = await sink_rate(made)
                yield made
            finally:
                await asyncio.shield(_stop(product))


@contextlib.asynccontextmanager
async def plugged(
    driver: str, flags: Sequence[str], ears: Recorder, folder: Path, *, line: bool = True
) -> AsyncGenerator[list[str], None]:
    """What ``nooks start`` is to be told for the ears to hear the card, for the block. A model writes into a file."""
    model = model_of(driver, flags)
    if model is None:
        yield ["--line", f"unix:{ears.path}"] if line else []
        return
    plug = folder / "played.wav"
    async with following(plug, ears):
        yield ["--device", f"{model},play={plug}"]


def model_of(driver: str, flags: Sequence[str]) -> str | None:
    """The model of ours that the nook would have as its card, as a device is written; None if it is another's."""
    given = flags[flags.index("--device") + 1] if "--device" in flags else None
    device = given or next(iter(find(driver).devices), "")
    return device if device.startswith("model:") else None


async def sink_rate(made: Stage) -> int:
    """The sink's frames a second. Raises NooksError if the server doesn't know the sink."""
    list_sinks = await asyncio.create_subprocess_exec(
        *("pactl", "list", "short", "sinks"), env=made.environment, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await list_sinks.communicate()
    for line in said.decode().splitlines():
        words = line.split()
        if words[1:2] == [made.sink]:
            return next(int(word.removesuffix("Hz")) for word in words if word.endswith("Hz"))
    raise NooksError(f"the sound server at {made.started['server']} has no sink {made.sink}")


async def _stop(product: Product) -> None:
    if nook_dir(product.name).exists():
        await product.stop(force=True)
