"""``nooks doctor``: every lack has a remedy."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nooks.cli import checks
from nooks.cli.doctor import doctor
from nooks.device.sysfs import HOST, Sysfs
from nooks.device.verdict import Problem, Verdict
from nooks.domain import accel


def found(name: str) -> checks.Check:
    return next(check for check in checks.examine() if check.name == name)


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert found("python").status == "ok"
    every = checks.examine()
    assert len({check.name for check in every}) == len(every)
    for check in every:
        assert check.status == "ok" or check.fix or check.name == "kvm"
    if all(check.status != "fail" for check in every):
        doctor(json=True)
        document = json.loads(capsys.readouterr().out)
        assert document["ok"] is True
        assert set(document["checks"][0]) == {"name", "status", "detail", "fix"}


def test_a_program_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def which(program: str, path: str | None = None) -> str | None:
        return None if program in ("setpriv", "curl", "qemu-system-x86_64") else f"/usr/bin/{program}"

    monkeypatch.setattr(shutil, "which", which)
    assert (found("setpriv").status, found("setpriv").fix) == ("fail", "apt-get install util-linux")
    assert (found("curl").status, found("curl").fix) == ("warn", "apt-get install curl")
    assert found("emulator").status == "fail"


def test_too_little_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "DISK_NEEDED_BYTES", 1 << 60)
    assert found("disk").status == "warn"
    monkeypatch.setattr(checks, "DISK_LEAST_BYTES", 1 << 60)
    assert found("disk").status == "fail"


def test_an_old_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nooks.domain.qemu.version", lambda: (5, 2))
    monkeypatch.setattr("nooks.domain.qemu.program", lambda: "/usr/bin/qemu")
    assert "too old" in found("qemu").detail


def test_kvm_that_is_missing_or_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    monkeypatch.setattr(accel, "KVM", device)
    assert (found("kvm").status, found("kvm").fix) == ("warn", "modprobe kvm")
    device.touch()

    def refused(path: Path, mode: int) -> bool:
        return path != device

    monkeypatch.setattr("os.access", refused)
    assert found("kvm").fix == f"usermod -aG {device.group()} $USER, then log in again"


def test_what_a_probe_boot_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if found("kvm").status == "warn":
        pytest.skip("no /dev/kvm here")
    assert "the first start tries" in found("kvm").detail
    accel.remember("digest", works=False)
    assert "emulated" in found("kvm").detail
    accel.remember("digest", works=True)
    assert (found("kvm").status, found("kvm").detail) == ("ok", "a kernel booted on it")


CARD = Verdict(
    device="pci:0000:03:00.0",
    name="eth0",
    description="Intel 82540EM",
    driver_class="network",
    driver="e1000",
    module="e1000",
    reset="flr",
)


def no_iommu(_: Sysfs = HOST) -> tuple[str, str]:
    return "the IOMMU is off", "intel_iommu=on"


def test_a_device_that_can_be_put_in_a_nook() -> None:
    check = checks.device(replace(CARD, notes=("the default route goes by eth0",)))
    assert (check.name, check.status, check.fix) == ("device pci:0000:03:00.0", "ok", "")
    said = "Intel 82540EM (eth0, e1000): can be put in a nook; reset by flr; the default route goes by eth0"
    assert check.detail == said
    assert "; can't be reset" in checks.device(replace(CARD, reset="none")).detail
    bare = checks.device(replace(CARD, name="", driver=None, module=None))
    assert bare.detail == "Intel 82540EM: can be put in a nook; reset by flr"


def test_a_device_that_can_not_warns_and_says_what_to_change() -> None:
    login, group = Problem("a login comes by it", "walk over", force=True), Problem("shared", "other slot")
    check = checks.device(replace(CARD, problems=(login,)))
    assert check.status == "warn"
    assert check.detail.endswith("with --force only: a login comes by it")
    assert check.fix == "walk over"
    check = checks.device(replace(CARD, problems=(login, group, Problem("again", "other slot"))))
    assert check.detail.endswith("can't be put in a nook: a login comes by it; shared; again")
    assert check.fix == "walk over; other slot"


def test_every_device_of_the_machine_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [replace(CARD, problems=(Problem("no", "yes"),)), replace(CARD, device="usb:0bda:8153")]
    monkeypatch.setattr("nooks.device.verdict.survey", lambda: both)
    names = [check.name for check in checks.examine()]
    assert names[-3:] == ["iommu", "device pci:0000:03:00.0", "device usb:0bda:8153"]
    monkeypatch.setattr("nooks.device.verdict.survey", list)
    assert found("devices").status == "ok"
    assert "no PCI or USB device" in found("devices").detail


def test_the_iommu_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nooks.device.vfio.iommu_lack", no_iommu)
    assert (found("iommu").status, found("iommu").fix) == ("warn", "intel_iommu=on")
    monkeypatch.undo()
    monkeypatch.setattr("nooks.device.vfio.iommu_on", bool)
    assert found("iommu").status == "ok"
