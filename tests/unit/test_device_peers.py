"""Whom the machine must not lose: logins, network file systems, network disks, and the way to them."""

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.device_tree import FakeKernel, machine

from nooks.device import peers, routes, usage
from nooks.device.routes import KernelRoutes

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0
   1: 020200C0:0016 070200C0:D431 01 00000000:00000000 02:000A7214 00000000     0        0 200 4 0
   2: 020200C0:9C40 640200C0:0050 01 00000000:00000000 02:000A7214 00000000     0        0 201 4 0
   3: 020200C0:0016 090200C0:D431 06 00000000:00000000 02:000A7214 00000000     0        0 0 4 0
"""


class Table:
    """Made-up routes: the interface by destination, and by own address."""

    def __init__(self, ways: dict[str, str], own: dict[str, str] | None = None, default: str = "") -> None:
        self._ways, self._own, self._default = ways, own or {}, default

    def leaves_by(self, address: str) -> str | None:
        return self._ways.get(address)

    def having(self, address: str) -> str | None:
        return self._own.get(address)

    def defaults(self) -> set[str]:
        return {self._default} - {""}


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    made = machine(tmp_path)
    made.pci("0000:03:00.0", driver="e1000", module="e1000", group=3, net="eth0")
    return made


def test_the_kernels_table() -> None:
    found = peers.parse_tcp(TABLE)
    assert [(one.local, one.local_port, one.remote, one.state, one.inode) for one in found[1:3]] == [
        ("192.0.2.2", 22, "192.0.2.7", 1, 200),
        ("192.0.2.2", 40000, "192.0.2.100", 1, 201),
    ]
    mapped = TABLE.splitlines()[2].replace("020200C0", "0000000000000000FFFF0000020200C0")
    assert peers.parse_tcp(mapped)[0].local == "192.0.2.2"


@given(st.text(max_size=200))
def test_any_text_is_a_table(text: str) -> None:
    peers.parse_tcp(text)
    usage.parse_mounts(text)


def test_the_machines_own_table() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        own = [one for one in peers.parse_tcp(Path("/proc/net/tcp").read_text()) if one.local_port == port]
    assert [(one.local, one.state) for one in own] == [("127.0.0.1", 0x0A)]


def test_a_login_that_sudo_hides(kernel: FakeKernel) -> None:
    kernel.process(10, comm="sshd", environ="")
    kernel.process(11, 10, "bash) S 9", "A=1\0SSH_CONNECTION=198.51.100.7 4000 192.0.2.2 22\0B=2\0")
    kernel.process(12, 11, "sudo", "SSH_CLIENT=nonsense\0")
    kernel.process(13, 12, "nooks", "PATH=/bin\0")
    assert peers.logins(kernel, 13) == [peers.Peer("198.51.100.7", "this login", "192.0.2.2")]
    assert peers.logins(kernel, 10) == []


def test_a_loop_of_parents_ends(kernel: FakeKernel) -> None:
    kernel.process(20, 21)
    kernel.process(21, 20)
    assert peers.logins(kernel, 20) == []


def test_a_login_of_somebody_else(kernel: FakeKernel) -> None:
    kernel.process(30, comm="sshd", opened="socket:[200]")
    kernel.file("proc/30/net/tcp", TABLE)
    kernel.process(31, comm="firefox", opened="socket:[201]")
    kernel.file("proc/31/net/tcp", TABLE)
    assert peers.logins(kernel, 1) == [peers.Peer("192.0.2.7", "a login", "192.0.2.2")]


def test_what_sshd_forwards_is_no_login(kernel: FakeKernel) -> None:
    kernel.process(30, comm="sshd", opened="socket:[201]")
    kernel.file("proc/30/net/tcp", TABLE)
    assert peers.logins(kernel, 1) == []


@pytest.mark.parametrize(
    ("line", "peer"),
    [
        ("1 1 0:50 / / rw - nfs4 srv:/r rw,addr=192.0.2.9", peers.Peer("192.0.2.9", "the root file system", root=True)),
        ("1 1 0:50 / /mnt rw - nfs 192.0.2.9:/x rw", peers.Peer("192.0.2.9", "/mnt (nfs)")),
        ("1 1 0:50 / /mnt rw - cifs //192.0.2.9/x rw,addr=2001:db8::9", peers.Peer("2001:db8::9", "/mnt (cifs)")),
        ("1 1 0:50 / /m\\040t rw - fuse.sshfs me@192.0.2.9:/x rw", peers.Peer("192.0.2.9", "/m t (fuse.sshfs)")),
    ],
)
def test_network_file_systems(kernel: FakeKernel, line: str, peer: peers.Peer) -> None:
    kernel.file("proc/self/mountinfo", f"{line}\n1 1 0:51 / / rw - 9p share rw,trans=virtio\n")
    assert peers.storage(kernel) == [peer]


def test_a_network_disk(kernel: FakeKernel) -> None:
    session = kernel.folder("sys/devices/platform/host3/session1/target3:0:0/3:0:0:1")
    kernel.disk(session, "sda", "8", "sda1")
    kernel.file("sys/class/iscsi_connection/connection1:0/address", "192.0.2.9\n")
    assert peers.storage(kernel) == [peers.Peer("192.0.2.9", "the disk sda (iSCSI)")]
    kernel.file("proc/self/mountinfo", "1 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    assert peers.storage(kernel)[0].root


def test_the_way_of_a_login(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    login = [peers.Peer("198.51.100.7", "this login", "192.0.2.2")]
    monkeypatch.setattr(peers, "logins", lambda sysfs: login)  # pyright: ignore[reportUnknownLambdaType]
    assert routes.login_path("eth0", kernel, Table({})) is None
    assert routes.login_path("eth0", kernel, Table({"198.51.100.7": "eth1"})) is None
    said = "this login from 198.51.100.7 comes in by eth0"
    assert routes.login_path("eth0", kernel, Table({"198.51.100.7": "eth0"})) == said
    assert routes.login_path("eth0", kernel, Table({"198.51.100.7": "eth1"}, {"192.0.2.2": "eth0"})) == said
    kernel.virtual_interface("bond0", "eth0")
    kernel.virtual_interface("br0", "bond0")
    assert routes.login_path("eth0", kernel, Table({"198.51.100.7": "br0"})) == said
    problem = routes.losses("eth0", kernel, Table({"198.51.100.7": "br0"}))[0]
    assert problem.force


def test_root_over_a_card_is_never_forced(kernel: FakeKernel) -> None:
    kernel.file(
        "proc/self/mountinfo", "1 1 0:50 / / rw - nfs 192.0.2.9:/x rw\n1 1 0:51 / /m rw - nfs 192.0.2.8:/y rw\n"
    )
    way = Table({"192.0.2.9": "eth0", "192.0.2.8": "eth0"})
    assert [(problem.message, problem.force) for problem in routes.losses("eth0", kernel, way)] == [
        ("the root file system comes from 192.0.2.9 by eth0", False),
        ("/m (nfs) comes from 192.0.2.8 by eth0", True),
    ]


def test_the_default_route(kernel: FakeKernel) -> None:
    kernel.virtual_interface("br0", "eth0")
    assert routes.carries_default("eth0", kernel, Table({}, default="br0"))
    assert not routes.carries_default("eth0", kernel, Table({}, default="eth1"))


def test_the_kernels_own_routes() -> None:
    kernel = KernelRoutes()
    assert kernel.leaves_by("127.0.0.1") == "lo"
    assert kernel.having("127.0.0.1") == "lo"
    assert kernel.leaves_by("fe80::1%lo") == "lo"
    assert kernel.leaves_by("ff02::1%none") == "none"
    assert kernel.leaves_by("0.0.0.0") in ("lo", None)
    assert isinstance(kernel.defaults(), set)
