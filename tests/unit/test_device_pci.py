"""PCI devices: found, taken, given back, whatever the kernel says meanwhile."""

import errno
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.device_tree import FakeKernel, machine

from nooks.device import pci, pci_config, vfio
from nooks.device.sysfs import GoneError, Sysfs
from nooks.host.errors import InputError, MachineError, StateError

CARD = "0000:03:00.0"


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    made = machine(tmp_path)
    made.pci(CARD, driver="e1000", module="e1000", group=3, reset="flr bus", net="eth0")
    return made


def driver(kernel: FakeKernel, address: str = CARD) -> str | None:
    return pci.find(address, kernel).driver


def override(kernel: FakeKernel) -> str | None:
    return kernel.text(kernel.at("sys/bus/pci/devices", CARD, "driver_override"))


def test_what_is_read(kernel: FakeKernel) -> None:
    device = pci.find("03:00.0", kernel)
    assert (device.address, device.vendor, device.device, device.class_code) == (CARD, 0x8086, 0x100E, 0x020000)
    assert (device.driver, device.module, device.group) == ("e1000", "e1000", 3)
    assert (device.reset_methods, device.interfaces, device.is_bridge) == (("flr", "bus"), ("eth0",), False)
    assert device.description == "8086:100e"
    assert pci.of_interface("eth0", kernel) == CARD
    assert pci.of_interface("lo", kernel) is None
    assert [member.address for member in pci.group_members(3, kernel)] == [CARD]


def test_names_come_from_pci_ids(kernel: FakeKernel) -> None:
    text = (
        "# ids\n8085  Other\n\t100e  Wrong\n8086  Intel Corporation\n\t100e  82540EM\n\t\t1af4 1100  QEMU\n8087  Next\n"
    )
    kernel.file("usr/share/misc/pci.ids", text)
    assert pci.find(CARD, kernel).description == "Intel Corporation 82540EM"
    kernel.pci("0000:04:00.0", ids="8086:9999")
    assert pci.find("04:00.0", kernel).description == "Intel Corporation 8086:9999"


def test_disks_of_all_kinds(kernel: FakeKernel) -> None:
    ahci = kernel.pci("0000:00:1f.2", code="010601", driver="ahci")
    kernel.disk(ahci / "ata1/host0", "sda", "8", "sda1")
    nvme = kernel.pci("0000:05:00.0", code="010802", driver="nvme")
    (nvme / "nvme/nvme0").mkdir(parents=True)
    subsystem = kernel.folder("sys/devices/virtual/nvme-subsystem/nvme-subsys0")
    (subsystem / "nvme0").symlink_to(nvme / "nvme/nvme0")
    (subsystem / "nvme0n1").mkdir()
    kernel.link("sys/class/block/nvme0n1", subsystem / "nvme0n1")
    assert pci.find("00:1f.2", kernel).blocks == ("sda",)
    assert pci.find("05:00.0", kernel).blocks == ("nvme0n1",)
    assert pci.of_block("sda1", kernel) == "0000:00:1f.2"


def test_a_usb_card_is_not_its_controllers(kernel: FakeKernel) -> None:
    kernel.pci("0000:00:14.0", code="0c0330", driver="xhci_hcd")
    kernel.usb("1-2")
    kernel.usb_interface("1-2", "1.0", driver="r8152", net="usb0")
    assert pci.find("00:14.0", kernel).interfaces == ()
    assert pci.of_interface("usb0", kernel) == "1-2"


def test_an_older_kernel_names_no_method(kernel: FakeKernel) -> None:
    place = kernel.at("sys/bus/pci/devices", CARD)
    (place / "reset_method").unlink()
    assert pci.find(CARD, kernel).reset_methods == (pci.UNKNOWN_RESET,)
    (place / "reset").unlink()
    assert pci.find(CARD, kernel).reset_methods == ()


@pytest.mark.parametrize("text", ["", "eth0", "03:00", "0000:03:00.8", "0000:03:20.0", "../03:00.0", "x03:00.0"])
def test_no_address(kernel: FakeKernel, text: str) -> None:
    with pytest.raises(InputError, match="no PCI address"):
        pci.find(text, kernel)


def test_near_addresses(kernel: FakeKernel) -> None:
    with pytest.raises(InputError, match=r"near it: 0000:03:00\.0"):
        pci.find("03:00.1", kernel)


def test_there_and_back(kernel: FakeKernel) -> None:
    taken = pci.plan_taking(CARD, kernel)
    assert (taken.driver, taken.driver_override, taken.interfaces) == ("e1000", "", ("eth0",))
    pci.take(taken, kernel)
    assert driver(kernel) == "vfio-pci"
    assert pci.of_interface("eth0", kernel) is None
    assert pci.group_path(CARD, kernel) == Path("/dev/vfio/3")
    pci.take(taken, kernel)
    assert driver(kernel) == "vfio-pci"
    for _ in range(2):
        assert pci.give_back(taken, sysfs=kernel) == "e1000"
        assert (driver(kernel), override(kernel), pci.of_interface("eth0", kernel)) == ("e1000", "(null)", CARD)


def test_an_override_of_the_users_comes_back(kernel: FakeKernel) -> None:
    kernel.at("sys/bus/pci/devices", CARD, "driver_override").write_text("e1000\n")
    taken = pci.plan_taking(CARD, kernel)
    pci.take(taken, kernel)
    assert pci.give_back(taken, sysfs=kernel) == "e1000"
    assert override(kernel) == "e1000"


def test_one_without_a_driver_gets_none(kernel: FakeKernel) -> None:
    kernel.pci("0000:04:00.0", group=4)
    taken = pci.plan_taking("04:00.0", kernel)
    pci.take(taken, kernel)
    assert driver(kernel, "04:00.0") == "vfio-pci"
    assert pci.give_back(taken, sysfs=kernel) is None
    assert driver(kernel, "04:00.0") is None


def test_one_of_vfio_stays_there(kernel: FakeKernel) -> None:
    kernel.pci("0000:04:00.0", driver="vfio-pci", group=4)
    taken = pci.plan_taking("04:00.0", kernel)
    pci.take(taken, kernel)
    assert pci.give_back(taken, sysfs=kernel) == "vfio-pci"


@pytest.mark.parametrize("ending", ["driver_override", "driver/unbind", "pci/drivers_probe"])
def test_what_fails_is_undone(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    taken = pci.plan_taking(CARD, kernel)
    kernel.refuse[ending] = errno.EBUSY
    monkeypatch.setattr(pci, "BIND_SECONDS", 0.05)
    with pytest.raises(StateError, match="busy"):
        pci.take(taken, kernel)
    kernel.refuse.clear()
    assert pci.give_back(taken, sysfs=kernel) == "e1000"
    assert override(kernel) == "(null)"


def test_a_driver_that_does_not_bind_is_undone(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pci, "BIND_SECONDS", 0.05)
    taken = pci.plan_taking(CARD, kernel)
    kernel.dead.add("vfio-pci")
    with pytest.raises(StateError, match="did not bind"):
        pci.take(taken, kernel)
    assert (driver(kernel), override(kernel)) == ("e1000", "(null)")


def test_the_hosts_driver_does_not_come_back(kernel: FakeKernel) -> None:
    taken = pci.plan_taking(CARD, kernel)
    pci.take(taken, kernel)
    kernel.refuse["pci/drivers_probe"] = kernel.refuse["e1000/bind"] = errno.EIO
    with pytest.raises(StateError, match=r"e1000 did not take 0000:03:00\.0 back: .*error, no driver has it"):
        pci.give_back(taken, 0.05, kernel)
    kernel.refuse.clear()
    assert pci.give_back(taken, 0.05, kernel) == "e1000"


def test_a_driver_that_probing_does_not_find(kernel: FakeKernel) -> None:
    taken = pci.plan_taking(CARD, kernel)
    pci.take(taken, kernel)
    kernel.matches.clear()
    assert pci.give_back(taken, 0.05, kernel) == "e1000"


def test_the_hosts_module_was_removed_meanwhile(kernel: FakeKernel) -> None:
    taken = pci.plan_taking(CARD, kernel)
    pci.take(taken, kernel)
    home = kernel.at("sys/bus/pci/drivers/e1000")
    (home / "module").unlink()
    home.rmdir()
    with pytest.raises(MachineError, match="e1000 can't be loaded"):
        pci.give_back(taken, 0.05, kernel)
    kernel.loadable.add("e1000")
    assert pci.give_back(taken, 0.05, kernel) == "e1000"


@pytest.mark.parametrize("moment", ["driver_override", "unbind", "drivers_probe"])
def test_it_vanishes_while_it_is_taken(kernel: FakeKernel, moment: str) -> None:
    taken = pci.plan_taking(CARD, kernel)
    if moment == "driver_override":
        kernel.unplug(CARD)
    kernel.vanishing.add(moment)
    with pytest.raises(GoneError):
        pci.take(taken, kernel)
    assert pci.give_back(taken, sysfs=kernel) is None
    with pytest.raises(InputError, match="there is no PCI device"):
        pci.find(CARD, kernel)


@pytest.mark.parametrize("moment", ["driver_override", "unbind", "drivers_probe"])
def test_it_vanishes_while_it_is_given_back(kernel: FakeKernel, moment: str) -> None:
    taken = pci.plan_taking(CARD, kernel)
    pci.take(taken, kernel)
    if moment == "driver_override":
        kernel.unplug(CARD)
    kernel.vanishing.add(moment)
    assert pci.give_back(taken, sysfs=kernel) is None


def test_another_device_in_its_slot_is_left_alone(kernel: FakeKernel) -> None:
    taken = pci.plan_taking(CARD, kernel)
    kernel.at("sys/bus/pci/devices", CARD, "device").write_text("0x1229\n")
    with pytest.raises(GoneError, match="not the device that it was"):
        pci.take(taken, kernel)
    assert pci.give_back(taken, sysfs=kernel) is None
    assert kernel.written == []


def test_a_process_that_has_it_open_is_named(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pci, "RELEASE_SECONDS", 0.05)
    taken = pci.plan_taking(CARD, kernel)
    pci.take(taken, kernel)
    kernel.process(4711, opened="/dev/vfio/3")
    with pytest.raises(StateError, match=r"process 4711 still has 0000:03:00\.0"):
        pci.give_back(taken, sysfs=kernel)
    assert driver(kernel) == "vfio-pci"


def test_not_root(kernel: FakeKernel) -> None:
    taken = pci.plan_taking(CARD, kernel)
    kernel.refuse["driver_override"] = errno.EACCES
    with pytest.raises(MachineError, match="run nooks as root"):
        pci.take(taken, kernel)


def test_vfio_is_loaded_or_missing(kernel: FakeKernel) -> None:
    taken = pci.plan_taking(CARD, kernel)
    home = kernel.at("sys/bus/pci/drivers/vfio-pci")
    (home / "module").unlink()
    home.rmdir()
    assert not vfio.vfio_available(kernel)
    with pytest.raises(MachineError, match="has no vfio-pci"):
        pci.take(taken, kernel)
    kernel.kernel_files()
    assert vfio.vfio_available(kernel)
    kernel.loadable.update({"vfio-pci", "vfio_iommu_type1"})
    pci.take(taken, kernel)
    assert driver(kernel) == "vfio-pci"


def test_reset_by_the_first_method(kernel: FakeKernel) -> None:
    assert pci.reset(CARD, kernel) == "flr"
    assert kernel.written[-1][1] == "1"


def test_a_device_that_does_not_come_back_from_reset(kernel: FakeKernel) -> None:
    kernel.refuse["/reset"] = errno.EIO
    with pytest.raises(StateError, match="did not come back from its reset"):
        pci.reset(CARD, kernel)


CONFIG_BYTES = 256


def configuration(kernel: FakeKernel, command: int) -> Path:
    """A configuration space with an MSI capability at 0x50 and an MSI-X one at 0x60, both enabled."""
    data = bytearray(CONFIG_BYTES)
    struct.pack_into("<HHHH", data, 0, 0x8086, 0x100E, command, pci_config.HAS_CAPABILITIES)
    data[0x34] = 0x50
    struct.pack_into("<BBH", data, 0x50, pci_config.MSI, 0x60, 0x0081)
    struct.pack_into("<BBH", data, 0x60, pci_config.MSI_X, 0x00, 0x8003)
    path = kernel.at("sys/bus/pci/devices", CARD, "config")
    path.write_bytes(data)
    return path


def test_without_a_method_it_is_made_quiet(kernel: FakeKernel) -> None:
    path = configuration(kernel, 0x0107)
    kernel.refuse["/reset"] = errno.ENOTTY
    assert pci.reset(CARD, kernel) == "none"
    data = path.read_bytes()
    assert struct.unpack_from("<H", data, 4)[0] == 0x0503
    assert struct.unpack_from("<H", data, 0x52)[0] == 0x0080
    assert struct.unpack_from("<H", data, 0x62)[0] == 0x0003


def test_clearing_bus_mastering_alone(kernel: FakeKernel) -> None:
    path = configuration(kernel, 0x0107)
    before = path.read_bytes()
    pci.clear_bus_master(CARD, kernel)
    after = path.read_bytes()
    assert struct.unpack_from("<H", after, 4)[0] == 0x0103
    assert after[:4] + after[6:] == before[:4] + before[6:]


def test_what_does_not_answer_is_not_written_to(kernel: FakeKernel) -> None:
    path = configuration(kernel, 0)
    path.write_bytes(b"\xff" * CONFIG_BYTES)
    kernel.at("sys/bus/pci/devices", CARD, "reset_method").write_text("\n")
    assert pci.reset(CARD, kernel) == "none"
    assert path.read_bytes() == b"\xff" * CONFIG_BYTES


def test_too_short_a_configuration_space_is_said(kernel: FakeKernel) -> None:
    configuration(kernel, 4).write_bytes(b"")
    with pytest.raises(StateError, match="no configuration space"):
        pci.clear_bus_master(CARD, kernel)
    kernel.at("sys/bus/pci/devices", CARD, "config").unlink()
    with pytest.raises(GoneError):
        pci.clear_bus_master(CARD, kernel)


@given(data=st.binary(min_size=CONFIG_BYTES, max_size=CONFIG_BYTES))
def test_any_configuration_space_is_made_quiet(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("config") / "config"
    path.write_bytes(data)
    pci_config.quiesce(path)
    after = path.read_bytes()
    assert len(after) == CONFIG_BYTES
    if data[4:6] != b"\xff\xff":
        assert not after[4] & pci_config.BUS_MASTER
        assert after[:4] + after[6:0x40] == data[:4] + data[6:0x40]


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_none(text: str) -> None:
    full = pci.parse_address(text)
    assert full is None or pci.parse_address(full) == full


@given(st.integers(0, 255), st.integers(0, 31), st.integers(0, 7))
def test_every_address_is_one(bus: int, slot: int, function: int) -> None:
    text = f"{bus:02X}:{slot:02x}.{function}"
    assert pci.parse_address(text) == f"0000:{text.lower()}"


@pytest.mark.parametrize(
    ("tables", "arguments", "said", "fix"),
    [
        ("", "", "no IOMMU, or the firmware", "VT-d"),
        ("DMAR", "quiet", "off in the kernel", "intel_iommu=on"),
        ("DMAR", "intel_iommu=off", "kernel argument intel_iommu=off", "remove it"),
        ("IVRS", "", "not in use", "AMD-Vi"),
        ("VIOT", "", "not in use", "driver"),
    ],
)
def test_why_there_is_no_iommu(tmp_path: Path, tables: str, arguments: str, said: str, fix: str) -> None:
    kernel = machine(tmp_path)
    kernel.pci(CARD)
    kernel.file("proc/cmdline", arguments)
    if tables:
        kernel.file(f"sys/firmware/acpi/tables/{tables}", "")
    lack = vfio.iommu_lack(kernel)
    assert lack is not None
    assert said in lack[0]
    assert fix in lack[1]
    with pytest.raises(StateError, match=said):
        pci.group_path(CARD, kernel)
    assert not pci.iommu_on(kernel)


def test_a_group_without_an_iommu_does_not_count(kernel: FakeKernel) -> None:
    assert vfio.iommu_on(kernel)
    kernel.file("sys/kernel/iommu_groups/3/name", "vfio-noiommu\n")
    assert not vfio.iommu_on(kernel)
    assert pci.find(CARD, kernel).group is None


def test_interrupts_that_are_not_remapped(kernel: FakeKernel) -> None:
    kernel.file("proc/interrupts", " 9: 0 IO-APIC 9-fasteoi acpi\n")
    assert vfio.unsafe_interrupts(kernel)
    kernel.file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n")
    assert not vfio.unsafe_interrupts(kernel)
    kernel.file("proc/interrupts", " 9: 0 IR-IO-APIC 9-fasteoi acpi\n")
    kernel.file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n")
    assert not vfio.unsafe_interrupts(kernel)


def test_the_real_sysfs_speaks_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    Sysfs(tmp_path).write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    with pytest.raises(GoneError):
        Sysfs(tmp_path).write(tmp_path / "none/file", "new")
    with pytest.raises(StateError, match="Is a directory"):
        Sysfs(tmp_path).write(tmp_path, "new")
