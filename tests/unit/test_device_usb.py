"""USB devices: found, taken, given back, pulled and put back."""

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.device_tree import FakeKernel, machine

from nooks.device import taking, usb
from nooks.device.sysfs import GoneError
from nooks.host.errors import InputError, MachineError, StateError


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    made = machine(tmp_path)
    made.pci("0000:00:14.0", code="0c0330", driver="xhci_hcd")
    made.usb("1-2")
    made.usb_interface("1-2", "1.0", driver="cdc_ether", net="eth0")
    made.usb_interface("1-2", "1.1", codes="0a:00:00", driver="cdc_ether")
    return made


def drivers(kernel: FakeKernel, port: str = "1-2") -> list[str | None]:
    device = usb.at_port(port, kernel)
    return [interface.driver for interface in device.interfaces] if device else []


def test_what_is_read(kernel: FakeKernel) -> None:
    device = usb.find("0BDA:8153", kernel)
    assert (device.ids, device.bus, device.address, device.port, device.serial) == ("0bda:8153", 1, 2, "1-2", "S1")
    assert device.node == Path("/dev/bus/usb/001/002")
    assert device.description == "Realtek LAN"
    assert device.nets == ("eth0",)
    assert [(one.name, one.interface_class, one.driver) for one in device.interfaces] == [
        ("1-2:1.0", 0xFF, "cdc_ether"),
        ("1-2:1.1", 0x0A, "cdc_ether"),
    ]


@pytest.mark.parametrize("text", ["", "0bda", "0bda:81530", "0bda:8153@", "0bda:8153@2", "0bda:8153@../1", "x:y"])
def test_no_device(kernel: FakeKernel, text: str) -> None:
    with pytest.raises(InputError, match="is no USB device"):
        usb.find(text, kernel)


def test_none_there(kernel: FakeKernel) -> None:
    with pytest.raises(InputError, match="there is no USB device 1111:2222; there are 0bda:8153@1-2"):
        usb.find("1111:2222", kernel)


def test_several_of_a_kind(kernel: FakeKernel) -> None:
    kernel.usb("1-3.1", serial="S2", number=3)
    with pytest.raises(InputError, match=r"2 USB devices.*usb:0bda:8153@1-2 or usb:0bda:8153@1-3\.1"):
        usb.find("0bda:8153", kernel)
    assert usb.find("0bda:8153@1-3.1", kernel).serial == "S2"
    with pytest.raises(InputError, match="there is no USB device 0bda:8153@1-4"):
        usb.find("0bda:8153@1-4", kernel)
    assert taking.resolve("eth0", kernel) == "usb:0bda:8153@1-2"


def test_there_and_back(kernel: FakeKernel) -> None:
    taken = usb.plan_taking("0bda:8153", kernel)
    assert taken.drivers == {"1.0": "cdc_ether", "1.1": "cdc_ether"}
    assert taken.interfaces == ("eth0",)
    for _ in range(2):
        assert usb.take(taken, kernel).ids == "0bda:8153"
        assert drivers(kernel) == [None, None]
    for _ in range(2):
        assert usb.give_back(taken, sysfs=kernel) == "cdc_ether"
        assert drivers(kernel) == ["cdc_ether", "cdc_ether"]
    assert usb.find("0bda:8153", kernel).nets == ("eth0",)


def test_only_what_had_a_driver_gets_one(kernel: FakeKernel) -> None:
    kernel.usb("1-3", ids="0525:a4a2", number=3)
    kernel.usb_interface("1-3", "1.0")
    kernel.usb_interface("1-3", "1.1", driver="cdc_subset")
    taken = usb.plan_taking("0525:a4a2", kernel)
    usb.take(taken, kernel)
    kernel.matches["1-3:1.0"] = "cdc_ether"
    assert usb.give_back(taken, sysfs=kernel) == "cdc_subset"
    assert drivers(kernel, "1-3") == [None, "cdc_subset"]


def test_another_configuration_goes_back(kernel: FakeKernel) -> None:
    taken = usb.plan_taking("0bda:8153", kernel)
    usb.take(taken, kernel)
    file = kernel.at("sys/bus/usb/devices/1-2/bConfigurationValue")
    file.write_text("2\n")
    usb.give_back(taken, sysfs=kernel)
    assert file.read_text().strip() == "1"


def test_a_program_has_it(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usb, "RELEASE_SECONDS", 0.05)
    taken = usb.plan_taking("0bda:8153", kernel)
    usb.take(taken, kernel)
    (kernel.at("sys/bus/usb/devices/1-2:1.0/driver")).symlink_to(kernel.at("sys/bus/usb/drivers/usbfs"))
    kernel.process(815, opened="/dev/bus/usb/001/002")
    with pytest.raises(StateError, match="process 815 has the USB device 0bda:8153"):
        usb.give_back(taken, sysfs=kernel)
    with pytest.raises(StateError, match="process 815 has the USB device"):
        usb.take(taken, kernel)


def test_what_fails_is_undone(kernel: FakeKernel) -> None:
    taken = usb.plan_taking("0bda:8153", kernel)
    kernel.refuse["cdc_ether/unbind"] = errno.EBUSY
    with pytest.raises(StateError, match="busy"):
        usb.take(taken, kernel)
    assert drivers(kernel) == ["cdc_ether", "cdc_ether"]
    kernel.refuse["cdc_ether/unbind"] = errno.EACCES
    with pytest.raises(MachineError, match="root"):
        usb.take(taken, kernel)


def test_the_hosts_driver_does_not_come_back(kernel: FakeKernel) -> None:
    taken = usb.plan_taking("0bda:8153", kernel)
    usb.take(taken, kernel)
    kernel.dead.add("cdc_ether")
    with pytest.raises(StateError, match="cdc_ether did not take the USB device 0bda:8153 back, no driver has it"):
        usb.give_back(taken, 0.05, kernel)


def test_a_module_that_was_removed_is_loaded(kernel: FakeKernel) -> None:
    taken = usb.plan_taking("0bda:8153", kernel)
    usb.take(taken, kernel)
    kernel.at("sys/module/cdc_ether").rmdir()
    with pytest.raises(MachineError, match="cdc_ether can't be loaded"):
        usb.give_back(taken, 0.05, kernel)
    kernel.loadable.add("cdc_ether")
    assert usb.give_back(taken, 0.05, kernel) == "cdc_ether"


def test_pulled_and_put_back(kernel: FakeKernel) -> None:
    device = usb.find("0bda:8153", kernel)
    taken = usb.plan_taking("0bda:8153", kernel)
    assert usb.present(device, kernel)
    kernel.unplug("1-2")
    assert not usb.present(device, kernel)
    assert usb.wait_for(0x0BDA, 0x8153, 0.05, kernel) is None
    assert usb.give_back(taken, sysfs=kernel) is None
    with pytest.raises(GoneError, match="0bda:8153 is gone"):
        usb.take(taken, kernel)
    kernel.usb("1-4", number=7)
    kernel.usb_interface("1-4", "1.0", driver="cdc_ether")
    found = usb.wait_for(0x0BDA, 0x8153, 1, kernel, serial="S1")
    assert found is not None
    assert (found.port, found.address) == ("1-4", 7)
    assert not usb.present(device, kernel)
    assert usb.take(taken, kernel).port == "1-4"
    assert drivers(kernel, "1-4") == [None]


def test_put_back_at_its_port_it_is_another(kernel: FakeKernel) -> None:
    device = usb.find("0bda:8153", kernel)
    kernel.at("sys/bus/usb/devices/1-2/devnum").write_text("9\n")
    assert not usb.present(device, kernel)


def test_another_serial_number_is_another_device(kernel: FakeKernel) -> None:
    taken = usb.plan_taking("0bda:8153", kernel)
    kernel.at("sys/bus/usb/devices/1-2/serial").write_text("S9\n")
    assert usb.give_back(taken, sysfs=kernel) is None
    assert usb.current(taken, kernel) is None


@pytest.mark.parametrize("moment", ["unbind", "drivers_probe"])
def test_it_vanishes_meanwhile(kernel: FakeKernel, moment: str) -> None:
    taken = usb.plan_taking("0bda:8153", kernel)
    if moment == "unbind":
        kernel.vanishing.add(moment)
        with pytest.raises(GoneError, match="gone"):
            usb.take(taken, kernel)
    else:
        usb.take(taken, kernel)
        kernel.vanishing.add(moment)
    assert usb.give_back(taken, sysfs=kernel) is None


@given(st.text(max_size=24))
def test_any_text_is_refused_in_words(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    kernel = FakeKernel(tmp_path_factory.getbasetemp() / "nothing")
    with pytest.raises(InputError):
        usb.find(text, kernel)
    with pytest.raises(InputError):
        taking.resolve(text, kernel)
