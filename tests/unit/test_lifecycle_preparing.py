"""What a start asks the emulator, and how often."""

from pathlib import Path

import pytest

from nooks import drivers
from nooks.domain import emulator, qemu
from nooks.lifecycle.preparing import check_emulator
from nooks.spec import from_flags


def test_the_emulator_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked: list[str] = []
    monkeypatch.setattr(emulator, "version_text", lambda: "a build")
    monkeypatch.setattr(qemu, "check_version", lambda: asked.append("version"))
    monkeypatch.setattr(qemu, "check_device", lambda model, hardware: asked.append(model))  # type: ignore[reportUnknownLambdaType]
    complete, _ = drivers.complete(from_flags({"name": "nic0", "driver": "e1000"}))
    check_emulator(complete)
    check_emulator(complete)
    assert asked == ["version", "e1000"]
    check_emulator(drivers.complete(from_flags({"name": "nic0", "driver": "e100"}))[0])
    monkeypatch.setattr(emulator, "version_text", lambda: "another")
    check_emulator(complete)
    assert asked == ["version", "e1000", "i82557b", "version", "e1000"]


def test_what_one_class_may_have_another_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(emulator, "version_text", lambda: "a build")
    monkeypatch.setattr(qemu, "check_version", lambda: None)
    asked: list[str] = []
    monkeypatch.setattr(qemu, "check_device", lambda model, hardware: asked.append(" ".join(hardware)))  # type: ignore[reportUnknownLambdaType]
    for driver in ("intel8x0", "e1000"):
        flags = {"name": "nic0", "driver": driver, "device": "emulated:AC97"}
        check_emulator(drivers.complete(from_flags(flags))[0])
    assert ["audiodev" in asked[0], "netdev" in asked[1]] == [True, True]
