"""What is noted of a real device before it is touched, and that the note leads back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nooks.device.pci import PciTaken
from nooks.endpoint.configuration import Address, Configuration
from nooks.host.errors import StateError
from nooks.nook import possession
from nooks.nook.claims import DEVICE
from nooks.nook.possession import Possession
from nooks.spec import from_flags

TAKEN = PciTaken(
    address="0000:03:00.0",
    vendor=0x8086,
    device=0x100E,
    driver="e1000",
    module="e1000",
    driver_override="",
    group=7,
    interfaces=("eth7",),
)
CONFIGURATION = Configuration(
    name="eth7",
    mac="52:54:00:00:00:07",
    mtu=1400,
    up=True,
    promiscuous=False,
    allmulti=False,
    txqueuelen=1000,
    addresses=(Address(address="192.0.2.7/24"),),
)
POSSESSION = Possession(device="pci:0000:03:00.0", taken=TAKEN, configuration=CONFIGURATION)


class World:
    """The devices and interfaces of a machine, as far as this module asks for them; ``done`` is what was done."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.done: list[Any] = []
        self.failing: set[str] = set()
        self.name = "eth7"
        for name, function in (
            ("taking.take", self._step("take")),
            ("taking.give_back", self._step("give back")),
            ("taking.interfaces_back", self._interfaces),
            ("handover.apply", self._apply),
            ("handover.record", self._record),
            ("_renamed", self._rename),
        ):
            monkeypatch.setattr(f"nooks.nook.possession.{name}", function)

    @property
    def noted(self) -> bool:
        return (self.directory / DEVICE).exists()

    def _step(self, what: str) -> Callable[[PciTaken], None]:
        def step(taken: PciTaken) -> None:
            assert taken == TAKEN
            self.done.append((what, self.noted))
            if what in self.failing:
                raise StateError(f"no {what}")

        return step

    def _interfaces(self, taken: PciTaken, within_seconds: float) -> tuple[str, ...]:
        assert (taken, within_seconds > 0) == (TAKEN, True)
        return (self.name,) if self.name else ()

    def _rename(self, interface: str, name: str) -> str:
        assert interface == self.name
        return name

    def _apply(self, configuration: Configuration, interface: str) -> list[str]:
        self.done.append((configuration, interface))
        return ["something was refused"]

    def _record(self, interface: str) -> Configuration:
        assert interface == "nic0"
        return msgspec.structs.replace(CONFIGURATION, name="nic0", mac="02:00:00:00:00:01", mtu=1300)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_the_note_is_there_before_the_device_is_touched(world: World) -> None:
    possession.take(world.directory, POSSESSION)
    assert world.done == [("take", True)]
    assert possession.of(world.directory) == POSSESSION


def test_a_device_that_can_not_be_taken_is_given_back(world: World) -> None:
    world.failing.add("take")
    with pytest.raises(StateError, match="no take"):
        possession.take(world.directory, POSSESSION)
    assert world.done[:2] == [("take", True), ("give back", True)]
    assert not world.noted


def test_giving_back_configures_the_interface_and_forgets(world: World) -> None:
    possession.take(world.directory, POSSESSION)
    possession.give_back(world.directory)
    assert world.done[1:] == [("give back", True), (CONFIGURATION, "eth7")]
    assert not world.noted
    possession.give_back(world.directory)
    assert len(world.done) == 3


def test_the_note_stays_when_giving_back_fails(world: World) -> None:
    possession.take(world.directory, POSSESSION)
    world.failing.add("give back")
    with pytest.raises(StateError, match="no give back"):
        possession.give_back(world.directory)
    assert possession.of(world.directory) == POSSESSION


def test_an_interface_that_does_not_come_back_is_no_reason_to_keep_the_note(world: World) -> None:
    possession.take(world.directory, POSSESSION)
    world.name = ""
    possession.give_back(world.directory)
    assert not world.noted


def test_what_was_changed_meanwhile_is_noted_under_the_old_name(world: World) -> None:
    possession.take(world.directory, POSSESSION)
    possession.renote(world.directory, "nic0")
    possession.give_back(world.directory)
    assert world.done[-1] == (msgspec.structs.replace(CONFIGURATION, mtu=1300), "eth7")


def test_a_sound_cards_mixer_is_as_before(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever number the card comes back."""
    mixer = {"mixer.master-playback-volume": [7, 7], "mixer.capture-source": "Mic"}
    cards = iter(["card0", "card2", None])

    def restore(card: str, values: dict[str, Any], within_seconds: float) -> list[str]:
        assert within_seconds > 0
        world.done.append((card, values))
        return ["something was refused"]

    def made(taken: PciTaken, within_seconds: float = 0.0) -> str | None:
        return next(cards)

    without_interface = msgspec.structs.replace(TAKEN, interfaces=())
    monkeypatch.setattr("nooks.nook.possession.taking.plan", {"pci:0000:03:00.0": without_interface}.__getitem__)
    monkeypatch.setattr("nooks.nook.possession.taking.card", made)
    monkeypatch.setattr("nooks.nook.possession.card_mixer.read", {"card0": mixer}.__getitem__)
    monkeypatch.setattr("nooks.nook.possession.card_mixer.restore", restore)
    device = {"driver": "intel8x0", "device": "pci:0000:03:00.0", "name": "speakers", "class": "sound"}
    planned = possession.plan(from_flags(device))
    assert planned.mixer == mixer
    noted = msgspec.structs.replace(planned, taken=TAKEN)
    possession.take(world.directory, noted)
    possession.give_back(world.directory)
    assert world.done[-1] == ("card2", mixer)
    possession.take(world.directory, noted)
    possession.give_back(world.directory)
    assert not world.noted


def test_a_damaged_note_is_told(world: World) -> None:
    (world.directory / DEVICE).write_text("{")
    with pytest.raises(StateError, match="damaged"):
        possession.of(world.directory)
