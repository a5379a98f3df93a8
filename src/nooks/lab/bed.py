"""A test bed for a network nook: a namespace at the far end of its cable, with servers in it, and addresses.

Everything that it makes carries a random suffix, so that beds don't meet, and goes when the bed goes.
"""

import asyncio
import contextlib
import ipaddress
import os
import tempfile
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import Any

from nooks.host.errors import MachineError, NooksError
from nooks.host.paths import nook_dir
from nooks.host.process import run
from nooks.lab.product import Product
from nooks.lab.workers import enter

WEB_PORT, ECHO_PORT = 80, 7
_LOG_VARIABLE = "NOOKS_LOG_DIR"
_NETWORK = ipaddress.ip_network("198.18.0.0/15")  # for benchmarks, RFC 2544


@dataclass(frozen=True)
class Bed:
    """Names and addresses of one bed: ``netns`` holds ``wire`` with ``peer``; the nook's interface has ``host``."""

    suffix: str
    netns: str
    wire: str
    nook: str
    host: str
    peer: str
    prefix: int = 30


def plan() -> Bed:
    """Fresh names and addresses that nobody uses."""
    suffix = os.urandom(2).hex()
    hosts = list(_NETWORK.subnets(new_prefix=30))[int(suffix, 16) % 32768]
    host, peer = (str(address) for address in hosts.hosts())
    return Bed(suffix, f"nooks-lab-{suffix}", f"wire-{suffix}", f"lab-{suffix}", host, peer)


@contextlib.asynccontextmanager
async def far_end(bed: Bed) -> AsyncGenerator[None, None]:
    """The bed's namespace, with its loopback up. Raises MachineError without root."""
    if os.geteuid() != 0:
        raise MachineError("the lab needs root", "run the command with sudo")
    run(["ip", "netns", "add", bed.netns])
    try:
        run(["ip", "-n", bed.netns, "link", "set", "lo", "up"])
        yield
    finally:
        run(["ip", "netns", "delete", bed.netns])


def address_peer(bed: Bed) -> None:
    """Give the far end of the cable its address; the interface must be there."""
    quiet_ipv6(bed.wire, bed.netns)
    run(["ip", "-n", bed.netns, "address", "add", f"{bed.peer}/{bed.prefix}", "dev", bed.wire])
    run(["ip", "-n", bed.netns, "link", "set", bed.wire, "up"])


def quiet_ipv6(interface: str, netns: str | None) -> None:
    """Keep IPv6 from talking on an interface, where the kernel has it: a bed is silent when nobody works."""
    path = f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"
    run([*enter(netns), "sh", "-c", f"if test -e {path}; then echo 1 > {path}; fi"])


@contextlib.asynccontextmanager
async def nook_on(bed: Bed, driver: str, *flags: str) -> AsyncGenerator[tuple[Product, dict[str, Any]], None]:
    """A nook of ``driver`` on the bed's cable, addressed and reachable; yields it and what ``start`` said."""
    product = Product(bed.nook)
    with own_logs():
        try:
            started = await product.start(
                *("--driver", driver),
                *("--wire", f"tap:{bed.wire}@{bed.netns}"),
                *("--address", f"{bed.host}/{bed.prefix}"),
                *flags,
            )
            address_peer(bed)
            yield product, started
        finally:
            await asyncio.shield(stop_for_sure(product))


@contextlib.contextmanager
def own_logs() -> Generator[str | None, None, None]:
    """Journals of the lab's nooks go into a folder that vanishes with them, unless NOOKS_LOG_DIR says where to."""
    if _LOG_VARIABLE in os.environ:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="nooks-lab-") as folder:
        os.environ[_LOG_VARIABLE] = folder
        try:
            yield folder
        finally:
            del os.environ[_LOG_VARIABLE]


async def stop_for_sure(product: Product) -> None:
    """An interrupt from the terminal reaches our ``nooks start`` as well, so the nook may be gone by itself."""
    for force in (False, True):
        try:
            if nook_dir(product.name).exists():
                await product.stop(force=force)
            return
        except NooksError:
            if force and nook_dir(product.name).exists():
                raise
