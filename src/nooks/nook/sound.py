"""The class ``sound``, put together: its endpoint, shadow and detector, around whatever incarnation serves."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from nooks.device.emulated import (
    SOUND_LINE,
    SOUND_LINE_OUTSIDE,
    SOUND_LINE_PIECE,
    buses,
    host_side_sound,
    sound_card,
    sound_line_frames,
)
from nooks.domain.domain import Domain
from nooks.endpoint.configuration import Configuration
from nooks.endpoint.sound import SoundEndpoint, silent_frame
from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.failure.sound import Glance, SoundDetector
from nooks.host.clock import SystemClock
from nooks.host.errors import InputError, NooksError
from nooks.host.pace import load_factor, slowness
from nooks.host.paths import nook_dir
from nooks.keeper.client import KeeperGone
from nooks.nook import asking
from nooks.nook.asking import patience, resume, surely
from nooks.nook.incarnation import Incarnation
from nooks.nook.ledger import Ledger
from nooks.nook.sound_line import Line
from nooks.nook.sound_ports import Ports
from nooks.nook.sound_pump import Pump
from nooks.recovery.protocols import EventSink
from nooks.shadow.capture import Capture
from nooks.shadow.flow import Flow
from nooks.shadow.frames import FrameLog
from nooks.shadow.log import Log, StateFile
from nooks.shadow.playback import Playback
from nooks.shadow.readback import Outcome
from nooks.shadow.sound import LATENCY, POLICY, CardState, SoundShadow
from nooks.spec import Spec
from nooks.xpc.channel import Channel
from nooks.xpc.errors import ProtocolError
from nooks.xpc.messages import Apply, Changed, Message, Read
from nooks.xpc.settings import Settings
from nooks.xpc.states import DeviceState, SoundState, StreamState, parse_state

T = TypeVar("T")

REHEARSALS = 2
"""How often a spare is told the recorded state: the first time warms its translations up, the second shows it."""

REHEARSED_SECONDS = 2.0
"""How long a spare may take to play a little silence."""

SHADOW_LOG, FRAMES_LOG, STATE = "shadow.log", "shadow.frames", "card"

_FIXED = ("format", "channels", "rate")
"""What every driver's streams must have alike, for the pipes and the log have it."""


class SoundSide:
    """What a sound nook has beside its domains. ``events`` records; ``removed`` is told if the sink is taken away."""

    def __init__(
        self,
        spec: Spec,
        ledger: Ledger,
        log: Log,
        *,
        events: EventSink,
        live: Callable[[], Incarnation | None],
        removed: Callable[[], None],
        report: ReportSink,
    ) -> None:
        self._spec = spec
        self._ledger = ledger
        self._live = live
        self._report = report
        self._clock = SystemClock()
        self._incarnation = 0
        self._frames: FrameLog | None = None
        self._pump: Pump | None = None
        self._state: SoundState | None = None
        self._ports = Ports(ledger)
        path = spec.sound.line_socket() if spec.emulated else None
        self._line = Line(spec.name, path) if path is not None else None
        self._detector = SoundDetector(self._glance, self._clock, report, load=load_factor)
        self.changed: Callable[[], None] = lambda: None
        self.log = log
        self.shadow = SoundShadow(self, log, events)
        self.endpoint = SoundEndpoint(spec.name, nook_dir(spec.name), ledger, removed)

    @classmethod
    async def open(
        cls,
        spec: Spec,
        ledger: Ledger,
        *,
        adopting: bool,
        configuration: Configuration | None,
        events: EventSink,
        live: Callable[[], Incarnation | None],
        removed: Callable[[], None],
        report: ReportSink,
    ) -> "SoundSide":
        """Find the sound server, or take over what a dead supervisor had on it.

        Sink and source are made when it is known what the card can do (``serving``). Raises NooksError; nothing is left
        then.
        """
        del configuration  # an interface's
        file = StateFile.from_fd(ledger.take(SHADOW_LOG)) if adopting else StateFile.create("nooks-log")
        side = cls(spec, ledger, Log(file), events=events, live=live, removed=removed, report=report)
        try:
            if adopting:
                await side._adopt()
            else:
                ledger.give(SHADOW_LOG, file.fileno())
                side.shadow.seed({POLICY: spec.sound.policy, LATENCY: "default"})
                await side.endpoint.reserve()
        except BaseException:
            await side.close()
            raise
        return side

    async def _adopt(self) -> None:
        facts = self._ledger.facts
        self._ports.adopt(int(facts.get("bay", 0)))
        if STATE in facts:  # else its supervisor died before the card's streams were known
            state = _sound(parse_state(facts[STATE]))
            await self.endpoint.adopt(state.playback, state.capture)
            self._join(state, adopting=True)

    async def serving(self) -> None:
        """The first incarnation serves, or a supervisor took over: sink and source can be made now."""
        with contextlib.suppress(NooksError):  # it failed at once: the next answers
            await self.shadow.read()
        state = self._state
        if self.shadow.flow is not None or state is None:
            return
        await self.endpoint.present(state.playback, state.capture)
        self.shadow.seed(_fixed(state))
        self._ledger.record(**{STATE: state.to_payload()})
        self._join(state, adopting=False)
        if self._spec.sound.latency != "default":
            await self.shadow.set({LATENCY: self._spec.sound.latency})

    def _join(self, state: SoundState, *, adopting: bool) -> None:
        """Let samples flow between the endpoint's pipes and whichever domain is live."""
        playback = self._playback(state.playback, adopting) if state.playback is not None else None
        capture = _capture(state.capture) if state.capture is not None else None
        flow = Flow(playback, capture, self._ports, self.endpoint, self._clock)
        self._pump = Pump(flow, self.endpoint, self._violated)
        self.endpoint.renewed = self._pump.renew
        self._pump.follow(self._ports.live)
        self.shadow.attach(flow)
        self._pump.mind()

    def _playback(self, stream: StreamState, adopting: bool) -> Playback:
        if adopting:
            self._frames = FrameLog.from_fd(self._ledger.take(FRAMES_LOG))
        else:
            self._frames = FrameLog.create("nooks-frames", stream.frame_bytes, stream.rate)
            self._ledger.give(FRAMES_LOG, self._frames.fileno())
        sizes = replace(self.shadow.sizes(stream.rate), apart=not self._spec.emulated)
        if self._line is not None:
            held = sound_line_frames(self._spec.parsed_device.model)
            sizes = replace(sizes, card=held, rest=SOUND_LINE_PIECE)
        return Playback(self._frames, sizes, self.shadow.policy)

    # -- what a domain needs ----------------------------------------------------------------------------------

    def hardware(self) -> tuple[str, ...]:
        """QEMU's arguments for the port of samples, and for what an emulated card is plugged into."""
        if not self._spec.emulated:
            return host_side_sound()
        line = SOUND_LINE if self._spec.sound.line_socket() is None else SOUND_LINE_OUTSIDE
        return (*host_side_sound(), *line, *buses(self._spec.parsed_device.model))

    def region_bytes(self) -> int:
        """None: samples go through the port."""
        return 0

    def emulated_device(self) -> dict[str, str]:
        """An emulated card's properties."""
        device = self._spec.parsed_device
        return sound_card(device.model, device.options)

    def model_ends(self) -> dict[str, int]:
        """Nothing: a model's samples go into files that its device names."""
        return {}

    @contextlib.contextmanager
    def launching(self, bay: int, *, serving: bool) -> Generator[Mapping[str, int]]:
        """Each domain gets a port of its own."""
        del serving
        with self._ports.make(bay) as theirs:
            yield {"sound": theirs.fileno()}

    async def admit(self, bay: int, domain: Domain) -> None:
        """Nothing: an emulated card's plugs lead nowhere, and a real one is plugged in."""

    def switch(self, bay: int) -> dict[str, Any]:
        """The new domain gets samples as soon as its settings are as recorded."""
        self._ports.switch(bay)
        return {}

    # -- the shadow's DriverPort: the agent of whichever incarnation is live -----------------------------------

    async def apply(self, settings: Settings) -> Outcome:
        """Have the driver take some settings."""

        async def question(channel: Channel) -> Outcome:
            reply = await channel.request(Apply(settings), patience())
            return Outcome(reply.readback, reply.refused)

        outcome = await self._ask(question)
        self.changed()
        return outcome

    async def resume(self, incarnation: int, settings: Settings) -> Outcome:
        """Tell a driver that starts who it is and all its settings."""

        live = self._live()
        if self._line is not None and live is not None:
            await self._line.plug(live.domain)

        async def question(channel: Channel) -> Outcome:
            reply = await channel.request(resume(incarnation, settings), patience())
            self._state = _sound(reply.state)
            return Outcome(reply.readback, reply.refused)

        return await self._ask(question)

    async def read(self) -> CardState:
        """The driver's present state."""

        async def question(channel: Channel) -> CardState:
            reply = await channel.request(Read(), patience())
            self._state = _sound(reply.state)
            return CardState(reply.readback, self._state, reply.statistics)

        return await self._ask(question)

    def recorded(self) -> Settings:
        """What the shadow asks every driver for."""
        return self.shadow.wanted()

    async def rehearse(self, spare: Incarnation) -> None:
        """Bring a spare to the log's state, and have it play a little silence, so that all is translated."""
        if self._line is not None:
            await self._line.plug(spare.domain)
        for _ in range(REHEARSALS):
            reply = await surely(spare.channel.request(resume(spare.number, self.recorded()), patience()))
            playback = _sound(reply.state).playback
            if playback is None:
                continue
            try:
                async with asyncio.timeout(REHEARSED_SECONDS * slowness()):
                    window = self.shadow.sizes(playback.rate).window
                    await self._ports.port(spare.bay).play_silence(window, playback.frame_bytes)
            except TimeoutError:
                structlog.get_logger().warning("a spare does not play", pid=spare.domain.pid)

    async def _ask(self, question: Callable[[Channel], Awaitable[T]]) -> T:
        return await asking.ask(self._live(), question)

    # -- what is heard -----------------------------------------------------------------------------------------

    def begin(self, incarnation: int) -> None:
        """A new incarnation serves."""
        self._incarnation = incarnation
        self._detector.begin(incarnation)
        if self._pump is not None:
            self._pump.follow(self._ports.live)

    def end(self) -> None:
        """Nothing serves."""
        self._detector.end()
        if self._pump is not None:
            self._pump.await_end()

    def counters(self, counters: dict[str, int]) -> None:
        """The domain lives."""
        del counters
        if self._pump is not None:
            self._pump.catch_up()
        self._detector.beat()

    def heard(self, message: Message) -> None:
        """The live agent says something."""
        if isinstance(message, Changed):
            self._state = _sound(message.state)

    def _violated(self, error: ProtocolError) -> None:
        detail = {"violation": str(error)}
        self._report(FailureReport(self._incarnation, Reason.PROTOCOL, self._clock.monotonic(), "sound", detail))

    def _glance(self) -> Glance | None:
        flow = self.shadow.flow
        if flow is None:
            return None
        playback, capture = flow.playback, flow.capture
        return Glance(
            rate=playback.sizes.rate if playback is not None else 0,
            playing=playback is not None and playback.expecting,
            position=playback.position if playback is not None else 0,
            told=playback.told if playback is not None else 0,
            underruns=playback.underruns if playback is not None else 0,
            recording=capture is not None and capture.expecting,
            packets=capture.heard_packets if capture is not None else 0,
        )

    # -- what people ask ---------------------------------------------------------------------------------------

    async def leave(self, *, serving: bool, force: bool) -> None:
        """A sink or source may go at any time: the sound server moves its streams."""

    async def media(self, path: str | None) -> None:
        """There is none."""
        del path
        raise InputError("a sound device has no medium", "'nooks media' is for drives, such as ide-cd")

    async def set(self, settings: dict[str, Any]) -> dict[str, Any]:
        """``nooks set``: returns what the driver took."""
        accepted = await self.shadow.set(settings)
        self.changed()
        return dict(accepted)

    def result(self) -> dict[str, Any]:
        """What ``start`` tells of the endpoint."""
        return {
            "sink": self.endpoint.sink if self.endpoint.played is not None else None,
            "source": self.endpoint.source if self.endpoint.recorded is not None else None,
            "server": self.endpoint.address,
            "private_server": self.endpoint.private,
            "jacks": self._state.jacks if self._state is not None else {},
        }

    def facts(self) -> dict[str, Any]:
        """Figures for ``status`` and ``metrics``."""
        flow = self.shadow.flow
        playback = flow.playback if flow is not None else None
        capture = flow.capture if flow is not None else None
        return {
            "requests": self.shadow.counters.by_request(),
            "underruns": playback.underruns if playback is not None else 0,
            "frames_under_way": playback.under_way if playback is not None else 0,
            "frames_replayed": playback.replayed if playback is not None else 0,
            "frames_dropped": playback.dropped if playback is not None else 0,
            "frames_filled": capture.filled if capture is not None else 0,
        }

    async def close(self) -> None:
        """Give everything back. Safe to call twice."""
        if self._pump is not None:
            self._pump.close()
            self._pump = None
        with contextlib.suppress(KeeperGone):
            await self.endpoint.close()
            self._ports.close()
        self.shadow.flow = None
        if self._frames is not None:
            self._frames.close()
            self._frames = None


def _sound(state: DeviceState) -> SoundState:
    """Raises ProtocolError if the device says that it is something else than a sound card."""
    if not isinstance(state, SoundState):
        raise ProtocolError(f"a sound card says that it is of class {state.CLASS}")
    return state


def _fixed(state: SoundState) -> Settings:
    """What every driver's streams must have as the first one's."""
    streams = {"playback": state.playback, "capture": state.capture}
    return {
        f"{direction}.{name}": getattr(stream, name)
        for direction, stream in streams.items()
        if stream is not None
        for name in _FIXED
    }


def _capture(stream: StreamState) -> Capture:
    return Capture(stream.rate, stream.period, silent_frame(stream), first_tag=secrets.randbelow(1 << 31))
