"""``nooks doctor``: every lack has a remedy."""

import json
import shutil
from pathlib import Path

import pytest

from nooks.cli import checks
from nooks.cli.doctor import doctor


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


def test_what_a_probe_boot_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if found("kvm").status == "warn":
        pytest.skip("no /dev/kvm here")
    (tmp_path / "nooks").mkdir()
    (tmp_path / "nooks/accelerator.json").write_text('{"works": false}')
    assert "emulated" in found("kvm").detail
    (tmp_path / "nooks/accelerator.json").write_text('{"works": true}')
    assert found("kvm").status == "ok"
