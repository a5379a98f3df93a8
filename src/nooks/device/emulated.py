"""Devices that QEMU emulates, as arguments for a domain's plan. Knows no driver; any model of QEMU's will do."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from nooks.host.errors import InputError

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
    return {"driver": model, **own, **_defaults().get(model, {}), **dict(options)}


def as_argument(properties: Mapping[str, str]) -> tuple[str, str]:
    """A device as QEMU's ``-device`` takes it."""
    options = (f"{key}={value}" for key, value in properties.items() if key != "driver")
    return "-device", literal(",".join([properties["driver"], *options]))


@cache
def _defaults() -> dict[str, dict[str, str]]:
    return tomllib.loads(MODELS.read_text(encoding="utf-8"))


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


def host_side_network() -> tuple[str, ...]:
    """The domain's side of the host's TAP, whose queue is the descriptor ``host``."""
    return (
        *("-netdev", "tap,id=host,fd={host}"),
        *("-device", "virtio-net-pci,netdev=host"),
    )
