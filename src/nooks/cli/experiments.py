"""``nooks demo`` and ``nooks bench``: parse, and leave the rest to ``nooks.lab``."""

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from nooks.cli.failing import How
from nooks.cli.options import DriverOption, Json, complete_drivers
from nooks.cli.output import emit, seconds, table
from nooks.host.errors import NooksError

bench = typer.Typer(
    help="Measure recovery and throughput.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Show(StrEnum):
    """The classes that have a demonstration."""

    NETWORK = "network"


def demo(
    what: Annotated[Show, typer.Argument(help="The class of drivers to show.")] = Show.NETWORK,
    driver: DriverOption = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Also write the screen as an SVG picture.")
    ] = None,
    json: Json = False,
) -> None:
    """Crash a driver in every way while an application uses it. Exit 0 only if everything held."""
    options = {"driver": driver, "picture": picture, "json": json}
    summary = _run(f"nooks.lab.demo_{what.value}", options)
    emit(summary, as_json=json, text=lambda: None)
    if not summary["ok"]:
        raise typer.Exit(1)


@bench.command("recovery")
def bench_recovery(
    driver: Annotated[
        str, typer.Option("--driver", metavar="DRIVER", help="The driver.", autocompletion=complete_drivers)
    ],
    how: Annotated[
        How | None, typer.Option("--how", metavar="HOW", help="The way to fail, as of 'nooks crash'; mixed without it.")
    ] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=10000, help="How often.")] = 50,
    json: Json = False,
) -> None:
    """Fail a nook again and again under load; report detection, recovery and outage."""
    options = {"driver": driver, "how": how.value if how else None, "count": count, "json": json}
    result = _run("nooks.lab.bench_recovery", options)

    def text() -> None:
        kinds = ("detection_seconds", "recovery_seconds", "outage_seconds")
        quantiles = ("p50", "p95", "max")
        rows = [(kind.removesuffix("_seconds"), *(seconds(result[kind].get(q)) for q in quantiles)) for kind in kinds]
        table(("", *quantiles), rows, empty="")
        print(f"{result['count']} failures ({result['how']}), {result['application_errors']} application errors")

    emit(result, as_json=json, text=text)
    if result["application_errors"]:
        raise typer.Exit(1)


@bench.command("network")
def bench_network(
    driver: DriverOption = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, max=100, help="How often each side is measured.")
    ] = 3,
    json: Json = False,
) -> None:
    """Compare a nook's throughput and latency with the same card wired up by hand."""
    result = _run("nooks.lab.bench_network", {"driver": driver, "rounds": rounds, "json": json})
    columns = ("name", "unit", "baseline", "native", "nook", "ratio")
    rows = [[row.get(column) for column in columns] for row in result["benchmarks"]]
    emit(result, as_json=json, text=lambda: table(columns, rows, empty="nothing was measured"))


def _run(module: str, options: dict[str, Any]) -> dict[str, Any]:
    """Call ``run(**options)`` of a module in the lab, without the options that were not given."""
    try:
        run = importlib.import_module(module).run
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise NooksError(f"{module} is not part of this installation", "use a complete checkout of nooks") from None
    return run(**{key: value for key, value in options.items() if value is not None})
