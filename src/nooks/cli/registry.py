"""The commands: where each one's code is, what it does in a line, and examples. Importing this costs nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One command. ``target`` is ``module:attribute``, a function or a typer app with commands of its own."""

    target: str
    summary: str
    examples: tuple[str, ...] = ()


COMMANDS: dict[str, Entry] = {
    "doctor": Entry(
        "nooks.cli.doctor:doctor",
        "Say what this machine can do, and how to mend what it can't.",
        ("nooks doctor", "nooks doctor --json"),
    ),
    "drivers": Entry(
        "nooks.cli.drivers:drivers", "List the known drivers.", ("nooks drivers", "nooks drivers --class network")
    ),
    "start": Entry(
        "nooks.cli.start:start",
        "Start a nook, adopt one whose supervisor died, or re-arm a degraded one.",
        (
            "nooks start --name nic0 --driver e1000 --address dhcp",
            "nooks start --name nic0 --driver e100 --device emulated:i82550 --wire tap:wire0@lab",
            "nooks start ./nic0.toml --memory 160M",
            "nooks start nic0                # adopt or re-arm",
        ),
    ),
    "attach": Entry(
        "nooks.cli.attach:attach",
        "Take a real device from the host's driver into a nook.",
        (
            "nooks attach enp3s0 --dry-run",
            "nooks attach 0000:03:00.0 --name nic0",
            "nooks attach usb:0bda:8153",
            "nooks attach enp3s0 --persist    # from each start of the machine on",
        ),
    ),
    "detach": Entry(
        "nooks.cli.attach:detach", "Give a real device back to the host's driver.", ("nooks detach enp3s0",)
    ),
    "stop": Entry(
        "nooks.cli.lifecycle:stop",
        "Stop a nook and give back all that it held.",
        ("nooks stop nic0", "nooks stop nic0 --force"),
    ),
    "restart": Entry(
        "nooks.cli.lifecycle:restart",
        "Planned failover, also to another kernel's driver.",
        ("nooks restart nic0", "nooks restart nic0 --kernel host"),
    ),
    "status": Entry(
        "nooks.cli.lifecycle:status", "Show one nook or all of them.", ("nooks status", "nooks status nic0 --json")
    ),
    "set": Entry(
        "nooks.cli.lifecycle:set_settings",
        "Change settings that the host endpoint can't carry.",
        ("nooks set nic0 ring.rx=512 ring.tx=512", "nooks set nic0 coalesce.rx_usecs=50 pause.autoneg=off"),
    ),
    "media": Entry(
        "nooks.cli.lifecycle:media",
        "Change the medium in a drive.",
        ("nooks media cd0 ./debian.iso", "nooks media cd0 --eject"),
    ),
    "events": Entry(
        "nooks.cli.records:events",
        "Show the journal.",
        ("nooks events", "nooks events nic0 --follow", "nooks events --event failed --json"),
    ),
    "postmortem": Entry(
        "nooks.cli.records:postmortem",
        "Show what is known of a failure.",
        ("nooks postmortem nic0", "nooks postmortem nic0 3 --json"),
    ),
    "metrics": Entry("nooks.cli.metrics:metrics", "Print the metrics of all nooks for Prometheus.", ("nooks metrics",)),
    "crash": Entry(
        "nooks.cli.failing:crash",
        "Fail a nook's domain on purpose.",
        ("nooks crash nic0 --how panic", "nooks crash nic0 --how hang"),
    ),
    "inject": Entry(
        "nooks.cli.failing:inject",
        "Change the live code of a nook's driver.",
        ("nooks inject nic0 --type mixed --count 5 --seed 7", "nooks inject nic0 --type double-free"),
    ),
    "hardware": Entry(
        "nooks.cli.hardware:hardware",
        "List our own device models, and make one misbehave.",
        ("nooks hardware models", "nooks hardware misbehave nic0 lost-interrupt", "nooks hardware misbehave nic0 none"),
    ),
    "campaign": Entry(
        "nooks.cli.campaign:campaign",
        "Inject faults into a driver at work, many times over, and find out what becomes of it.",
        (
            "nooks campaign --driver e1000 --trials 100 --seed 1 --out results/first",
            "nooks campaign --driver e1000 --driver e100 --seed 1 --controls --out results/first",
            "nooks campaign --driver e1000 --seed 1 --trial 17      # that one again",
        ),
    ),
    "demo": Entry("nooks.cli.experiments:demo", "Crash a driver while applications use it.", ("nooks demo",)),
    "bench": Entry(
        "nooks.cli.experiments:bench",
        "Measure recovery, throughput, cost, and what is left behind.",
        ("nooks bench recovery --driver e1000 --count 50", "nooks bench network --json"),
    ),
    "lab": Entry(
        "nooks.cli.lab:lab",
        "Try nooks on a whole emulated PC.",
        (
            "nooks lab run --device e1000 -- nooks doctor",
            "nooks lab run --kernel trixie --device e1000,port=yes --device usb-net",
        ),
    ),
}
