"""Sound nooks as users have them: real clients on a real server, heard at the card's plugs, outside of domains."""

import asyncio
import shutil
import time
from collections.abc import Sequence
from statistics import median

import pytest

from nooks.host.pace import slowness
from nooks.lab.sound.recovery import DROPPABLE_MSEC, Heard, fail_while_playing
from nooks.lab.sound.stage import Stage, stage
from nooks.lab.ways import CRASHES, fail

pytestmark = [pytest.mark.vm, pytest.mark.skipif(shutil.which("pulseaudio") is None, reason="needs PulseAudio")]

REPORT_FRAMES = 1024
"""What one position report covers (shadow/sound.py: LATENCIES)."""

WINDOW_FRAMES = 6 * REPORT_FRAMES
LINE_FRAMES = 2048
"""QEMU hands over 1024 frames at a time, and holds as many before (audio/dbusaudio.c): a killed card's are lost."""

RECOVERY_SECONDS = 1.0
"""On a machine that does other things as well; the figures are the benchmark's."""

PATIENCE_SECONDS = 10.0

CARDS = {
    "intel8x0": ("kill", "hang", "freeze"),
    "ens1370": ("panic", "silent"),
    "hda": ("oops", "halt"),
    "sb16": ("kill", "agent"),
    "cs4232": ("panic", "hang"),
}
JACKS = {"hda": {"Line Phantom": True, "Line Out Phantom": True}}
"""What QEMU's codec can't tell the kernel calls a phantom, and plugged."""


def judge(heard: Heard, ways: Sequence[str]) -> None:
    """Every failure was recovered from, soon, and no client noticed."""
    assert heard.errors == []
    assert [trial.failure.recovered for trial in heard.trials] == [True] * len(ways)
    for trial in heard.trials:
        assert trial.failure.recovery_seconds is not None
        assert trial.failure.recovery_seconds < RECOVERY_SECONDS, trial.record()


def judge_content(heard: Heard) -> None:
    """No more is lost than a report covers; no more is heard again than that and what the plugs hold, but for a seam.

    Of a card whose driver counts lost interrupts, it may be a window.
    """
    late = round((slowness() - 1) * REPORT_FRAMES)  # on a busy host reports are
    for trial in heard.trials:
        assert trial.lost is not None
        again = (WINDOW_FRAMES if trial.failure.way == "silent" else 3 * REPORT_FRAMES + late) + LINE_FRAMES
        assert -again <= trial.lost <= REPORT_FRAMES + late, trial.record()


@pytest.mark.parametrize("driver", CARDS)
@pytest.mark.usefixtures("bench")
def test_music_goes_on_through_failures(driver: str) -> None:
    async def body() -> None:
        async with stage(driver, "--intensity", "100") as made, made.product.following():
            heard = await fail_while_playing(made, CARDS[driver])
            assert (await made.product.status())["jacks"] == JACKS.get(driver, {})
        judge(heard, CARDS[driver])
        judge_content(heard)
        for trial in heard.trials:
            if (driver, trial.failure.way) == ("ens1370", "silent"):
                assert trial.stuttered < WINDOW_FRAMES // 2, "it is asked and fed, so it does not go on over its ring"

    asyncio.run(body())


@pytest.mark.usefixtures("bench")
def test_volume_is_restored() -> None:
    """As the card tells it at its plugs when it changes, and as the next driver reads it back."""

    async def body() -> None:
        async with stage("intel8x0") as made, made.product.following():
            await made.product.set(mixer__master_playback_volume="50%")
            before = await volume(made)
            assert 0 < min(before) <= max(before) < 255
            for how in ("kill", "panic"):
                assert (await fail(made.product, how)).recovered
            replayed = [event.detail for event in made.product.journal.events if event.event == "replayed"]
            assert len(replayed) == 2
            assert [each["unverified"] for each in replayed] == [[], []], replayed
            await made.product.set(mixer__master_playback_volume="100%")
            assert min(await volume(made)) > max(before)

    asyncio.run(body())


async def volume(made: Stage) -> tuple[int, ...]:
    """The volume that the card was set to, by channel."""
    pid = int((await made.product.status())["domain_pid"])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := made.ears.lines[pid].out.volume):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    return found


@pytest.mark.usefixtures("bench")
def test_by_the_clock_music_stays_in_time() -> None:
    """What the outage covers is lost, and not a moment more, of a failure that is noticed at once.

    Of most of them: a host that is busy just then holds up cards and sound servers, and what the latter did not have is
    not made up for. By a player that has so much at its server: of another one an outage outlasts what can be dropped.
    """
    ways = ("kill",) * 5

    async def body() -> None:
        async with stage("intel8x0", "--policy", "clock") as made, made.product.following():
            heard = await fail_while_playing(made, ways, latency_msec=DROPPABLE_MSEC)
        judge(heard, ways)
        late = [abs(trial.late_seconds) for trial in heard.trials if trial.late_seconds is not None]
        silent = [trial.silence_seconds for trial in heard.trials if trial.silence_seconds is not None]
        assert len(late) == len(silent) == len(ways)
        assert median(late) < median(silent) / 4, (heard.trials, heard.dry)

    asyncio.run(body())


@pytest.mark.slow
@pytest.mark.parametrize("driver", CARDS)
@pytest.mark.usefixtures("bench")
def test_a_hundred_failures(driver: str) -> None:
    """In every way; a driver that lets its card go on alone costs up to a window of repetition."""
    ways = [*CRASHES, *CRASHES] * 6

    async def body() -> None:
        async with stage(driver, "--intensity", "1000") as made, made.product.following():
            heard = await fail_while_playing(made, ways[:100])
        judge(heard, ways[:100])
        judge_content(heard)

    asyncio.run(body())
