"""A block nook's medium: what a domain is given of it, and which changes are refused."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from nooks import drivers
from nooks.host.errors import InputError, StateError
from nooks.nook.block_tray import MEDIUM, Tray, open_first
from nooks.nook.ledger import Ledger
from nooks.spec import Spec, from_flags


@dataclass
class FakeLedger:
    given: dict[str, int] = field(default_factory=dict[str, int])
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def give(self, key: str, descriptor: int) -> None:
        self.given[key] = descriptor

    def forget(self, key: str) -> None:
        del self.given[key]

    def held(self) -> tuple[str, ...]:
        return tuple(self.given)

    def record(self, **facts: Any) -> None:  # noqa: ANN401
        self.facts |= facts


def spec(driver: str, media: Path | None = None, device: str | None = None) -> Spec:
    flags = {"name": "disk0", "driver": driver, "device": device, "block.media": str(media) if media else None}
    return drivers.complete(from_flags({key: value for key, value in flags.items() if value is not None}))[0]


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    path = tmp_path / "disc.iso"
    path.write_bytes(bytes(8192))
    return path


def tray_of(driver: str, media: Path | None = None, device: str | None = None) -> tuple[Tray, FakeLedger]:
    wanted, ledger = spec(driver, media, device), FakeLedger()
    return Tray(wanted, cast("Ledger", ledger), open_first(wanted)), ledger


def test_a_disk_must_have_a_medium_and_a_drive_need_not() -> None:
    with pytest.raises(InputError, match="disk0 has no medium"):
        open_first(spec("ide-disk"))
    assert open_first(spec("ide-cd")) is None


def test_media_of_a_drive_come_and_go(disc: Path, tmp_path: Path) -> None:
    tray, ledger = tray_of("ide-cd", disc)
    other = tmp_path / "other.iso"
    other.write_bytes(bytes(4096))
    tray.hold()
    assert (tray.size_bytes, ledger.facts["size_bytes"]) == (8192, 8192)
    tray.replace(str(other))
    assert (tray.size_bytes, ledger.facts["size_bytes"]) == (4096, 4096)
    again, _ = tray_of("ide-cd", disc)  # its lock went with it
    again.close()
    tray.replace(None)
    assert (tray.size_bytes, MEDIUM in ledger.given) == (0, False)
    tray.close()


def test_changes_that_are_refused_leave_it_as_it_was(disc: Path, tmp_path: Path) -> None:
    tray, _ = tray_of("ide-cd", disc)
    taken = tmp_path / "taken.iso"
    taken.write_bytes(bytes(4096))
    somebody, _ = tray_of("ide-disk", taken)
    odd = tmp_path / "odd.iso"
    odd.write_bytes(bytes(2048 + 512))
    for path, error, said in (
        (disc, InputError, "is in disk0 already"),
        (odd, InputError, "no multiple of 2048"),
        (tmp_path / "none", InputError, "there is no medium"),
        (taken, StateError, "is in use by another nook"),
    ):
        with pytest.raises(error, match=said):
            tray.replace(str(path))
    assert tray.size_bytes == 8192
    with pytest.raises(InputError, match="no removable medium"):
        somebody.replace(None)
    somebody.close()
    tray.close()


def test_what_somebody_does_to_its_file_is_told(disc: Path) -> None:
    tray, _ = tray_of("ide-disk", disc)
    assert tray.trouble() is None
    os.truncate(disc, 1000)
    assert "7192 bytes shorter" in (tray.trouble() or "")
    assert tray.usable_bytes == 512
    os.truncate(disc, 8192)
    disc.unlink()
    assert "deleted" in (tray.trouble() or "")
    assert tray.usable_bytes == 8192
    tray.close()


def test_a_drives_snapshot_does_not_depend_on_its_medium(disc: Path) -> None:
    empty, _ = tray_of("ide-cd")
    full, _ = tray_of("ide-cd", disc)
    assert empty.hardware() == full.hardware()
    full.close()


@pytest.mark.parametrize(
    ("driver", "buses", "properties"),
    [
        ("ide-disk", "", {"driver": "ide-hd"}),
        ("ahci", "-device ich9-ahci,id=controller", {"driver": "ide-hd", "bus": "controller.0"}),
        ("usb-storage", "-device qemu-xhci", {"driver": "usb-storage"}),
        ("nvme", "", {"driver": "nvme", "serial": "nooks"}),
    ],
)
def test_what_a_disk_is_plugged_into(disc: Path, driver: str, buses: str, properties: dict[str, str]) -> None:
    tray, _ = tray_of(driver, disc)
    assert " ".join(tray.hardware()).endswith(buses)
    assert tray.drive().items() >= {**properties, "drive": "medium", "id": "unit"}.items()
    assert spec(driver, disc).plugged_late == (driver == "nvme")
    tray.close()


def test_options_are_the_controllers(disc: Path) -> None:
    tray, _ = tray_of("ahci", disc, "emulated:ich9-ahci,addr=8")
    assert "ich9-ahci,id=controller,addr=8" in tray.hardware()
    assert "addr" not in tray.drive()
    tray.close()
