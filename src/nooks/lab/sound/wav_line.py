"""What a card that is a model of ours plays: it writes a WAV file, which is read here as it grows.

The model and its file outlive the domains. A pause ends a line and the next one begins, so that what was heard after a
failure is told from what was heard before, as with cards that go with their domain.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from nooks.hardware.wave import FRAME_BYTES, HEADER_BYTES, RATE
from nooks.lab.sound.card_line import Heard, Line, Voice
from nooks.lab.sound.recorder import Recorder

POLL_SECONDS = 0.004
PAUSE_SECONDS = 0.1
"""A model writes every 10 ms; a recovery of its driver takes longer than this by far."""


@contextlib.asynccontextmanager
async def following(path: Path, ears: Recorder) -> AsyncGenerator[None, None]:
    """Give ``ears`` a line for each stretch without a pause that is written to the file at ``path``, for the block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT)
    task = asyncio.create_task(_follow(descriptor, ears))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        os.close(descriptor)


async def _follow(descriptor: int, ears: Recorder) -> None:
    at, last = HEADER_BYTES, 0.0
    while True:
        await asyncio.sleep(POLL_SECONDS)
        length = os.fstat(descriptor).st_size
        if length < at:
            at = HEADER_BYTES  # another model has begun the file anew
        size = (length - at) // FRAME_BYTES * FRAME_BYTES
        if size <= 0:
            continue
        samples, now = os.pread(descriptor, size, at), time.monotonic()
        if now - last > PAUSE_SECONDS:
            ears.lines[len(ears.lines)] = Line(ears.world.source(), out=Voice(rate=RATE))
        ears.lines[len(ears.lines) - 1].heard.append(Heard(now, samples))
        at, last = at + len(samples), now
