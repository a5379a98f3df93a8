"""Sound cards of ours under their stock drivers: what is played arrives, what is recorded is what was there."""

import array
import os
import shutil
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nooks.hardware.wave import WaveSink
from nooks.host.pace import slowness

from .guest.sound import PATTERN_FRAMES, whole_pattern
from .sound_bench import SoundBench

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU"),
]

HEADER_BYTES = 44
UNITY = {
    "Master Playback Switch": [1, 1],
    "Master Playback Volume": [31, 31],
    "PCM Playback Switch": [1, 1],
    "PCM Playback Volume": [23, 23],
    "Capture Switch": [1],
    "Capture Volume": [0, 0],
}
"""Mixer elements that let samples through as they are."""


@dataclass(frozen=True)
class Card:
    """A model, its driver, what its mixer needs beside UNITY, and the form of recordings that it can do."""

    model: str
    module: str
    mixer: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    recording: dict[str, int] = field(default_factory=dict[str, int])

    def open_up(self) -> dict[str, Any]:
        """The step that lets samples through."""
        return {"do": "mixer", "elements": UNITY | self.mixer}


_EMU = {
    "Wave Playback Volume": [100, 100],
    "Synth Playback Volume": [0, 0],
    "Front Playback Volume": [100, 100],
    "AC97 Capture Volume": [100, 100],
}
_AUDIGY = {
    "Master Playback Volume": [100, 100],
    "PCM Playback Volume": [100, 100],
    "PCM Front Playback Volume": [100, 100],
    "Synth Playback Volume": [0, 0],
    "Front Playback Volume": [100, 100],
    "Mic Capture Volume": [0, 0],
    "Analog Mix Capture Volume": [100, 100],
}
_EMU_RECORDING = {"period": 8192, "periods": 2}
CARDS = [
    pytest.param(Card("es1371", "snd-ens1371"), id="es1371"),
    pytest.param(Card("sblive", "snd-emu10k1", _EMU, _EMU_RECORDING), id="sblive"),
    pytest.param(Card("audigy", "snd-emu10k1", _AUDIGY, _EMU_RECORDING), id="audigy"),
]


def expected(frames: int) -> bytes:
    """The first frames of the endless pattern."""
    rounds = frames // PATTERN_FRAMES + 1
    return (whole_pattern()[: 2 * PATTERN_FRAMES] * rounds)[: 2 * frames].tobytes()


def played(bench: SoundBench) -> bytes:
    """All samples that the card has put out; the file's header must agree."""
    content = bench.played.read_bytes()
    assert struct.unpack_from("<I", content, 40)[0] == len(content) - HEADER_BYTES
    return content[HEADER_BYTES:]


def pattern_file(folder: Path) -> Path:
    """One round of the pattern, to be recorded over and over."""
    path = folder / "source.wav"
    sink = WaveSink(os.open(path, os.O_RDWR | os.O_CREAT))
    sink.write(whole_pattern()[: 2 * PATTERN_FRAMES])
    sink.close()
    return path


@pytest.mark.parametrize("card", CARDS)
def test_what_is_played_arrives(tmp_path: Path, card: Card) -> None:
    with SoundBench(card.model, card.module, tmp_path) as bench:
        said = bench.run(card.open_up(), {"do": "play", "seconds": 4})
        assert said["play"]["xruns"] == 0, said
        assert 3.5 < said["play"]["seconds"] < 4.5 * slowness(), said
        assert expected(4 * 48000) in played(bench)


@pytest.mark.parametrize("card", CARDS)
def test_other_rates_and_short_periods(tmp_path: Path, card: Card) -> None:
    """The samples are interpolated then; they must be as many as their time says, and as loud."""
    with SoundBench(card.model, card.module, tmp_path) as bench:
        said = bench.run(card.open_up(), {"do": "play", "seconds": 2, "rate": 24000, "period": 512, "periods": 32})
        assert said["play"]["xruns"] == 0, said
        samples = array.array("h", played(bench))
        assert abs(len(samples) / 2 / 48000 - 2) < 0.3
        assert max(samples[0::2]) > 29000
        assert min(samples[0::2]) < -29000


@pytest.mark.parametrize("card", CARDS)
def test_what_is_recorded_was_there(tmp_path: Path, card: Card) -> None:
    source = pattern_file(tmp_path)
    with SoundBench(card.model, card.module, tmp_path, record=source) as bench:
        said = bench.run(card.open_up(), {"do": "record", "seconds": 2, **card.recording})["record"]
        assert (said["xruns"], said["breaks"]) == (0, 0), said
        assert 1.5 < said["seconds"] < 2.5 * slowness()
        assert bytes.fromhex(said["samples"])[:400] in expected(2 * PATTERN_FRAMES)


@pytest.mark.parametrize("card", CARDS)
def test_the_next_driver_takes_over_while_it_plays(tmp_path: Path, card: Card) -> None:
    """The first domain is killed with the card at work; the second one finds it so."""
    with SoundBench(card.model, card.module, tmp_path) as bench:
        enough = HEADER_BYTES + 4 * 48000
        bench.run(card.open_up(), {"do": "play", "seconds": 1e6}, until=lambda: bench.played.stat().st_size > enough)
        time.sleep(1)  # the card has noticed
        before = len(played(bench))
        said = bench.run(card.open_up(), {"do": "play", "seconds": 2})
        assert said["play"]["xruns"] == 0, said
        assert expected(2 * 48000) in played(bench)[before:]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("card", CARDS)
def test_five_minutes_without_an_xrun(tmp_path: Path, card: Card) -> None:
    with SoundBench(card.model, card.module, tmp_path) as bench:
        said = bench.run(card.open_up(), {"do": "play", "seconds": 300}, within_seconds=400)
        assert said["play"]["xruns"] == 0, said
        assert expected(300 * 48000) in played(bench)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("card", CARDS)
def test_five_minutes_recorded_without_an_overrun(tmp_path: Path, card: Card) -> None:
    """``breaks`` counts frames that do not follow on what was recorded before."""
    source = pattern_file(tmp_path)
    with SoundBench(card.model, card.module, tmp_path, record=source) as bench:
        order = {"do": "record", "seconds": 300, **card.recording}
        said = bench.run(card.open_up(), order, within_seconds=400)["record"]
        assert (said["xruns"], said["breaks"]) == (0, 0), said
        assert bytes.fromhex(said["samples"])[:400] in expected(2 * PATTERN_FRAMES)
