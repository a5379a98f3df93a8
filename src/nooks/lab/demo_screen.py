"""What the demonstration shows: progress, throughput, a table of failures, a verdict."""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nooks.lab.ways import DESCRIPTIONS, Failure

if TYPE_CHECKING:
    from nooks.lab.demo_network import Scene

PICTURE_COLUMNS = 132
_BARS = "▁▂▃▄▅▆▇█"
_SPARK_SECONDS = 0.25
_REFRESH_PER_SECOND = 8
_FETCHED = re.compile(r"@font-face \{\{.*?\}\}\s*|<!-- .*? -->\s*", re.DOTALL)  # the format's braces are doubled
_PLAIN_SVG = _FETCHED.sub("", CONSOLE_SVG_FORMAT)
"""Rich's picture of a terminal, without the fonts that it would have fetched from elsewhere."""


class Screen:
    """Shows a scene while it changes; on anything but a terminal it prints a line per failure instead."""

    def __init__(self, scene: "Scene", *, quiet: bool, terminal: bool) -> None:
        self._scene = scene
        self._summary: dict[str, Any] | None = None
        self._console = Console(file=io.StringIO() if quiet else None, width=None if terminal else PICTURE_COLUMNS)
        self._live = None if quiet or not terminal else Live(self, refresh_per_second=_REFRESH_PER_SECOND)
        if self._live is not None:
            self._console = self._live.console

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._console.print(self._heading())
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def failed(self, failure: Failure) -> None:
        """One more failure is fully known."""
        if self._live is None:
            columns = (DESCRIPTIONS[failure.way], failure.happened, *_times(failure))
            self._console.print("  ".join(columns), markup=False, highlight=False, soft_wrap=True)

    def finish(self, summary: dict[str, Any], picture: Path | None) -> None:
        """The verdict is known: show it, and draw the picture."""
        self._summary = summary
        if self._live is None:
            self._console.print(self._body())
        if picture is not None:
            recording = Console(record=True, width=PICTURE_COLUMNS, file=io.StringIO(), force_terminal=True)
            recording.print(self)
            recording.save_svg(str(picture), title="make demo", code_format=_PLAIN_SVG)

    def __rich__(self) -> RenderableType:
        return Group(self._heading(), self._body())

    def _body(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._scene.doing:
            parts.append(Text(f"{self._scene.doing} ..."))
        if self._scene.gauge.received:
            parts += [self._progress(), self._throughput()]
        if self._scene.failures or self._scene.current:
            parts.append(self._table())
        if self._summary is not None:
            parts.append(verdict(self._summary))
        return Group(*parts)

    def _heading(self) -> RenderableType:
        scene = self._scene
        kernel = scene.started.get("kernel")
        what = f"Debian's stock Linux {kernel}" if kernel else "Debian's stock kernel"
        lines = Text.assemble(
            ("the driver   ", "dim"),
            (f"{scene.driver}.ko", "bold"),
            f", unmodified, from {what}, in a virtual machine of its own\n",
            ("the user     ", "dim"),
            (f"curl {scene.url}", "bold"),
            f"  (interface {scene.bed.nook})\n",
            ("the far end  ", "dim"),
            f"a web server in the network namespace {scene.bed.netns}",
        )
        return Panel(lines, title="Nooks: a driver may crash, applications don't", border_style="cyan")

    def _progress(self) -> RenderableType:
        scene = self._scene
        share = scene.gauge.received / scene.size_bytes
        line = Table.grid(expand=True, padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        numbers = f"{share:4.0%}  {scene.gauge.received / 1e6:.0f} of {scene.size_bytes / 1e6:.0f} MB"
        line.add_row("download  ", ProgressBar(total=1.0, completed=share), numbers)
        return line

    def _throughput(self) -> RenderableType:
        gauge = self._scene.gauge
        width = max(10, min(self._console.width, PICTURE_COLUMNS) - 30)
        first = gauge.samples[0][0] if gauge.samples else gauge.updated
        count = min(width, int((gauge.updated - first) / _SPARK_SECONDS))
        moments = [gauge.updated - _SPARK_SECONDS * step for step in range(count, -1, -1)]
        rates = [gauge.rate_at(moment, _SPARK_SECONDS) for moment in moments]
        highest = max(rates, default=0.0) or 1.0
        bars = "".join(_BARS[min(7, int(rate / highest * 7.99))] for rate in rates)
        return Text.assemble("throughput ", (bars, "green"), f" {gauge.rate() / 1e6:5.1f} MB/s")

    def _table(self) -> RenderableType:
        table = Table(box=None, header_style="bold", expand=True, padding=(0, 1, 0, 0))
        table.add_column("failure", no_wrap=True)
        table.add_column("what happened inside", ratio=1, overflow="fold")
        for heading in ("noticed by", "detection", "recovery", "outage"):
            table.add_column(heading, no_wrap=True, justify="left" if heading == "noticed by" else "right")
        for failure in self._scene.failures:
            style = "" if failure.recovered else "red"
            cells = (DESCRIPTIONS[failure.way], failure.happened or "...", *_times(failure))
            table.add_row(*(Text(cell) for cell in cells), style=style)
        if self._scene.current:
            table.add_row(Text(DESCRIPTIONS[self._scene.current], "yellow"), "...", "", "", "", "")
        return table


def milliseconds(seconds: float | None) -> str:
    """A duration for the table; a dash if there is none."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _times(failure: Failure) -> tuple[str, ...]:
    measured = (failure.detection_seconds, failure.recovery_seconds, failure.outage_seconds)
    return (failure.reason or "not noticed", *(milliseconds(seconds) for seconds in measured))


def verdict(summary: dict[str, Any]) -> RenderableType:
    """The checks, each with whether it held, and the failures in a line."""
    lines = Text()
    for check in summary["checks"]:
        mark, style = ("✓", "bold green") if check["ok"] else ("✗", "bold red")
        lines.append(f"{mark} ", style)
        lines.append(f"{check['name']}: ", "bold" if check["ok"] else "bold red")
        lines.append(f"{check['detail']}\n")
    lines.append(f"{summary['failures']} failures, {summary['recoveries']} recoveries", "bold")
    lines.append(f" in {summary['seconds']:.0f} s; ")
    lines.append(f"{summary['would_have_taken_the_machine']} of them", "bold")
    lines.append(" were kernel panics or hangs that the same driver in the host's own kernel would have brought on")
    lines.append(" the whole machine.")
    good = summary["ok"]
    return Panel(lines, title="everything held" if good else "it did not hold", border_style="green" if good else "red")
