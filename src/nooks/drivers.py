"""The table of known drivers, and what becomes of a specification that names one.

A driver is data. One that is not in the table is a kernel module by its own name, for which the specification has
to say the device (and the class, unless it is ``network``).
"""

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from nooks.device import late, model
from nooks.host.errors import InputError
from nooks.spec import DeviceKind, DriverClass, Spec, parse_device

Flavour = Literal["amd64", "686"]

OFFERED_DEVICES: frozenset[DeviceKind] = frozenset({"emulated", "model", "pci", "usb"})
"""The kinds of devices that a domain can be given."""

TABLE = Path(__file__).with_name("drivers.toml")


class Verified(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Something that was shown of a driver, and the test that shows it."""

    shown: str
    test: str


class Register(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A register of a PCI region to be written, with its offset and size in bytes."""

    bar: int
    offset: int
    size: Literal[1, 2, 4]
    value: int


class Driver(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, rename={"driver_class": "class"}):
    """One row of the table. The first of ``devices`` is the default."""

    name: str
    driver_class: DriverClass
    module: str = ""
    parameters: str = ""
    flavour: Flavour = "amd64"
    with_modules: tuple[str, ...] = ()
    load_modules: tuple[str, ...] = ()
    firmware: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    stray_dma: tuple[Register, ...] = ()
    verified: tuple[Verified, ...] = ()
    summary: str = ""

    @property
    def known(self) -> bool:
        """Whether it stands in the table."""
        return self.name in table()


class _Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    driver: tuple[Driver, ...]


@cache
def table() -> Mapping[str, Driver]:
    """All known drivers by name, in the table's order."""
    return parse_table(TABLE.read_text(encoding="utf-8"))


def parse_table(text: str) -> dict[str, Driver]:
    """The rows of a table in TOML. Raises msgspec.ValidationError or ValueError if a row is wrong."""
    rows: dict[str, Driver] = {}
    for row in msgspec.convert(tomllib.loads(text), _Table).driver:
        for device in row.devices:
            parse_device(device)
        if row.name in rows:
            raise ValueError(f"{row.name} stands twice in the table of drivers")
        rows[row.name] = msgspec.structs.replace(row, module=row.module or row.name)
    return rows


def find(name: str) -> Driver:
    """The driver of that name: its row, or a network driver that is the kernel module ``name``."""
    return table().get(name) or Driver(name=name, driver_class="network", module=name)


def suggestion(name: str) -> str:
    """A hint at the known driver that ``name`` may have meant, or how to see them all."""
    near = difflib.get_close_matches(name, table(), 2)
    return f"perhaps {' or '.join(near)} was meant" if near else "'nooks drivers' lists the known ones"


def complete(spec: Spec) -> tuple[Spec, Driver]:
    """``spec`` with its device and class filled in from the driver's row, and the driver. Raises InputError."""
    driver = find(spec.driver)
    wanted = spec.driver_class or driver.driver_class
    if driver.known and wanted != driver.driver_class:
        raise InputError(
            f"{driver.name} is a {driver.driver_class} driver, not a {wanted} driver", "leave the class out"
        )
    device = spec.device or next(iter(driver.devices), None)
    if device is None:
        raise InputError(
            f"{spec.driver} is not a known driver and no device was given",
            f"{suggestion(spec.driver)}, and for any other kernel module say --device emulated:MODEL",
        )
    if parse_device(device).kind not in OFFERED_DEVICES:
        kinds = ", ".join(f"{kind}:" for kind in sorted(OFFERED_DEVICES))
        raise InputError(f"device {device} can't be used in a nook yet", f"use one that begins with {kinds}")
    model.check(parse_device(device))
    if spec.restart.means is None and not late.has_snapshots(parse_device(device)):
        spec = msgspec.structs.replace(spec, restart=msgspec.structs.replace(spec.restart, means="hotplug"))
    driver = msgspec.structs.replace(driver, driver_class=wanted)
    return msgspec.structs.replace(spec, device=device, driver_class=wanted), driver
