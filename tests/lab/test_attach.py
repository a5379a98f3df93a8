"""A real card is taken from the host's driver, fails in a nook in every way, and is given back. In a lab machine:

nooks lab run --device e1000 --device usb-net -- .venv/bin/pytest tests/lab/test_attach.py
"""

from collections.abc import Iterator
from typing import Any

import pytest

from nooks.host import paths
from nooks.spec import load
from tests.lab.conftest import (
    NOTICED_AS,
    Card,
    Nook,
    Talk,
    cabled,
    driver_of,
    end_nooks,
    network_devices,
    nooks,
    ok,
    run,
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not network_devices(), reason="not inside a lab machine with network cards ('nooks lab run')"),
]

STEPS = {"reset", "plug", "probe", "link"}


@pytest.fixture(params=network_devices(), ids=lambda device: str(device["model"]))
def card(request: pytest.FixtureRequest) -> Iterator[Card]:
    with cabled(request.param) as made:
        yield made
        end_nooks()


def attached(card: Card, *flags: str) -> Nook:
    """The card in a nook, and all as it was for applications."""
    before, native = card.configured(), driver_of(card.device)
    started = ok("attach", card.interface, "--intensity", "1000", *flags)
    assert started["interface"] == before["name"]
    assert started["driver"]
    assert card.configured() == before
    assert driver_of(card.device) != native
    assert card.reaches()
    return Nook(started["name"])


def detached(card: Card, nook: Nook, before: dict[str, Any], native: str | None) -> None:
    ok("detach", nook.name)
    assert card.configured() == before
    assert driver_of(card.device) == native
    assert card.reaches()


@pytest.mark.lab_short
def test_a_card_lives_in_a_nook_and_comes_back(card: Card) -> None:
    before, native = card.configured(), driver_of(card.device)
    nook = attached(card)
    talk = Talk(card)
    try:
        for how in ["kill", *(["dma"] if card.tells_of_dma else [])]:
            reason, resumed = nook.crash(how)
            assert reason in NOTICED_AS[how]
            assert resumed["means"] == "hotplug"
            assert talk.goes_on()
        assert set((nook.events("restarted")[-1].detail or {})["seconds"]) == STEPS
    finally:
        talk.close()
    detached(card, nook, before, native)


def test_a_card_fails_in_every_way(card: Card) -> None:
    before, native = card.configured(), driver_of(card.device)
    nook = attached(card)
    talk = Talk(card)
    ways = {how: reasons for how, reasons in NOTICED_AS.items() if how != "dma" or card.tells_of_dma}
    try:
        for how, reasons in ways.items():
            reason, _ = nook.crash(how)
            assert reason in reasons, how
            assert talk.goes_on(), how
    finally:
        talk.close()
    assert nook.status()["recoveries"] == len(ways)
    detached(card, nook, before, native)


def test_what_was_changed_meanwhile_is_kept(card: Card) -> None:
    native = driver_of(card.device)
    nook = attached(card)
    run("ip", "address", "add", "198.18.99.1/32", "dev", card.interface)
    expected = card.configured()
    detached(card, nook, expected, native)
    assert ("198.18.99.1", 32) in [tuple(address) for address in expected["addresses"]]


def test_from_each_start_of_the_machine_on(card: Card) -> None:
    before, native = card.configured(), driver_of(card.device)
    attached(card, "--persist", "--memory", "144M")
    noted = paths.etc_dir() / f"{card.interface}.toml"
    ok("stop", card.interface)
    assert (card.configured(), driver_of(card.device)) == (before, native)
    ok("start", str(noted))
    assert card.configured() == before
    assert card.reaches()
    assert load(noted).memory == "144M"
    detached(card, Nook(card.interface), before, native)
    assert not noted.exists()


def test_a_dry_run_touches_nothing(card: Card) -> None:
    before, native = card.configured(), driver_of(card.device)
    plan = ok("attach", card.interface, "--dry-run")
    assert plan["possible"]
    assert plan["configuration"]["name"] == before["name"]
    assert (card.configured(), driver_of(card.device)) == (before, native)


def test_bad_names_are_told(card: Card) -> None:
    native = driver_of(card.device)
    for arguments, words in (
        (["attach", card.interface, "--name", "Nook"], "name"),
        (["attach", card.interface, "--kernel", "9.9.9"], "9.9.9"),
        (["attach", "0000:77:00.0"], "0000:77:00.0"),
        (["attach", "usb:dead:beef"], "dead:beef"),
    ):
        done = nooks(*arguments)
        assert done.returncode in (1, 2), arguments
        assert done.stderr.startswith("nooks: error: ")
        assert words in done.stderr
    assert driver_of(card.device) == native
    assert card.reaches()
