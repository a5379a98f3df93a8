"""Printing: one JSON document for programs, text and tables for people."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

TABLE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


def emit(document: Any, *, as_json: bool, text: Callable[[], None]) -> None:  # noqa: ANN401 - any JSON value
    """Print ``document`` as one line of JSON, or let ``text`` print it for people."""
    if as_json:
        print(json.dumps(document, default=str), flush=True)
    else:
        text()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table, or ``empty`` if there are no rows."""
    from rich.console import Console
    from rich.table import Table

    lines = [[_cell(value) for value in row] for row in rows]
    if not lines:
        print(empty)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column)
    for line in lines:
        grid.add_row(*line)
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, markup=False, highlight=False).print(grid)


def seconds(value: object) -> str:
    """A duration for people: milliseconds below a second."""
    if not isinstance(value, int | float):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def words(value: object, item: Callable[[object], str] = str) -> str:
    """A JSON value for people, on a line; ``item`` says how its innermost values are written."""
    if value is None or value == {} or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(inner, item)}" for key, inner in cast("Mapping[str, object]", value).items())
    if isinstance(value, list):
        return ", ".join(words(inner, item) for inner in cast("list[object]", value))
    return item(value)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)
