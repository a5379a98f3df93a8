"""What the user may ask of a lab machine, checked before anything is started."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from nooks.device.emulated import RESERVED
from nooks.host.errors import InputError
from nooks.lab.machine import models
from nooks.lab.machine.models import Model

DEVICES_MAX = 16
CPUS_MAX = 16
MEMORY_MIN_BYTES = 768 << 20
MEMORY_MAX_BYTES = 64 << 30

FORM = "MODEL[,option=value...], such as e1000 or usb-net or pcnet,bridge=b0 or model:3c905b"

_MODEL = re.compile(r"(model:)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,14}")
_MEMORY = re.compile(r"([1-9][0-9]{0,6})([MG])", re.ASCII)
_PLACEMENT = ("netdev", "id", "bus", "addr", "port", "mac", "audiodev", "chassis", "slot")
_OURS = frozenset((*RESERVED, *_PLACEMENT)) - {"drive"}


@dataclass(frozen=True)
class Card:
    """A device of the lab machine as it was asked for.

    ``options`` go to QEMU. ``bridge`` names the PCI bridge behind which it sits with others, ``port`` gives it a
    root port of its own, ``drive`` is the raw image behind a disk; a disk without one gets an empty medium.
    """

    model: Model
    options: tuple[tuple[str, str], ...] = ()
    bridge: str | None = None
    port: bool = False
    drive: Path | None = None


@dataclass(frozen=True)
class Wishes:
    """Everything that decides what a lab machine is; ``memory_bytes`` is all of its memory."""

    cards: tuple[Card, ...] = ()
    kernel: str = "debian"
    memory_bytes: int = 3 << 30
    cpus: int = 2
    iommu: bool = True
    arguments: str = ""
    environment: dict[str, str] = field(default_factory=dict[str, str])


def parse_memory(text: str) -> int:
    """A number of bytes from "3G" or "2048M". Raises InputError."""
    match = _MEMORY.fullmatch(text.strip())
    size = int(match[1]) << (30 if match[2] == "G" else 20) if match else 0
    if not MEMORY_MIN_BYTES <= size <= MEMORY_MAX_BYTES:
        allowed = f"from {MEMORY_MIN_BYTES >> 20}M to {MEMORY_MAX_BYTES >> 30}G"
        raise InputError(f"--memory {text!r} is wrong", f"give megabytes or gigabytes such as 3G, {allowed}")
    return size


def parse_cards(texts: list[str]) -> tuple[Card, ...]:
    """The devices of the lab machine, in the order of their numbers. Raises InputError."""
    if len(texts) > DEVICES_MAX:
        raise InputError(f"{len(texts)} devices are too many", f"give at most {DEVICES_MAX}")
    return tuple(parse_card(text) for text in texts)


def parse_card(text: str) -> Card:
    """One device. Raises InputError for what QEMU does not emulate, or an option that is not the user's to set."""
    name, *parts = text.split(",")
    if not _MODEL.fullmatch(name):
        raise InputError(f"--device {text!r} is wrong", f"give {FORM}")
    options: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not key or not equals or not value:
            raise InputError(f"--device {text!r} is wrong at {part!r}", f"give {FORM}")
        if key in options:
            raise InputError(f"--device {text!r} has the option {key} twice", "give it once")
        options[key] = value
    model = models.find(name)
    bridge, port, drive = _bridge(options), _port(options), _drive(options)
    if (bridge or port) and model.bus != "PCI":
        raise InputError(f"{name} is no PCI device", "leave bridge and port out")
    if bridge and port:
        raise InputError(f"--device {text!r} has both bridge and port", "give one")
    _refuse_ours(options, model)
    if model.own is not None and (options or drive is not None):
        raise InputError(f"--device {text!r}: a model of ours has only bridge and port as options", "leave others out")
    return Card(model, tuple(options.items()), bridge, port, drive)


def _bridge(options: dict[str, str]) -> str | None:
    bridge = options.pop("bridge", None)
    if bridge is not None and not _NAME.fullmatch(bridge):
        raise InputError(f"{bridge!r} can't name a bridge", "a letter a-z, then at most 14 of a-z 0-9 -")
    return bridge


def _port(options: dict[str, str]) -> bool:
    # A USB device's own port is ours to choose, so "port" never means QEMU's.
    port = options.pop("port", "no")
    if port not in ("yes", "no"):
        raise InputError(f"port={port} is wrong", "give port=yes for a root port of its own")
    return port == "yes"


def _drive(options: dict[str, str]) -> Path | None:
    text = options.pop("drive", None)
    if text is None:
        return None
    drive = Path(text)
    if not (drive.is_file() or drive.is_block_device()):
        raise InputError(f"there is no image {text}", "give drive=FILE, a raw image")
    return drive.resolve()


def _refuse_ours(options: dict[str, str], model: Model) -> None:
    for key in options:
        if key in _OURS and not (key == "bus" and model.bus not in ("PCI", "usb-bus")):
            raise InputError(f"the device option {key!r} is set by the lab itself", "leave it out")
