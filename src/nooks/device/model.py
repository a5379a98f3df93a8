"""Device models of our own: which there are, and how a domain's QEMU reaches one (vfio-user)."""

import difflib
import tomllib
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

TABLE = Path(__file__).with_name("cards.toml")


@cache
def table() -> dict[str, str]:
    """All models by name, with the hardware in a few words."""
    rows: list[dict[str, Any]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))["model"]
    return {str(row["name"]): str(row["summary"]) for row in rows}


def check(device: "Device") -> None:
    """Raises InputError for a model that there is not, or wrong options."""
    if device.kind != "model":
        return
    if device.model not in table():
        near = difflib.get_close_matches(device.model, table(), 2)
        hint = f"perhaps model:{near[0]} was meant" if near else f"there are {', '.join(table())}"
        raise InputError(f"there is no device model {device.model!r}", hint)
    for key, value in device.options:
        if key not in OPTIONS:
            raise InputError(f"the device model {device.model} has no option {key!r}", "leave it out")
        if value not in OPTIONS[key]:
            raise InputError(f"{key}={value} is wrong", f"write {' or '.join(f'{key}={one}' for one in OPTIONS[key])}")


def may_be_reset(device: "Device") -> bool:
    """Whether the card is reset between two domains, where it can be."""
    return dict(device.options).get("reset", "best") == "best"


def properties(socket_path: str) -> dict[str, Any]:
    """A model for ``device_add``; QEMU finds its socket at ``socket_path`` (docs/system/devices/vfio-user.rst)."""
    return {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": socket_path}}
