"""Wakes the flow of samples when there is something to do, and not otherwise: pipes, the live port, time."""

import asyncio
import contextlib
from collections.abc import Callable

from nooks.endpoint.sound import SoundEndpoint
from nooks.nook.sound_ports import Port
from nooks.shadow.flow import Flow
from nooks.xpc.errors import ProtocolError


class Pump:
    """Joins a flow to the event loop. ``violated`` is told what the live domain did wrong."""

    def __init__(self, flow: Flow, endpoint: SoundEndpoint, violated: Callable[[ProtocolError], None]) -> None:
        self._flow = flow
        self._endpoint = endpoint
        self._violated = violated
        self._loop = asyncio.get_running_loop()
        self._port: Port | None = None
        self._reading = self._writing = -1
        self._timer: asyncio.TimerHandle | None = None
        flow.changed = self.mind

    def follow(self, port: Port | None) -> None:
        """Listen to this domain's port; None: to nobody's."""
        if self._port is not None:
            self._loop.remove_reader(self._port.connection.fileno())
        self._port = port
        if port is not None:
            self._loop.add_reader(port.connection.fileno(), self._heard)

    def await_end(self) -> None:
        """The live domain is being ended: nothing that it says counts, but when it lets go of its port."""
        if self._port is not None:
            self._loop.add_reader(self._port.connection.fileno(), self._ending)

    def mind(self) -> None:
        """See what is to be waited for now."""
        played, recorded, capture = self._endpoint.played, self._endpoint.recorded, self._flow.capture
        reading = played.descriptor if played is not None and self._flow.open else -1
        if reading != self._reading:
            if self._reading >= 0:
                self._loop.remove_reader(self._reading)
            if reading >= 0:
                self._loop.add_reader(reading, self._played)
            self._reading = reading
        waiting = recorded is not None and capture is not None and not capture.wanted
        writing = recorded.descriptor if recorded is not None and waiting else -1
        if writing != self._writing:
            if self._writing >= 0:
                self._loop.remove_writer(self._writing)
            if writing >= 0:
                self._loop.add_writer(writing, self._tick)
            self._writing = writing
        if self._timer is None and self._flow.busy:
            self._timer = self._loop.call_later(self._flow.tick_seconds, self._timed)

    def catch_up(self) -> None:
        """Take what the live domain has said by now, though this process had no time for it yet."""
        if self._port is not None:
            self._heard()

    def renew(self) -> None:
        """The pipes are other ones, under the same descriptors."""
        for descriptor in {self._reading, self._writing} - {-1}:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
        self._reading = self._writing = -1
        self.mind()

    def close(self) -> None:
        """Wake it no more; again is harmless."""
        self.follow(None)
        self._flow.changed = lambda: None
        if self._reading >= 0:
            self._loop.remove_reader(self._reading)
        if self._writing >= 0:
            self._loop.remove_writer(self._writing)
        self._reading = self._writing = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ending(self) -> None:
        assert self._port is not None
        with contextlib.suppress(ProtocolError):
            for _ in self._port.receive():
                pass
        if self._port.closed:
            self.follow(None)
            self._flow.ended()

    def _played(self) -> None:
        self._flow.pump()
        self.mind()

    def _timed(self) -> None:
        self._timer = None
        self._tick()

    def _tick(self) -> None:
        self._flow.tick()
        self.mind()

    def _heard(self) -> None:
        assert self._port is not None
        try:
            for packet in self._port.receive():
                self._flow.heard(packet)
        except ProtocolError as error:
            self.follow(None)
            self._violated(error)
        self.mind()
