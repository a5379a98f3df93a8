"""The cable's other end: parsed, made where it is missing, left where it was there, and adopted."""

import asyncio
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoints import command, needs_tap, open_descriptors

from nooks.endpoint import netns, slirp
from nooks.endpoint.wire import Wire, WireSpec, parse_wire
from nooks.host.errors import InputError, MachineError

MAC = bytes.fromhex("020000000701")
needs_slirp = pytest.mark.skipif(shutil.which(slirp.PROGRAM) is None, reason=f"needs {slirp.PROGRAM}")


@pytest.fixture
def name() -> Iterator[str]:
    before = open_descriptors()
    name = f"nw{os.getpid()}"
    yield name
    assert not netns.exists(name)
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("user", WireSpec()),
        ("tap:wire3", WireSpec("wire3")),
        ("tap:wire3@peer-3", WireSpec("wire3", "peer-3")),
    ],
)
def test_wires_are_parsed(text: str, spec: WireSpec) -> None:
    assert parse_wire(text) == spec


@pytest.mark.parametrize(
    "text",
    ["", "User", "tap", "tap:", "tap:a@", "tap:a/b", "tap:a b", "tap:" + "x" * 16, "tap:a@b/c", "tap:a@..", "bridge:x"],
)
def test_what_is_no_wire_is_bad_input(text: str) -> None:
    with pytest.raises(InputError, match="is no wire"):
        parse_wire(text)


@needs_tap
def test_a_missing_namespace_and_tap_are_made_and_removed(name: str) -> None:
    async def run() -> None:
        wire = await Wire.open(parse_wire(f"tap:{name}@{name}"))
        namespace = netns.open_named(name)
        assert "LOWER_UP" in command(namespace, "ip", "link", "show", name)
        os.close(namespace)
        assert (wire.attached(0), wire.attached(1)) == (True, False)
        await wire.close()
        await wire.close()

    asyncio.run(run())


@needs_tap
def test_what_was_there_stays(name: str) -> None:
    netns.make(name)
    make = ["ip", "-n", name, "tuntap", "add", name, "mode", "tap", "multi_queue"]
    subprocess.run(make, check=True)

    async def run() -> None:
        wire = await Wire.open(parse_wire(f"tap:{name}@{name}"))
        with pytest.raises(InputError, match="another process holds it"):
            await Wire.open(parse_wire(f"tap:{name}@{name}"))
        await wire.close()
        wire = await Wire.open(parse_wire(f"tap:{name}@{name}"))
        await wire.close()

    try:
        asyncio.run(run())
        subprocess.run(["ip", "-n", name, "link", "show", name], check=True, capture_output=True)
    finally:
        netns.remove(name)


@needs_tap
def test_an_interface_that_is_no_tap_of_several_queues_is_refused(name: str) -> None:
    netns.make(name)
    subprocess.run(["ip", "-n", name, "tuntap", "add", name, "mode", "tap"], check=True)
    try:
        with pytest.raises(InputError, match="an interface of another kind"):
            asyncio.run(Wire.open(parse_wire(f"tap:{name}@{name}")))
        with pytest.raises(InputError, match="lo"):
            asyncio.run(Wire.open(parse_wire(f"tap:lo@{name}")))
    finally:
        netns.remove(name)


@needs_tap
def test_a_namespace_made_for_nothing_is_removed(name: str) -> None:
    with pytest.raises(InputError):
        asyncio.run(Wire.open(parse_wire(f"tap:lo@{name}")))


def arp_request() -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + MAC + socket.inet_aton("10.0.2.15")
    return b"\xff" * 6 + MAC + struct.pack("!H", 0x0806) + body + bytes(6) + socket.inet_aton("10.0.2.2")


async def gateway_answers(wire: Wire, queue: int) -> bool:
    os.write(wire.queue_fds[queue], arp_request())
    for _ in range(200):
        if any(frame[:6] == MAC and frame[12:14] == b"\x08\x06" for frame in wire.drain(queue)):
            return True
        await asyncio.sleep(0.01)
    return False


@needs_tap
@needs_slirp
def test_the_user_wire_has_a_gateway_that_outlives_domain_and_supervisor(name: str) -> None:
    async def run() -> None:
        wire = await Wire.open(parse_wire("user"))
        assert await gateway_answers(wire, 0)
        wire.switch(1)
        assert await gateway_answers(wire, 1)
        child = wire._slirp.child if wire._slirp else None  # pyright: ignore[reportPrivateUsage]
        assert child is not None
        status = Path(f"/proc/{child.pid}/status").read_text()
        assert "CapEff:\t0000000000000400" in status  # CAP_NET_BIND_SERVICE alone
        kept = {key: os.dup(fd) for key, fd in wire.descriptors.items()}
        abandon(wire)
        adopted = Wire.adopt(parse_wire("user"), kept)
        assert await gateway_answers(adopted, 1)
        await adopted.close()
        child._popen.wait(5)  # pyright: ignore[reportPrivateUsage]
        assert child.returncode is not None

    asyncio.run(run())


def abandon(wire: Wire) -> None:
    """What the death of a supervisor does: all its descriptors are closed."""
    for fd in wire.descriptors.values():
        if fd not in wire.queue_fds:
            os.close(fd)
    wire._tap.close()  # pyright: ignore[reportPrivateUsage]


@needs_tap
@needs_slirp
def test_the_user_wire_dies_with_its_last_holder(name: str) -> None:
    async def run() -> None:
        wire = await Wire.open(parse_wire("user"))
        child = wire._slirp.child if wire._slirp else None  # pyright: ignore[reportPrivateUsage]
        assert child is not None
        popen = child._popen  # pyright: ignore[reportPrivateUsage]
        abandon(wire)
        await asyncio.to_thread(popen.wait, 5)

    asyncio.run(run())


@needs_tap
@needs_slirp
def test_the_user_wire_leaves_the_hosts_named_namespaces_alone(name: str) -> None:
    async def run() -> None:
        netns.make(name)
        try:
            wire = await Wire.open(parse_wire("user"))
            inside = netns.open_named(name)
            with netns.entered(inside):  # what is left of an unmounted one is a plain file, which can't be entered
                pass
            os.close(inside)
            await wire.close()
        finally:
            netns.remove(name)

    asyncio.run(run())


@needs_tap
def test_a_missing_slirp4netns_is_one_clear_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slirp, "PROGRAM", "no-such-slirp4netns")
    with pytest.raises(MachineError, match="apt-get install"):
        asyncio.run(Wire.open(parse_wire("user")))


@needs_tap
def test_frames_from_the_cable_move_to_the_new_queue(name: str) -> None:
    async def run() -> None:
        wire = await Wire.open(parse_wire(f"tap:{name}@{name}"))
        namespace = netns.open_named(name)
        command(namespace, "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
        command(namespace, "ip", "addr", "add", "192.0.2.1/24", "dev", name)
        command(namespace, "ip", "neigh", "add", "192.0.2.2", "lladdr", "02:00:00:00:07:01", "dev", name)
        with netns.entered(namespace):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        os.close(namespace)
        wire.drain(0)
        sender.sendto(b"hello", ("192.0.2.2", 9))
        assert wire.switch(1).moved == 1
        (frame,) = wire.drain(1)
        assert frame[:6] == MAC
        assert frame.endswith(b"hello")
        sender.close()
        await wire.close()

    asyncio.run(run())
