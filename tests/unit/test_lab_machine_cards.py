"""Cards of a lab machine: what may be asked for, and where each sits."""

import json
import shutil
from pathlib import Path

import pytest

from nooks.domain.emulator import SYSTEM, Emulator
from nooks.host.errors import InputError, NooksError
from nooks.image.progress import Progress
from nooks.lab.machine import run
from nooks.lab.machine.layout import place
from nooks.lab.machine.models import Model
from nooks.lab.machine.options import Card, parse_card, parse_cards

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")


def test_a_network_card_of_ours_is_reached_by_a_socket_and_has_a_cable() -> None:
    (placed,) = place(parse_cards(["model:epic100"]))
    device = json.loads(placed.arguments[placed.arguments.index("-device") + 1])
    assert device["driver"] == "vfio-user-pci"
    assert device["socket"]["path"] == "{media}/card0"
    assert (device["bus"], placed.path) == ("pcie.0", ("05.0",))
    assert placed.mac is not None
    assert placed.mac.startswith("00:e0:29:")
    assert (placed.wire, placed.bus, placed.facts()["model"]) == ("wire0", "pci", "model:epic100")
    assert "dgram,id=wire0,local.type=fd,local.str={cable0}" in placed.arguments


def test_a_sound_card_of_ours_has_no_cable_and_may_sit_behind_a_bridge() -> None:
    first, second = place(parse_cards(["model:sblive,bridge=b0", "model:audigy,bridge=b0"]))
    assert (first.wire, first.mac, first.card.model.makes_sound) == (None, None, False)
    assert first.path[0] == second.path[0]
    assert first.path[1] != second.path[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model:3c905", "there is no device model"),
        ("model:es1371,play=x.wav", "only bridge and port"),
        ("model:", "is wrong"),
        ("model:3c905b,mac=1", "set by the lab itself"),
    ],
)
def test_what_can_not_be(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_card(text)


@needs_qemu
def test_cards_of_qemu_hang_on_a_hub() -> None:
    (placed,) = place(parse_cards(["e1000"]))
    assert "hubport,id=card0,hubid=0" in placed.arguments
    assert "hubport,id=wire0,hubid=0" in placed.arguments


def test_which_qemu_a_machine_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = Emulator(Path("/newer"))
    e1000, pcnet = (Card(Model(name, "PCI", "Network")) for name in ("e1000", "pcnet"))
    ours = Card(Model("model:epic100", "PCI", "Network"))

    def fetched(progress: Progress) -> Emulator:
        del progress
        return newer

    def out_of_reach(progress: Progress) -> Emulator:
        raise NooksError("no archive", "connect")

    monkeypatch.setattr(run, "with_vfio_user", fetched)
    wanted = {(): newer, (e1000,): newer, (e1000, pcnet): SYSTEM, (pcnet, ours): newer}
    assert {cards: run.emulator_for(cards) for cards in wanted} == wanted
    monkeypatch.setattr(run, "with_vfio_user", out_of_reach)
    assert run.emulator_for((e1000,)) == SYSTEM
    with pytest.raises(NooksError, match="no archive"):
        run.emulator_for((ours,))
