"""One front for both buses: what a user may name a device by, and the record of how the host had it."""

from pathlib import Path

import pytest
from tests.unit.device_tree import FakeKernel, machine

from nooks.device import taking
from nooks.device.taking import Taken
from nooks.host.errors import InputError


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    made = machine(tmp_path)
    made.pci("0000:03:00.0", driver="e1000", module="e1000", group=3, net="eth0")
    made.pci("0000:00:14.0", code="0c0330", driver="xhci_hcd")
    made.usb("1-2")
    made.usb_interface("1-2", "1.0", driver="r8152", net="eth1")
    made.virtual_interface("br0", "eth0")
    sound = made.pci("0000:00:1b.0", code="040300", driver="snd_hda_intel", module="snd_hda_intel")
    (sound / "sound/card0").mkdir(parents=True)
    made.link("sys/class/sound/card0", sound / "sound/card0")
    made.disk(made.pci("0000:00:1f.2", code="010601", driver="ahci"), "sda", "8", "sda1")
    return made


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("eth0", "pci:0000:03:00.0"),
        ("03:00.0", "pci:0000:03:00.0"),
        ("pci:03:00.0", "pci:0000:03:00.0"),
        ("pci:0000:03:00.0", "pci:0000:03:00.0"),
        ("eth1", "usb:0bda:8153"),
        ("0bda:8153", "usb:0bda:8153"),
        ("usb:0BDA:8153@1-2", "usb:0bda:8153"),
        ("/dev/sda", "pci:0000:00:1f.2"),
        ("sda", "pci:0000:00:1f.2"),
        ("card0", "pci:0000:00:1b.0"),
    ],
)
def test_names(kernel: FakeKernel, text: str, device: str) -> None:
    assert taking.resolve(text, kernel) == device


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("br0", "the network interface br0 is no device of its own"),
        ("/dev/sda1", "sda1 is a partition of sda.*give sda"),
        ("nothing", "no device, network interface, disk or sound card 'nothing'"),
        ("", "no device, network interface, disk or sound card ''"),
        ("../../etc", "no device, network interface, disk or sound card"),
        ("04:00.0", "there is no PCI device"),
        ("usb:03:00.0", "is no USB device"),
        ("pci:0bda:8153", "is no PCI address"),
    ],
)
def test_no_names(kernel: FakeKernel, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        taking.resolve(text, kernel)


@pytest.mark.parametrize(
    ("device", "driver", "name"), [("pci:03:00.0", "e1000", "eth0"), ("usb:0bda:8153", "r8152", "eth1")]
)
def test_a_record_gives_back_what_was_taken(kernel: FakeKernel, device: str, driver: str, name: str) -> None:
    record = taking.encode(taking.plan(device, kernel))
    taken: Taken = taking.decode(record)
    taking.take(taken, kernel)
    assert taking.interfaces_back(taken, 0.02, kernel) == ()
    assert taking.give_back(taken, 1, kernel) == driver
    assert taking.interfaces_back(taken, 0.02, kernel) == (name,)
    assert taking.encode(taking.plan(device, kernel)) == record


@pytest.mark.parametrize("document", [b"", b"{}", b'{"bus":"pci"}', b'{"bus":"isa"}', b"[1]"])
def test_a_damaged_record(document: bytes) -> None:
    with pytest.raises(InputError, match="damaged"):
        taking.decode(document)


def test_what_is_no_real_device(kernel: FakeKernel) -> None:
    with pytest.raises(InputError, match="no real device"):
        taking.plan("emulated:e1000", kernel)
