"""Sound nooks whose cards are models of ours: what clients play arrives at the card's plug, through failures."""

import array
import math
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nooks.host.pace import slowness

from .conftest import Bench
from .test_nook_models import failures_of, model_process

pytestmark = [
    pytest.mark.vm,
    pytest.mark.slow,  # and not steady on two cores without KVM (docs/limits.md)
    pytest.mark.skipif(shutil.which("pulseaudio") is None, reason="needs PulseAudio"),
]

RATE, HEADER_BYTES = 48000, 44
MUSIC_SECONDS = 20.0
BLOCK_FRAMES = 480
LOUD = 1000
CARDS = [("ens1371", "model:es1371"), ("emu10k1-live", "model:sblive"), ("emu10k1-audigy", "model:audigy")]
WAYS = {"kill": {"exit"}, "hang": {"heartbeat"}, "panic": {"panic"}}
BUSY = 1.5
LOST_SECONDS = 0.3
"""What one failure may cost of the music or repeat of it: what was inside of a card that is no more."""


def music(path: Path) -> None:
    """A tone that is never silent for a block of frames."""
    period = [int(8000 * math.sin(2 * math.pi * frame / 480)) for frame in range(480)]
    frames = array.array("h", [sample for sample in period for _ in range(2)])
    path.write_bytes((frames * int(MUSIC_SECONDS * RATE / 480)).tobytes())


@contextmanager
def playing(bench: Bench, server: str, path: Path) -> Generator["subprocess.Popen[bytes]"]:
    """An ordinary client, which is at it."""
    form = ["--format=s16le", f"--rate={RATE}", "--channels=2", "--raw"]
    client = subprocess.Popen(["pacat", "-s", server, "-d", f"nooks-{bench.name}", *form, str(path)])
    try:
        yield client
    finally:
        client.kill()
        client.wait()


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
    """A machine that is too busy to play in time has a few more of them."""
    tone, played = tmp_path / "tone.raw", tmp_path / "played.wav"
    music(tone)
    flags = ["--driver", driver, "--device", f"{device},play={played}", "--intensity", "1000"]
    started = bench.ok("start", *flags, "--name", bench.name)
    bench.stack.callback(bench.nooks, "stop", bench.name, "--force")
    card = model_process(bench)
    with playing(bench, started["server"], tone) as client:
        for how, reasons in WAYS.items():
            time.sleep(2)
            failed = crash(bench, how)
            assert failed["reason"] in reasons or slowness() > BUSY, failed
        assert client.wait(MUSIC_SECONDS * 3 * slowness()) == 0
    failures = bench.status()["failures"]
    assert failures == len(WAYS) or slowness() > BUSY, failures_of(bench)
    assert model_process(bench) == card
    bench.ok("stop", bench.name)
    assert abs(loud_seconds(played) - MUSIC_SECONDS) < LOST_SECONDS * failures
