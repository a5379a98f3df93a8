"""Real PCI and USB devices, taken and given back. To be run inside a lab machine:

    nooks lab run --device e1000 --device usb-net --device e1000e,port=yes --device i82557b,bridge=b0 \
        --device pcnet,bridge=b0 -- .venv/bin/pytest tests/lab/test_devices.py

and once more with --no-iommu. What the machine at hand has no device for is skipped.
"""

import fcntl
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nooks.device import pci, taking, usb, vfio
from nooks.device.sysfs import HOST, GoneError, wait_until
from nooks.device.verdict import examine, survey
from nooks.host.errors import InputError, NooksError, StateError
from nooks.host.process import run

CARDS = Path("/run/nooks-lab/devices.json")
ROUNDS = 10
APPEAR_SECONDS = 30.0
CLAIM_INTERFACE = 0x8004550F
"""USBDEVFS_CLAIMINTERFACE of include/uapi/linux/usbdevice_fs.h."""

pytestmark = pytest.mark.skipif(not CARDS.exists(), reason="not inside a lab machine ('nooks lab run')")


@dataclass(frozen=True)
class Card:
    """A card of the lab machine; ``device`` is nooks' name of it."""

    model: str
    device: str

    @property
    def address(self) -> str:
        return self.device.partition(":")[2]

    def interface(self) -> str | None:
        """The network interface that it makes, whatever its name is now."""
        try:
            pci_card = self.device.startswith("pci:")
            found = pci.find(self.address).interfaces if pci_card else usb.find(self.address).nets
        except InputError:
            return None
        return next(iter(found), None)


def cards() -> list[Card]:
    found: list[Card] = []
    for entry in json.loads(CARDS.read_text()) if CARDS.exists() else ():
        at = usb.at_port(entry["usb"]) if entry["usb"] else None
        device = f"pci:{entry['address']}" if entry["address"] else f"usb:{at.ids}" if at is not None else ""
        if entry["mac"] and device:
            found.append(Card(entry["model"], device))
    return found


def card(model: str) -> Card:
    found = next((one for one in cards() if one.model == model), None)
    if found is None:
        pytest.skip(f"this machine has no {model}")
    if found.device.startswith("pci:") and not vfio.iommu_on():
        pytest.skip("this machine has no IOMMU")
    return found


@pytest.fixture(autouse=True)
def everything_is_given_back() -> Iterator[None]:
    """Every card has the driver that it had before, and an interface; there is no udev here that gives it its name."""
    before = {one.device: taking.plan(one.device) for one in cards()}
    yield
    for one in cards():
        taken = before[one.device]
        now = taking.plan(one.device)
        if isinstance(taken, pci.PciTaken) and isinstance(now, pci.PciTaken):
            assert (now.driver, now.driver_override) == (taken.driver, taken.driver_override)
        elif isinstance(taken, usb.UsbTaken) and isinstance(now, usb.UsbTaken):
            assert now.drivers == taken.drivers
        (name,) = taking.interfaces_back(taken)
        if name != taken.interfaces[0]:
            run(["ip", "link", "set", name, "down", "name", taken.interfaces[0]])


def there_and_back(one: Card) -> None:
    name = one.interface()
    assert name is not None
    assert taking.resolve(name) == one.device
    taken = taking.plan(one.device)
    for _ in range(ROUNDS):
        taking.take(taken)
        assert one.interface() is None
        assert taking.give_back(taken) is not None
        assert taking.interfaces_back(taken) == (one.interface(),)


def command_register(address: str) -> int:
    with HOST.at("sys/bus/pci/devices", address, "config").open("rb") as file:
        return int(struct.unpack_from("<H", file.read(64), 4)[0])


@pytest.mark.parametrize("model", ["e1000", "i82557b", "pcnet", "e1000e"])
def test_a_pci_card_there_and_back(model: str) -> None:
    there_and_back(card(model))


def test_a_usb_adapter_there_and_back() -> None:
    there_and_back(card("usb-net"))


def test_the_verdicts() -> None:
    verdicts = {verdict.device: verdict for verdict in survey()}
    for one in cards():
        verdict = verdicts[one.device]
        assert verdict.driver_class == "network"
        assert verdict.name == one.interface()
        assert verdict.module
        assert all(problem.message and problem.fix for problem in verdict.problems)
        if one.device.startswith("usb:"):
            assert verdict.possible
        elif not vfio.iommu_on():
            assert "IOMMU" in verdict.problems[0].message


def test_a_card_without_a_reset_method_is_made_quiet() -> None:
    one = card("e1000")
    assert examine(one.device).reset == "none"
    taken = taking.plan(one.device)
    run(["ip", "link", "set", one.interface() or "", "up"])
    assert command_register(one.address) & 4
    taking.take(taken)
    try:
        assert pci.reset(one.address) == "none"
        assert command_register(one.address) & 0x404 == 0x400
    finally:
        taking.give_back(taken)


def test_a_card_with_reset_methods_is_reset_by_the_first() -> None:
    one = card("e1000e")
    taken = taking.plan(one.device)
    taking.take(taken)
    try:
        assert pci.reset(one.address) == pci.find(one.address).reset_methods[0] == examine(one.device).reset
    finally:
        taking.give_back(taken)


def test_a_process_that_has_the_group_open_is_named() -> None:
    one = card("e1000")
    taken = taking.plan(one.device)
    taking.take(taken)
    descriptor = os.open(pci.group_path(one.address), os.O_RDWR)
    try:
        assert f"process {os.getpid()} has it already" in examine(one.device).problems[0].message
        with pytest.raises(StateError, match=f"process {os.getpid()} still has"):
            taking.give_back(taken)
    finally:
        os.close(descriptor)
        assert taking.give_back(taken) == "e1000"


def test_a_shared_group_is_refused_with_names() -> None:
    one, other = card("i82557b"), card("pcnet")
    if pci.find(one.address).group != pci.find(other.address).group:
        pytest.skip("they are not behind one bridge")
    problem = next(problem for problem in examine(one.device).problems if "shares IOMMU group" in problem.message)
    assert other.address in problem.message
    assert "pcnet32" in problem.message
    assert not problem.force


def test_a_card_pulled_out_while_it_is_taken() -> None:
    one = card("e1000")
    taken = taking.plan(one.device)
    taking.take(taken)
    HOST.write(HOST.at("sys/bus/pci/devices", one.address, "remove"), "1")
    try:
        assert taking.give_back(taken) is None
        with pytest.raises(GoneError):
            taking.take(taken)
        with pytest.raises(InputError, match="there is no PCI device"):
            pci.reset(one.address)
    finally:
        HOST.write(HOST.at("sys/bus/pci/rescan"), "1")
        assert wait_until(lambda: one.interface() is not None, APPEAR_SECONDS)
    assert taking.give_back(taken) == "e1000"


def test_an_adapter_pulled_out_and_put_back() -> None:
    one = card("usb-net")
    device, taken = usb.find(one.address), taking.plan(one.device)
    bus, number = device.port.split("-")
    switch = HOST.at("sys/bus/usb/devices", f"{bus}-0:1.0", f"usb{bus}-port{number}", "disable")
    if not switch.exists():
        pytest.skip("this kernel can't switch a USB port off")
    taking.take(taken)
    HOST.write(switch, "1")
    try:
        assert wait_until(lambda: not usb.present(device), APPEAR_SECONDS)
        assert taking.give_back(taken) is None
        with pytest.raises(NooksError, match="gone"):
            taking.take(taken)
    finally:
        HOST.write(switch, "0")
        back = usb.wait_for(device.vendor, device.product, APPEAR_SECONDS, serial=device.serial)
    assert back is not None
    assert back.address != device.address
    assert not usb.present(device)
    assert wait_until(lambda: one.interface() is not None, APPEAR_SECONDS)
    taking.take(taken)
    assert one.interface() is None
    assert taking.give_back(taken) is not None


def test_an_adapter_that_a_program_has() -> None:
    one = card("usb-net")
    taken = taking.plan(one.device)
    assert isinstance(taken, usb.UsbTaken)
    node = usb.take(taken).node
    number = int(next(iter(taken.drivers)).rpartition(".")[2])
    descriptor = os.open(node, os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, CLAIM_INTERFACE, struct.pack("=I", number))
        assert f"process {os.getpid()} has it already" in examine(one.device).problems[0].message
        with pytest.raises(StateError, match=f"process {os.getpid()} has the USB device"):
            taking.give_back(taken)
    finally:
        os.close(descriptor)
        assert taking.give_back(taken) is not None


def test_an_adapters_port_is_reset() -> None:
    one = card("usb-net")
    taken = taking.plan(one.device)
    assert isinstance(taken, usb.UsbTaken)
    device = usb.take(taken)
    try:
        usb.reset(device)
        assert usb.present(device)
    finally:
        taking.give_back(taken)


def test_without_an_iommu_it_is_said_why() -> None:
    if vfio.iommu_on():
        pytest.skip("this machine has an IOMMU")
    lack = vfio.iommu_lack()
    assert lack is not None
    for one in cards():
        if one.device.startswith("pci:"):
            assert examine(one.device).problems[0].message == lack[0]
            with pytest.raises(StateError):
                pci.group_path(one.address)
