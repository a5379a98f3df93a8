"""Checks of untrusted values: each returns the value, typed, or raises ProtocolError. Host side only."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from nooks.xpc.errors import ProtocolError

T = TypeVar("T")
Check = Callable[[object], T]

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def boolean(value: object) -> bool:
    """True or false, not 0 or 1."""
    if not isinstance(value, bool):
        raise ProtocolError(f"not a boolean: {_show(value)}")
    return value


def integer(low: int, high: int) -> Check[int]:
    """A whole number from ``low`` to ``high``, both included."""

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ProtocolError(f"not an integer from {low} to {high}: {_show(value)}")
        return value

    return check


def number(low: float, high: float) -> Check[float]:
    """A number from ``low`` to ``high``, both included."""

    def check(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise ProtocolError(f"not a number from {low} to {high}: {_show(value)}")
        return float(value)

    return check


def text(limit: int) -> Check[str]:
    """At most ``limit`` printable characters (newlines and tabs included): safe to print and to store."""

    def check(value: object) -> str:
        if not isinstance(value, str) or len(value) > limit:
            raise ProtocolError(f"not a text of at most {limit} characters: {_show(value)}")
        if not value.translate({9: " ", 10: " "}).isprintable():
            raise ProtocolError(f"not printable: {_show(value)}")
        return value

    return check


def choice(*allowed: str) -> Check[str]:
    """One of ``allowed``."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ProtocolError(f"not one of {', '.join(allowed)}: {_show(value)}")
        return value

    return check


def mac(value: object) -> str:
    """A MAC address, lower case, with colons."""
    if not isinstance(value, str) or not _MAC.fullmatch(value):
        raise ProtocolError(f"not a MAC address: {_show(value)}")
    return value


def matching(pattern: str, limit: int) -> Check[str]:
    """At most ``limit`` characters that match the whole of ``pattern``."""
    compiled = re.compile(pattern)

    def check(value: object) -> str:
        if not isinstance(value, str) or len(value) > limit or not compiled.fullmatch(value):
            raise ProtocolError(f"does not match {pattern}: {_show(value)}")
        return value

    return check


def optional(inner: Check[T]) -> Check[T | None]:
    """Null, or what ``inner`` accepts."""
    return lambda value: None if value is None else inner(value)


def listing(inner: Check[T], limit: int) -> Check[tuple[T, ...]]:
    """A list of at most ``limit`` items."""

    def check(value: object) -> tuple[T, ...]:
        if not isinstance(value, list | tuple) or len(value) > limit:
            raise ProtocolError(f"not a list of at most {limit}: {_show(value)}")
        return tuple(inner(item) for item in value)

    return check


def mapping(key: Check[str], inner: Check[T], limit: int) -> Check[dict[str, T]]:
    """An object of at most ``limit`` entries whose keys and values pass."""

    def check(value: object) -> dict[str, T]:
        if not isinstance(value, dict) or len(value) > limit:
            raise ProtocolError(f"not an object of at most {limit} entries: {_show(value)}")
        return {key(name): inner(item) for name, item in value.items()}

    return check


def record(checks: Mapping[str, Check[Any]], value: object) -> dict[str, Any]:
    """An object with exactly the keys of ``checks``, each value checked; errors name the key."""
    if not isinstance(value, dict):
        raise ProtocolError(f"not an object: {_show(value)}")
    if value.keys() != checks.keys():
        wrong = ", ".join(sorted(_show(key) for key in value.keys() ^ checks.keys())[:8])
        raise ProtocolError(f"wrong keys: {wrong}")
    checked: dict[str, Any] = {}
    for key, check in checks.items():
        try:
            checked[key] = check(value[key])
        except ProtocolError as error:
            raise ProtocolError(f"{key}: {error}") from None
    return checked


def _show(value: object) -> str:
    """A short, printable picture of an untrusted value."""
    shown = ascii(value[:60]) if isinstance(value, str) else ascii(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
