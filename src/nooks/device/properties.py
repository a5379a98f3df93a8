"""Which properties QEMU's device models have: they come and go with its versions (e1000's ``autonegotiation`` went)."""

import json
import re
from contextlib import suppress
from functools import cache
from typing import Any

from nooks.domain import emulator
from nooks.domain.emulator import SYSTEM, Emulator
from nooks.host.cache import write_file
from nooks.host.errors import NooksError
from nooks.host.paths import cache_dir
from nooks.host.process import run

REMEMBERED = "properties.json"
"""In the cache: the build of QEMU, and what it said of each model, since asking takes 50 ms."""

_PROPERTY = re.compile(r"^\s+([\w.-]+)=<", re.MULTILINE)


@cache
def known(model: str, build: Emulator = SYSTEM) -> frozenset[str] | None:
    """The properties of a model in a build of QEMU; None if that is missing or has no such model."""
    try:
        return frozenset(_of_the_system(model) if build == SYSTEM else _asked(model, build))
    except (NooksError, OSError):
        return None


def _asked(model: str, build: Emulator) -> list[str]:
    return _PROPERTY.findall(run([*build.command(), "-device", f"{model},help"], timeout_seconds=20).stdout)


def _of_the_system(model: str) -> list[str]:
    """Those in the distribution's build, which are remembered."""
    path = cache_dir() / REMEMBERED
    build = emulator.version_text()
    record = _remembered(path.read_bytes() if path.exists() else b"", build)
    if model not in record["models"]:
        record["models"][model] = _asked(model, SYSTEM)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(record))
    return record["models"][model]


def _remembered(text: bytes, build: str) -> dict[str, Any]:
    with suppress(ValueError):
        record = json.loads(text)
        if record.get("build") == build:
            return record
    return {"build": build, "models": {}}
