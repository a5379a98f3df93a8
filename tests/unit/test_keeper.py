"""The descriptor keeper: its store, its process, its client."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest

from nooks.keeper.client import KeeperClient, KeeperError, KeeperGone
from nooks.keeper.server import DESCRIPTORS_MAX, PUT, Refused, Store, checked_key
from nooks.keeper.start import reap_daemons, start_keeper

PSS_MAX_KB = 12 * 1024


class Running(NamedTuple):
    pid: int
    client: KeeperClient
    path: Path


@pytest.fixture
def keeper(tmp_path: Path) -> Generator[Running]:
    path = tmp_path / "keeper"
    pid, client = start_keeper(path, output=2)
    pidfd = os.pidfd_open(pid)
    client.list()  # it runs now, and has closed what it inherited
    yield Running(pid, client, path)
    client.quit()
    client.close()
    ended, _, _ = select.select([pidfd], [], [], 10)
    os.close(pidfd)
    reap_daemons()
    assert ended
    assert not Path(f"/proc/{pid}").exists()


def memory_file(content: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, content)
    return fd


def descriptors_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_gives_back_what_it_was_given(keeper: Running) -> None:
    mine = memory_file(b"outstanding requests")
    keeper.client.put("log", mine)
    os.close(mine)
    yours = keeper.client.get("log")
    assert os.pread(yours, 100, 0) == b"outstanding requests"
    assert not os.get_inheritable(yours)
    os.close(yours)
    assert keeper.client.list() == ("log",)


def test_holds_on_while_nobody_is_connected(keeper: Running) -> None:
    mine = memory_file(b"tap")
    keeper.client.put("tap.0", mine)
    os.close(mine)
    keeper.client.close()
    with KeeperClient.connect(keeper.path) as successor:
        fd = successor.get("tap.0")
        assert os.pread(fd, 10, 0) == b"tap"
        os.close(fd)
        successor.quit()


def test_replaces_and_drops_without_leaking(keeper: Running) -> None:
    before = descriptors_of(keeper.pid)
    for content in (b"old", b"new"):
        fd = memory_file(content)
        keeper.client.put("key", fd)
        os.close(fd)
    assert descriptors_of(keeper.pid) == before + 1
    fd = keeper.client.get("key")
    assert os.pread(fd, 10, 0) == b"new"
    os.close(fd)
    keeper.client.drop("key")
    keeper.client.drop("key")
    assert keeper.client.list() == ()
    assert descriptors_of(keeper.pid) == before


def test_refuses_what_it_does_not_hold(keeper: Running) -> None:
    with pytest.raises(KeeperError, match="nothing is held under tap"):
        keeper.client.get("tap")


def test_is_bounded(keeper: Running) -> None:
    fd = memory_file(b"")
    for number in range(DESCRIPTORS_MAX):
        keeper.client.put(f"key{number}", fd)
    with pytest.raises(KeeperError, match="held already"):
        keeper.client.put("one-more", fd)
    keeper.client.put("key0", fd)
    os.close(fd)
    assert len(keeper.client.list()) == DESCRIPTORS_MAX


@pytest.mark.parametrize("key", ["", "UPPER", "a b", "x" * 49, "../up", "ä"])
def test_refuses_wrong_keys(keeper: Running, key: str) -> None:
    fd = memory_file(b"")
    with pytest.raises(KeeperError, match="a key is"):
        keeper.client.put(key, fd)
    os.close(fd)
    assert keeper.client.list() == ()


def test_put_needs_exactly_one_descriptor(keeper: Running) -> None:
    before = descriptors_of(keeper.pid)
    fd = memory_file(b"")
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with raw:
        raw.connect(str(keeper.path))
        for fds in ([], [fd, fd], [fd] * 20):
            socket.send_fds(raw, [PUT + b"key"], fds)
            assert raw.recv(1000).startswith(b"E")
    os.close(fd)
    assert keeper.client.list() == ()
    assert keeper.client.list() == ()  # by now it has seen that the other one left
    assert descriptors_of(keeper.pid) == before


def test_survives_nonsense(keeper: Running) -> None:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with raw:
        raw.connect(str(keeper.path))
        for packet in (b"?", b"P", b"G\xff\xff", b"L" * 20000, os.urandom(200)):
            raw.send(packet)
            assert raw.recv(1000)[:1] in (b"E", b"K")
    assert keeper.client.list() == ()


def test_quits_when_the_last_client_leaves_and_nothing_is_held(tmp_path: Path) -> None:
    pid, client = start_keeper(tmp_path / "keeper", output=2)
    pidfd = os.pidfd_open(pid)
    client.list()
    client.close()
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    reap_daemons()


def test_client_sees_its_death(keeper: Running) -> None:
    assert not select.select([keeper.client.fileno()], [], [], 0)[0]
    os.kill(keeper.pid, signal.SIGKILL)
    assert select.select([keeper.client.fileno()], [], [], 10)[0]
    with pytest.raises(KeeperGone):
        keeper.client.list()
    with pytest.raises(KeeperGone):
        KeeperClient.connect(keeper.path)


def test_is_small(keeper: Running) -> None:
    keeper.client.list()
    rollup = Path(f"/proc/{keeper.pid}/smaps_rollup").read_text().splitlines()
    pss_kb = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    assert pss_kb < PSS_MAX_KB


def test_leads_a_session_of_its_own(keeper: Running) -> None:
    assert os.getsid(keeper.pid) == keeper.pid


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_is_protected(keeper: Running) -> None:
    keeper.client.list()
    allowed = subprocess.run(["sh", "-c", "echo -900 > /proc/self/oom_score_adj"], capture_output=True, check=False)
    if allowed.returncode == 0:
        assert Path(f"/proc/{keeper.pid}/oom_score_adj").read_text().strip() == "-900"
    status = Path(f"/proc/{keeper.pid}/status").read_text()
    assert "VmLck:\t       0 kB" not in status


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_serves_only_root_and_its_own_user(keeper: Running) -> None:
    fd = memory_file(b"")
    keeper.client.put("tap", fd)
    os.close(fd)
    keeper.path.chmod(0o666)
    for directory in (keeper.path.parent, *keeper.path.parent.parents):
        if directory == Path("/tmp"):
            break
        directory.chmod(0o755)
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "s.connect(sys.argv[1]); s.settimeout(5)\n"
        "try: s.send(b'L'); print(s.recv(100))\n"
        "except OSError: print('closed')"
    )
    said = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/env", "python3", "-c", program, str(keeper.path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert said.stdout.strip() in ("b''", "closed"), said.stderr
    assert keeper.client.list() == ("tap",)


def test_imports_nothing_of_ours() -> None:
    server = Path(sys.modules["nooks.keeper.server"].__file__ or "")
    assert "nooks" not in [
        line.split()[1].partition(".")[0]
        for line in server.read_text().splitlines()
        if line.startswith(("import ", "from "))
    ]


def test_long_paths(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    pid, client = start_keeper(directory / "keeper", output=2)
    with KeeperClient.connect(directory / "keeper") as second:
        assert second.list() == ()
    client.quit()
    client.close()
    os.waitpid(pid, 0)
    reap_daemons()


def test_store_takes_over_one_descriptor() -> None:
    store = Store()
    fds = [memory_file(b"")]
    held = fds[0]
    store.put("key", fds)
    assert fds == []
    assert store.get("key") == held
    store.drop("key")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held)


def test_key_length_limits() -> None:
    assert checked_key(b"a" * 48) == "a" * 48
    with pytest.raises(Refused):
        checked_key(b"a" * 49)
