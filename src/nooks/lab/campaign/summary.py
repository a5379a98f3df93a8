"""What a campaign's records amount to: counts, shares with their intervals, distributions. Pure."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nooks.lab.campaign.order import CRASHES, Outcome, Record, Verdict
from nooks.lab.figures import quantiles

_Z95 = 1.959964
TIMES = ("detection_seconds", "recovery_seconds", "outage_seconds")


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """The 95% score interval of a share (Wilson, "Probable Inference ...", JASA 22, 1927); None without trials."""
    if not trials:
        return None
    share, spread = successes / trials, _Z95**2 / trials
    middle = share + spread / 2
    half = _Z95 * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def was_run(record: Record) -> bool:
    """Whether the trial was made at all."""
    return record["verdict"] != Verdict.NOT_RUN


def is_dormant(record: Record) -> bool:
    """Whether no fault of it ran, and nothing happened either."""
    return was_run(record) and bool(record.get("dormant")) and record["verdict"] == Verdict.NO_EFFECT


def is_effective(record: Record) -> bool:
    """Whether a fault of it ran."""
    return was_run(record) and not is_dormant(record)


def had_effect(record: Record) -> bool:
    """Whether the domain failed or the application erred: the trials that count for recovery."""
    return was_run(record) and record["verdict"] != Verdict.NO_EFFECT


def has_recovered(record: Record) -> bool:
    """Whether it came back to where the application gets on: only then do its times mean something."""
    return record["verdict"] in (Verdict.RECOVERED, Verdict.RECOVERED_WITH_ERROR)


def summarize(trials: Sequence[Record], controls: Sequence[Record], identity: dict[str, Any]) -> dict[str, Any]:
    """CONTRACT's summary.json: over all drivers, and for each."""
    drivers = list(dict.fromkeys(record["driver"] for record in (*trials, *controls)))
    return {
        **identity,
        **_of(trials, controls),
        "drivers": {
            driver: _of(
                [record for record in trials if record["driver"] == driver],
                [record for record in controls if record["driver"] == driver],
            )
            for driver in drivers
        },
        "types": by_type(trials),
    }


def _of(trials: Sequence[Record], controls: Sequence[Record]) -> dict[str, Any]:
    verdicts = Counter(str(record["verdict"]) for record in trials)
    counted = [record for record in trials if had_effect(record)]
    automatic = verdicts[Verdict.RECOVERED]
    return {
        "trials": len(trials),
        "dormant": sum(map(is_dormant, trials)),
        "effective": sum(map(is_effective, trials)),
        "with_effect": len(counted),
        "verdicts": {verdict.value: verdicts[verdict] for verdict in Verdict},
        "automatic": round(automatic / len(counted), 4) if counted else None,
        "automatic_interval": _rounded(wilson(automatic, len(counted))),
        "harmed_hosts": sum(record.get("host") == "harmed" for record in trials),
        "reasons": dict(Counter(str(record["reason"]) for record in trials if record.get("reason"))),
        **{name: quantiles(record.get(name) for record in trials if has_recovered(record)) for name in TIMES},
        "trial_seconds": quantiles(record.get("seconds") for record in trials),
        "mean_trial_seconds": _mean(record.get("seconds") for record in trials if was_run(record)),
        "isolation": isolation(trials, controls),
    }


def isolation(trials: Sequence[Record], controls: Sequence[Record]) -> dict[str, Any]:
    """System crashes without a nook against with one, over the trials that were made both ways."""
    native = {_key(record): record for record in controls if record["outcome"] != Outcome.NOT_RUN}
    pairs = [(record, native[_key(record)]) for record in trials if was_run(record) and _key(record) in native]
    outcomes = Counter(str(control["outcome"]) for _, control in pairs)
    crashes = sum(outcomes[outcome] for outcome in CRASHES)
    harmed = sum(record.get("host") == "harmed" for record, _ in pairs)
    return {
        "pairs": len(pairs),
        "native": {outcome.value: outcomes[outcome] for outcome in Outcome if outcome != Outcome.NOT_RUN},
        "native_crashes": crashes,
        "native_crashes_interval": _rounded(wilson(crashes, len(pairs))),
        "nook_crashes": harmed,
        "nook_crashes_interval": _rounded(wilson(harmed, len(pairs))),
    }


def by_type(trials: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Per fault type: how many were injected, how many ran, and the verdicts of the trials in which one ran."""
    table: dict[str, Counter[str]] = {}
    for record in trials:
        ran: set[str] = set()
        for fault in record["faults"]:
            row = table.setdefault(str(fault["type"]), Counter())
            row["injected"] += 1
            if fault.get("executed") is not False:
                row["ran"] += 1
                ran.add(str(fault["type"]))
        for name in ran:
            table[name][str(record["verdict"])] += 1
    columns = ("injected", "ran", *(verdict.value for verdict in Verdict if verdict != Verdict.NOT_RUN))
    return {name: {column: table[name][column] for column in columns} for name in sorted(table)}


def unrecovered(trials: Sequence[Record]) -> list[Record]:
    """Every trial that counts and was not recovered with the application right."""
    return _those(trials, lambda record: had_effect(record) and record["verdict"] != Verdict.RECOVERED)


def _those(trials: Sequence[Record], wanted: Callable[[Record], bool]) -> list[Record]:
    return [record for record in trials if wanted(record)]


def _key(record: Record) -> tuple[str, int]:
    return record["driver"], record["trial"]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 2) if known else None


def _rounded(interval: tuple[float, float] | None) -> list[float] | None:
    return [round(bound, 4) for bound in interval] if interval is not None else None
