"""A real device that a nook has taken from the host: recorded before it is touched, given back whatever happens.

The record lies in the nook's run directory. Whoever ends the nook gives the device back: its supervisor, or, where that
died, the command that clears up.
"""

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import structlog

from nooks.device import card_mixer, taking
from nooks.device.taking import Taken
from nooks.endpoint import handover
from nooks.endpoint.configuration import Configuration
from nooks.endpoint.iproute import with_iproute
from nooks.host.errors import InputError, MachineError, StateError
from nooks.nook.claims import DEVICE
from nooks.spec import Spec

APPEAR_SECONDS = 10.0
"""How long the host's driver may take until its interface or disk is there again."""


class Possession(msgspec.Struct, frozen=True, kw_only=True):
    """``device`` as in a specification; ``taken`` is how the host had it.

    ``configuration`` is that of its interface, ``mixer`` the values of a sound card's.
    """

    device: str
    taken: Taken
    configuration: Configuration | None = None
    mixer: dict[str, Any] = {}

    @property
    def mac(self) -> str | None:
        """The card's address, where it has one."""
        return self.configuration.mac if self.configuration is not None else None


def plan(spec: Spec) -> Possession:
    """What taking the device of ``spec`` would have to undo later. Changes nothing. Raises InputError."""
    device = spec.device or ""
    taken = taking.plan(device)
    configuration = handover.record(taken.interfaces[0]) if taken.interfaces else None
    card = taking.card(taken)
    mixer = card_mixer.read(card) if card is not None else {}
    return Possession(device=device, taken=taken, configuration=configuration, mixer=mixer)


def take(directory: Path, possession: Possession) -> None:
    """Note in the nook's ``directory`` how the host has the device, then take it.

    Raises NooksError; the device is as before then, and the note is gone.
    """
    _write(directory, possession)
    try:
        taking.take(possession.taken)
    except BaseException:
        give_back(directory)
        raise


def of(directory: Path) -> Possession | None:
    """The device that the nook of this directory has, or None. Raises StateError if the note is damaged."""
    try:
        return msgspec.json.decode((directory / DEVICE).read_bytes(), type=Possession)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        fix = "see which driver the device has in /sys/bus/*/devices, and bind it by hand"
        raise StateError(f"the note {directory / DEVICE} of a device is damaged: {error}", fix) from None


def renote(directory: Path, interface: str) -> None:
    """The user may have configured the nook's interface otherwise meanwhile: that is what the host's will get."""
    possession = of(directory)
    if possession is None or possession.configuration is None:
        return
    with contextlib.suppress(InputError):  # it is gone already: the last note holds
        now = handover.record(interface)
        was = possession.configuration
        now = msgspec.structs.replace(now, name=was.name, mac=was.mac, txqueuelen=was.txqueuelen)
        _write(directory, msgspec.structs.replace(possession, configuration=now))


def give_back(directory: Path) -> None:
    """Let the host's driver have the device again, its interface configured as the nook's was, its mixer as before.

    The note goes. Does nothing if there is no note; may be called again. Raises StateError or MachineError: the note
    stays then.
    """
    possession = of(directory)
    if possession is None:
        return
    taking.give_back(possession.taken)
    if possession.configuration is not None:
        _configure(possession.taken, possession.configuration)
    if possession.mixer:
        _turn_back(possession.taken, possession.mixer)
    if possession.taken.blocks and not taking.disks_back(possession.taken, APPEAR_SECONDS):
        structlog.get_logger().warning("the host's disk did not come back", names=possession.taken.blocks)
    with contextlib.suppress(FileNotFoundError):
        (directory / DEVICE).unlink()


def _configure(taken: Taken, configuration: Configuration) -> None:
    found = taking.interfaces_back(taken, APPEAR_SECONDS)
    if not found:
        structlog.get_logger().warning("the host's interface did not come back", name=configuration.name)
        return
    interface = _renamed(found[0], configuration.name)
    for line in handover.apply(configuration, interface):
        structlog.get_logger().warning("not as before", interface=interface, what=line)


def _turn_back(taken: Taken, mixer: dict[str, Any]) -> None:
    card = taking.card(taken, APPEAR_SECONDS)
    complaints = card_mixer.restore(card, mixer, APPEAR_SECONDS) if card is not None else ["it did not come back"]
    for line in complaints:
        structlog.get_logger().warning("not as before", card=card, what=line)


def _renamed(interface: str, name: str) -> str:
    """Give an interface its former name, if that is free; the name that it has then."""
    if interface == name or Path("/sys/class/net", name).exists():
        return interface
    index = socket.if_nametoindex(interface)
    with_iproute(lambda route: route.link("set", index=index, ifname=name))
    return name


def _write(directory: Path, possession: Possession) -> None:
    path = directory / DEVICE
    partial = path.with_suffix(".new")
    try:
        with partial.open("wb") as file:
            file.write(msgspec.json.encode(possession))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise MachineError(f"{path} can't be written: {error.strerror}", "free some space") from None
