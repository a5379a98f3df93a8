"""TapEndpoint and its queues on real TAPs, in a namespace of their own."""

import errno
import hashlib
import itertools
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from endpoints import CSUM, MAC, PEER_MAC, TSO4, TSO6, USO, command, needs_tap, new_namespace, offload, ready
from sample_frames import sample_frames

from nooks.endpoint import ethtool, netns
from nooks.endpoint.ledger import Ledger
from nooks.endpoint.multiqueue import PACKET_HEADER_BYTES, VNET_HEADER_BYTES, EndpointGone
from nooks.endpoint.tap import TapEndpoint
from nooks.host.errors import InputError

pytestmark = needs_tap


@pytest.fixture
def namespace() -> Iterator[int]:
    with new_namespace() as fd:
        yield fd


@pytest.fixture
def tap(namespace: int) -> Iterator[TapEndpoint]:
    endpoint = TapEndpoint.create("nook", namespace=namespace, mac=MAC)
    yield endpoint
    endpoint.close()


def udp_sockets(namespace: int, count: int) -> list[socket.socket]:
    with netns.entered(namespace):
        return [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]


def test_a_tap_is_made_as_asked_and_goes_with_its_descriptors(namespace: int) -> None:
    tap = TapEndpoint.create("nook", namespace=namespace, mac=MAC, queue_frames=1234)
    tap.configure(["192.0.2.1/24", "2001:db8::1/64"], mtu=1400, up=True)
    text = command(namespace, "ip", "addr", "show", "dev", "nook")
    assert MAC in text
    assert "mtu 1400" in text
    assert "qlen 1234" in text
    assert "inet 192.0.2.1/24 brd 192.0.2.255" in text
    assert "inet6 2001:db8::1/64" in text
    assert "LOWER_UP" in text
    assert (tap.attached(0), tap.attached(1)) == (True, False)
    tap.close()
    tap.close()
    assert "nook" not in command(namespace, "ip", "link")


def test_a_name_in_use_is_one_clear_line(namespace: int, tap: TapEndpoint) -> None:
    with pytest.raises(InputError, match="nook is there already, or another process holds it"):
        TapEndpoint.create("nook", namespace=namespace)
    with pytest.raises(InputError, match="lo is there already"):
        TapEndpoint.create("lo", namespace=namespace)
    with pytest.raises(InputError, match="cannot name an interface"):
        TapEndpoint.create("a name", namespace=namespace)


def test_bad_addresses_and_values_are_named(tap: TapEndpoint) -> None:
    with pytest.raises(InputError, match="is no address"):
        tap.configure(["192.0.2.300/24"])
    with pytest.raises(InputError, match="does not take mtu=70000"):
        tap.configure(mtu=70000)
    tap.configure(["192.0.2.1/24"])
    tap.configure(["192.0.2.1/24"])


def test_the_newest_queue_gets_every_frame_and_a_switch_loses_none(namespace: int, tap: TapEndpoint) -> None:
    ready(namespace, tap)
    assert tap.lossless
    flows = udp_sockets(namespace, 40)

    def send() -> None:
        for port, flow in enumerate(flows):
            flow.sendto(b"x" * 64, ("192.0.2.2", 1000 + port))

    for old, new in ((0, 1), (1, 0), (0, 1)):
        send()
        done = tap.switch(new)
        assert (done.moved, done.lost) == (40, 0)
        assert (tap.attached(old), tap.attached(new)) == (False, True)
        send()
        assert len(tap.drain(new)) == 80
        assert tap.drain(old) == []
    assert tap.moved == 120
    assert tap.switch(1).moved == 0
    for flow in flows:
        flow.close()


def without_buffers(frame: bytes) -> bytes:
    """A frame without num_buffers of its header, which a TAP leaves as it is."""
    return frame[:PACKET_HEADER_BYTES] + frame[VNET_HEADER_BYTES:]


@pytest.mark.parametrize("kind", sorted(sample_frames()))
def test_a_reinjected_frame_is_the_same_frame(namespace: int, tap: TapEndpoint, kind: str) -> None:
    ready(namespace, tap)
    offload(tap, CSUM | TSO4 | TSO6 | USO)
    frame = sample_frames()[kind]
    assert tap.reinject([frame]) == 1
    (first,) = tap.drain(0)
    assert without_buffers(first) == without_buffers(frame)
    assert tap.reinject([first, first]) == 2
    assert [without_buffers(each) for each in tap.drain(0)] == [without_buffers(first)] * 2


def test_reinjected_frames_are_not_captured_twice(namespace: int, tap: TapEndpoint) -> None:
    ready(namespace, tap)
    with netns.entered(namespace):
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with capture:
        capture.setblocking(False)
        assert tap.reinject([sample_frames()["plain"]]) == 1
        with pytest.raises(BlockingIOError):
            capture.recv(2000)
    assert len(tap.drain(0)) == 1


def test_what_no_queue_has_room_for_is_counted(namespace: int, tap: TapEndpoint) -> None:
    ready(namespace, tap)
    frame = sample_frames()["plain"]
    before = tap.dropped
    tap.reinject([frame] * 1100)
    assert tap.dropped - before == 100
    assert len(tap.drain(0)) == 1000
    tap.restore({"up": False})
    assert tap.reinject([frame]) == 0


def test_carrier_speed_and_duplex_are_mirrored(namespace: int, tap: TapEndpoint) -> None:
    ready(namespace, tap)
    tap.mirror_link(100, "half")
    assert "Speed: 100Mb/s" in command(namespace, "ethtool", "nook")
    assert "Duplex: Half" in command(namespace, "ethtool", "nook")
    tap.mirror_link(-1, "unknown")
    assert "Speed: Unknown!" in command(namespace, "ethtool", "nook")
    tap.set_carrier(False)
    assert "NO-CARRIER" in command(namespace, "ip", "link", "show", "nook")
    tap.switch(1)
    tap.set_carrier(True)
    assert "LOWER_UP" in command(namespace, "ip", "link", "show", "nook")
    assert tap.ledger.changes(tap.observe()) == {}


def test_the_carrier_stays_when_every_reader_is_gone(namespace: int, tap: TapEndpoint) -> None:
    ready(namespace, tap)
    child = subprocess.Popen(["sleep", "60"], pass_fds=tap.queue_fds)
    child.kill()
    child.wait()
    assert "LOWER_UP" in command(namespace, "ip", "link", "show", "nook")


def test_adoption_after_the_holder_died(namespace: int) -> None:
    states: list[bytes] = []
    tap = TapEndpoint.create("nook", namespace=namespace, mac=MAC, ledger=Ledger(states.append))
    tap.switch(1)
    kept = [os.dup(fd) for fd in tap.queue_fds]
    tap.close()
    command(namespace, "ip", "link", "set", "nook", "mtu", "1300", "name", "renamed")
    adopted = TapEndpoint.adopt(kept, Ledger(states.append, states[-1]))
    assert adopted.name == "renamed"
    assert (adopted.attached(0), adopted.attached(1)) == (False, True)
    assert adopted.ledger.changes(adopted.observe()) == {"mtu": 1300}
    adopted.close()


def test_a_deleted_interface_is_an_error_of_ours(namespace: int, tap: TapEndpoint) -> None:
    command(namespace, "ip", "link", "del", "nook")
    with pytest.raises(EndpointGone):
        tap.observe()
    with pytest.raises(EndpointGone):
        tap.set_carrier(False)
    with pytest.raises(EndpointGone):
        tap.switch(1)
    assert tap.drain(0) == []


def test_qemus_offloads_are_not_the_users_wishes(namespace: int, tap: TapEndpoint) -> None:
    ready(namespace, tap)
    command(namespace, "ethtool", "-K", "nook", "tso", "off")
    changes = tap.ledger.changes(tap.observe())
    assert changes["feature.tx-tcp-segmentation"] is False
    tap.ledger.reported(changes)
    with tap.launching(1):
        offload(tap, 0)
        assert tap.ledger.changes(tap.observe()) == {}
        offload(tap, CSUM | TSO4 | TSO6)
    assert tap.ledger.changes(tap.observe()) == {}
    text = command(namespace, "ethtool", "-k", "nook")
    assert "tx-tcp-segmentation: off" in text
    assert "tx-checksum-ip-generic: on" in text


def test_link_settings_survive_a_round_trip(tap: TapEndpoint) -> None:
    interface = tap._tap.interface  # pyright: ignore[reportPrivateUsage]
    for settings in (ethtool.LinkSettings(2500, "full", True), ethtool.LinkSettings(-1, "unknown", False)):
        ethtool.set_link_settings(interface, settings)
        assert ethtool.link_settings(interface) == settings


class Cable:
    """Carries frames between two TAPs, vnet headers included, as a pair of domains would."""

    def __init__(self, left: int, right: int) -> None:
        self.left, self.right = left, right
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for fd in select.select([self.left, self.right], [], [], 0.01)[0]:
                try:
                    frame = os.read(fd, 1 << 17)
                except BlockingIOError:
                    continue
                try:
                    os.write(self.right if fd == self.left else self.left, frame)
                except OSError as error:
                    assert error.errno == errno.EIO  # noqa: PT017 - the interface is down

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_a_tcp_connection_with_offloads_sees_no_loss_at_failovers(namespace: int, tap: TapEndpoint) -> None:
    other_namespace = netns.empty_netns()
    other = TapEndpoint.create("nook", namespace=other_namespace, mac=PEER_MAC)
    for end, space, address in ((tap, namespace, "192.0.2.1/24"), (other, other_namespace, "192.0.2.2/24")):
        offload(end, CSUM | TSO4 | TSO6)
        command(space, "sysctl", "-qw", "net.ipv6.conf.nook.disable_ipv6=1")
        end.configure([address], up=True)
    with netns.entered(other_namespace):
        listener = socket.create_server(("192.0.2.2", 80))
    with netns.entered(namespace):
        client = socket.socket()
    cable = Cable(tap.queue_fds[0], other.queue_fds[0])
    received, sent = hashlib.sha256(), hashlib.sha256()
    enough = threading.Event()

    def receive() -> None:
        connection, _ = listener.accept()
        with connection:
            while part := connection.recv(1 << 18):
                received.update(part)

    def send() -> None:
        for number in itertools.count():
            part = struct.pack("=I", number) * (1 << 14)
            client.sendall(part)
            sent.update(part)
            if enough.is_set():
                client.shutdown(socket.SHUT_WR)
                return

    receiver, sender = threading.Thread(target=receive), threading.Thread(target=send)
    receiver.start()
    client.settimeout(60)
    client.connect(("192.0.2.2", 80))
    sender.start()
    moved = 0
    for number in range(6):
        time.sleep(0.05)
        cable.stop()
        queue = (number + 1) % 2
        time.sleep(0.01)
        done = tap.switch(queue)
        assert done.lost == 0
        moved += done.moved
        cable = Cable(tap.queue_fds[queue], other.queue_fds[0])
    enough.set()
    sender.join()
    receiver.join()
    cable.stop()
    assert received.digest() == sent.digest()
    assert moved > 0
    for thing in (client, listener, other):
        thing.close()
    os.close(other_namespace)


UNREAD_FRAMES = 400
"""A queue holds more; a reader that gets no processor may be far behind."""


class Reader:
    """Reads frames from a queue until it is killed, as a domain does; remembers the number each one carries."""

    def __init__(self, queue: int, numbers: list[int]) -> None:
        self._queue, self._numbers = queue, numbers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            select.select([self._queue], [], [], 0.005)
            while not self._stop.is_set():
                try:
                    frame = os.read(self._queue, 4096)
                except BlockingIOError:
                    break
                self._numbers.append(number_in(frame))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def number_in(frame: bytes) -> int:
    return int(struct.unpack_from("=I", frame, VNET_HEADER_BYTES + 14 + 20 + 8)[0])


def test_no_frame_is_lost_or_doubled_by_switches_under_traffic(namespace: int, tap: TapEndpoint) -> None:
    ready(namespace, tap)
    flows = udp_sockets(namespace, 8)
    enough = threading.Event()
    numbers: list[int] = []
    sent = 0

    def send() -> None:
        nonlocal sent
        while not enough.is_set():
            for _ in range(20 if sent - len(numbers) < UNREAD_FRAMES else 0):
                flows[sent % 8].sendto(struct.pack("=I", sent), ("192.0.2.2", 1000))
                sent += 1
            time.sleep(0.001)

    reader = Reader(tap.queue_fds[0], numbers)
    sender = threading.Thread(target=send)
    sender.start()
    for failover in range(1, 21):
        time.sleep(0.02)
        reader.stop()
        assert tap.switch(failover % 2).lost == 0
        reader = Reader(tap.queue_fds[failover % 2], numbers)
    enough.set()
    sender.join()
    reader.stop()
    numbers.extend(number_in(frame) for frame in tap.drain(0))
    assert tap.dropped == 0
    assert tap.moved > 0
    assert sorted(numbers) == list(range(sent))
    for flow in flows:
        flow.close()
