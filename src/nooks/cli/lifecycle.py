"""``nooks stop``, ``restart``, ``status`` and ``set``."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from nooks.cli.options import Json, Name, OptionalName
from nooks.cli.output import emit, seconds, table, words
from nooks.cli.progress import TerminalProgress
from nooks.host.errors import InputError

_SETTING = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_-]+)*")
_WORDS = {"on": True, "true": True, "off": False, "false": False}

SET_SECONDS = 30.0


def stop(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Also if its supervisor hangs or can't be adopted.")] = False,
    json: Json = False,
) -> None:
    """Stop a nook and give back all that it held; returns when nothing of it is left."""
    from nooks.lifecycle import ending

    result = ending.stop(name, force=force)
    emit(result, as_json=json, text=lambda: print(f"{name} is stopped"))


def restart(
    name: Name,
    kernel: Annotated[
        str | None, typer.Option("--kernel", metavar="KERNEL", help="debian, host, a version or a directory.")
    ] = None,
    json: Json = False,
) -> None:
    """Replace a nook's domain by a new one, without losing a connection.

    With another kernel, its driver takes over. The old domain goes on if the new one does not come up.
    """
    from nooks.lifecycle import launch

    with TerminalProgress(enabled=not json) as progress:
        result = launch.restart(name, kernel, progress)
    emit(result, as_json=json, text=lambda: print(f"{name} runs in a new domain (process {result.get('domain_pid')})"))


def status(name: OptionalName = None, json: Json = False) -> None:
    """Show the state of one nook or of all."""
    from nooks.lifecycle import contact

    if name is not None:
        row = contact.status(name)
        emit(row, as_json=json, text=lambda: _show_one(row))
    else:
        rows = contact.all_status()
        emit(rows, as_json=json, text=lambda: _show(rows))


def _show_one(row: dict[str, Any]) -> None:
    for key, value in row.items():
        text = words(value, seconds if key.endswith("_seconds") else str)
        print(f"{key.removesuffix('_seconds').replace('_', ' '):<16} {text}")


def _show(rows: list[dict[str, Any]]) -> None:
    columns = ("name", "class", "driver", "state", "incarnation", "failures", "recoveries", "last recovery", "pid")
    lines = [[row.get(column) for column in columns] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        line[7] = seconds(row.get("last_recovery_seconds"))
    table(columns, lines, empty="no nooks; 'nooks start --help' says how to start one")


def set_settings(
    name: Name,
    settings: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Such as ring.rx=512.")],
    json: Json = False,
) -> None:
    """Change settings that the host endpoint can't carry; they are recorded and replayed like all others."""
    from nooks.lifecycle import contact

    wanted = dict(_parse(setting) for setting in settings)
    with contact.connect(name) as control:
        result = control.request("set", {"settings": wanted}, timeout_seconds=SET_SECONDS)

    def text() -> None:
        for key, value in result["settings"].items():
            print(f"{key}={value}")

    emit(result, as_json=json, text=text)


def media(
    name: Name,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="An image file or block device.")] = None,
    eject: Annotated[bool, typer.Option("--eject", help="Take out what is in the drive.")] = False,
    json: Json = False,
) -> None:
    """Change the medium in a drive; the host sees it at once. Not while it is mounted."""
    from nooks.lifecycle import contact

    if (file is None) != eject:
        raise InputError("say which medium", f"'nooks media {name} FILE', or 'nooks media {name} --eject'")
    path = None if file is None else str(Path(file).expanduser().absolute())
    with contact.connect(name) as control:
        result = control.request("media", {"path": path}, timeout_seconds=SET_SECONDS)
    emit(result, as_json=json, text=lambda: print(f"{path} is in {name}" if path else f"{name} is empty"))


def _parse(setting: str) -> tuple[str, bool | int | str]:
    key, equals, text = setting.partition("=")
    if not equals or not _SETTING.fullmatch(key) or not text:
        raise InputError(f"{setting!r} is not a setting", "write KEY=VALUE, such as ring.rx=512")
    if text.lower() in _WORDS:
        return key, _WORDS[text.lower()]
    return key, int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
