"""A bed around a real card: its cable ends at another interface of this machine, which goes into the bed's namespace.

The lab machine's cards are cabled so, and so are two cards of a real machine with a cable between them.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nooks.device import pci, taking, usb
from nooks.host.errors import InputError, NooksError
from nooks.host.paths import nook_dir
from nooks.host.process import run
from nooks.lab import bed as beds
from nooks.lab.bed import Bed
from nooks.lab.product import Product

LINK_SECONDS = 60.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class RealCard:
    """``interface`` is what the host's driver makes of the card, ``device`` its address, ``driver`` the host's."""

    device: str
    interface: str
    driver: str


def find(text: str) -> RealCard:
    """The card that ``nooks attach`` would take, which the host's driver has now. Raises InputError."""
    device, interfaces, driver = made_of(text, lambda found: found.interfaces, lambda part: part.nets)
    if len(interfaces) != 1 or driver is None:
        raise InputError(f"{text} makes no interface just now", "give a card that the host's driver has")
    return RealCard(device, interfaces[0], driver)


def made_of(
    text: str,
    by_pci: Callable[[pci.PciDevice], tuple[str, ...]],
    by_usb: Callable[[usb.UsbInterface], tuple[str, ...]],
) -> tuple[str, tuple[str, ...], str | None]:
    """The device that ``nooks attach`` would take, what the host has made of it, and by which driver.

    Raises InputError. ``by_pci`` and ``by_usb`` say what counts, of a PCI device and of each interface of a USB device.
    """
    device = taking.resolve(text)
    kind, _, rest = device.partition(":")
    if kind == "pci":
        found = pci.find(rest)
        return device, by_pci(found), found.driver
    parts = [part for part in usb.find(rest).interfaces if by_usb(part)]
    return device, tuple(name for part in parts for name in by_usb(part)), next((part.driver for part in parts), None)


def plan(card: RealCard, peer: str) -> Bed:
    """A bed whose nook will have the card's own interface name, and whose cable ends at ``peer``. Raises InputError."""
    if not Path("/sys/class/net", peer).exists():
        raise InputError(f"there is no interface {peer}", "give the one at the other end of the card's cable")
    return replace(beds.plan(), wire=peer, nook=card.interface)


@contextlib.asynccontextmanager
async def cabled(bed: Bed, card: RealCard) -> AsyncGenerator[None, None]:
    """The far end in its namespace, the host's own driver at the near end, both with addresses; undone at the end."""
    async with beds.far_end(bed):  # deleting the namespace gives the interface back
        run(["ip", "link", "set", bed.wire, "netns", bed.netns])
        beds.address_peer(bed)
        beds.quiet_ipv6(card.interface, None)
        near = ["dev", card.interface]
        run(["ip", "address", "add", f"{bed.host}/{bed.prefix}", *near])
        run(["ip", "link", "set", *near, "up"])
        try:
            await until_linked(card.interface)
            yield
        finally:
            with contextlib.suppress(NooksError):  # a card that was not given back has nothing to be undone
                run(["ip", "address", "delete", f"{bed.host}/{bed.prefix}", *near])
                run(["ip", "link", "set", *near, "down"])


@contextlib.asynccontextmanager
async def attached(bed: Bed, card: RealCard, *flags: str) -> AsyncGenerator[tuple[Product, dict[str, Any]], None]:
    """The card in a nook of its interface's name, for the block; then it is the host's again."""
    async with in_a_nook(bed.nook, card.device, *flags) as made:
        yield made
    await until_linked(card.interface)


@contextlib.asynccontextmanager
async def in_a_nook(name: str, device: str, *flags: str) -> AsyncGenerator[tuple[Product, dict[str, Any]], None]:
    """A device in the nook of this name, for the block; what ``attach`` said."""
    product = Product(name)
    with beds.own_logs():
        try:
            yield product, await product.attach(device, *flags)
        finally:
            await asyncio.shield(_detach(product))


async def until_linked(interface: str) -> None:
    """Wait until an interface is there and has its carrier. Raises NooksError if it doesn't within LINK_SECONDS."""
    path = Path("/sys/class/net", interface, "carrier")
    deadline = asyncio.get_running_loop().time() + LINK_SECONDS
    while not _is_one(path):
        if asyncio.get_running_loop().time() > deadline:
            raise NooksError(f"{interface} has no carrier after {LINK_SECONDS:.0f} s", "look at its cable")
        await asyncio.sleep(_POLL_SECONDS)


def _is_one(path: Path) -> bool:
    try:
        return path.read_text().strip() == "1"
    except OSError:  # not there, or down
        return False


async def _detach(product: Product) -> None:
    for force in (False, True):
        try:
            if nook_dir(product.name).exists():
                await product.detach(force=force)
            return
        except NooksError:
            if force and nook_dir(product.name).exists():
                raise
