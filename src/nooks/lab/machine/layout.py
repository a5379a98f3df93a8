"""Where each card of the lab machine sits: slots, MAC addresses, cables. Always the same for the same cards.

The root bus (pcie.0): 1-4 are the lab's own, 5-14 hexadecimal the cards by their numbers (or the bridges and root
ports before them), 18 and 19 the far ends of the cables, eight to a slot.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nooks.device import model
from nooks.device.emulated import defaults, disk_of
from nooks.domain.emulator import SYSTEM, Emulator
from nooks.hardware import epic100, etherlink
from nooks.hardware.ethernet import card_address
from nooks.lab.machine.options import Card

SERIAL_SLOT, ROOT_SLOT, CACHE_SLOT, USB_SLOT, FIRST_SLOT, WIRE_SLOT = 1, 2, 3, 4, 5, 0x18
ROOT_BUS = "pcie.0"
_FUNCTIONS = 8
_USB_PORTS = 15  # the most that QEMU's xHCI has of a kind
_SHARED_AUDIO = "sound"
_VENDORS = {"3c905b": etherlink.VENDOR_ADDRESS, "epic100": epic100.VENDOR_ADDRESS}
"""With which the addresses of network cards of ours begin."""


@dataclass(frozen=True)
class Placed:
    """A card in its place.

    ``path`` leads from the root bus to a PCI device: slot and function at each step ("05.0"). ``usb_port`` is the
    root port of a USB device. ``wire`` is the interface at the far end of the cable, and so is ``wire_mac``.
    ``arguments`` are QEMU's.
    """

    number: int
    card: Card
    arguments: tuple[str, ...]
    path: tuple[str, ...] = ()
    usb_port: int | None = None
    mac: str | None = None
    wire: str | None = None
    wire_mac: str | None = None

    @property
    def bus(self) -> str:
        """As devices.json has it."""
        return "pci" if self.path else "usb" if self.usb_port is not None else self.card.model.bus.lower()

    def facts(self) -> dict[str, Any]:
        """What the inside is told; it adds the address."""
        return {
            "number": self.number,
            "model": self.card.model.name,
            "bus": self.bus,
            "path": list(self.path),
            "usb_port": self.usb_port,
            "mac": self.mac,
            "wire": self.wire,
            "wire_mac": self.wire_mac,
            "disk": self.card.model.wants_medium,
        }


def place(cards: Sequence[Card], emulator: Emulator = SYSTEM) -> list[Placed]:
    """The cards with their numbers, in order, for that QEMU. Bridges and ports come before what sits behind them.

    A disk that was given no image has the file ``medium_name`` of its number in the folder ``{media}``; a model of ours
    its socket, ``socket_name``. Its cable is the datagram socket ``{cableN}``, whose other end the model has.
    """
    bridges: dict[str, tuple[str, list[int]]] = {}
    usb_ports = iter(range(1, _USB_PORTS + 1))
    return [_place(number, card, bridges, usb_ports, emulator) for number, card in enumerate(cards)]


def has_own(cards: Sequence[Card]) -> bool:
    """Whether a model of ours is among the cards."""
    return any(card.model.own is not None for card in cards)


def shared_arguments(placed: Sequence[Placed]) -> Iterator[str]:
    """What several cards have in common: the USB controller, the audio back end."""
    if any(one.usb_port is not None for one in placed):
        ports = f"p2={_USB_PORTS},p3={_USB_PORTS}"
        yield from ("-device", f"qemu-xhci,id=usb,bus={ROOT_BUS},addr={USB_SLOT:#x},{ports}")
    if any(one.card.model.makes_sound for one in placed):
        yield from ("-audiodev", f"none,id={_SHARED_AUDIO}")


def _place(
    number: int,
    card: Card,
    bridges: dict[str, tuple[str, list[int]]],
    usb_ports: Iterator[int],
    emulator: Emulator,
) -> Placed:
    before: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    own: dict[str, str] = {"id": f"card{number}"}
    usb_port = None
    if card.model.bus == "PCI":
        before, path, own["bus"], own["addr"] = _pci_place(number, card, bridges)
    elif card.model.bus == "usb-bus":
        usb_port = next(usb_ports)
        own |= {"bus": "usb.0", "port": str(usb_port)}
    mac = wire = wire_mac = None
    after: tuple[str, ...] = ()
    if card.model.own is not None:
        return _place_own(number, card, before, path, own)
    if card.model.is_network_card:
        # QEMU's USB adapter tells the host an address whose first byte is always 40.
        first = "40" if usb_port is not None else "52"
        mac, wire, wire_mac = f"{first}:54:00:ca:00:{number:02x}", f"wire{number}", f"52:54:00:0e:00:{number:02x}"
        own |= {"netdev": f"card{number}", "mac": mac}
        before += ("-netdev", f"hubport,id=card{number},hubid={number}")
        after = _cable_end(number, wire_mac, f"hubport,id=wire{number},hubid={number}")
    if card.drive is not None or card.model.wants_medium:
        file = _escaped(str(card.drive)) if card.drive is not None else "{media}/" + medium_name(number)
        before += ("-drive", f"if=none,id=drive{number},format=raw,file={file}")
        disk = disk_of(card.model.name)
        if disk is None:
            own["drive"] = f"drive{number}"
        else:
            after += ("-device", f"{disk},bus=card{number}.0,drive=drive{number}")
    if card.model.makes_sound:
        own["audiodev"] = _SHARED_AUDIO
    options = own | defaults(card.model.name, emulator) | dict(card.options)
    device = ",".join([card.model.name, *(f"{key}={value}" for key, value in options.items())])
    return Placed(number, card, (*before, "-device", device, *after), path, usb_port, mac, wire, wire_mac)


def _place_own(number: int, card: Card, before: tuple[str, ...], path: tuple[str, ...], own: dict[str, str]) -> Placed:
    """A model of ours, which QEMU reaches by vfio-user."""
    mac = wire = wire_mac = None
    after: tuple[str, ...] = ()
    if card.model.is_network_card:
        assert card.model.own is not None
        mac = card_address(_VENDORS[card.model.own], serial(number)).hex(":")
        wire, wire_mac = f"wire{number}", f"52:54:00:0e:00:{number:02x}"
        cable = f"dgram,id=wire{number},local.type=fd,local.str={{cable{number}}}"
        after = _cable_end(number, wire_mac, cable)
    device = json.dumps(model.properties("{media}/" + socket_name(number)) | own)
    return Placed(number, card, (*before, "-device", device, *after), path, None, mac, wire, wire_mac)


def serial(number: int) -> str:
    """Of a model of ours: it decides a network card's address."""
    return f"lab{number}"


def socket_name(number: int) -> str:
    """The file of a model's socket."""
    return f"card{number}"


def medium_name(number: int) -> str:
    """The file of an empty medium."""
    return f"disk{number}.img"


def _pci_place(
    number: int, card: Card, bridges: dict[str, tuple[str, list[int]]]
) -> tuple[tuple[str, ...], tuple[str, ...], str, str]:
    """Arguments for what comes before the card, the path to it, and its bus and address for QEMU."""
    slot = FIRST_SLOT + number
    step = f"{slot:02x}.0"
    if card.port:
        port = f"pcie-root-port,id=port{number},bus={ROOT_BUS},addr={slot:#x},chassis={slot},slot={slot}"
        return ("-device", port), (step, "00.0"), f"port{number}", "0x0"
    if card.bridge is None:
        return (), (step,), ROOT_BUS, f"{slot:#x}"
    before: tuple[str, ...] = ()
    if card.bridge not in bridges:
        bridges[card.bridge] = step, []
        before = ("-device", f"pcie-pci-bridge,id=bridge-{card.bridge},bus={ROOT_BUS},addr={slot:#x}")
    first, behind = bridges[card.bridge]
    behind.append(number)
    inner = len(behind)  # slot 0 belongs to the bridge's hot-plug controller
    return before, (first, f"{inner:02x}.0"), f"bridge-{card.bridge}", f"{inner:#x}"


def _cable_end(number: int, mac: str, cable: str) -> tuple[str, ...]:
    """The interface at the far end of a card's cable."""
    address = f"{WIRE_SLOT + number // _FUNCTIONS:#x}.{number % _FUNCTIONS}"
    several = ",multifunction=on" if number % _FUNCTIONS == 0 else ""
    return (
        *("-netdev", cable),
        *("-device", f"virtio-net-pci,netdev=wire{number},mac={mac},bus={ROOT_BUS},addr={address},romfile={several}"),
    )


def _escaped(text: str) -> str:
    """A value of a QEMU option: a comma is written twice."""
    return text.replace(",", ",,")
