"""Sound nooks whose cards are models of ours: what clients play arrives at the card's plug, through failures."""

import array
import math
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nooks.host.pace import slowness

from .conftest import Bench
from .test_nook_models import failures_of, model_process

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(shutil.which("pulseaudio") is None, reason="needs PulseAudio"),
]

RATE, HEADER_BYTES = 48000, 44
MUSIC_SECONDS = 20.0
BLOCK_FRAMES = 480
LOUD = 1000
CARDS = [
    ("ens1371", "model:es1371"),
    ("ens1371", "model:es1371,reset=none"),
    ("emu10k1-live", "model:sblive"),
    ("emu10k1-audigy", "model:audigy"),
]
WAYS = {"kill": {"exit"}, "hang": {"heartbeat"}, "panic": {"panic"}}
LOST_SECONDS = 0.3
"""What one failure may cost of the music or repeat of it: what was inside of a card that is no more."""


def music(path: Path) -> None:
    """A tone that is never silent for a block of frames."""
    period = [int(8000 * math.sin(2 * math.pi * frame / 480)) for frame in range(480)]
    frames = array.array("h", [sample for sample in period for _ in range(2)])
    path.write_bytes((frames * int(MUSIC_SECONDS * RATE / 480)).tobytes())


@contextmanager
def client(*argv: str) -> Generator["subprocess.Popen[bytes]"]:
    """An ordinary client, which is at it."""
    form = ["--format=s16le", f"--rate={RATE}", "--channels=2", "--raw"]
    running = subprocess.Popen([*argv, *form])
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def playing(bench: Bench, server: str, path: Path) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    return client("pacat", "-s", server, "-d", f"nooks-{bench.name}", str(path))


def recording(bench: Bench, server: str, path: Path) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    return client("parecord", "-s", server, "-d", f"nooks-{bench.name}.source", str(path))


def loud_seconds(path: Path) -> float:
    """How much of what the card has put out was music."""
    samples = array.array("h", path.read_bytes()[HEADER_BYTES:])
    blocks = range(0, len(samples), 2 * BLOCK_FRAMES)
    return sum(max(samples[at : at + 2 * BLOCK_FRAMES]) > LOUD for at in blocks) * BLOCK_FRAMES / RATE


def crash(bench: Bench, how: str) -> dict[str, Any]:
    """Fail it on purpose as soon as it runs; what the journal says of that failure."""
    deadline = time.monotonic() + 60
    while (done := bench.nooks("crash", bench.name, "--how", how)).status:
        assert "wait until it runs" in done.stderr, done.stderr
        assert time.monotonic() < deadline
        time.sleep(0.2)
    number = done.document["incarnation"]
    bench.until(lambda status: status["incarnation"] > number and status["state"] == "running", 60)
    return next(event for event in failures_of(bench) if event["incarnation"] == number)


@pytest.mark.parametrize(("driver", "device"), CARDS)
def test_music_goes_on_through_failures(bench: Bench, tmp_path: Path, driver: str, device: str) -> None:
    """Somebody records all the while; nothing fails that was not made to."""
    tone, played = tmp_path / "tone.raw", tmp_path / "played.wav"
    music(tone)
    flags = ["--driver", driver, "--device", f"{device},play={played}", "--intensity", "1000"]
    started = bench.ok("start", *flags, "--name", bench.name)
    bench.stack.callback(bench.nooks, "stop", bench.name, "--force")
    card = model_process(bench)
    server = started["server"]
    with playing(bench, server, tone) as player, recording(bench, server, tmp_path / "recorded.raw") as recorder:
        for how, reasons in WAYS.items():
            time.sleep(2)
            failed = crash(bench, how)
            assert failed["reason"] in reasons, failed
        assert player.wait(MUSIC_SECONDS * 3 * slowness()) == 0
        assert recorder.poll() is None
    failed_at_all = failures_of(bench)
    assert len(failed_at_all) == len(WAYS), "\n".join(map(str, failed_at_all))
    assert model_process(bench) == card
    resets = {event["detail"]["reset"] for event in bench.events() if event["event"] == "restarted"}
    assert resets == {"none" if "reset=none" in device else "pm"}
    bench.ok("stop", bench.name)
    assert abs(loud_seconds(played) - MUSIC_SECONDS) < LOST_SECONDS * len(WAYS)
