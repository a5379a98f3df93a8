"""``nooks demo`` and ``nooks bench``: parse, and leave the rest to ``nooks.lab``."""

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from nooks.cli.app import plain_app
from nooks.cli.failing import How
from nooks.cli.options import DriverOption, Json, PolicyOption
from nooks.cli.output import emit, seconds, table
from nooks.drivers import find
from nooks.host.errors import InputError, NooksError

bench = plain_app("Measure recovery, throughput, cost, and what is left behind.")


AttachOption = Annotated[
    str | None, typer.Option("--attach", metavar="DEVICE", help="A real card, as of 'nooks attach', instead.")
]
PeerOption = Annotated[
    str | None, typer.Option("--peer", metavar="INTERFACE", help="The interface at the other end of that card's cable.")
]


RECOVERY = {
    "network": "nooks.lab.bench_recovery",
    "block": "nooks.lab.disk.recovery",
    "sound": "nooks.lab.sound.recovery",
}
"""What fails a nook of each class under load."""


class Show(StrEnum):
    """The classes that have a demonstration."""

    NETWORK = "network"
    SOUND = "sound"
    BLOCK = "block"


def demo(
    what: Annotated[Show, typer.Argument(help="The class of drivers to show.")] = Show.NETWORK,
    driver: DriverOption = None,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE", help="Also a picture: the screen (SVG), or the waveform (PNG)."),
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
    driver: DriverOption = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="As of 'nooks start', instead of the driver's own.")
    ] = None,
    attach: AttachOption = None,
    peer: PeerOption = None,
    how: Annotated[
        How | None, typer.Option("--how", metavar="HOW", help="The way to fail, as of 'nooks crash'; mixed without it.")
    ] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=10000, help="How often.")] = 50,
    spare: Annotated[bool, typer.Option("--spare/--no-spare", help="Leave the nook its spare, or kill it.")] = True,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="The same seed, the same order of failures.")
    ] = None,
    policy: PolicyOption = None,
    json: Json = False,
) -> None:
    """Fail a nook again and again under load; report detection, recovery and outage."""
    way = how.value if how else None
    options = {
        "driver": driver,
        "device": device,
        "how": way,
        "count": count,
        "spare": spare,
        "seed": seed,
        "json": json,
    }
    if driver is None and attach is None:
        raise InputError("no driver was given", "give --driver, or a real card with --attach")
    of_class = find(driver).driver_class if driver is not None else "network"
    if of_class != "network" and attach is not None:
        raise InputError(f"a real {of_class} device can't be measured yet", "leave --attach out: it is emulated then")
    if policy is not None:
        if of_class != "sound":
            raise InputError(f"a {of_class} nook has no policy", "leave --policy out")
        options["policy"] = policy
    result = _run(RECOVERY[of_class], options | _real(attach, peer))

    def text() -> None:
        kinds = ["detection_seconds", "recovery_seconds", "outage_seconds", *(["drift_seconds"] if policy else [])]
        quantiles = ("p50", "p95", "max")
        rows = [(kind.removesuffix("_seconds"), *(seconds(result[kind].get(q)) for q in quantiles)) for kind in kinds]
        table(("", *quantiles), rows, empty="")
        rows = [(step, *(seconds(split.get(q)) for q in quantiles)) for step, split in result["steps_seconds"].items()]
        table(("of which", *quantiles), rows, empty="")
        if of_class == "sound":
            heard = {kind: result[f"{kind}_frames"] for kind in ("lost", "repeated")}
            rows = [(kind, *(round(of.get(q) or 0) for q in quantiles)) for kind, of in heard.items()]
            table(("frames", *quantiles), rows, empty="")
        print(f"{result['count']} failures ({result['how']}), {result['application_errors']} application errors")

    emit(result, as_json=json, text=text)
    if result["application_errors"]:
        raise typer.Exit(1)


@bench.command("network")
def bench_network(
    driver: DriverOption = None,
    attach: AttachOption = None,
    peer: PeerOption = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, max=100, help="How often each side is measured.")
    ] = 3,
    json: Json = False,
) -> None:
    """Compare a nook with the same card wired up by hand, or a real card's nook with the host's own driver."""
    options = {"driver": driver, "rounds": rounds, "json": json}
    result = _run("nooks.lab.bench_network", options | _real(attach, peer))
    columns = ("name", "unit", "baseline", "native", "nook", "ratio", "cpu_native", "cpu_nook")
    rows = [[row.get(column) for column in columns] for row in result["benchmarks"]]
    emit(result, as_json=json, text=lambda: table(columns, rows, empty="nothing was measured"))


@bench.command("transfer")
def bench_transfer(
    driver: DriverOption = None,
    size: Annotated[
        int | None, typer.Option("--bytes", metavar="N", min=1, max=1 << 40, help="How much each way; 1 GB without it.")
    ] = None,
    json: Json = False,
) -> None:
    """Send much data through a nook, each way, and check every byte; exit 0 only if all of it was right."""
    result = _run("nooks.lab.bench_transfer", {"driver": driver, "size_bytes": size, "json": json})
    columns = ("way", "received_bytes", "seconds", "megabits_per_second", "wrong_blocks")

    def text() -> None:
        table(columns, [[row[column] for column in columns] for row in result["transfers"]], empty="nothing")
        print("; ".join(result["errors"]) or "no errors")

    emit(result, as_json=json, text=text)
    if result["errors"]:
        raise typer.Exit(1)


@bench.command("block")
def bench_block(
    driver: DriverOption = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, max=100, help="How often each side is measured.")
    ] = 3,
    integrity: Annotated[
        bool, typer.Option("--integrity/--no-integrity", help="Let the nook compare checksums.")
    ] = True,
    movers: Annotated[
        bool, typer.Option("--movers", help="Also a nook whose domain moves the data in Python, without a C compiler.")
    ] = False,
    checksums: Annotated[bool, typer.Option("--checksums", help="Also a nook that compares no checksums.")] = False,
    attach: AttachOption = None,
    erase: Annotated[
        bool, typer.Option("--erase", help="With --attach: write over the disk although there is something on it.")
    ] = False,
    endpoints: Annotated[
        bool,
        typer.Option("--endpoints", help="Instead, each kind of block device that a nook could have here."),
    ] = False,
    json: Json = False,
) -> None:
    """Compare a nook's disk with the same disk used inside a virtual machine, and with its own endpoint's limit.

    With --attach a real disk, with the host's own driver and in a nook in turn, also by a compiler. What is on it is
    lost. With --endpoints no nook: what the kinds of block device reach over memory.
    """
    if attach is not None and (driver is not None or movers or checksums):
        raise InputError("--attach excludes --driver, --movers and --checksums", "a real disk's driver is the host's")
    if erase and attach is None:
        raise InputError("--erase is of a real disk", "give it with --attach")
    if endpoints and (attach is not None or driver is not None or movers or checksums or not integrity):
        raise InputError("--endpoints goes with --rounds alone", "there is no driver and no nook in it")
    options = {"driver": driver, "rounds": rounds, "integrity": integrity, "movers": movers, "checksums": checksums}
    options |= {"attach": attach, "erase": erase, "endpoints": endpoints}
    result = _run("nooks.lab.bench_block", options | {"json": json})
    if endpoints:
        columns = tuple(result["benchmarks"][0])
    else:
        columns = ("name", "unit", "baseline", "native", "nook", "ratio")
        columns += () if attach else ("endpoint_over_ram",)
        columns += ("cpu_native", "cpu_nook")
        columns += ("python_mover", "python_mover_ratio") if movers else ()
        columns += ("without_checksums", "checksums_ratio") if checksums else ()
    rows = [[row.get(column) for column in columns] for row in result["benchmarks"]]
    emit(result, as_json=json, text=lambda: table(columns, rows, empty="nothing was measured"))


@bench.command("sound")
def bench_sound(
    driver: DriverOption = None,
    play_seconds: Annotated[
        float | None, typer.Option("--seconds", metavar="SECONDS", min=5, max=14400, help="For how long it plays.")
    ] = None,
    attach: AttachOption = None,
    json: Json = False,
) -> None:
    """Play through a nook; measure gaps, latency and processor time at the card's plugs.

    With --attach an MP3 player plays on a real card, by the host's own driver and by a nook in turn: how long it takes,
    and the whole machine's processor time.
    """
    if driver is not None and attach is not None:
        raise InputError("--driver and --attach exclude each other", "a real card's driver is the host's")
    options = {"driver": driver, "seconds": play_seconds, "attach": attach, "json": json}
    result = _run("nooks.lab.sound.bench", options)
    columns = ("name", "unit", "native", "nook", "ratio")
    rows = [[row.get(column) for column in columns] for row in result["benchmarks"]]
    emit(result, as_json=json, text=lambda: table(columns, rows, empty="nothing was measured"))


@bench.command("footprint")
def bench_footprint(
    driver: DriverOption = None,
    watch_seconds: Annotated[
        float | None, typer.Option("--seconds", metavar="SECONDS", min=1, max=86400, help="For how long it idles.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure what an idle nook costs: memory and processor time of each of its processes."""
    result = _run("nooks.lab.footprint", {"driver": driver, "seconds": watch_seconds, "json": json})

    def text() -> None:
        rows = [
            (part["process"], part["pid"], _megabytes(part["pss_bytes"].get("total", 0)), part["cpu_percent"])
            for part in result["processes"]
        ]
        total = ("total", "", _megabytes(result["pss_bytes"]), result["cpu_percent"])
        table(("process", "pid", "PSS, MB", "% of a core"), [*rows, total], empty="")

    emit(result, as_json=json, text=text)


@bench.command("cycles")
def bench_cycles(
    driver: DriverOption = None,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=100000, help="How many cycles.")] = 200,
    attach: AttachOption = None,
    peer: PeerOption = None,
    json: Json = False,
) -> None:
    """Start, fail and stop a nook many times, or attach and detach a card; exit 0 only if nothing was left behind."""
    options = {"driver": driver, "count": count, "json": json} | _real(attach, peer)
    result = _run("nooks.lab.bench_cycles", options)

    def text() -> None:
        left = ", ".join(map(str, result["left"])) or "nothing"
        print(f"{result['count']} cycles, left behind: {left}, not recovered: {len(result['unrecovered'])}")

    emit(result, as_json=json, text=text)
    if not result["ok"]:
        raise typer.Exit(1)


def _real(attach: str | None, peer: str | None) -> dict[str, str]:
    """Options for a real card and its cable's other end: both or none."""
    if (attach is None) != (peer is None):
        raise InputError("--attach and --peer go together", "give the card, and the interface at its cable's other end")
    return {} if attach is None or peer is None else {"attach": attach, "peer": peer}


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f}"


def _run(module: str, options: dict[str, Any]) -> dict[str, Any]:
    """Call ``run(**options)`` of a module in the lab, without the options that were not given."""
    try:
        run = importlib.import_module(module).run
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise NooksError(f"{module} is not part of this installation", "use a complete checkout of nooks") from None
    return run(**{key: value for key, value in options.items() if value is not None})
