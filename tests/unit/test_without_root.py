"""What an ordinary user may start, where that user's state is, and how its domains are confined."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from nooks.drivers import complete
from nooks.host import paths
from nooks.host.cgroup import Cgroup
from nooks.host.errors import MachineError
from nooks.host.process import Confinement, spawn
from nooks.lifecycle.preparing import check_machine
from nooks.spec import from_flags

USER = 1_700_000_001


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: USER)


@pytest.mark.usefixtures("ordinary")
def test_state_is_in_the_users_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOOKS_RUN_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert paths.run_dir() == Path("/run/user/7/nooks")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert paths.run_dir() == Path("/run/nooks")
    monkeypatch.setenv("NOOKS_RUN_DIR", "/elsewhere")
    assert paths.run_dir() == Path("/elsewhere")


def test_roots_state_is_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("NOOKS_RUN_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    assert paths.run_dir() == Path("/run/nooks")


@pytest.mark.usefixtures("ordinary")
@pytest.mark.parametrize(
    ("driver", "device", "said"),
    [
        ("e1000", "emulated:e1000", "a network nook needs root"),
        ("ide-disk", "emulated:ide-hd", "a block nook needs root"),
        ("intel8x0", "pci:0000:03:00.0", "a sound nook with the device pci:0000:03:00.0 needs root"),
        ("usb-audio", "usb:46f4:0002", "a sound nook with the device usb:46f4:0002 needs root"),
        ("ens1371", "model:es1371", "a sound nook with the device model:es1371 needs root"),
        ("intel8x0", "emulated:AC97", None),
    ],
)
def test_who_may_start_what(driver: str, device: str, said: str | None) -> None:
    media = {"block.media": "disk.img"} if driver == "ide-disk" else {}
    spec, _ = complete(from_flags({"name": "speakers", "driver": driver, "device": device, **media}))
    if said is None:
        check_machine(spec)
        return
    with pytest.raises(MachineError, match=said):
        check_machine(spec)


@pytest.mark.skipif(
    subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False).returncode != 0,
    reason="no user namespaces here",
)
def test_a_process_without_a_namespace_given_makes_its_own(tmp_path: Path) -> None:
    said = tmp_path / "said"
    confinement = Confinement(os.geteuid(), os.getegid(), None, 1 << 30)

    async def body() -> None:
        with said.open("wb") as file:
            look = "readlink /proc/self/ns/net; grep -E 'CapEff|NoNewPrivs' /proc/self/status; ulimit -c"
            process = spawn(["sh", "-c", look], stdout=file.fileno(), confinement=confinement)
        try:
            async with asyncio.timeout(30):
                while process.returncode is None:
                    await asyncio.sleep(0.01)
        finally:
            process.close()
        assert process.returncode == 0

    asyncio.run(body())
    network, capabilities, privileges, core = said.read_text().splitlines()
    assert network != str(Path("/proc/self/ns/net").readlink())
    assert privileges.split() == ["NoNewPrivs:", "1"]
    assert core == "0"
    if os.geteuid() != 0:  # root stays root in a namespace of its own
        assert int(capabilities.split()[1], 16) == 0


def test_a_group_that_a_process_can_not_be_moved_to_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> int:
        raise PermissionError(13, "Permission denied", str(path), text)

    group = Cgroup(tmp_path / "nooks-speakers-1-1")
    assert group.path is not None
    group.path.mkdir()
    monkeypatch.setattr(Path, "write_text", refuse)
    group.add(os.getpid())
    assert group.path is None
    assert list(tmp_path.iterdir()) == []
