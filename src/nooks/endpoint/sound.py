"""What applications use of a sound nook: the sink and the source on their server, and the pipes behind them.

The server may go and come back, or be another one then: sink and source are made again. The pipes stay, and so does
what waits in them.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import structlog

from nooks.endpoint import fifo, private_pulse, sound_server
from nooks.endpoint.fifo import PlayedPipe, RecordedPipe
from nooks.endpoint.sound_server import CAPTURE, PLAYBACK, Attachment, Format, GateAttachment, Offer, PulseAttachment
from nooks.host.errors import MachineError, NooksError
from nooks.host.process import Process, has_ended, kill
from nooks.xpc.states import StreamState

GATE, SERVER, PIPE = "sound.gate", "sound.server", "sound.pipe."
"""What the keeper holds: the gate's pidfd, the private server's, and the pipes."""

PIPES = "pipes"

RETRY_SECONDS = 0.5
_KILL_SECONDS = 5.0

_PLAYED_SAMPLES = "s32le"
_RECORDED_SAMPLES = {"s16": "s16le", "s32": "s32le", "s24-3": "s24le", "u8": "u8"}
_SILENT_SAMPLE = {"u8": b"\x80"}


class Held(Protocol):
    """Where descriptors and facts outlive this process."""

    @property
    def facts(self) -> dict[str, Any]:
        """What was recorded last."""
        ...

    def record(self, **facts: Any) -> None:  # noqa: ANN401 - any JSON
        """Change some facts."""
        ...

    def held(self) -> tuple[str, ...]:
        """The names of all descriptors."""
        ...

    def give(self, key: str, descriptor: int) -> None:
        """Have a descriptor held."""
        ...

    def take(self, key: str) -> int:
        """A descriptor that another process gave."""
        ...

    def forget(self, key: str) -> None:
        """Let go of a descriptor."""
        ...


def sink_name(nook: str) -> str:
    """What the sink of a nook is called."""
    return f"nooks-{nook}"


def source_name(nook: str) -> str:
    """What its source is called: PulseAudio has one name space for both (pulsecore/namereg.c)."""
    return f"nooks-{nook}.source"


def silent_frame(stream: StreamState) -> bytes:
    """One frame of silence as the card records it."""
    return _SILENT_SAMPLE.get(stream.format, bytes(stream.frame_bytes // stream.channels)) * stream.channels


class SoundEndpoint:
    """Sink and source of one nook. ``removed`` is told if a user takes them away, ``renewed`` of pipes made anew."""

    def __init__(self, nook: str, directory: Path, held: Held, removed: Callable[[], None]) -> None:
        self.sink = sink_name(nook)
        self.source = source_name(nook)
        self.played: PlayedPipe | None = None
        self.recorded: RecordedPipe | None = None
        self.renewed: Callable[[], None] = lambda: None
        self._directory = directory
        self._pipes = directory / PIPES
        self._held = held
        self._removed = removed
        self._server: sound_server.Server | None = None
        self._attachment: Attachment | None = None
        self._private: Process | None = None
        self._private_pidfd = -1
        self._offer: Offer | None = None
        self._streams: dict[str, StreamState] = {}
        self._returning: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    @property
    def address(self) -> str | None:
        """Where applications find the server; None while there is none."""
        return self._attachment.address if self._attachment is not None else None

    @property
    def private(self) -> bool:
        """Whether the server is the nook's own."""
        return self._private_pidfd >= 0

    # -- its life ----------------------------------------------------------------------------------------------

    async def reserve(self) -> None:
        """Find the server and see that the name is free, before anything else is begun.

        Raises MachineError if there is no server and none can be started, InputError if the name is taken.
        """
        await sound_server.forget(self._pipes)
        await private_pulse.end(self._directory)
        self._server = await sound_server.find()
        if self._server is None:
            private_pulse.check()
        else:
            await self._server.refuse_taken(self.sink, self.source)

    async def present(self, playback: StreamState | None, capture: StreamState | None) -> None:
        """Make the pipes for a card's streams, and sink and source on the server. Raises NooksError."""
        self._streams = _streams(playback, capture)
        server = self._server or await self._found_or_started(start=True)
        self._server = None
        fifo.make_directory(self._pipes, server.client.user_id)
        for direction in self._streams:
            self._keep(direction, fifo.make(self._pipes / direction, server.client.user_id))
        self._offer = self._made_offer()
        await self._attach(server)

    async def adopt(self, playback: StreamState | None, capture: StreamState | None) -> None:
        """Take over pipes and, if they are still there, sink and source of another process."""
        self._streams = _streams(playback, capture)
        for direction in self._streams:
            self._keep(direction, self._held.take(f"{PIPE}{direction}"))
        self._offer = self._made_offer()
        if SERVER in self._held.held():
            self._private_pidfd = self._held.take(SERVER)
        attachment = await self._adopted()
        if attachment is None:
            self._return()
        else:
            self._use(attachment)

    async def close(self) -> None:
        """Give everything back. Safe to call twice."""
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
            self._returning = None
        if self._server is not None:
            await self._server.leave()
            self._server = None
        if self._attachment is not None:
            await self._attachment.detach()
            self._attachment = None
        await self._end_private()
        for pipe, direction in ((self.played, PLAYBACK), (self.recorded, CAPTURE)):
            if pipe is not None:
                self._held.forget(f"{PIPE}{direction}")
                os.close(pipe.descriptor)
                (self._pipes / direction).unlink(missing_ok=True)
        self.played = self.recorded = None

    async def playing(self) -> list[str]:
        """The names of the streams that applications play just now."""
        try:
            return await self._attachment.playing() if self._attachment is not None else []
        except NooksError:
            return []

    # -- the flow's SoundPort ----------------------------------------------------------------------------------

    def take(self, space: memoryview, frames: int) -> int:
        """What applications play; see flow."""
        return self.played.take(space, frames) if self.played is not None else 0

    def deliver(self, samples: bytes) -> bool:
        """Hand on what was recorded; see flow."""
        return self.recorded is not None and self.recorded.deliver(samples)

    @property
    def listening(self) -> bool:
        """Whether somebody records; see flow."""
        return self.recorded is not None and self.recorded.listening

    # -- the server --------------------------------------------------------------------------------------------

    def _keep(self, direction: str, descriptor: int) -> None:
        """Use a pipe from now on."""
        stream = self._streams[direction]
        self._held.give(f"{PIPE}{direction}", descriptor)
        if direction == PLAYBACK:
            self.played = PlayedPipe(descriptor, stream.format, stream.channels)
        else:
            self.recorded = RecordedPipe(descriptor, stream.rate, silent_frame(stream))
            self.recorded.stuff()

    def _made_offer(self) -> Offer:
        played, recorded = self._streams.get(PLAYBACK), self._streams.get(CAPTURE)
        return Offer(
            self.sink,
            self.source,
            self._pipes,
            Format(_PLAYED_SAMPLES, played.rate, played.channels) if played else None,
            Format(_RECORDED_SAMPLES[recorded.format], recorded.rate, recorded.channels) if recorded else None,
        )

    async def _found_or_started(self, *, start: bool) -> sound_server.Server:
        """The user's server if there is one by now, else one of our own if we ``start`` one. Raises NooksError."""
        server = await sound_server.find()
        if server is not None:
            await self._end_private()
            return server
        if self.private and not has_ended(self._private_pidfd):
            return await sound_server.reach(private_pulse.address(self._directory), os.geteuid())
        if not start:
            raise MachineError("the sound server has gone", "start it again")
        await self._end_private()
        server, self._private = await private_pulse.start(self._directory)
        self._private_pidfd = self._private.pidfd
        self._held.give(SERVER, self._private_pidfd)
        return server

    async def _attach(self, server: sound_server.Server) -> None:
        assert self._offer is not None
        try:
            self._use(await server.attach(self._offer))
        except BaseException:
            await server.leave()
            raise
        self._follow_pipes(fifo.join)

    def _use(self, attachment: Attachment) -> None:
        self._attachment = attachment
        attachment.gone = self._gone
        attachment.removed = self._removed
        if isinstance(attachment, GateAttachment):
            self._held.give(GATE, attachment.pidfd)
        self._held.record(sound=attachment.facts)
        self._log.info("sink and source", name=self.sink, server=attachment.address)

    async def _adopted(self) -> Attachment | None:
        facts = self._held.facts.get("sound", {})
        address = str(facts.get("server", ""))
        try:
            if "runtime" in facts and GATE in self._held.held():
                return GateAttachment.adopt(address, str(facts["runtime"]), self._held.take(GATE))
            if "modules" not in facts:
                return None
            server = await sound_server.reach(address, os.geteuid())
            assert self._offer is not None
            adopted = await PulseAttachment.adopt(server.client, self._offer, list(facts["modules"]))
            if adopted is None:
                await server.leave()
            return adopted
        except NooksError as error:
            self._log.info("sink and source are not there any more", error=str(error))
            return None

    def _gone(self) -> None:
        self._log.warning("the sound server has gone", server=self.address)
        self._return()

    def _return(self) -> None:
        if self._returning is None:
            self._returning = asyncio.create_task(self._come_back(), name="sound-server")

    async def _come_back(self) -> None:
        """Until sink and source are on a server again: the user's, for whose return we wait, or our own."""
        if self._attachment is not None:
            await self._attachment.leave()
            self._attachment = None
        while True:
            try:
                server = await self._found_or_started(start=self.private)
                user_id = server.client.user_id
                self._follow_pipes(lambda path, user_id=user_id: fifo.make(path, user_id))
                await self._attach(server)
            except NooksError as error:
                self._log.info("no sound server yet", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._returning = None
                return

    def _follow_pipes(self, another: Callable[[Path], int]) -> None:
        """A server may have made a pipe itself, or removed one when it went: use what is at its place, or is made."""
        for direction, pipe in ((PLAYBACK, self.played), (CAPTURE, self.recorded)):
            path = self._pipes / direction
            if pipe is not None and not fifo.is_there(path, pipe.descriptor):
                other = another(path)
                os.dup2(other, pipe.descriptor, inheritable=False)
                os.close(other)
                self._held.give(f"{PIPE}{direction}", pipe.descriptor)
                self.renewed()
                if self.recorded is not None and pipe is self.recorded:
                    self.recorded.stuff()

    async def _end_private(self) -> None:
        if not self.private:
            return
        self._held.forget(SERVER)
        pidfd, self._private_pidfd = self._private_pidfd, -1
        await kill(pidfd, within_seconds=_KILL_SECONDS)
        if self._private is not None:
            _ = self._private.returncode
            self._private.close()
            self._private = None
        else:
            os.close(pidfd)


def _streams(playback: StreamState | None, capture: StreamState | None) -> dict[str, StreamState]:
    found = {PLAYBACK: playback, CAPTURE: capture}
    return {direction: stream for direction, stream in found.items() if stream is not None}
