"""Disks of the host that are to go into a nook: what speaks against it, and holding them meanwhile."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tests.unit.device_tree import FakeKernel, machine

from nooks.device import disks, taking
from nooks.host.errors import StateError

CONTROLLER = "0000:00:1f.2"


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    made = machine(tmp_path)
    place = made.pci(CONTROLLER, code="010601", driver="ahci", module="ahci", group=9)
    made.driver("pci", "vfio-pci", "vfio_pci")
    made.disk(place, "sda", "8", "sda1")
    made.file("dev/sda", "")
    return made


def said(kernel: FakeKernel, *names: str, driver: str | None = "ahci") -> list[tuple[str, bool]]:
    return [(problem.message, problem.force) for problem in disks.problems(names, driver, kernel)]


def test_one_disk_is_what_a_nook_can_have(kernel: FakeKernel) -> None:
    assert said(kernel, "sda") == []
    assert said(kernel, "sda", "sdb") == [("it makes 2 disks (sda, sdb); a nook has one", False)]
    assert said(kernel) == [("ahci has made no disk here", False)]
    assert said(kernel, driver=None) == []  # nobody has looked yet


def test_what_is_no_disk_or_has_no_medium(kernel: FakeKernel) -> None:
    place = kernel.at("sys/class/block/sda").resolve()
    (place / "size").write_text("0\n")
    assert said(kernel, "sda") == [("sda has no medium", False)]
    (place / "device").mkdir()
    (place / "device/type").write_text("5\n")
    assert said(kernel, "sda") == [("sda is a drive for CDs or DVDs", False)]


def test_a_program_that_has_the_disk_or_a_partition_open(kernel: FakeKernel) -> None:
    kernel.process(50, opened="/dev/sda1")
    assert said(kernel, "sda") == [("process 50 has sda open", True)]


def test_a_disk_that_somebody_uses_is_not_taken(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = taking.plan(f"pci:{CONTROLLER}", kernel)
    assert taken.blocks == ("sda",)
    original = os.open
    flags_seen: list[int] = []

    def opened(path: Any, flags: int, *more: Any) -> int:  # noqa: ANN401 - as os.open
        if Path(path) == kernel.at("dev/sda"):
            flags_seen.append(flags)
            raise OSError(errno.EBUSY, "busy")
        return original(path, flags, *more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        with pytest.raises(StateError, match="sda is in use"):
            taking.take(taken, kernel)
    assert flags_seen[0] & os.O_EXCL
    assert kernel.written == []  # nothing was touched
    taking.take(taken, kernel)
    assert (kernel.at("sys/bus/pci/devices", CONTROLLER, "driver")).resolve().name == "vfio-pci"


def test_a_disk_that_is_gone_meanwhile_holds_nobody_up(kernel: FakeKernel) -> None:
    with disks.held(["sdz"], kernel):
        pass
