"""What dead daemons leave is found by its owner, and only that is ended."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nooks.endpoint import netns
from nooks.host.cgroup import MARK
from nooks.nook import leftovers
from nooks.nook.claims import BLOCK_DEVICE, NAMESPACE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start processes of another user")


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOOKS_RUN_DIR", str(tmp_path))


@pytest.fixture
def domains() -> Iterator[list[subprocess.Popen[bytes]]]:
    user = str(leftovers.domain_user("left0"))
    started = [
        subprocess.Popen(["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "sleep", "60"])
        for _ in range(2)
    ]
    for process in started:
        while Path(f"/proc/{process.pid}/comm").read_text().strip() != "sleep":
            pass
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_all_domains_of_a_dead_nook_end(domains: list[subprocess.Popen[bytes]]) -> None:
    assert leftovers.fence("left1") == 0
    assert leftovers.fence("left0") == 2
    assert [process.wait(5) for process in domains] == [-9, -9]
    assert leftovers.fence("left0") == 0


def test_what_the_keeper_holds_stays(domains: list[subprocess.Popen[bytes]]) -> None:
    assert leftovers.fence("left0", keep={domains[0].pid}) == 1
    assert domains[1].wait(5) == -9
    assert domains[0].poll() is None


def test_an_ordinary_users_domains_are_told_by_their_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that user's other processes stay."""
    user = leftovers.domain_user("left0")
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "sleep", "60"]
    marks = ("nooks-left0", "nooks-left00", "")
    started = [subprocess.Popen(become, env={**os.environ, MARK: mark}) for mark in marks]
    for process in started:
        while Path(f"/proc/{process.pid}/comm").read_text().strip() != "sleep":
            pass
    monkeypatch.setattr(os, "geteuid", lambda: user)
    try:
        assert leftovers.fence("left0") == 1
        assert [started[0].wait(5), started[1].poll(), started[2].poll()] == [-9, None, None]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_all_that_is_left_goes_and_domains_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def ended(name: str) -> int:
        done.append(f"fence {name}")
        return 1

    monkeypatch.setattr(leftovers, "fence", ended)
    for step in ("remove_namespace", "detach_block_device", "give_back_device"):
        monkeypatch.setattr(leftovers, step, lambda name, step=step: done.append(f"{step} {name}"))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    leftovers.clear("left0")
    assert done == ["fence left0", "remove_namespace left0", "detach_block_device left0", "give_back_device left0"]


def test_users_of_two_nooks_differ() -> None:
    assert leftovers.domain_user("nic0") != leftovers.domain_user("nic1")
    assert leftovers.domain_user("nic0") == leftovers.domain_user("nic0")


def test_the_noted_namespace_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(netns, "remove", removed.append)
    leftovers.remove_namespace("left0")
    (tmp_path / "left0").mkdir()
    leftovers.remove_namespace("left0")
    (tmp_path / "left0" / NAMESPACE).write_text("lab")
    leftovers.remove_namespace("left0")
    assert removed == ["lab"]


@pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="needs loop devices")
def test_a_dead_disks_loop_device_goes_and_nobody_elses(tmp_path: Path) -> None:
    devices: dict[str, Path] = {}
    for name in ("left0", "left00"):
        file = tmp_path / f"nooks-{name}"
        file.write_bytes(bytes(1 << 20))
        made = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=True)
        devices[name] = Path(made.stdout.strip())
    backing = {name: Path("/sys/block", device.name, "loop/backing_file") for name, device in devices.items()}
    try:
        (tmp_path / "left0").mkdir()
        (tmp_path / "left1").mkdir()
        (tmp_path / "left0" / BLOCK_DEVICE).symlink_to(devices["left0"])
        (tmp_path / "left1" / BLOCK_DEVICE).symlink_to(devices["left00"])  # of old: another has it now
        for name in ("left0", "left1", "left2"):
            leftovers.detach_block_device(name)
        assert [backing[name].exists() for name in devices] == [False, True]
    finally:
        for name, device in devices.items():
            if backing[name].exists():
                subprocess.run(["losetup", "--detach", str(device)], check=True)
