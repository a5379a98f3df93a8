"""Device models of our own: which there are, and how a domain's QEMU reaches one (vfio-user)."""

import difflib
import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nooks.host.errors import InputError

if TYPE_CHECKING:
    from nooks.spec import Device

MISBEHAVIOURS = ("none", "stuck-interrupt", "lost-interrupt", "wrong-dma", "garbage", "all-ones", "pulled")
"""What a model can be told to do wrong (nooks.hardware.misbehaviour)."""

OPTIONS = {"reset": ("best", "none")}
"""Of every model. ``reset``: what is done to the card between two domains; none: it stays as the last one left it."""

FILES = {"play": os.O_RDWR | os.O_CREAT, "record": os.O_RDONLY}
"""Of sound cards: the WAV file that what is played goes into, and the one that is recorded; how they are opened."""

TABLE = Path(__file__).with_name("cards.toml")


@dataclass(frozen=True)
class Model:
    """One row of the table."""

    name: str
    model_class: str
    summary: str


@cache
def table() -> dict[str, Model]:
    """All models by name."""
    rows: list[dict[str, str]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))["model"]
    return {row["name"]: Model(row["name"], row["class"], row["summary"]) for row in rows}


def named(name: str) -> Model:
    """The model of that name. Raises InputError."""
    if name not in table():
        near = difflib.get_close_matches(name, table(), 2)
        hint = f"perhaps model:{near[0]} was meant" if near else f"there are {', '.join(table())}"
        raise InputError(f"there is no device model {name!r}", hint)
    return table()[name]


def check(device: "Device") -> None:
    """Raises InputError for a model that there is not, or wrong options."""
    if device.kind != "model":
        return
    model = named(device.model)
    for key, value in device.options:
        if key in FILES and model.model_class == "sound":
            continue
        if key not in OPTIONS:
            raise InputError(f"the device model {device.model} has no option {key!r}", "leave it out")
        if value not in OPTIONS[key]:
            raise InputError(f"{key}={value} is wrong", f"write {' or '.join(f'{key}={one}' for one in OPTIONS[key])}")


def may_be_reset(device: "Device") -> bool:
    """Whether the card is reset between two domains, where it can be."""
    return dict(device.options).get("reset", "best") == "best"


def open_files(device: "Device") -> dict[str, int]:
    """The files that a sound card is connected to, by option, for the caller to close. Raises InputError."""
    opened: dict[str, int] = {}
    for key, path in device.options:
        if key in FILES:
            try:
                opened[key] = os.open(path, FILES[key] | os.O_CLOEXEC, 0o644)
            except OSError as error:
                for descriptor in opened.values():
                    os.close(descriptor)
                raise InputError(f"{key}={path}: {error.strerror}", "give the path of a WAV file") from None
    return opened


def properties(socket_path: str) -> dict[str, Any]:
    """A model for ``device_add``; QEMU finds its socket at ``socket_path`` (docs/system/devices/vfio-user.rst)."""
    return {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": socket_path}}
