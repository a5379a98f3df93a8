"""``nooks events`` and ``nooks postmortem``: what was recorded."""

import asyncio
import contextlib
from typing import Annotated, Any

import msgspec
import typer

from nooks.cli.options import Json, Name, OptionalName
from nooks.cli.output import emit
from nooks.host.errors import InputError
from nooks.host.journal import EVENTS, Event, journal_path


def complete_events(incomplete: str) -> list[str]:
    """The events of the journal."""
    return sorted(event for event in EVENTS if event.startswith(incomplete))


def events(
    name: OptionalName = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--event", metavar="EVENT", help="Only such events; may be repeated.", autocompletion=complete_events
        ),
    ] = None,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=0, help="Begin with the last N.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones until interrupted.")] = False,
    json: Json = False,
) -> None:
    """Show the journal of one nook or of all, oldest first. With --json, one document per line."""
    from nooks.host import journal

    wanted = frozenset(only or ())
    if not wanted <= EVENTS:
        raise InputError(f"{min(wanted - EVENTS)!r} is not an event", f"events are {', '.join(sorted(EVENTS))}")
    if name is not None and not follow:
        _check_recorded(name)
    if follow:
        # An interrupt is the way to end this.
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_follow(name, wanted, last, as_json=json))
        return
    found = [event for event in journal.read(name) if not wanted or event.event in wanted]
    for event in found if last is None else found[len(found) - min(last, len(found)) :]:
        _print(event, as_json=json)


async def _follow(name: str | None, wanted: frozenset[str], last: int | None, *, as_json: bool) -> None:
    from nooks.host import journal
    from nooks.host.clock import SystemClock

    async for event in journal.follow(name, SystemClock(), last=last):
        if not wanted or event.event in wanted:
            _print(event, as_json=as_json)


def _check_recorded(name: str) -> None:
    path = journal_path(name)
    if not path.exists() and not path.with_name(path.name + ".1").exists():
        raise InputError(f"nothing is recorded of a nook {name}", "'nooks events' shows what is recorded of all")


def _print(event: Event, *, as_json: bool) -> None:
    emit(msgspec.to_builtins(event), as_json=as_json, text=lambda: print(_line(event), flush=True))


def _line(event: Event) -> str:
    moment = event.time.partition(".")
    time = f"{moment[0].replace('T', ' ')}.{moment[2][:3]}"
    details = " ".join(f"{key}={_short(value)}" for key, value in event.detail.items())
    return f"{time}  {event.nook:<15} {event.incarnation:>4}  {event.event:<9} {event.reason:<12} {details}".rstrip()


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def postmortem(
    name: Name,
    incarnation: Annotated[
        int | None, typer.Argument(metavar="[INCARNATION]", help="Which domain; the last that failed without it.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what is known of a failure: the reason, the oops with its function and module, the last console lines."""
    from nooks.failure import postmortem as postmortems

    document: dict[str, Any] = postmortems.read(name, incarnation)
    emit(document, as_json=json, text=lambda: _show(document))


def _show(document: dict[str, Any]) -> None:
    for key, value in document.items():
        if key not in ("console", "oops") and value not in (None, "", {}, []):
            print(f"{key + ':':<14} {value}")
    for key in ("oops", "console"):
        text = document.get(key)
        if text:
            lines: list[str] = text.splitlines() if isinstance(text, str) else [str(line) for line in text]
            print(f"{key}:", *(f"  {line}" for line in lines), sep="\n")
