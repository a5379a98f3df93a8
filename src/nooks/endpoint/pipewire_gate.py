"""A process that is a sink and a source of PipeWire, whose clock is the nook's: what its pipes take and give.

PipeWire's own pipe-tunnel lets its own clock go on and drops what a full pipe does not take. A node that drives the
graph makes the applications wait instead, as PulseAudio's pipe sink does. The process goes on when its supervisor dies,
and ends when nobody has the other ends of its pipes any more, or PipeWire goes.

Arguments, for each stream: ``playback`` or ``capture``, the node's name, format, rate, channels, the pipe's path.
"""

import os
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nooks.endpoint.pipewire import INPUT, OUTPUT, STREAMING, UNCONNECTED, MainLoop, Stream, library
from nooks.host.errors import MachineError
from nooks.xpc.settings import SAMPLE_BYTES

_CYCLE_BYTES = 4096
_RETRY_SECONDS = 0.2
"""A cycle that did not come to an end by then will not: the graph was changed meanwhile."""

_PLAYED_BYTES_MAX = 1 << 16
"""Where another node drives the graph it does not wait for us: more than this is lost."""

_PRIORITY = 2000
"""Above PipeWire's own dummy driver, so that the nook's clock is the graph's (PW_KEY_PRIORITY_DRIVER)."""

_PULSE_BYTES = {"s16le": "s16", "s32le": "s32", "s24le": "s24-3", "u8": "u8"}


@dataclass(frozen=True)
class Side:
    """One stream: what it is, and its pipe."""

    direction: str
    name: str
    sample_format: str
    rate: int
    channels: int
    path: Path

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.channels * SAMPLE_BYTES[_PULSE_BYTES[self.sample_format]]

    @property
    def cycle_frames(self) -> int:
        """Frames of one cycle of the graph: a pipe full at most, and a power of two as PipeWire wants it."""
        return 1 << (_CYCLE_BYTES // self.frame_bytes).bit_length() - 1


class Node:
    """A stream with its pipe; ``lost`` says why it ended, if it did."""

    def __init__(self, side: Side, loop: MainLoop) -> None:
        self.side = side
        self.playing = side.direction == "playback"
        way = os.O_WRONLY if self.playing else os.O_RDONLY
        self.pipe = os.open(side.path, way | os.O_NONBLOCK | os.O_CLOEXEC)
        self.lost = ""
        self._connected = self._streaming = False
        self._cycling = 0.0
        self._recorded = self._played = b""
        kind = "Audio/Sink" if self.playing else "Audio/Source"
        properties = {
            "media.class": kind,
            "media.type": "Audio",
            "node.name": side.name,
            "node.description": side.name,
            "node.driver": "true",
            "priority.driver": _PRIORITY,
            "priority.session": 1,
            "node.latency": f"{side.cycle_frames}/{side.rate}",
            "audio.rate": side.rate,
        }
        text = " ".join(f"{key}={value}" for key, value in properties.items())
        self._stream = Stream(library(), loop, text, process=self._process, cycled=self._cycled, changed=self._changed)
        self._stream.connect(INPUT if self.playing else OUTPUT, side.sample_format, side.rate, side.channels)

    @property
    def events(self) -> int:
        """What to wait for at the pipe, 0 if nothing."""
        if self._played:
            return select.POLLOUT
        if not self._streaming or self._waits():
            return 0
        return select.POLLOUT if self.playing else select.POLLIN

    def ready(self) -> None:
        """The pipe has room for what is played, or holds what was recorded. Raises OSError."""
        if self._played:
            self._write()
            return
        if not self.playing and not self._give():
            return
        self._cycling = time.monotonic()
        self._stream.trigger()

    def _waits(self) -> bool:
        """Whether a cycle is under way."""
        return bool(self._cycling) and time.monotonic() - self._cycling < _RETRY_SECONDS

    def _give(self) -> bool:
        """Whether a whole cycle of what was recorded is there."""
        frame_bytes = self.side.frame_bytes
        needed = self._stream.needs(frame_bytes)
        if needed is None:
            self._cycling = time.monotonic()  # all buffers are on their way
            return False
        if len(self._recorded) < needed:
            self._recorded += os.read(self.pipe, needed - len(self._recorded))
        if len(self._recorded) < needed:
            return False
        samples, self._recorded = self._recorded[:needed], self._recorded[needed:]
        self._stream.give(samples, frame_bytes)
        return True

    def _process(self) -> None:
        played = self._stream.take() if self.playing else None
        if played is not None:
            self._played += played
            self._write()

    def _cycled(self) -> None:
        self._cycling = 0.0

    def _write(self) -> None:
        """What does not fit is written when there is room, before the graph may run again."""
        try:
            self._played = self._played[os.write(self.pipe, self._played) :]
        except BlockingIOError:
            excess = max(0, len(self._played) - _PLAYED_BYTES_MAX)
            self._played = self._played[-(-excess // self.side.frame_bytes) * self.side.frame_bytes :]

    def _changed(self, state: int, error: str) -> None:
        self._streaming = state == STREAMING
        self._cycling = 0.0
        if state <= UNCONNECTED and self._connected:
            self.lost = error or "the connection ended"
        self._connected = state > UNCONNECTED


def run(sides: Sequence[Side]) -> None:
    """Move samples until there is nobody to move them for. Raises MachineError, OSError (the other side has gone)."""
    loop = MainLoop(library())
    nodes = [Node(side, loop) for side in sides]
    poll = select.poll()
    poll.register(loop.descriptor, select.POLLIN)
    while True:
        for node in nodes:
            poll.register(node.pipe, node.events)
        for descriptor, events in poll.poll(_RETRY_SECONDS * 1000):
            if descriptor == loop.descriptor:
                loop.run()
                for node in nodes:
                    if node.lost:
                        raise MachineError(f"PipeWire has gone: {node.lost}")
                continue
            if events & (select.POLLERR | select.POLLHUP):
                return
            next(node for node in nodes if node.pipe == descriptor).ready()


def main() -> int:
    """Entry point; see the module's text for the arguments."""
    sides = [
        Side(direction, name, sample_format, int(rate), int(channels), Path(path))
        for direction, name, sample_format, rate, channels, path in zip(*[iter(sys.argv[1:])] * 6, strict=True)
    ]
    try:
        run(sides)
    except (MachineError, OSError) as error:
        print(f"pipewire gate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
