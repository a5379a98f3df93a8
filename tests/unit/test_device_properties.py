"""What models are told by default, for QEMUs that know more and fewer properties. QEMU's words are a script's here."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from nooks.device import emulated, properties
from nooks.domain import emulator
from nooks.lab.machine.layout import place
from nooks.lab.machine.models import Model
from nooks.lab.machine.options import Card

HELP = """e1000 options:
  addr=<int32>           - Slot and optional function number
  {}mac=<str>              - Ethernet 6-byte MAC Address
"""


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[str], Path]]:
    """Install a QEMU which has this property besides others; returns the file in which it notes that it was asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    asked = tmp_path / "asked"

    def install(extra: str) -> Path:
        said = HELP.format(f"{extra}=<bool> - on/off\n  " if extra else "")
        program = tmp_path / emulator.PROGRAM
        program.write_text(f"#!/bin/sh\necho asked >> {asked}\ncat <<'END'\n{said}END\n")
        program.chmod(0o755)
        forget()
        return asked

    def forget() -> None:
        emulator.version_text.cache_clear()
        properties.known.cache_clear()

    yield install
    forget()


def test_a_default_is_given_where_the_model_has_it(qemu: Callable[[str], Path]) -> None:
    qemu("autonegotiation")
    assert emulated.defaults("e1000") == {"autonegotiation": "off"}
    assert emulated.network_card("e1000", (("autonegotiation", "on"),))["autonegotiation"] == "on"


def test_and_left_out_where_it_has_not(qemu: Callable[[str], Path]) -> None:
    qemu("")
    assert emulated.defaults("e1000") == {}
    assert emulated.network_card("e1000", ()) == {"driver": "e1000", "netdev": "wire"}


def test_each_build_is_asked_once(qemu: Callable[[str], Path]) -> None:
    asked = qemu("")
    for _ in range(2):
        assert emulated.defaults("e1000") == {}
        properties.known.cache_clear()  # as in the next process
    assert asked.read_text().count("asked") == 1
    qemu("autonegotiation")  # another build
    assert emulated.defaults("e1000") == {"autonegotiation": "off"}
    assert asked.read_text().count("asked") == 2


def test_another_build_is_asked_itself(qemu: Callable[[str], Path], tmp_path: Path) -> None:
    qemu("autonegotiation")
    build = emulator.Emulator(tmp_path / "build")
    loader = tmp_path / "build" / emulator.LOADER
    loader.parent.mkdir(parents=True)
    loader.write_text(f"#!/bin/sh\ncat <<'END'\n{HELP.format('')}END\n")
    loader.chmod(0o755)
    assert emulated.defaults("e1000", build) == {}
    assert emulated.defaults("e1000") == {"autonegotiation": "off"}
    card = Card(Model("e1000", "PCI", "Network"))
    told = {which: " ".join(place([card], which)[0].arguments) for which in (emulator.SYSTEM, build)}
    assert "autonegotiation=off" in told[emulator.SYSTEM]
    assert "autonegotiation" not in told[build]


def test_without_rows_nobody_is_asked(qemu: Callable[[str], Path]) -> None:
    asked = qemu("")
    assert emulated.defaults("pcnet") == {}
    assert not asked.exists()


def test_no_qemu_is_somebody_elses_complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    emulator.version_text.cache_clear()
    properties.known.cache_clear()
    assert emulated.defaults("e1000") == {"autonegotiation": "off"}
    properties.known.cache_clear()
