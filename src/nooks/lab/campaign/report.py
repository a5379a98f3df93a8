"""A campaign's report: one HTML page that stands by itself, and its charts as PNG files beside it."""

import base64
import importlib.util
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nooks.host.errors import MachineError
from nooks.lab.campaign.order import Outcome, Record, Verdict
from nooks.lab.campaign.store import Store
from nooks.lab.campaign.summary import TIMES, unrecovered

PAGE = "report.html"
_MEANING = {
    Verdict.NO_EFFECT: "the domain went on and the application was right",
    Verdict.RECOVERED: "the domain failed, the nook recovered by itself, and the application was right",
    Verdict.RECOVERED_WITH_ERROR: "the nook recovered, but the application saw an error",
    Verdict.UNDETECTED: "the application erred, and the nook noticed nothing",
    Verdict.NOT_RECOVERED: "the failure was noticed, but the nook serves no more",
    Verdict.NOT_RUN: "the trial could not be made; it counts nowhere",
}
_CONTROL_MEANING = {
    Outcome.NO_EFFECT: "the application was right",
    Outcome.PANIC: "the kernel panicked",
    Outcome.HANG: "the kernel schedules nothing any more",
    Outcome.DRIVER_FAILED: "the system lives, the application gets no further",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .25rem .7rem; text-align: right; vertical-align: top }
th { font-weight: 600; border-bottom: 1px solid #9aa5b1 } tr + tr td { border-top: 1px solid #e3e7eb }
th:first-child, td:first-child, td.text, th.text { text-align: left } img { max-width: 100% }
code, pre { font: 13px/1.4 ui-monospace, monospace; background: #f3f5f7; padding: .1rem .3rem }
pre { padding: .5rem; overflow: auto }
.note { color: #52606d }
"""

Rows = Sequence[Sequence[object]]


def check_charts() -> None:
    """Raises MachineError if charts can't be drawn here: better before a campaign than after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MachineError("matplotlib is not installed", "install nooks with its extra 'campaign' (make setup does)")


def write_report(
    store: Store, summary: Mapping[str, Any], trials: Sequence[Record], controls: Sequence[Record]
) -> None:
    """Write page and charts into the campaign's folder. Raises MachineError."""
    check_charts()
    from nooks.lab.campaign import charts

    drawn: dict[str, bytes] = {}
    if summary["isolation"]["pairs"]:
        drawn["isolation.png"] = charts.isolation_chart(summary["drivers"])
    if summary["with_effect"]:
        drawn["recovery.png"] = charts.recovery_chart(summary["drivers"])
        drawn["times.png"] = charts.times_chart(trials)
    for name, png in drawn.items():
        store.write(name, png)
    store.write(PAGE, page(summary, trials, controls, drawn).encode())


def page(
    summary: Mapping[str, Any], trials: Sequence[Record], controls: Sequence[Record], drawn: Mapping[str, bytes]
) -> str:
    """The whole page."""
    parts = [
        "<h1>Fault injection: what became of it</h1>",
        _introduction(summary, trials),
        _isolation(summary, drawn),
        _recovery(summary, drawn),
        _times(summary, drawn),
        _types(summary),
        _failures(trials),
        _not_run([*trials, *controls]),
    ]
    body = "\n".join(part for part in parts if part)
    head = f"<meta charset='utf-8'><title>Fault injection</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body>\n{body}\n</body></html>\n"


def _introduction(summary: Mapping[str, Any], trials: Sequence[Record]) -> str:
    kernels = ", ".join(dict.fromkeys(str(record["kernel"]) for record in trials if record.get("kernel")))
    workloads = "; ".join(dict.fromkeys(str(record["workload"]) for record in trials if record.get("workload")))
    said = (
        f"In each trial {summary['faults']} faults of type <em>{escape(str(summary['type']))}</em> were put into the "
        f"live code of an unmodified driver of kernel {escape(kernels)}, while an application used it "
        f"({escape(workloads)}). Faults follow from driver, kernel and seed (this campaign's: {summary['seed']}). "
        "A trial in which none of the changed instructions ran is dormant; it is counted, and left out of every share."
    )
    columns = ("driver", "trials", "dormant", "effective", *(verdict.value for verdict in Verdict), "automatic", "95%")
    rows = [[name, *_verdict_cells(of)] for name, of in summary["drivers"].items()]
    if len(rows) > 1:
        rows.append(["all", *_verdict_cells(summary)])
    meanings = _table(("verdict", "means"), [(verdict.value, text) for verdict, text in _MEANING.items()], text=(1,))
    note = (
        "<p class='note'><em>automatic</em>: recovered, of the trials in which the domain failed or the application "
        "erred; with the 95% score interval (Wilson).</p>"
    )
    return f"<p>{said}</p>\n{_table(columns, rows)}\n{note}\n{meanings}"


def _verdict_cells(of: Mapping[str, Any]) -> list[object]:
    verdicts = [of["verdicts"][verdict] for verdict in Verdict]
    return [of["trials"], of["dormant"], of["effective"], *verdicts, _share(of["automatic"]), _range(of)]


def _isolation(summary: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    counts = summary["isolation"]
    if not counts["pairs"]:
        return ""
    said = (
        f"{counts['pairs']} of the trials were made a second time without a nook: the same driver, kernel, faults and "
        "workload, with the application in the driver's own kernel and the distribution's own panic settings. "
        f"{counts['native_crashes']} of them took the whole system down; with a nook {counts['nook_crashes']} did."
    )
    names = list(_CONTROL_MEANING)
    rows = [
        [name, of["isolation"]["pairs"], *(of["isolation"]["native"][outcome] for outcome in names)]
        for name, of in summary["drivers"].items()
        if of["isolation"]["pairs"]
    ]
    columns = ("without a nook", "trials", *(f"{outcome.value}: {_CONTROL_MEANING[outcome]}" for outcome in names))
    chart = _image(drawn["isolation.png"], "System crashes per driver, with and without a nook")
    return f"<h2>Isolation works</h2>\n<p>{said}</p>\n{chart}\n{_table(columns, rows)}"


def _recovery(summary: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    if not summary["with_effect"]:
        return ""
    reasons = ", ".join(
        f"{reason} {count}" for reason, count in sorted(summary["reasons"].items(), key=lambda of: -of[1])
    )
    said = (
        f"In {summary['with_effect']} trials the domain failed or the application erred. "
        f"{summary['verdicts'][Verdict.RECOVERED]} of them were recovered from without anybody's help and with the "
        f"application right: {_share(summary['automatic'])}. Noticed by: {escape(reasons)}."
    )
    chart = _image(drawn["recovery.png"], "What became of the trials with an effect, per driver")
    return f"<h2>Recovery works</h2>\n<p>{said}</p>\n{chart}"


def _times(summary: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    if not summary["with_effect"]:
        return ""
    rows = [
        [name, *(_seconds(of[kind][quantile]) for kind in TIMES for quantile in ("p50", "p95", "max"))]
        for name, of in summary["drivers"].items()
    ]
    kinds = [kind.removesuffix("_seconds") for kind in TIMES]
    columns = ("driver", *(f"{kind} {quantile}" for kind in kinds for quantile in ("median", "95%", "max")))
    note = (
        "<p class='note'>Detection of changed code includes the time until it runs. The outage is the application's "
        "own: the longest time without an answer to its questions; TCP's shortest retransmission alone takes 0.2 s."
        "</p>"
    )
    chart = _image(drawn["times.png"], "Distributions of detection, recovery and outage")
    return f"<h2>How long it took</h2>\n{chart}\n{_table(columns, rows)}\n{note}"


def _types(summary: Mapping[str, Any]) -> str:
    if not summary["types"]:
        return ""
    columns = ("type", *next(iter(summary["types"].values())))
    rows = [[name, *row.values()] for name, row in summary["types"].items()]
    note = (
        "<p class='note'>Faults injected, how many of them ran, and the verdicts of the trials in which at least one "
        "of the type ran. With several types in a trial its verdict counts for each.</p>"
    )
    return f"<h2>By type of fault</h2>\n{_table(columns, rows)}\n{note}"


def _failures(trials: Sequence[Record]) -> str:
    found = unrecovered(trials)
    if not found:
        return "<h2>Trials that were not recovered</h2>\n<p>None.</p>"
    return "<h2>Trials that were not recovered</h2>\n" + "\n".join(map(_failure, found))


def _failure(record: Record) -> str:
    ran = [fault for fault in record["faults"] if fault.get("executed") is not False]
    faults = "\n".join(
        f"{fault['type']:<12} {fault['function']:<28} {fault['text_before']}  ->  {fault['text_after']}"
        for fault in ran
    )
    died_of = record.get("died_of", {})
    facts = [
        ("reason", record.get("reason")),
        ("the kernel said", died_of.get("headline")),
        ("in", died_of.get("function")),
        ("the application said", "; ".join(record.get("errors", []))),
    ]
    told = "; ".join(f"{what}: {escape(str(value))}" for what, value in facts if value)
    title = f"<h3>{escape(record['driver'])}, trial {record['trial']}: {escape(str(record['verdict']))}</h3>"
    return f"{title}\n<p>{told}</p>\n<pre>{escape(faults)}</pre>\n<p>Again: <code>{escape(record['repeat'])}</code></p>"


def _not_run(records: Sequence[Record]) -> str:
    rows = [
        (record["driver"], record["trial"], record["why"], record["repeat"]) for record in records if "why" in record
    ]
    if not rows:
        return ""
    columns = ("driver", "trial", "why", "command")
    return f"<h2>Trials that could not be run</h2>\n{_table(columns, rows, text=(2, 3))}"


def _table(columns: Sequence[str], rows: Rows, *, text: Sequence[int] = ()) -> str:
    """A table; the columns numbered in ``text`` are words, the others numbers."""
    kinds = ["class='text'" if number in text else "" for number in range(len(columns))]
    head = "".join(f"<th {kind}>{escape(column)}</th>" for kind, column in zip(kinds, columns, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td {kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else escape(str(value))


def _image(png: bytes, alternative: str) -> str:
    return f"<img alt='{escape(alternative)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _share(value: float | None) -> str:
    return f"{100 * value:.1f}%" if value is not None else "-"


def _range(of: Mapping[str, Any]) -> str:
    interval = of["automatic_interval"]
    return f"{100 * interval[0]:.1f} - {100 * interval[1]:.1f}" if interval else "-"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"
