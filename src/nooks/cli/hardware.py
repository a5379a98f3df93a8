"""``nooks hardware``: device models of our own, and making one of them misbehave."""

from typing import Annotated, Any

import typer

from nooks.cli.app import plain_app
from nooks.cli.options import Json, Name
from nooks.cli.output import emit, table

MISBEHAVE_SECONDS = 20.0

hardware = plain_app("Device models of our own: which there are, and making one misbehave.")


@hardware.command()
def models(json: Json = False) -> None:
    """List the device models of our own; a specification calls them model:NAME."""
    from nooks.device import model
    from nooks.drivers import table as drivers

    rows = [
        {
            "name": name,
            "class": row.model_class,
            "device": f"model:{name}",
            "driver": _driver_of(f"model:{name}", drivers()),
            "summary": row.summary,
        }
        for name, row in model.table().items()
    ]
    columns = ("device", "class", "driver", "summary")
    cells = [[row[column] for column in columns] for row in rows]
    emit(rows, as_json=json, text=lambda: table(columns, cells, empty="there are none"))


def _driver_of(device: str, rows: Any) -> str | None:  # noqa: ANN401 - the table of drivers, imported late
    return next((driver.name for driver in rows.values() if device in driver.devices), None)


@hardware.command()
def misbehave(
    name: Name,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="What goes wrong; none: nothing any more.")],
    lasting: Annotated[bool, typer.Option("--lasting", help="Resetting the card doesn't cure it.")] = False,
    json: Json = False,
) -> None:
    """Make the device model of a nook misbehave, as cards do when they break.

    stuck-interrupt: the interrupt line stays asserted. lost-interrupt: no interrupt arrives. wrong-dma: addresses are
    wrong. garbage: descriptors are filled with garbage. all-ones: registers read as if nobody were there. pulled: the
    card is out of its slot until it is told none. All but the last are over when the driver resets the card.
    """
    from nooks.device import model
    from nooks.host.errors import InputError
    from nooks.lifecycle import contact

    if kind not in model.MISBEHAVIOURS:
        raise InputError(f"no misbehaviour is called {kind!r}", f"one of {', '.join(model.MISBEHAVIOURS)}")
    arguments = {"kind": kind, "lasting": lasting}
    with contact.connect(name) as control:
        result: dict[str, Any] = control.request("misbehave", arguments, timeout_seconds=MISBEHAVE_SECONDS)
    emit(result, as_json=json, text=lambda: print(f"{name}: {kind}"))
