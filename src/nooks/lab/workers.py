"""Processes that the lab runs beside itself, here or in a network namespace, and what they write."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from nooks.host.errors import NooksError
from nooks.host.process import Process, spawn

Sink = Callable[[dict[str, Any]], None]
_LINE_BYTES_MAX = 1 << 24
START_SECONDS = 90.0
"""Python starts in 20 ms; on an emulated machine with other work to do, in half a minute."""

_END_SECONDS = 10.0
_KILL_SECONDS = 10.0


class Worker:
    """A running program that writes JSON lines, each of which goes to a callback as it comes."""

    def __init__(self, name: str, process: Process, lines: asyncio.StreamReader, sink: Sink) -> None:
        self.name = name
        self.process = process
        self.last: dict[str, Any] = {}
        self._sink = sink
        self._said = ""
        self._lines = lines
        self._ready = asyncio.Event()
        self._task = asyncio.create_task(self._read(), name=f"worker-{name}")

    async def until_ready(self, within_seconds: float = START_SECONDS) -> None:
        """Wait for the first line. Raises NooksError if none comes."""
        waiting = asyncio.create_task(self._ready.wait())
        await asyncio.wait({waiting, self._task}, timeout=within_seconds, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._ready.is_set():
            why = self._said or f"no word within {within_seconds:.0f} s"
            raise NooksError(f"the lab's {self.name} did not start: {why}")

    async def finished(self) -> dict[str, Any]:
        """Wait until the program closed its output; returns its last line."""
        await self._task
        return self.last

    async def end(self) -> None:
        """Terminate the program if it runs and release everything. Safe to repeat."""
        try:
            if self.process.pidfd >= 0:
                await self.process.terminate(within_seconds=_END_SECONDS)
                self.process.close()
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        async for line in self._lines:
            try:
                self.last = json.loads(line)
            except ValueError:
                self._said = line.decode(errors="replace").strip()  # the last line of a traceback, perhaps
                continue
            self._ready.set()
            self._sink(self.last)


@contextlib.asynccontextmanager
async def worker(
    name: str,
    argv: Sequence[str],
    sink: Sink = lambda line: None,
    *,
    netns: str | None = None,
    pass_fds: Sequence[int] = (),
    new_session: bool = False,
) -> AsyncGenerator[Worker, None]:
    """Run ``argv`` (in the named network namespace) for the block; its output lines go to ``sink``.

    ``new_session`` gives it a share of the processor of its own (sched(7), autogroup), as a nook's processes have.
    """
    read_end, write_end = os.pipe()
    try:
        process = spawn(
            [*enter(netns), *argv],
            stdout=write_end,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            new_session=new_session,
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)  # the child has its own; the reader must see the end
    try:
        async with reading(read_end) as lines:
            running = Worker(name, process, lines, sink)
            try:
                yield running
            finally:
                await asyncio.shield(running.end())
    finally:
        if process.pidfd >= 0:
            await process.kill(within_seconds=_KILL_SECONDS)
            process.close()


@contextlib.asynccontextmanager
async def reading(descriptor: int) -> AsyncGenerator[asyncio.StreamReader, None]:
    """A stream reader on the read end of a pipe, which is closed at the end of the block."""
    reader = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        yield reader
    finally:
        transport.close()


def enter(netns: str | None) -> list[str]:
    """What to put in front of a command to run it in a named network namespace."""
    return [] if netns is None else ["nsenter", f"--net={Path('/run/netns') / netns}", "--"]


def python(module: str, *arguments: object) -> list[str]:
    """The command line of one of our modules, run by this very interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]
