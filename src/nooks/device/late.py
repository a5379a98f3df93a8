"""Which of QEMU's device models are plugged in late. Reads a table; importing it costs nothing."""

import tomllib
from functools import cache
from pathlib import Path

from nooks.spec import Device

_TABLE = Path(__file__).with_name("buses.toml")


def has_snapshots(device: Device) -> bool:
    """Whether QEMU can put the device into a snapshot, as far as is known."""
    return device.kind != "emulated" or device.model not in _late()


@cache
def _late() -> frozenset[str]:
    return frozenset(tomllib.loads(_TABLE.read_text(encoding="utf-8"))["late"]["models"])
