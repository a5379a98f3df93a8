"""Can a device be put in a nook? Every reason against it is found before anything is touched."""

from contextlib import suppress
from pathlib import Path

import pytest
from tests.unit.device_tree import RELEASE, FakeKernel, machine
from tests.unit.test_device_peers import Table

from nooks.device import candidate, usage, usb
from nooks.device.verdict import Verdict, examine, survey
from nooks.host.errors import InputError

CARD = "0000:03:00.0"
ALIASES = "alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000\nalias usb:v0BDAp8153* r8152\n"


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    made = machine(tmp_path)
    made.kernel_files(ALIASES)
    made.pci(CARD, driver="e1000", module="e1000", group=3, reset="flr bus", net="eth0")
    return made


def judge(machine: FakeKernel, text: str = CARD, kernel: str = "host") -> Verdict:
    return examine(text, kernel=kernel, sysfs=machine, routing=Table({}))


def told(machine: FakeKernel, text: str = CARD, kernel: str = "host") -> list[tuple[str, bool]]:
    verdict = judge(machine, text, kernel)
    assert all(problem.fix for problem in verdict.problems)
    return [(problem.message, problem.force) for problem in verdict.problems]


def test_nothing_against_it(kernel: FakeKernel) -> None:
    verdict = judge(kernel, "eth0")
    assert verdict == Verdict(
        device=f"pci:{CARD}",
        name="eth0",
        description="8086:100e",
        driver_class="network",
        driver="e1000",
        module="e1000",
        reset="flr",
    )
    assert verdict.possible
    assert verdict.forcible
    assert kernel.written == []


def test_one_without_a_driver_gets_its_module_from_the_kernel(kernel: FakeKernel) -> None:
    kernel.pci("0000:04:00.0", group=4, driver="vfio-pci")
    verdict = judge(kernel, "04:00.0")
    assert (verdict.module, verdict.driver, verdict.reset, verdict.possible) == ("e1000", None, "none", True)
    assert [note.partition(":")[0] for note in verdict.notes] == [
        "it has no reset",
        "it is bound to vfio-pci already, and will be when it is given back",
    ]
    kernel.pci("0000:05:00.0", ids="1234:5678", group=5)
    assert told(kernel, "05:00.0") == [(f"kernel {RELEASE} has no module for it", False)]
    assert told(kernel, "05:00.0", kernel="debian") == []


def test_a_driver_that_is_built_in(kernel: FakeKernel) -> None:
    kernel.pci("0000:04:00.0", group=4, driver="tulip", net="eth1")
    assert told(kernel, "eth1") == [
        (f"its driver tulip is built into kernel {RELEASE}; a nook needs it as a module", False)
    ]
    assert told(kernel, "eth1", kernel="debian") == []


def test_no_iommu(tmp_path: Path) -> None:
    kernel = machine(tmp_path)
    kernel.kernel_files()
    kernel.pci(CARD, driver="e1000", module="e1000", net="eth0")
    kernel.file("sys/firmware/acpi/tables/DMAR", "")
    problem = judge(kernel).problems[0]
    assert (problem.message, problem.force) == ("the IOMMU is off in the kernel", False)
    assert "intel_iommu=on" in problem.fix


def test_in_no_group(kernel: FakeKernel) -> None:
    kernel.pci("0000:04:00.0", driver="e1000", module="e1000", net="eth1")
    assert told(kernel, "eth1") == [("0000:04:00.0 is in no IOMMU group", False)]


def test_a_shared_group(kernel: FakeKernel) -> None:
    kernel.pci("0000:00:1c.0", code="060400", driver="pcieport", group=3)
    kernel.pci("0000:03:00.1", group=3)
    verdict = judge(kernel)
    assert verdict.possible
    assert any("0000:03:00.1 in its IOMMU group must stay without a driver" in note for note in verdict.notes)
    kernel.pci("0000:03:00.2", ids="8086:1229", driver="e100", module="e100", group=3, net="eth5")
    assert told(kernel) == [("it shares IOMMU group 3 with 0000:03:00.2 8086:1229 (e100, eth5)", False)]
    assert "drivers/e100/unbind" in judge(kernel).problems[0].fix


def test_somebody_has_it(kernel: FakeKernel) -> None:
    kernel.process(99, opened="/dev/vfio/3")
    assert told(kernel) == [("process 99 has it already (/dev/vfio/3)", False)]


def test_vfio_is_missing(kernel: FakeKernel) -> None:
    home = kernel.at("sys/bus/pci/drivers/vfio-pci")
    (home / "module").unlink()
    home.rmdir()
    assert judge(kernel).possible
    kernel.at("lib/modules", RELEASE, "modules.dep").write_text("kernel/drivers/net/e1000.ko:\n")
    assert told(kernel) == [(f"kernel {RELEASE} has no vfio-pci", False)]


def test_memory_of_the_firmwares(kernel: FakeKernel) -> None:
    regions = kernel.file("sys/kernel/iommu_groups/3/reserved_regions", "0xfee00000 0xfeefffff msi\n")
    assert judge(kernel).possible
    regions.write_text("0x0 0x1000 direct\n0xfee00000 0xfeefffff msi\n")
    assert "RMRR" in told(kernel)[0][0]


def test_virtual_functions(kernel: FakeKernel) -> None:
    kernel.at("sys/bus/pci/devices", CARD, "sriov_numvfs").write_text("4\n")
    assert told(kernel) == [("its 4 virtual functions would vanish with it", False)]


def test_the_running_kernels_files_are_missing(kernel: FakeKernel) -> None:
    kernel.at("boot", f"vmlinuz-{RELEASE}").unlink()
    problem = judge(kernel).problems[0]
    assert "is not installed" in problem.message
    assert "--kernel debian" in problem.fix
    assert judge(kernel, kernel="debian").possible


@pytest.mark.parametrize(
    ("folder", "uevent", "said"),
    [
        ("bridge", "", "eth0 is a port of the bridge top"),
        ("bonding", "", "eth0 is in the bond top"),
        ("statistics", "DEVTYPE=vlan\nINTERFACE=top\n", "eth0 has the VLAN top on top"),
        ("statistics", "", "eth0 has top on top"),
    ],
)
def test_an_interface_in_use(kernel: FakeKernel, folder: str, uevent: str, said: str) -> None:
    place = kernel.virtual_interface("top", "eth0")
    (place / folder).mkdir()
    (place / "uevent").write_text(uevent)
    assert told(kernel) == [(said, True)]
    assert judge(kernel).forcible
    assert not judge(kernel).possible


def test_the_default_route_is_a_note(kernel: FakeKernel) -> None:
    verdict = examine(CARD, sysfs=kernel, routing=Table({}, default="eth0"))
    assert verdict.notes == ("the default route goes by eth0",)


def test_wifi_and_others(kernel: FakeKernel) -> None:
    kernel.at("sys/class/net/eth0/phy80211").mkdir()
    assert "Wi-Fi" in told(kernel)[0][0]
    kernel.at("sys/class/net/eth0/phy80211").rmdir()
    kernel.at("sys/class/net/eth0/type").write_text("32\n")
    assert told(kernel) == [("eth0 is not Ethernet", False)]


def test_an_interface_elsewhere(kernel: FakeKernel) -> None:
    kernel.pci("0000:04:00.0", driver="e1000", module="e1000", group=4)
    assert told(kernel, "04:00.0") == [("e1000 has made no network interface here", True)]


def test_two_drivers_for_one_interface(kernel: FakeKernel) -> None:
    place = kernel.pci("0000:04:00.0", driver="virtio-pci", module="virtio_pci", group=4)
    (place / "virtio0").mkdir()
    kernel.interface(place / "virtio0", "eth7")
    (place / "virtio0/driver").symlink_to(kernel.driver("virtio", "virtio_net", "virtio_net"))
    assert told(kernel, "eth7") == [("two drivers make eth7 (virtio_pci, virtio_net); a nook has one", False)]


@pytest.mark.parametrize(
    ("mounts", "swaps", "said"),
    [
        ("8:1 / /data rw - ext4 /dev/sda1", "", "sda1 is mounted on /data"),
        ("0:40 / /data rw - btrfs /dev/sda1", "", "sda1 is mounted on /data"),
        ("8:1 / / rw - ext4 /dev/root", "", "the root file system is on sda1"),
        ("253:0 / / rw - ext4 /dev/mapper/root", "", "the root file system is on dm-0"),
        ("9:9 / / rw - ext4 /dev/x", "/dev/sda1 partition 1 0 -2", "sda1 is swap space"),
        ("9:9 / / rw - ext4 /dev/x", "", "sda is part of vg-root"),
    ],
)
def test_a_disk_in_use(kernel: FakeKernel, mounts: str, swaps: str, said: str) -> None:
    kernel.disk(kernel.pci("0000:00:1f.2", code="010601", driver="ahci", module="ahci", group=9), "sda", "8", "sda1")
    mapped = kernel.folder("sys/devices/virtual/block/dm-0")
    (mapped / "dev").write_text("253:0\n")
    (mapped / "dm").mkdir()
    (mapped / "dm/name").write_text("vg-root\n")
    kernel.link("sys/class/block/dm-0", mapped)
    (kernel.at("sys/class/block/sda1/holders") / "dm-0").symlink_to(mapped)
    kernel.file("proc/self/mountinfo", f"1 1 {mounts} rw\n")
    kernel.file("proc/swaps", f"Filename Type Size Used Priority\n{swaps}\n")
    assert told(kernel, "sda")[0] == (said, False)


def test_a_sound_card_that_plays(kernel: FakeKernel) -> None:
    place = kernel.pci("0000:00:1b.0", code="040300", driver="snd_hda_intel", module="snd_hda_intel", group=9)
    (place / "sound/card1").mkdir(parents=True)
    kernel.link("sys/class/sound/card1", place / "sound/card1")
    for name in ("controlC1", "pcmC1D0p", "pcmC11D0p", "controlC11", "hwC1D0", "timer"):
        kernel.file(f"dev/snd/{name}", "")
    kernel.process(51, opened="/dev/snd/pcmC11D0p")
    kernel.process(52, opened="/dev/snd/timer")
    verdict = judge(kernel, "card1")
    assert (verdict.device, verdict.driver_class, verdict.name) == ("pci:0000:00:1b.0", "sound", "card1")
    assert verdict.possible
    kernel.process(50, opened="/dev/snd/pcmC1D0p", comm="pulseaudio")
    kernel.process(53, opened="/dev/snd/hwC1D0", comm="firmware")
    assert told(kernel, "card1") == [
        ("process 50 (pulseaudio) has card1 open", True),
        ("process 53 (firmware) has card1 open", True),
    ]


def test_sound_cards_that_are_no_ones_alone(kernel: FakeKernel) -> None:
    place = kernel.pci("0000:00:1b.0", code="040300", driver="snd_hda_intel", module="snd_hda_intel", group=9)
    assert told(kernel, "00:1b.0") == [("snd_hda_intel has made no sound card here", True)]
    for number in (1, 2):
        (place / f"sound/card{number}").mkdir(parents=True)
        kernel.link(f"sys/class/sound/card{number}", place / f"sound/card{number}")
    assert told(kernel, "card1") == [("it makes 2 sound cards; a nook has one", False)]
    (place / "machine").mkdir()
    (place / "machine/driver").symlink_to(kernel.driver("platform", "skl_hda", "snd_soc_skl_hda_dsp"))
    (place / "sound/card1/device").symlink_to(place / "machine")
    assert ("two drivers make card1 (snd_hda_intel, snd_soc_skl_hda_dsp); a nook has one", False) in told(
        kernel, "card1"
    )


def test_a_device_of_no_class(kernel: FakeKernel) -> None:
    kernel.pci("0000:00:02.0", code="030000", driver="i915", module="i915", group=1)
    assert told(kernel, "00:02.0") == [("it is no network card, disk controller or sound card", False)]
    assert [verdict.device for verdict in survey(sysfs=kernel, routing=Table({}))] == [f"pci:{CARD}"]


def test_usb(tmp_path: Path) -> None:
    kernel = machine(tmp_path)
    kernel.kernel_files(ALIASES)
    kernel.usb("1-2")
    place = kernel.usb_interface("1-2", "1.0", driver="r8152", net="eth1")
    verdict = judge(kernel, "eth1")
    assert (verdict.device, verdict.reset, verdict.module, verdict.possible) == ("usb:0bda:8153", "port", "r8152", True)
    kernel.unbind(place)
    verdict = judge(kernel, "0bda:8153")
    assert (verdict.driver_class, verdict.driver, verdict.module, verdict.possible) == ("network", None, "r8152", True)
    (place / "driver").symlink_to(kernel.at("sys/bus/usb/drivers/usbfs"))
    kernel.process(77, opened="/dev/bus/usb/001/002")
    assert told(kernel, "0bda:8153") == [("process 77 has it already (/dev/bus/usb/001/002)", False)]
    kernel.at("dev/bus/usb/001/002").unlink()
    assert "device node /dev/bus/usb/001/002 is missing" in told(kernel, "0bda:8153")[0][0]


@pytest.mark.parametrize(
    ("codes", "driver_class"),
    [
        ("02:06:00", "network"),
        ("02:02:01", None),
        ("e0:01:03", "network"),
        ("e0:01:01", None),
        ("08:06:50", "block"),
        ("01:01:00", "sound"),
        ("03:01:01", None),
        ("ff:ff:00", None),
    ],
)
def test_the_class_of_a_usb_device_without_a_driver(tmp_path: Path, codes: str, driver_class: str | None) -> None:
    kernel = machine(tmp_path)
    kernel.usb("1-2")
    kernel.usb_interface("1-2", "1.0", codes)
    assert candidate.usb_class(usb.find("0bda:8153", kernel), None) == driver_class


@pytest.mark.parametrize(
    ("code", "driver_class"),
    [(0x020000, "network"), (0x010802, "block"), (0x040100, "sound"), (0x040300, "sound"), (0x040000, None)],
)
def test_the_class_of_a_pci_device(code: int, driver_class: str | None) -> None:
    assert candidate.pci_class(code) == driver_class


def test_everything_vanishes_between_two_reads(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FakeKernel.text
    reads = [0]
    limit = [0]

    def text(self: FakeKernel, path: Path) -> str | None:
        reads[0] += 1
        if reads[0] == limit[0] and self.at("sys/bus/pci/devices", CARD).is_symlink():
            self.unplug(CARD)
        return plain(self, path)

    monkeypatch.setattr(FakeKernel, "text", text)
    judge(kernel)
    total = reads[0]
    assert total > 10
    for number in range(1, total + 1, 3):
        reads[0], limit[0] = 0, number
        with suppress(InputError):
            judge(kernel)
        reads[0], limit[0] = 0, 0
        if not kernel.at("sys/bus/pci/devices", CARD).is_symlink():
            for left in ("sys/class/net/eth0", f"sys/kernel/iommu_groups/3/devices/{CARD}"):
                kernel.at(left).unlink()
            kernel.pci(CARD, driver="e1000", module="e1000", group=3, reset="flr bus", net="eth0")


def test_mounts_with_odd_names() -> None:
    line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/a\\134b rw,errors=continue\n"
    (found,) = usage.parse_mounts(line)
    assert (found.device, found.point, found.kind, found.source) == ("98:0", "/mnt 2", "ext3", "/dev/a\\b")
