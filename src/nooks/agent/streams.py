"""A card's streams between the host's port and the kernel: what arrives is played, what was recorded is sent.

The host never has more frames under way than the card's buffer holds, so nothing is queued here.
"""

import os
import select

from nooks.agent.pcm import Stream
from nooks.xpc import audio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ_BYTES = 65536
_RECORDED_QUEUED_MAX = 16
_REPORTS_PER_PERIOD = 4
"""At most. One comes at the card's interrupt, unless the last one came by less than this before it."""


class Port:
    """The agent's end of the data port. ``descriptor`` is ready when ``ready`` is to be called.

    The kernel takes one packet at a time, until QEMU has it (drivers/char/virtio_console.c). Of positions the last one
    waits, since it says all that those before said; of recorded samples a few do.
    """

    def __init__(self, path: str, poller: "select.epoll") -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._decoder = audio.Decoder()
        self._poller = poller
        self._begun = b""
        self._position = b""
        self._recorded: list[bytes] = []
        poller.register(self.descriptor, select.EPOLLIN)

    def ready(self, events: int) -> "Iterator[audio.Packet]":
        """Send what waits, if that can be; the packets that have arrived."""
        if events & select.EPOLLOUT:
            self._send_waiting()
        if not events & select.EPOLLIN:
            return iter(())
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return iter(())
        return self._decoder.feed(data)

    def report(self, packet: bytes) -> None:
        """Send a position, now or soon, in place of one that still waits."""
        self._position = packet
        self._send_waiting()

    def send(self, packet: bytes) -> bool:
        """Send recorded samples, now or soon; False if too much waits already."""
        if len(self._recorded) >= _RECORDED_QUEUED_MAX:
            return False
        self._recorded.append(packet)
        self._send_waiting()
        return True

    def _send_waiting(self) -> None:
        try:
            if self._begun:
                self._begun = self._begun[os.write(self.descriptor, self._begun) :]
            while not self._begun and (self._position or self._recorded):
                packet = self._position or self._recorded[0]
                self._begun = packet[os.write(self.descriptor, packet) :]
                if self._position:
                    self._position = b""
                else:
                    del self._recorded[0]
        except BlockingIOError:
            pass
        waiting = self._begun or self._position or self._recorded
        self._poller.modify(self.descriptor, select.EPOLLIN | select.EPOLLOUT if waiting else select.EPOLLIN)


class Playing:
    """The playback stream. Reports its position at each interrupt, when it has run dry, and when it is asked."""

    KINDS = (audio.PLAY, audio.FLUSH, audio.ASK)

    def __init__(self, stream: Stream, port: Port, interrupts: "Callable[[], object]") -> None:
        """``interrupts`` says how often the card has interrupted, or something new each time if that is not known."""
        self.descriptor = stream.descriptor
        self.xruns = 0
        self._stream = stream
        self._frame_bytes = stream.parameters.frame_bytes
        self._port = port
        self._tag = 0
        self._written = 0
        self._interrupts = interrupts
        self._counted: object = None
        self._reported = 0
        self._least = max(1, stream.parameters.period // _REPORTS_PER_PERIOD)
        self._running = False

    def take(self, packet: audio.Packet) -> None:
        """Do what the host says."""
        if packet.kind == audio.FLUSH:
            self._running = False
            self._stream.prepare()
            self._tag, self._written = packet.tag, 0
            self._report(0)
        elif packet.kind == audio.ASK:
            self._answer()
        elif packet.tag == self._tag:
            if packet.samples:
                self._write(packet.samples)
            if packet.flags & audio.GO and not self._running and self._written:
                self._running = True
                self._stream.start()
                self._report(self._stream.waiting())

    def interrupted(self) -> None:
        """The card has played a period, or ran dry; or something was written, or asked, which wakes us as well.

        Only the first two are interrupts; without any it has told nothing by itself.

        Of a card that knows its position to the frame each report would bring a few frames, and writing those another
        report: thousands a second.
        """
        if not self._running:
            return
        try:
            waiting = self._stream.waiting()
        except BrokenPipeError:
            self._ran_dry()
        else:
            if self._written - waiting >= self._reported + self._least:
                counted = self._interrupts()
                self._report(waiting, audio.ASKED if counted == self._counted else 0)
                self._counted = counted

    def _answer(self) -> None:
        """Say where the card is now. What its interrupts have not told is what it says when it is asked itself."""
        try:
            waiting = self._stream.waiting()
        except BrokenPipeError:
            self._ran_dry()
            return
        try:
            waiting = self._stream.waiting(ask=self._running)
        except BrokenPipeError:
            self._running = False
            self._report(waiting, audio.ASKED | audio.STOPPED)
        else:
            reported = self._reported
            self._report(waiting, audio.ASKED)
            self._reported = reported  # an answer spares no interrupt its report

    def _write(self, samples: "bytes | memoryview") -> None:
        try:
            taken = self._stream.write(samples)
        except BrokenPipeError:
            self._ran_dry()
            taken = self._stream.write(samples)
        self._written += taken // self._frame_bytes

    def _ran_dry(self) -> None:
        """All that was written has been played; the next frames wait for the host's word to start."""
        self.xruns += 1
        self._running = False
        self._stream.prepare()
        self._report(0)

    def _report(self, waiting: int, flags: int = 0) -> None:
        played = self._written - min(waiting, self._written)
        self._reported = played
        flags |= audio.RUNNING if self._running else 0
        self._port.report(audio.header(audio.PLAYED, self._tag, played, flags=flags, first=waiting, second=self.xruns))


class Recording:
    """The recording stream. What was recorded is sent at each interrupt."""

    KINDS = (audio.RECORD,)

    def __init__(self, stream: Stream, port: Port) -> None:
        self.descriptor = stream.descriptor
        self.xruns = 0
        self._stream = stream
        self._frame_bytes = stream.parameters.frame_bytes
        self._most_bytes = min(audio.MAX_SAMPLES_BYTES, _READ_BYTES) // self._frame_bytes * self._frame_bytes
        self._port = port
        self._tag = 0
        self._position = 0
        self._running = False

    def take(self, packet: audio.Packet) -> None:
        """Begin or end to record."""
        self._stream.prepare()
        self._tag, self._position = packet.tag, 0
        self._running = bool(packet.flags & audio.GO)
        if self._running:
            self._stream.start()

    def interrupted(self) -> None:
        """The card has recorded a period, or nobody read for too long."""
        if not self._running:
            return
        try:
            while samples := self._stream.read(self._most_bytes):
                self._send(samples)
                if len(samples) < self._most_bytes:
                    break  # while this was sent a card may have recorded a little more: asking again would never end
        except BrokenPipeError:
            self.xruns += 1
            self._stream.prepare()
            self._stream.start()

    def _send(self, samples: bytes) -> None:
        head = audio.header(
            audio.RECORDED,
            self._tag,
            self._position,
            length=len(samples),
            first=self._stream.waiting(),
            second=self.xruns,
        )
        self._position += len(samples) // self._frame_bytes
        self._port.send(head + samples)  # what the host does not take is lost, as the next position shows
