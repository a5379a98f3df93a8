"""A campaign's charts, as PNG: isolation works, recovery works, and how long things took."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display is needed, and none may be there

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nooks.lab.campaign.order import Record, Verdict
from nooks.lab.campaign.summary import TIMES, has_recovered

GOOD, FAIR, POOR, BAD, PLAIN = "#2a7f62", "#e0a526", "#d3722c", "#b3262e", "#7a8793"
RECOVERY = (
    (Verdict.RECOVERED, "recovered, application right", GOOD),
    (Verdict.RECOVERED_WITH_ERROR, "recovered, application saw an error", FAIR),
    (Verdict.UNDETECTED, "not noticed", POOR),
    (Verdict.NOT_RECOVERED, "not recovered", BAD),
)
_LABELS = {
    "detection_seconds": "detection: fault to report",
    "recovery_seconds": "recovery: report to resumed service",
    "outage_seconds": "outage: the application's longest pause",
}
_TICKS = {0.01: "10 ms", 0.03: "30 ms", 0.1: "0.1 s", 0.3: "0.3 s", 1: "1 s", 3: "3 s", 10: "10 s", 30: "30 s"}
_WIDTH_INCHES = 8.6
_DPI = 130


def isolation_chart(drivers: Mapping[str, Mapping[str, Any]]) -> bytes:
    """System crashes per driver, native against with nooks: two bars each, with the interval of the share."""
    shown = {name: of["isolation"] for name, of in drivers.items() if of["isolation"]["pairs"]}
    figure, axes = _figure(0.95 * len(shown) + 1.4)
    for row, counts in enumerate(shown.values()):
        pairs = counts["pairs"]
        native = counts["native"]
        _bar(axes, row - 0.19, 0, 100 * native["panic"] / pairs, BAD)
        _bar(axes, row - 0.19, 100 * native["panic"] / pairs, 100 * native["hang"] / pairs, POOR)
        _interval(axes, row - 0.19, counts["native_crashes_interval"])
        _bar(axes, row + 0.19, 0, 100 * counts["nook_crashes"] / pairs, GOOD)
        _interval(axes, row + 0.19, counts["nook_crashes_interval"])
        crashes = (
            f"{counts['native_crashes']} of {pairs} without a nook ({native['panic']} panics, {native['hang']} hangs)"
        )
        _text(axes, row - 0.19, 100 * counts["native_crashes_interval"][1], crashes)
        _text(
            axes,
            row + 0.19,
            100 * counts["nook_crashes_interval"][1],
            f"{counts['nook_crashes']} of {pairs} with a nook",
        )
    axes.set_title("Isolation: the same faults without a nook and with one", loc="left")
    _finish(axes, shown, "system crashes, % of the trials that were made both ways")
    return _png(figure)


def recovery_chart(drivers: Mapping[str, Mapping[str, Any]]) -> bytes:
    """What became of the trials in which the domain failed or the application erred, per driver."""
    shown = {name: of for name, of in drivers.items() if of["with_effect"]}
    figure, axes = _figure(0.75 * len(shown) + 1.9)
    for row, of in enumerate(shown.values()):
        begin = 0.0
        for verdict, _, colour in RECOVERY:
            count = of["verdicts"][verdict]
            share = 100 * count / of["with_effect"]
            _bar(axes, row, begin, share, colour, height=0.6)
            if share > 4:
                axes.text(begin + share / 2, row, str(count), ha="center", va="center", color="white", fontsize=9)
            begin += share
        low, high = of["automatic_interval"]
        said = f"{100 * of['automatic']:.1f}% automatic\n95% interval {100 * low:.1f} to {100 * high:.1f}"
        _text(axes, row, 100, said + _exceptions(of["verdicts"]))
    for _, label, colour in RECOVERY:
        axes.barh(0, 0, color=colour, label=label)
    figure.legend(loc="outside lower center", ncol=2, frameon=False)
    axes.set_title("Recovery: what became of the failures", loc="left")
    _finish(axes, shown, "% of the trials in which the domain failed or the application erred", room=36)
    return _png(figure)


def _exceptions(verdicts: Mapping[str, int]) -> str:
    """How many were not recovered as they should, a line each; a bar of one trial is easily overlooked."""
    words = {
        Verdict.RECOVERED_WITH_ERROR: "with an error",
        Verdict.UNDETECTED: "not noticed",
        Verdict.NOT_RECOVERED: "not recovered",
    }
    return "".join(f"\n{verdicts[verdict]} {said}" for verdict, said in words.items() if verdicts[verdict])


def times_chart(trials: Sequence[Record]) -> bytes:
    """Detection, recovery and outage as cumulative shares over logarithmic time."""
    figure, axes = _figure(4.0)
    for name, colour in zip(TIMES, (PLAIN, GOOD, BAD), strict=True):
        values = sorted(float(each[name]) for each in trials if has_recovered(each) and each.get(name))
        if values:
            shares = [100 * (index + 1) / len(values) for index in range(len(values))]
            axes.step(values, shares, where="post", color=colour, label=f"{_LABELS[name]} ({len(values)})")
    axes.set_xscale("log")
    axes.set_xticks(list(_TICKS), labels=list(_TICKS.values()))
    axes.minorticks_off()
    axes.set_ylabel("% of trials at most so long")
    axes.set_ylim(0, 101)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("How long it took, in the trials that were recovered", loc="left")
    figure.legend(loc="outside lower center", ncol=1, frameon=False)
    return _png(figure)


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), dpi=_DPI, layout="constrained")
    return figure, figure.subplots()


def _bar(axes: Axes, row: float, begin: float, width: float, colour: str, *, height: float = 0.34) -> None:
    axes.barh(row, width, left=begin, height=height, color=colour)


def _interval(axes: Axes, row: float, interval: Sequence[float]) -> None:
    axes.plot(
        [100 * interval[0], 100 * interval[1]], [row, row], color="#222222", linewidth=1.2, marker="|", markersize=7
    )


def _text(axes: Axes, row: float, at: float, said: str) -> None:
    axes.text(at + 1.5, row, said, va="center", fontsize=9)


def _finish(axes: Axes, rows: Mapping[str, Any], label: str, *, room: float = 42) -> None:
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, 100 + room)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(label)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_bounds(0, 100)
    axes.tick_params(left=False)


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()
