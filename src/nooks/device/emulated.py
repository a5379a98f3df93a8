"""Devices that QEMU emulates, as arguments for a domain's plan. Knows no driver; any model of QEMU's will do."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nooks.device.properties import known
from nooks.domain.emulator import SYSTEM, Emulator
from nooks.host.errors import InputError
from nooks.xpc.block import BELL_IO_PORT

BUSES = Path(__file__).with_name("buses.toml")
"""Rows of data: which other devices a model is plugged into, in this order."""

MODELS = Path(__file__).with_name("models.toml")
"""Rows of data: what a model is told unless the user says otherwise."""

RESERVED = ("netdev", "id", "bus", "drive", "audiodev", "mac")
"""Options that we set ourselves, so that a user's can't lead around a wall."""


def device_properties(model: str, options: tuple[tuple[str, str], ...], **own: str) -> dict[str, str]:
    """A model with the user's options and our ``own``, as the monitor's ``device_add`` takes it.

    Raises InputError for an option that is ours to set.
    """
    for key, _ in options:
        if key in RESERVED:
            raise InputError(f"the device option {key!r} is set by nooks itself", "leave it out")
    return {"driver": model, **own, **defaults(model), **dict(options)}


def defaults(model: str, emulator: Emulator = SYSTEM) -> dict[str, str]:
    """What a model is told unless the user says otherwise, as far as the QEMU has such properties."""
    row: dict[str, str] = _rows(MODELS).get(model, {})
    if not row:
        return {}
    properties = known(model, emulator)
    return {key: value for key, value in row.items() if properties is None or key in properties}


def as_argument(properties: Mapping[str, str]) -> tuple[str, str]:
    """A device as QEMU's ``-device`` takes it."""
    options = (f"{key}={value}" for key, value in properties.items() if key != "driver")
    return "-device", literal(",".join([properties["driver"], *options]))


@cache
def _rows(table: Path) -> dict[str, dict[str, Any]]:
    return tomllib.loads(table.read_text(encoding="utf-8"))


def literal(text: str) -> str:
    """``text`` so that filling in descriptors (``{name}``) leaves it alone."""
    return text.replace("{", "{{").replace("}", "}}")


NETWORK_CABLE = ("-netdev", "tap,id=wire,fd={wire}")
"""An emulated card's cable, which ends at the descriptor ``wire``."""


def network_card(model: str, options: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """An emulated card on that cable, as ``device_properties``. Raises InputError."""
    return device_properties(model, options, netdev="wire")


def network_trial(model: str, options: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """The same card with a cable that leads nowhere, to find out whether QEMU takes it."""
    return (
        *("-netdev", "hubport,id=wire,hubid=0"),
        *as_argument(network_card(model, options)),
    )


def data_port() -> tuple[str, ...]:
    """The domain's side of a block nook's data path, whose other ends are the descriptors ``data`` and ``bell``.

    The virtual processor's own thread sends an answer (``ioeventfd=off``): the domain's kernel waits for it to be gone
    in any case, so that another thread of QEMU only costs its being woken.
    The bell is an I/O port (nooks/xpc/block.py).
    """
    return (
        *("-device", "virtio-serial-pci,id=data,max_ports=2,ioeventfd=off"),
        *("-chardev", "socket,id=data,fd={data}"),
        *("-device", "virtserialport,bus=data.0,nr=1,chardev=data,name=nooks.data"),
        *("-chardev", "socket,id=bell,fd={bell}"),
        *("-device", f"isa-debugcon,iobase={BELL_IO_PORT:#x},chardev=bell"),
    )


_CONTROLLER = "controller"


def drive(model: str, options: tuple[tuple[str, str], ...], node: str, name: str) -> dict[str, str]:
    """An emulated disk or drive called ``name`` with the medium ``node``, or that of a controller.

    As ``device_properties``. Raises InputError.
    """
    disk = disk_of(model)
    if disk is not None:
        return device_properties(disk, (), drive=node, id=name, bus=f"{_CONTROLLER}.0")
    return device_properties(model, options, drive=node, id=name)


def drive_buses(model: str, options: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """What such a drive is plugged into: the model itself where that is a controller. Raises InputError."""
    if disk_of(model) is not None:
        return as_argument(device_properties(model, options, id=_CONTROLLER))
    return buses(model)


def disk_of(controller: str) -> str | None:
    """The model of the disk that hangs on a model which is a controller; None if it is none."""
    return _rows(BUSES)["disks"].get(controller)


def drive_trial(model: str, options: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """The same with a medium that holds nothing, to find out whether QEMU takes it."""
    nothing = "driver=null-co,node-name=nothing,size=1048576,read-zeroes=on"
    return ("-blockdev", nothing, *drive_buses(model, options), *as_argument(drive(model, options, "nothing", "unit")))


def host_side_network() -> tuple[str, ...]:
    """The domain's side of the host's TAP, whose queue is the descriptor ``host``."""
    return (
        *("-netdev", "tap,id=host,fd={host}"),
        *("-device", "virtio-net-pci,netdev=host"),
    )


_LINE_CLOCK = "timer-period=2500"
"""Microseconds. QEMU moves a card on so often; by default 10 ms, in which a card has no position of its own."""

SOUND_LINE = ("-audiodev", f"none,id=line,{_LINE_CLOCK}")
"""What an emulated card's plugs lead to: nobody hears it, but its clock runs."""

SOUND_LINE_OUTSIDE = (
    *("-display", "dbus,p2p=yes,audiodev=line"),
    *("-audiodev", f"dbus,id=line,{_LINE_CLOCK},out.fixed-settings=off,in.fixed-settings=off,out.voices=4,in.voices=4"),
)
"""Plugs that somebody outside has the other end of, by a socket that the monitor hands over (QEMU's D-Bus display).

Samples are as the card has them: no other rate, no other format.
"""

SOUND_LINE_PIECE = 1024
"""Frames that QEMU hands over at once (audio/dbusaudio.c): less than that stays where it is until more follows."""

SOUND_LINE_FRAMES = 2 * SOUND_LINE_PIECE
"""What QEMU holds of what a card has taken from memory: as much again is in its mixing engine."""

_MORE_FRAMES = {"sb16": 2 * SOUND_LINE_PIECE}
"""What it holds beside that: this card does not count what it hands over as gone from the room that it was told of
(hw/audio/sb16.c), and fills its voice as well. Measured: 1341 at most in 90 failures."""


def sound_line_frames(model: str) -> int:
    """So many frames at most, of those that an emulated card has taken from memory, are still in QEMU."""
    return SOUND_LINE_FRAMES + _MORE_FRAMES.get(model, 0)


def sound_card(model: str, options: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """An emulated sound card on such a line, as ``device_properties``. Raises InputError."""
    return device_properties(model, options, audiodev="line")


def sound_trial(model: str, options: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """The same card, to find out whether QEMU takes it."""
    return (*SOUND_LINE, *buses(model), *as_argument(sound_card(model, options)))


def host_side_sound() -> tuple[str, ...]:
    """The port by which samples come and go, whose other end is the descriptor ``sound``."""
    return ("-chardev", "socket,id=sound,fd={sound}", "-device", "virtserialport,chardev=sound,nr=3,name=nooks.sound")


def trial(driver_class: str, model: str, options: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """A device of a class with nothing behind it, to find out whether QEMU takes it. Raises InputError."""
    return {"network": network_trial, "block": drive_trial, "sound": sound_trial}[driver_class](model, options)


def buses(model: str) -> tuple[str, ...]:
    """The controllers that a model is plugged into, for those that are on no bus that every domain has."""
    rows: dict[str, list[str]] = _rows(BUSES).get("needs", {})
    return tuple(word for controller in rows.get(model, []) for word in ("-device", controller))
