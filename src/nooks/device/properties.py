"""Which properties QEMU's device models have: they come and go with its versions (e1000's ``autonegotiation`` went)."""

import json
import re
from contextlib import suppress
from functools import cache
from typing import Any

from nooks.domain import emulator
from nooks.host.cache import write_file
from nooks.host.errors import NooksError
from nooks.host.paths import cache_dir
from nooks.host.process import run

REMEMBERED = "properties.json"
"""In the cache: the build of QEMU, and what it said of each model, since asking takes 50 ms."""

_PROPERTY = re.compile(r"^\s+([\w.-]+)=<", re.MULTILINE)


@cache
def known(model: str) -> frozenset[str] | None:
    """The properties of a model in the distribution's QEMU; None if that is missing or has no such model."""
    path = cache_dir() / REMEMBERED
    try:
        build = emulator.version_text()
        record = _remembered(path.read_bytes() if path.exists() else b"", build)
        if model not in record["models"]:
            said = run([emulator.program(), "-device", f"{model},help"], timeout_seconds=20).stdout
            record["models"][model] = _PROPERTY.findall(said)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(record))
    except (NooksError, OSError):
        return None
    return frozenset(record["models"][model])


def _remembered(text: bytes, build: str) -> dict[str, Any]:
    with suppress(ValueError):
        record = json.loads(text)
        if record.get("build") == build:
            return record
    return {"build": build, "models": {}}
