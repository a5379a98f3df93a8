"""The sound shadow: settings that hold through failures, and what becomes of requests meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from shadow_fakes import FakeEvents
from sound_fakes import FRAME_BYTES, Applications, Card

from nooks.host.clock import SystemClock
from nooks.host.errors import InputError
from nooks.shadow.capture import Capture
from nooks.shadow.errors import BusyError, ReplayMismatch, SettingRefused
from nooks.shadow.flow import Flow
from nooks.shadow.frames import FrameLog
from nooks.shadow.life import Mode
from nooks.shadow.log import Log, StateFile
from nooks.shadow.playback import Playback, Policy
from nooks.shadow.readback import Outcome
from nooks.shadow.sound import PLAY, READ, RECORD, REQUESTS, SET, CardState, SoundShadow
from nooks.shadow.strategies import Strategy
from nooks.xpc.settings import Settings
from nooks.xpc.states import ElementState, SoundState

MASTER, SWITCH, SOURCE = "mixer.master-playback-volume", "mixer.master-playback-switch", "mixer.capture-source"
ELEMENTS = {
    MASTER: ElementState(2, 0, 31),
    SWITCH: ElementState(1, 0, 1),
    SOURCE: ElementState(2, 0, 1, ("Mic", "Line")),
}
DEFAULTS: Settings = {MASTER: (31, 31), SWITCH: (1,), SOURCE: ("Mic", "Mic"), "playback.period": 1024}


class FakeCard:
    """Forgets everything when it fails; ``stubborn`` settings it keeps as they are."""

    def __init__(self) -> None:
        self.state = dict(DEFAULTS)
        self.stubborn: set[str] = set()
        self.refuses: dict[str, str] = {}
        self.asked: list[Settings] = []
        self.gate: asyncio.Event | None = None

    async def apply(self, settings: Settings) -> Outcome:
        self.asked.append(dict(settings))
        if self.gate is not None:
            await self.gate.wait()
        taken = {key: value for key, value in settings.items() if key not in self.stubborn | set(self.refuses)}
        if taken.get("playback.period", 1024) != 1024:
            taken["playback.period"] = 441
        self.state |= taken
        refused = {key: why for key, why in self.refuses.items() if key in settings}
        return Outcome({key: self.state[key] for key in settings if key in self.state}, refused)

    async def resume(self, incarnation: int, settings: Settings) -> Outcome:
        return await self.apply(settings)

    async def read(self) -> CardState:
        if self.gate is not None:
            await self.gate.wait()
        return CardState(dict(self.state), SoundState("A card", None, None, dict(ELEMENTS)))

    def fail(self) -> None:
        self.state = dict(DEFAULTS)


class Stage:
    """A shadow with its card, its log and both streams."""

    def __init__(self) -> None:
        self.card = FakeCard()
        self.file = StateFile.create("nooks-test")
        self.events = FakeEvents()
        self.shadow = SoundShadow(self.card, Log(self.file), self.events)
        self.shadow.seed({"policy": "content", "latency": "default"})
        self.shadow.elements = ELEMENTS
        self.frames = FrameLog.create("nooks-test", FRAME_BYTES, 48000)
        self.samples = Card(48000, 1024)
        self.applications = Applications()
        playback = Playback(self.frames, self.shadow.sizes(48000), Policy.CONTENT)
        capture = Capture(48000, 1024, bytes(FRAME_BYTES))
        self.shadow.flow = Flow(playback, capture, self.samples, self.applications, SystemClock())

    async def serve(self, incarnation: int = 1) -> dict[str, Any]:
        facts = await self.shadow.replay(incarnation)
        self.samples.live()
        self.shadow.deactivate()
        return facts

    def fail(self) -> None:
        self.shadow.activate()
        self.card.fail()
        self.samples.die()

    def close(self) -> None:
        self.frames.close()
        self.file.close()


def on_stage(body: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    """A test as a coroutine that gets a stage."""

    def test() -> None:
        async def run() -> None:
            stage = Stage()
            try:
                await body(stage)
            finally:
                stage.close()

        asyncio.run(run())

    return test


@on_stage
async def test_what_was_set_holds_through_a_failure(stage: Stage) -> None:
    await stage.serve()
    assert await stage.shadow.set({MASTER: "50%", SOURCE: "line"}) == {MASTER: (16, 16), SOURCE: ("Line", "Line")}
    stage.fail()
    facts = await stage.serve(2)
    assert (stage.card.state[MASTER], stage.card.state[SOURCE], facts["settings"]) == ((16, 16), ("Line", "Line"), 2)


@on_stage
async def test_another_supervisor_knows_what_was_set(stage: Stage) -> None:
    await stage.serve()
    await stage.shadow.set({MASTER: 3, "policy": "clock"})
    shadow = SoundShadow(stage.card, Log(stage.file), stage.events)
    await shadow.replay(1)
    assert (shadow.policy, stage.card.asked[-1]) == (Policy.CLOCK, {MASTER: (3, 3)})


@on_stage
async def test_while_the_driver_is_away_a_change_is_busy_and_reading_is_answered(stage: Stage) -> None:
    await stage.serve()
    await stage.shadow.set({MASTER: 7})
    before = await stage.shadow.read()
    stage.fail()
    with pytest.raises(BusyError):
        await stage.shadow.set({MASTER: 9})
    assert (await stage.shadow.read()).readback == before.readback | {MASTER: (7, 7)}
    assert {key: count for key, count in stage.shadow.counters.by_request().items() if count} == {SET: 1, READ: 1}


@on_stage
async def test_who_waits_when_the_driver_fails_is_told_at_once(stage: Stage) -> None:
    await stage.serve()
    stage.card.gate = asyncio.Event()
    setting = asyncio.create_task(stage.shadow.set({MASTER: 7}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stage.fail()
    with pytest.raises(BusyError):
        await setting


@on_stage
async def test_a_driver_that_refuses(stage: Stage) -> None:
    await stage.serve()
    stage.card.refuses = {MASTER: "no"}
    with pytest.raises(SettingRefused, match=r"mixer\.master-playback-volume \(no\)"):
        await stage.shadow.set({MASTER: 7, SWITCH: "off", "policy": "clock"})
    assert stage.shadow.policy is Policy.CONTENT
    stage.fail()
    await stage.serve(2)
    assert (stage.card.state[MASTER], stage.card.state[SWITCH]) == ((31, 31), (0,))


@on_stage
async def test_a_driver_that_does_not_come_back_to_its_volume(stage: Stage) -> None:
    await stage.serve()
    await stage.shadow.set({MASTER: 7})
    stage.fail()
    stage.card.stubborn = {MASTER}
    with pytest.raises(ReplayMismatch, match=r"mixer\.master-playback-volume is 31,31 instead of 7,7"):
        await stage.serve(2)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (MASTER, 32, "can't be 32"),
        (MASTER, -1, "can't be -1"),
        (MASTER, "101%", "can't be 101%"),
        (MASTER, "loud", "can't be loud"),
        (MASTER, "1,2,3", "has 2 channels, not 3"),
        (SWITCH, "2", "can't be 2"),
        (SOURCE, "phone", "can't be phone"),
        ("mixer.master", 1, "the card has no mixer.master"),
        ("policy", "none", "policy can't be none"),
        ("latency", 3, "latency can't be 3"),
        ("playback.rate", 8000, "there is no setting playback.rate"),
        ("ring.rx", 8, "there is no setting ring.rx"),
    ],
)
def test_settings_that_are_wrong(key: str, value: object, message: str) -> None:
    @on_stage
    async def body(stage: Stage) -> None:
        await stage.serve()
        with pytest.raises(InputError, match=message):
            await stage.shadow.set({key: value})
        assert stage.card.asked[1:] == []

    body()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (MASTER, 5, (5, 5)),
        (MASTER, "5,9", (5, 9)),
        (MASTER, "100%", (31, 31)),
        (MASTER, "0%,100%", (0, 31)),
        (SWITCH, False, (0,)),
        (SWITCH, "on", (1,)),
        (SOURCE, "Mic,LINE", ("Mic", "Line")),
    ],
)
def test_settings_as_people_write_them(key: str, value: object, expected: object) -> None:
    @on_stage
    async def body(stage: Stage) -> None:
        await stage.serve()
        assert (await stage.shadow.set({key: value}))[key] == expected

    body()


@on_stage
async def test_a_latency_that_the_card_rounds(stage: Stage) -> None:
    await stage.serve()
    assert stage.shadow.flow is not None
    assert stage.shadow.flow.playback is not None
    assert await stage.shadow.set({"latency": "low"}) == {"latency": "low", "playback.period": 441}
    assert (stage.shadow.flow.playback.sizes.period, stage.shadow.flow.playback.sizes.window) == (441, 6 * 441)
    stage.fail()
    await stage.serve(2)
    assert stage.card.asked[-1] == {"playback.period": 441}


@on_stage
async def test_frames_are_counted_by_what_became_of_them(stage: Stage) -> None:
    await stage.serve()
    stage.applications.ready = 5000
    assert stage.shadow.flow is not None
    stage.shadow.flow.pump()
    stage.fail()
    await stage.serve(2)
    counts = stage.shadow.counters.by_request()
    assert (counts[PLAY], counts[RECORD]) == (5000, 0)


@on_stage
async def test_given_up(stage: Stage) -> None:
    await stage.serve()
    stage.shadow.activate()
    stage.shadow.degrade()
    assert stage.shadow.mode is Mode.DEGRADED
    with pytest.raises(BusyError):
        await stage.shadow.set({MASTER: 9})


def test_every_strategy_that_the_class_names_is_in_its_table() -> None:
    used = {row.strategy for row in REQUESTS.rows}
    assert used == set(Strategy)
