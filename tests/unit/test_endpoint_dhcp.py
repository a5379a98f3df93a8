"""An address from slirp4netns's DHCP server, for an interface whose card is a Python loop."""

import asyncio
import os
import select
import shutil
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import pytest
from endpoints import MAC, command, needs_tap, new_namespace

from nooks.endpoint import netns, slirp
from nooks.endpoint.dhcp import leased
from nooks.endpoint.multiqueue import VNET_HEADER_BYTES
from nooks.endpoint.tap import TapEndpoint
from nooks.endpoint.wire import Wire, parse_wire
from nooks.host.errors import NooksError

pytestmark = [needs_tap, pytest.mark.skipif(shutil.which(slirp.PROGRAM) is None, reason=f"needs {slirp.PROGRAM}")]


def inside(namespace: int, body: Callable[[], Awaitable[None]]) -> None:
    """Run ``body`` on a thread of its own in the namespace, since a DHCP client works in its thread's."""
    failures: list[BaseException] = []

    async def run() -> None:
        await body()

    def work() -> None:
        try:
            with netns.entered(namespace):
                asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - raised again on the test's own thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@contextmanager
def card_between(tap: TapEndpoint, wire: Wire) -> Generator[None]:
    """What virtio, driver and card do: carry frames, without the vnet header on the wire."""
    stop = threading.Event()
    host, cable = tap.queue_fds[0], wire.queue_fds[0]

    def carry() -> None:
        while not stop.is_set():
            for fd in select.select([host, cable], [], [], 0.01)[0]:
                frame = os.read(fd, 1 << 17)
                if fd == host:
                    os.write(cable, frame[VNET_HEADER_BYTES:])
                else:
                    os.write(host, bytes(VNET_HEADER_BYTES) + frame)

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def shown(namespace: int) -> str:
    return command(namespace, "ip", "-4", "addr", "show", "dev", "nook")


def test_an_address_is_leased_and_given_back() -> None:
    with new_namespace() as namespace:

        async def body() -> None:
            tap = TapEndpoint.create("nook", mac=MAC)
            tap.configure(up=True)
            wire = await Wire.open(parse_wire("user"))
            try:
                with card_between(tap, wire):
                    async with leased("nook") as address:
                        assert address == "10.0.2.15/24"
                        assert "inet 10.0.2.15/24" in shown(namespace)
                    assert "inet " not in shown(namespace)
            finally:
                await wire.close()
                tap.close()

        inside(namespace, body)


def test_no_server_is_one_clear_line() -> None:
    with new_namespace() as namespace:

        async def body() -> None:
            tap = TapEndpoint.create("nook", mac=MAC)
            tap.configure(up=True)
            try:
                with pytest.raises(NooksError, match="no DHCP server answered on nook"):
                    async with leased("nook", timeout_seconds=0.3):
                        pass
            finally:
                tap.close()

        inside(namespace, body)
