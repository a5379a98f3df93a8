"""Malformed messages never crash or hang a card. ``make fuzz`` looks for longer, guided by coverage."""

import pytest
from ethernet_cable import Cables
from hostile_client import attack
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nooks.hardware.card import NETWORK_CARDS, SOUND_CARDS
from nooks.hardware.loop import Loop
from nooks.hardware.memory import Refused
from nooks.hardware.pci import PciFunction
from nooks.hardware.wave import WaveSink, WaveSource

IDENTITIES = {
    "3c905b": 0x905510B7,
    "epic100": 0x000510B8,
    "es1371": 0x13711274,
    "sblive": 0x00021102,
    "audigy": 0x00041102,
}


@pytest.mark.parametrize("in_python", [False, True], ids=["library", "python"])
@pytest.mark.parametrize("name", sorted(IDENTITIES))
@settings(max_examples=150)
@given(data=st.binary(max_size=1500))
@example(data=b"")
@example(data=bytes([5, 40]) + b"\xff" * 60)
def test_a_hostile_client_does_no_harm(name: str, in_python: bool, data: bytes) -> None:
    attack_card(name, data, in_python=in_python)


def attack_card(name: str, data: bytes, *, in_python: bool) -> None:
    """Let ``data`` loose on the card of that name; ``in_python``: it goes without the library in C."""
    if name in SOUND_CARDS:

        def make(loop: Loop, refused: Refused) -> PciFunction:
            return SOUND_CARDS[name](loop, refused, WaveSink(-1), WaveSource(-1))

        attack(make, IDENTITIES[name], data, in_python=in_python)
        return
    cables = Cables(NETWORK_CARDS[name])
    attack(cables.make, IDENTITIES[name], data, cables.far_end, in_python=in_python)
    cables.far.close()
