"""The process of a device model: its command line, with the library by which it takes a domain's messages."""

import sys
from collections.abc import Mapping
from pathlib import Path

import structlog

import nooks
from nooks.host import native

MESSAGES = Path(nooks.__path__[0], "hardware/messages.c")
"""The library's source."""


def command(name: str, descriptors: Mapping[str, int], *words: str) -> list[str]:
    """To be started with ``descriptors`` inherited, which it gets by what it calls them (hardware.card)."""
    handed = [f"--{kind}-fd={number}" for kind, number in descriptors.items()]
    library = native.library(MESSAGES, _slower)
    if library is not None:
        handed.append(f"--library={library}")
    return [sys.executable, "-I", "-m", "nooks.hardware.card", name, *handed, *words]


def _slower(why: str) -> None:
    structlog.get_logger().warning("cards take messages without their library, which is slower", error=why)
