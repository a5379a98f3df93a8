"""What tells accelerators apart, as far as snapshots go."""

from dataclasses import replace
from pathlib import Path

import pytest

from nooks.domain import accel
from nooks.domain.qemu import Plan

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 23
model\t\t: 1
stepping\t: 2
cpu MHz\t\t: 2445.426
flags\t\t: fpu vme avx2
bugs\t\t: sysret_ss_attrs

processor\t: 1
vendor_id\t: AuthenticAMD
"""


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    monkeypatch.setattr(accel, "CPUINFO", path)
    return path


def key() -> str:
    plan = Plan(Path("vmlinux"), Path("initramfs"), "digest", 128 << 20, (), accel.tcg())
    return replace(plan, accelerator=accel.kvm()).key()


def test_a_snapshot_is_for_one_processor(cpuinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nooks.domain.emulator.version_text", lambda: "")
    before = key()
    cpuinfo.write_text(CPUINFO.replace("2445.426", "3000.0"))
    assert key() == before, "its clock does not matter"
    cpuinfo.write_text(CPUINFO.replace(" avx2", ""))
    assert key() != before


def test_emulation_is_the_same_everywhere() -> None:
    assert accel.tcg().processor == ""
