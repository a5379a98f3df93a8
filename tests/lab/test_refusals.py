"""What can't be put in a nook is refused in words, before anything was touched. In lab machines:

nooks lab run --device e1000 --device e1000,bridge=b --device pcnet,bridge=b -- .venv/bin/pytest tests/lab
nooks lab run --no-iommu --device e1000 -- .venv/bin/pytest tests/lab/test_refusals.py
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nooks.device import pci
from nooks.device.vfio import iommu_on
from tests.lab.conftest import Card, cabled, network_devices, nooks, run

DEVICES = network_devices()
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not DEVICES, reason="not inside a lab machine with network cards ('nooks lab run')"),
]
with_iommu = pytest.mark.skipif(not iommu_on(), reason="this lab machine has no IOMMU")


@pytest.fixture
def card() -> Iterator[Card]:
    """The first card, which has its IOMMU group for itself; untouched in the end."""
    with cabled(DEVICES[0]) as made:
        before, driver = made.configured(), pci.find(made.device).driver
        yield made
        assert made.configured() == before
        assert pci.find(made.device).driver == driver
        assert made.reaches()


def refusal(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """What the command says when it refuses: one line."""
    os.environ.update(environment or {})
    try:
        done = nooks(*arguments)
    finally:
        for key in environment or {}:
            del os.environ[key]
    assert done.returncode == 1, done.stdout
    assert not done.stdout
    assert done.stderr.startswith("nooks: error: ")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.mark.skipif(iommu_on(), reason="this lab machine has an IOMMU")
def test_without_iommu(card: Card) -> None:
    assert "IOMMU" in refusal("attach", card.interface)
    done = nooks("doctor")
    assert f"pci:{card.device}" in done.stdout
    assert "IOMMU" in done.stdout


@with_iommu
@pytest.mark.skipif(len(DEVICES) < 3, reason="this lab machine has no two cards in one group")
def test_a_shared_group(card: Card) -> None:
    first, second = (device["address"] for device in DEVICES[1:3])
    assert second in refusal("attach", first)
    assert card.reaches()


@with_iommu
def test_a_card_in_a_bridge(card: Card) -> None:
    run("ip", "link", "add", "br-test", "type", "bridge")
    try:
        run("ip", "link", "set", card.interface, "master", "br-test")
        assert "br-test" in refusal("attach", card.interface)
        run("ip", "link", "set", card.interface, "nomaster")
    finally:
        run("ip", "link", "delete", "br-test")


@with_iommu
def test_the_card_that_the_user_is_logged_in_over(card: Card) -> None:
    login = {"SSH_CONNECTION": f"{card.far} 50000 {card.near} 22"}
    said = refusal("attach", card.interface, environment=login)
    assert card.far in said
    assert "--force" in said
    os.environ.update(login)
    try:
        plan = nooks("attach", card.interface, "--dry-run", "--force")
    finally:
        del os.environ["SSH_CONNECTION"]
    assert plan.returncode == 0, plan.stderr


@with_iommu
def test_vfio_pci_that_can_not_be_loaded(card: Card) -> None:
    folder = Path("/lib/modules", os.uname().release, "kernel/drivers/vfio").resolve()
    run("modprobe", "-r", "vfio-pci")
    run("mount", "-t", "tmpfs", "none", str(folder))
    try:
        assert "vfio" in refusal("attach", card.interface)
    finally:
        run("umount", str(folder))
        run("modprobe", "vfio-pci")


@with_iommu
def test_an_interrupted_attach_puts_all_back(card: Card) -> None:
    """Ctrl-C when the card has just been taken."""
    argv = [".venv/bin/nooks", "attach", card.interface]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while pci.find(card.device).driver != "vfio-pci":
        assert process.poll() is None, process.communicate()
    process.send_signal(2)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in said
