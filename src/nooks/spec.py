"""Nook specifications: TOML and command-line flags in, validated structs out.

It knows the keys and their forms, not which drivers there are (``drivers``) nor what a machine can do. A wrong key
or value is an InputError that names the key, its line, and what is allowed.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import msgspec

from nooks.host.errors import InputError
from nooks.host.paths import NAME_ALLOWED, is_name

DeviceKind = Literal["emulated", "model", "pci", "usb"]
DriverClass = Literal["network", "block", "sound"]

MEMORY_MIN_BYTES = 80 << 20
MEMORY_MAX_BYTES = 4 << 30

_MODULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MEMORY = re.compile(r"([1-9][0-9]{0,6})\s*([MG])i?B?", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OPTION = re.compile(r"[A-Za-z0-9_.-]+=[^,]*")
_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_USB = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}(?:@[0-9]+-[0-9]+(?:\.[0-9]+)*)?")
_TAP = re.compile(r"tap:([^\s/@:]{1,15})(?:@([A-Za-z0-9._-]{1,64}))?")

ALLOWED: dict[str, str] = {
    "name": NAME_ALLOWED,
    "driver": "the name of a known driver ('nooks drivers') or of a kernel module",
    "device": "emulated:MODEL[,option=value...], model:NAME, pci:0000:03:00.0 or usb:VID:PID[@PORT]",
    "class": "network, block or sound",
    "kernel": "debian, host, a version or a directory",
    "memory": "a number of megabytes or gigabytes such as 128M, from 80M to 4G",
    "debug": "true or false",
    "network": "a table with the keys wire and address",
    "network.wire": "user, or tap:IFNAME[@NETNS]",
    "network.address": "dhcp, or a list of addresses such as 192.0.2.7/24",
    "block": "a table with the keys media, integrity and give_up_seconds",
    "block.media": "the name of a file or block device",
    "block.integrity": "true or false",
    "block.give_up_seconds": "a number of seconds, 0 to wait for ever",
    "sound": "a table with the keys policy, latency and line",
    "sound.policy": "content or clock",
    "sound.latency": "default or low",
    "sound.line": "none, or unix:PATH of a program that has the other end of an emulated card's plugs",
    "restart": "a table with the keys intensity, period_seconds and means",
    "restart.intensity": "a whole number from 1 to 1000",
    "restart.period_seconds": "a number of seconds above 0",
    "restart.means": "spare, restore, hotplug or cold",
}
"""Every key of a specification, dotted, and what may stand there."""


class Network(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """``wire`` is where an emulated card's cable ends; ``address`` what the host interface gets, or "dhcp"."""

    wire: str = "user"
    address: tuple[str, ...] | Literal["dhcp"] = ()

    def tap(self) -> tuple[str, str | None] | None:
        """The wire's interface and network namespace (None: the host's), or None for ``user``."""
        match = _TAP.fullmatch(self.wire)
        return (match[1], match[2]) if match else None


class Block(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """``give_up_seconds``: how long requests wait in a degraded nook before they get EIO; 0 waits for ever."""

    media: str | None = None
    integrity: bool = True
    give_up_seconds: float = 0.0


class Sound(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """``policy``: keep the content or keep the clock while the driver is away.

    ``line``: where the plugs of an emulated card lead to.
    """

    policy: Literal["content", "clock"] = "content"
    latency: Literal["default", "low"] = "default"
    line: str = "none"

    def line_socket(self) -> Path | None:
        """The socket of the program that has the other end of the plugs."""
        return Path(self.line.removeprefix("unix:")) if self.line.startswith("unix:") else None


class Restart(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """At most ``intensity`` failures in ``period_seconds`` before the nook gives up.

    ``means``: the quickest means of restart that may be used; None: the quickest that the device allows.
    """

    intensity: int = 10
    period_seconds: float = 60.0
    means: Literal["spare", "restore", "hotplug", "cold"] | None = None


@dataclass(frozen=True)
class Device:
    """A parsed device. ``model`` is QEMU's name, ours, a PCI address or VID:PID; ``options`` as given, in order."""

    kind: DeviceKind
    model: str
    options: tuple[tuple[str, str], ...] = ()


class Spec(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, rename={"driver_class": "class"}):
    """What a nook is to be. ``driver_class`` and ``device`` may be None here: the table of drivers fills them in."""

    name: str
    driver: str
    device: str | None = None
    driver_class: DriverClass | None = None
    kernel: str = "debian"
    memory: str = "128M"
    debug: bool = False
    network: Network = Network()
    block: Block = Block()
    sound: Sound = Sound()
    restart: Restart = Restart()

    @property
    def memory_bytes(self) -> int:
        """The domain's memory in bytes."""
        return parse_memory(self.memory)

    @property
    def plugged_late(self) -> bool:
        """Whether the device is plugged into a domain only when that is to serve: snapshots hold none but emulated."""
        return not self.emulated or self.restart.means == "hotplug"

    @property
    def real(self) -> bool:
        """Whether the device is a real one, which the host's own driver may have."""
        return self.parsed_device.kind in ("pci", "usb")

    @property
    def emulated(self) -> bool:
        """Whether the device is a part of the domain's QEMU."""
        return self.parsed_device.kind == "emulated"

    @property
    def modelled(self) -> bool:
        """Whether the device is a model of ours, in a process of its own."""
        return self.parsed_device.kind == "model"

    @property
    def parsed_device(self) -> Device:
        """The device; it must be set."""
        return parse_device(self.device or "")

    def to_json(self) -> bytes:
        """This specification as one JSON document, with the keys of the TOML form."""
        return msgspec.json.encode(self)

    def to_document(self) -> dict[str, Any]:
        """This specification as a tree of tables with the keys of the TOML form, without those that have defaults."""
        plain = Spec(name=self.name, driver=self.driver)
        return _differing(msgspec.to_builtins(self), msgspec.to_builtins(plain)) | {
            "name": self.name,
            "driver": self.driver,
        }

    @classmethod
    def from_json(cls, document: bytes) -> Self:
        """The reverse of ``to_json``. Raises InputError."""
        try:
            return msgspec.json.decode(document, type=cls)
        except msgspec.DecodeError as error:
            raise InputError(f"the recorded specification is damaged: {error}", "stop the nook with --force") from None


def _differing(table: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What of a tree of tables is not as in ``defaults``."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            inner = _differing(value, defaults[key])
            found |= {key: inner} if inner else {}
        elif value != defaults[key]:
            found[key] = value
    return found


def parse_memory(text: str) -> int:
    """Bytes of ``128M`` or ``1G``. Raises ValueError outside of 80M to 4G."""
    match = _MEMORY.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not an amount of memory")
    size = int(match[1]) << (20 if match[2] == "M" else 30)
    if not MEMORY_MIN_BYTES <= size <= MEMORY_MAX_BYTES:
        raise ValueError(f"{text} is {'less' if size < MEMORY_MIN_BYTES else 'more'} than a domain can use")
    return size


def parse_device(text: str) -> Device:
    """A device string of CONTRACT's form. Raises ValueError."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in get_args(DeviceKind):
        raise ValueError(f"{text!r} is not a device")
    if kind == "pci":
        address = rest.lower()
        address = address if address.count(":") == 2 else f"0000:{address}"
        if not _PCI.fullmatch(address):
            raise ValueError(f"{rest!r} is not a PCI address")
        return Device("pci", address)
    if kind == "usb":
        if not _USB.fullmatch(rest.lower()):
            raise ValueError(f"{rest!r} is not VID:PID")
        return Device("usb", rest.lower())
    model, *options = rest.split(",")
    if not _MODEL.fullmatch(model):
        raise ValueError(f"{model!r} is not the name of a device model")
    for option in options:
        if not _OPTION.fullmatch(option):
            raise ValueError(f"{option!r} is not option=value")
    pairs = tuple((key, value) for key, _, value in (option.partition("=") for option in options))
    return Device("emulated" if kind == "emulated" else "model", model, pairs)


def absolute_kernel(kernel: str, base: Path = Path()) -> str:
    """``kernel``, if it is a directory as a path that does not depend on where the process stands."""
    return str((base / Path(kernel).expanduser()).absolute()) if "/" in kernel or kernel in (".", "..") else kernel


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> Spec:
    """The specification in a TOML file, with the dotted keys of ``overrides`` in place of the file's.

    Relative paths in the file count from its directory. Raises InputError.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "give the path of a specification in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}", "see 'nooks start --help' for an example") from None
    return _build(document, overrides or {}, _Source(path, text))


def from_flags(overrides: Mapping[str, Any]) -> Spec:
    """The specification that command-line flags alone make; dotted keys. Raises InputError."""
    return _build({}, overrides, _Source(None, ""))


@dataclass(frozen=True)
class _Source:
    """Where a key was written, for messages."""

    path: Path | None
    text: str
    flags: frozenset[str] = frozenset()

    def place(self, key: str) -> str:
        """How to speak of ``key``: its flag, or its file and line."""
        if key in self.flags or self.path is None:
            return "--" + key.rpartition(".")[2].replace("_", "-")
        line = find_line(self.text, key)
        return f"{self.path}, line {line}: {key}" if line else f"{self.path}: {key}"


def find_line(text: str, key: str) -> int | None:
    """The line, from 1, on which a TOML text sets the dotted ``key``; of its table if it is written inline."""
    *tables, leaf = key.split(".")
    current: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        if header:
            current = _parts(header[1])
            if current == [*tables, leaf]:
                return number
            continue
        assignment = re.match(r"\s*([\w.\"' -]+?)\s*=", line)
        if assignment and current + _parts(assignment[1]) == [*tables, leaf]:
            return number
    return find_line(text, ".".join(tables)) if tables else None


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def _build(document: dict[str, Any], overrides: Mapping[str, Any], source: _Source) -> Spec:
    source = _Source(source.path, source.text, frozenset(overrides))
    _check_keys(document, "", source)
    _make_paths_absolute(document, source.path.parent if source.path else Path())
    flags: dict[str, Any] = {}
    for key, value in overrides.items():
        _assign(flags, key, value)
    _make_paths_absolute(flags, Path())
    for key in overrides:
        table, _, leaf = key.rpartition(".")
        _assign(document, key, flags[table][leaf] if table else flags[leaf])
    for key in ("name", "driver"):
        if key not in document:
            where = f"{source.path} has no {key}" if source.path else f"--{key} is missing"
            raise InputError(where, f"give one: {ALLOWED[key]}")
    try:
        spec = msgspec.convert(document, Spec)
    except msgspec.ValidationError as error:
        key = re.sub(r"\[[^]]*\]", "", str(error).partition("`$.")[2].rstrip("`"))
        raise _wrong(source, key, _in_words(str(error).partition(" - at")[0])) from None
    _check_values(spec, source)
    return spec


def _in_words(error: str) -> str:
    """msgspec's account of a wrong value, in a user's words."""
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "object": "table"}
    words |= {"array": "list"}

    def spoken(match: re.Match[str]) -> str:
        return " or ".join(words.get(kind.strip(), kind.strip()) for kind in match[1].split("|"))

    return re.sub(r"`([^`]*)`", spoken, error).replace("Expected", "expected", 1).replace("Invalid enum", "wrong")


def _assign(document: dict[str, Any], key: str, value: object) -> None:
    table, _, leaf = key.rpartition(".")
    inner = document.setdefault(table, {}) if table else document
    if isinstance(inner, dict):
        inner[leaf] = value


def _make_paths_absolute(document: dict[str, Any], base: Path) -> None:
    kernel = document.get("kernel")
    if isinstance(kernel, str):
        document["kernel"] = absolute_kernel(kernel, base)
    block = document.get("block")
    if isinstance(block, dict) and isinstance(block.get("media"), str):
        block["media"] = str((base / Path(block["media"]).expanduser()).absolute())


def _check_keys(table: Mapping[str, Any], prefix: str, source: _Source) -> None:
    for leaf, value in table.items():
        key = f"{prefix}{leaf}"
        if key not in ALLOWED:
            raise _unknown(source, key, prefix)
        if isinstance(value, dict):
            _check_keys(value, f"{key}.", source)


def _unknown(source: _Source, key: str, prefix: str) -> InputError:
    here = [known.removeprefix(prefix) for known in ALLOWED if known.rpartition(".")[0] == prefix.rstrip(".")]
    near = difflib.get_close_matches(key.removeprefix(prefix), here, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    where = f"in [{prefix.rstrip('.')}]" if prefix else "at the top"
    return InputError(f"{source.place(key)} is not a key", f"{guess}{where} there may be {', '.join(here)}")


def _wrong(source: _Source, key: str, why: str) -> InputError:
    return InputError(f"{source.place(key)} is wrong: {why}", f"it must be {ALLOWED.get(key, 'as documented')}")


def _check_values(spec: Spec, source: _Source) -> None:
    def need(key: str, holds: bool, why: str) -> None:
        if not holds:
            raise _wrong(source, key, why)

    need("name", is_name(spec.name), f"{spec.name!r} can't name a nook")
    need("driver", bool(_MODULE.fullmatch(spec.driver)), f"{spec.driver!r} can't name a driver")
    need("kernel", bool(spec.kernel.strip()), "it is empty")
    for key, text, parse in (("memory", spec.memory, parse_memory), ("device", spec.device, parse_device)):
        try:
            if text is not None:
                parse(text)
        except ValueError as error:
            raise _wrong(source, key, str(error)) from None
    need("network.wire", spec.network.wire == "user" or spec.network.tap() is not None, f"{spec.network.wire!r}")
    if spec.network.address != "dhcp":
        for address in spec.network.address:
            need("network.address", _is_interface_address(address), f"{address!r} is no host's address with a prefix")
    line = spec.sound.line_socket()
    need("sound.line", spec.sound.line == "none" or (line is not None and line.is_absolute()), f"{spec.sound.line!r}")
    need("block.give_up_seconds", spec.block.give_up_seconds >= 0, "it is negative")
    need("restart.intensity", 1 <= spec.restart.intensity <= 1000, f"{spec.restart.intensity} is out of range")
    need("restart.period_seconds", spec.restart.period_seconds > 0, "it is not above 0")


def _is_interface_address(text: str) -> bool:
    """Whether an interface can have this address: one of one host, with a prefix, without a scope."""
    try:
        address = ipaddress.ip_interface(text).ip
    except ValueError:
        return False
    special = address.is_multicast or address.is_unspecified or address.is_loopback
    return "/" in text and "%" not in text and not special
