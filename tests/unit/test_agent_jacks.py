"""Jacks of a sound card: which there are, and when one has changed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nooks.agent import alsa
from nooks.agent.jacks import Jacks

ELEMENTS = [
    (alsa.IFACE_MIXER, b"Master Playback Volume", 0),
    (alsa.IFACE_CARD, b"Headphone Jack", 0),
    (alsa.IFACE_CARD, b"Headphone Jack", 1),
    (alsa.IFACE_CARD, b"Something else", 0),
    (alsa.IFACE_MIXER, b"Mic Jack", 0),
    (alsa.IFACE_CARD, b"PCM 0 Output also on Line-In Jack", 0),
]
SWITCH = b"PCM 0 Output also on Line-In Jack"


class Control:
    """A card's control node: a FIFO from which events come, and values that can be set."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self.writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.plugged = {(b"Headphone Jack", 0): 1, (b"Headphone Jack", 1): 0, (SWITCH, 0): 0}
        self.subscribed = 0

    def ids(self, descriptor: int) -> list[bytes]:
        return [alsa.ELEMENT_ID.pack(at, iface, 0, 0, name, index) for at, (iface, name, index) in enumerate(ELEMENTS)]

    def read(self, descriptor: int, identity: bytes) -> bytearray:
        _, _, _, _, name, index = alsa.ELEMENT_ID.unpack(identity)
        value = self.plugged.get((name.rstrip(b"\0"), index))
        if value is None:
            raise OSError
        return bytearray(alsa.ELEMENT_VALUE.pack(identity, 0, alsa.LONG.pack(value)))

    def info(self, descriptor: int, identity: bytes) -> bytearray:
        name = alsa.ELEMENT_ID.unpack(identity)[4].rstrip(b"\0")
        access = alsa.ACCESS_READ | (alsa.ACCESS_WRITE if name == SWITCH else 0)
        return bytearray(alsa.ELEMENT_INFO.pack(identity, alsa.BOOLEAN, access, 1, 0, b""))

    def subscribe(self, descriptor: int, content: bytes) -> bytearray:
        self.subscribed += 1
        return bytearray(content)


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    made = Control(tmp_path / "control")
    monkeypatch.setattr(alsa, "element_ids", made.ids)
    monkeypatch.setattr(alsa, "element_read", made.read)
    monkeypatch.setattr(alsa, "element_info", made.info)
    monkeypatch.setattr(alsa, "subscribe_events", made.subscribe)
    yield made
    os.close(made.writer)


def test_jacks_are_named_and_told(control: Control) -> None:
    jacks = Jacks(control.path)
    assert jacks.read() == {"Headphone": True, "Headphone 1": False}
    assert control.subscribed == 1
    control.plugged[b"Headphone Jack", 1] = 1
    os.write(control.writer, bytes(72))
    jacks.drain()
    jacks.drain()
    assert jacks.read() == {"Headphone": True, "Headphone 1": True}
    os.close(jacks.descriptor)


def test_a_jack_that_can_t_be_read_is_left_out(control: Control) -> None:
    jacks = Jacks(control.path)
    del control.plugged[b"Headphone Jack", 0]
    assert jacks.read() == {"Headphone 1": False}
    os.close(jacks.descriptor)


def test_a_card_without_jacks_announces_nothing(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    mixer_only = control.ids(0)[:1]
    monkeypatch.setattr(alsa, "element_ids", lambda _: mixer_only)  # pyright: ignore[reportUnknownLambdaType]
    jacks = Jacks(control.path)
    assert (jacks.read(), control.subscribed) == ({}, 0)
    os.close(jacks.descriptor)
