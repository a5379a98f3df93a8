"""A real sound card is taken from the host's driver, fails in a nook in every way, and is given back. In a lab machine:

nooks lab run --device AC97 --device usb-audio -- .venv/bin/pytest tests/lab/test_sound.py
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nooks.device import card_mixer, pci, usb
from nooks.lab.sound.music import write_music
from tests.lab.conftest import DEVICES, NOTICED_AS, Nook, driver_of, end_nooks, logs, nooks, ok
from tests.vm.sound_servers import user_server

FRAME_BYTES, RATE = 4, 48000
SECOND_BYTES = RATE * FRAME_BYTES
WAYS = tuple(how for how in NOTICED_AS if how != "dma")
TOO_SLOW = "no-progress"
"""A card that takes 40 s for a second of music may be failed for that, before what was done to it is noticed."""
GOES_ON_SECONDS = 400.0
"""An emulated PC in an emulated PC: where its processors do other things as well, a second of music took 40."""


@dataclass(frozen=True)
class SoundCard:
    """A sound card of the lab machine; ``device`` is nooks' name of it."""

    model: str
    device: str

    @property
    def card(self) -> str:
        """What the host's driver calls it now."""
        kind, _, where = self.device.partition(":")
        (name,) = pci.find(where).sounds if kind == "pci" else usb.find(where).sounds
        return name

    @property
    def driver(self) -> str | None:
        """The driver that has it now."""
        return driver_of(self.device)


def sound_cards() -> list[SoundCard]:
    """Those of this lab machine that the host's drivers have made a card of; none outside of one."""
    found: list[SoundCard] = []
    for line in json.loads(DEVICES.read_text()) if DEVICES.exists() else ():
        if line["bus"] == "pci" and pci.find(line["address"]).sounds:
            found.append(SoundCard(line["model"], f"pci:{line['address']}"))
        adapter = usb.at_port(line["usb"]) if line["usb"] else None
        if adapter is not None and adapter.sounds:
            found.append(SoundCard(line["model"], f"usb:{adapter.ids}"))
    return found


pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not sound_cards(), reason="not inside a lab machine with sound cards ('nooks lab run')"),
    pytest.mark.skipif(shutil.which("pulseaudio") is None, reason="needs PulseAudio"),
]


@pytest.fixture(params=sound_cards(), ids=lambda card: str(card.model))
def card(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SoundCard]:
    made: SoundCard = request.param
    native = made.driver
    assert native is not None
    turn_down(made)
    host_plays(made, tmp_path / "before")
    yield made
    end_nooks()
    assert made.driver == native
    host_plays(made, tmp_path / "after")


@contextmanager
def host_server(card: SoundCard, folder: Path) -> Generator[Any]:
    """A sound server of the host that has the card, by the host's own driver."""
    folder.mkdir()
    with user_server("pulseaudio", folder) as server:
        number = card.card.removeprefix("card")
        made = server.pactl("load-module", "module-alsa-sink", f"device=hw:{number}", "sink_name=host")
        assert made.returncode == 0, made.stderr
        yield server


def turn_down(card: SoundCard) -> None:
    """Give the host's card a volume that no driver begins with."""
    volumes = [key for key in card_mixer.read(card.card) if key.endswith("playback-volume")]
    assert volumes
    assert card_mixer.restore(card.card, dict.fromkeys(volumes, 7), 0) == []


def host_plays(card: SoundCard, folder: Path) -> None:
    """The host's own driver plays: all of it, to the end."""
    with host_server(card, folder) as server:
        music = folder / "music.raw"
        write_music(music, RATE, 1)
        played = server.run("paplay", "--raw", "--device=host", "--rate=48000", "--channels=2", str(music))
        assert played.returncode == 0, played.stderr


class Listening:
    """Somebody who plays and records at a nook's server for as long as the test lasts."""

    def __init__(self, started: dict[str, Any], folder: Path) -> None:
        environment = {**os.environ, "PULSE_SERVER": started["server"], "PULSE_COOKIE": str(folder / "cookie")}
        form = ["--raw", "--format=s16le", f"--rate={RATE}", "--channels=2", "--latency-msec=200"]
        self._said = folder / "said"
        self._recorded = folder / "recorded.raw"
        self._given = 0
        self._ending = False
        with self._said.open("wb") as said:
            argv = ["pacat", f"--device={started['sink']}", *form]
            self._player = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=said, env=environment)
            self._recorder = None
            if started["source"] is not None:
                argv = ["parecord", f"--device={started['source']}", *form, str(self._recorded)]
                self._recorder = subprocess.Popen(argv, stderr=said, env=environment)
        self._feeder = threading.Thread(target=self._feed)
        self._feeder.start()

    def _feed(self) -> None:
        assert self._player.stdin is not None
        piece = bytes(range(1, 241)) * 20  # 25 ms
        while not self._ending:
            try:
                self._player.stdin.write(piece)
            except BrokenPipeError:
                return
            self._given += len(piece)

    def goes_on(self) -> bool:
        """Whether a second's worth is played (more than all buffers hold), and a quarter of one recorded, in time."""
        deadline = time.monotonic() + GOES_ON_SECONDS
        played, recorded = self._given + SECOND_BYTES, self._size() + SECOND_BYTES // 4
        while self._given < played or (self._recorder is not None and self._size() < recorded):
            if time.monotonic() > deadline or self.complaints():
                return False
            time.sleep(0.1)
        return True

    def complaints(self) -> str:
        """What a client said, or that it ended."""
        clients = [client for client in (self._player, self._recorder) if client is not None]
        ended = [f"{client.args} ended with {status}" for client in clients if (status := client.poll()) is not None]
        return "\n".join([*ended, self._said.read_text()]).strip()

    def close(self) -> None:
        """End both."""
        self._ending = True
        for client in (self._player, self._recorder):
            if client is not None:
                client.kill()
                client.wait()
        self._feeder.join()
        assert self._player.stdin is not None
        with suppress(BrokenPipeError):
            self._player.stdin.close()

    def _size(self) -> int:
        return self._recorded.stat().st_size if self._recorded.exists() else 0


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("ways", [("kill", "panic", "silent"), WAYS], ids=["short", "every-way"])
def test_a_card_fails_and_comes_back(card: SoundCard, ways: tuple[str, ...], tmp_path: Path) -> None:
    native, mixer = card.driver, card_mixer.read(card.card)
    started = ok("attach", card.card, "--name", "speakers", "--intensity", "1000")
    assert (started["class"], started["sink"]) == ("sound", "nooks-speakers")
    assert card.driver != native
    nook = Nook("speakers")
    somebody = Listening(started, tmp_path)
    try:
        assert somebody.goes_on(), somebody.complaints()
        for how in ways:
            reason, resumed = nook.crash(how)
            assert reason in {*NOTICED_AS[how], TOO_SLOW}, how
            assert resumed["means"] == "hotplug"
            assert somebody.goes_on(), f"{how} {somebody.complaints()} {nook.status()}\n{logs()}"
        assert somebody.complaints() == ""
    finally:
        somebody.close()
    assert nook.status()["recoveries"] >= len(ways)
    ok("detach", "speakers")
    assert card.driver == native
    assert card_mixer.read(card.card) == mixer


def test_a_card_that_a_server_has_is_refused(card: SoundCard, tmp_path: Path) -> None:
    native = card.driver
    with host_server(card, tmp_path / "server"):
        done = nooks("attach", card.device, "--name", "speakers")
        assert done.returncode == 1
        assert f"(pulseaudio) has {card.card} open" in done.stderr
        assert "--force" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        plan = nooks("attach", card.device, "--name", "speakers", "--dry-run", "--force")
        assert plan.returncode == 0, plan.stderr
    assert card.driver == native


def test_an_interrupted_attach_puts_all_back(card: SoundCard) -> None:
    """Ctrl-C when the card has just been taken; the fixture looks whether the host's driver plays again."""
    native = card.driver
    argv = [sys.executable, "-m", "nooks.cli.main", "attach", card.device, "--name", "speakers"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while card.driver == native:
        assert process.poll() is None, process.communicate()
    process.send_signal(2)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in said
