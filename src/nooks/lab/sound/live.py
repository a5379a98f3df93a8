"""How long a frame takes from an application to the card's plugs: it says of itself when it was made."""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncGenerator

from nooks.lab.sound.card_line import Line
from nooks.lab.sound.stage import Client, Stage
from nooks.lab.sound.world import World, world_frames, world_number

STEP_SECONDS = 0.005
CONNECT_SECONDS = 2.0
"""The application has found the server by then; what it was given before would be late for ever."""

CLIENT_MSEC = 20
"""What the application lets wait at the server, which is part of the latency."""

_PAGE_BYTES = 4096


@contextlib.asynccontextmanager
async def speaking(made: Stage, world: World) -> AsyncGenerator[Client, None]:
    """pacat, which plays the world's frames as they are made, for the block."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PAGE_BYTES)  # what waited here would be taken for latency
    argv = ["pacat", "--raw", f"--device={made.sink}", "--format=s16le", f"--rate={made.rate}", "--channels=2"]
    rest = [f"--latency-msec={CLIENT_MSEC}", f"/dev/fd/{read_end}"]
    try:
        async with made.client("speaker", *argv, *rest, pass_fds=[read_end]) as client:
            await asyncio.sleep(CONNECT_SECONDS)
            making = asyncio.create_task(_make(world, made.rate, write_end))
            try:
                yield client
            finally:
                making.cancel()
                await asyncio.gather(making, return_exceptions=True)
    finally:
        os.close(read_end)
        os.close(write_end)


async def _make(world: World, rate: int, into: int) -> None:
    made = int((time.monotonic() - world.began) * rate)
    while True:
        await asyncio.sleep(STEP_SECONDS)
        due = int((time.monotonic() - world.began) * rate)
        with contextlib.suppress(BlockingIOError):  # an application that can't get rid of its samples drops them
            os.write(into, world_frames(made, due - made))
        made = due


def latencies(line: Line, world: World, since: float) -> list[float]:
    """Of the last frame of each piece that was heard after ``since`` (seconds of CLOCK_MONOTONIC), in seconds."""
    found: list[float] = []
    for piece in line.heard:
        number = world_number(piece.samples[-line.out.frame_bytes :]) if piece.when > since else None
        if number is not None:
            found.append(piece.when - world.began - (number + 1) / line.out.rate)
    return found
