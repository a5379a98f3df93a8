"""When a disk is ready inside a domain: not before its driver is done with probing it."""

import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from nooks.agent import block
from nooks.agent.system import Unable
from nooks.agent.uevents import Uevents

NULL = Path("/sys/class/mem/null")


class News(Uevents):
    """Uevents that the test makes, an element for each call of ``read``."""

    def __init__(self, *batches: list[tuple[str, str]]) -> None:
        self.batches = list(batches)

    def read(self) -> list[tuple[str, str]]:
        return self.batches.pop(0) if self.batches else []


def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bus: str) -> tuple[str, str]:
    """A disk's folders; as uevents name the disk and its device."""
    device = tmp_path / "devices" / "0:0:0:0"
    (device / "block" / "sda").mkdir(parents=True)
    (device / "block" / "sda" / "device").symlink_to(device)
    (tmp_path / "bus" / bus).mkdir(parents=True)
    (device / "subsystem").symlink_to(tmp_path / "bus" / bus)
    monkeypatch.setattr(block, "_BLOCK", str(device / "block"))
    return str(device / "block" / "sda"), str(device)


def wait(news: News, seconds: float) -> None:
    block.wait_until_probed(news, "sda", time.monotonic() + seconds)


def test_a_scsi_disk_is_ready_when_it_was_announced_and_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, device = disk(tmp_path, monkeypatch, "scsi")
    news = News([("add", device)], [("add", name), ("add", "/module/sd_mod")], [], [("bind", device)], [("add", "/x")])
    wait(news, 5)
    assert news.batches == [[("add", "/x")]]


def test_another_disk_is_ready_when_it_was_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = disk(tmp_path, monkeypatch, "nvme-subsystem")
    news = News([], [("add", name)], [("add", "/x")])
    wait(news, 5)
    assert news.batches == [[("add", "/x")]]


@pytest.mark.parametrize("missing", ["add", "bind"])
def test_a_driver_that_never_gets_done_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    name, device = disk(tmp_path, monkeypatch, "scsi")
    news = News([each for each in (("add", name), ("bind", device)) if each[0] != missing])
    with pytest.raises(Unable, match="done with probing"):
        wait(news, 0.01)


@pytest.mark.skipif(not os.access(NULL / "uevent", os.W_OK), reason="only root may have the kernel announce a device")
def test_the_kernels_own_uevents() -> None:
    with closing(Uevents()) as news:
        (NULL / "uevent").write_text("change")
        assert ("change", os.path.realpath(NULL).removeprefix("/sys")) in news.read()
        assert news.read() == []
