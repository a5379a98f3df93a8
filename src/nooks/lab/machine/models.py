"""The devices that a lab machine may have: those that QEMU emulates, by its own list, and models of ours."""

import difflib
import re
from dataclasses import dataclass
from functools import cache

from nooks.device import model as own_models
from nooks.domain import qemu
from nooks.host.errors import InputError
from nooks.host.process import run

_LINE = re.compile(r'name "(?P<name>[^"]+)"(?:, bus (?P<bus>[^,\s]+))?(?:, alias "(?P<alias>[^"]+)")?')
_HEADING = re.compile(r"([\w/ -]+) devices:")
_NEAR_MISSES = 4
OWN = "model:"
"""Before the name of a model of ours, as in specifications."""

_WITH_MEDIUM = ("nvme", "ich9-ahci", "usb-storage")


@dataclass(frozen=True)
class Model:
    """A device model: QEMU's name, the bus that it sits on ("PCI", "usb-bus", ... or empty), its category."""

    name: str
    bus: str
    category: str

    @property
    def own(self) -> str | None:
        """Which model of ours it is; None: one of QEMU's."""
        return self.name.removeprefix(OWN) if self.name.startswith(OWN) else None

    @property
    def is_network_card(self) -> bool:
        """Whether a cable belongs to it."""
        return self.category == "Network" and self.bus in ("PCI", "usb-bus")

    @property
    def wants_medium(self) -> bool:
        """Whether it is a disk, or a controller with one."""
        return self.name in _WITH_MEDIUM

    @property
    def makes_sound(self) -> bool:
        """Whether it wants an audio back end; a controller of HDA codecs does not."""
        return self.category == "Sound" and self.own is None and not self.name.endswith("intel-hda")


def find(name: str) -> Model:
    """The model of that name or alias. Raises InputError if there is none, MachineError without QEMU."""
    if name.startswith(OWN):
        ours = own_models.named(name.removeprefix(OWN))
        return Model(name, "PCI", ours.model_class.capitalize())
    known = table()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=_NEAR_MISSES)
        hint = f"did you mean {', '.join(near)}?" if near else f"see '{qemu.PROGRAM} -device help'"
        raise InputError(f"QEMU does not emulate a device {name!r}", hint)
    return known[name]


@cache
def table() -> dict[str, Model]:
    """All models of the QEMU that is installed, by name and by alias."""
    return parse(run([qemu.program(), "-device", "help"], timeout_seconds=20).stdout)


def parse(text: str) -> dict[str, Model]:
    """The models in what ``-device help`` prints: headings, and a line for each model below them."""
    found: dict[str, Model] = {}
    category = ""
    for line in text.splitlines():
        heading = _HEADING.fullmatch(line.strip())
        if heading:
            category = heading[1]
        elif (match := _LINE.match(line)) is not None:
            model = Model(match["name"], match["bus"] or "", category)
            found[model.name] = model
            if match["alias"]:
                found[match["alias"]] = model
    return found
