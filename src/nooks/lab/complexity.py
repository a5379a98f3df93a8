"""``make complexity``: how much code there is, per room and per class of drivers, beside what the papers needed.

A line of code is a line with something on it that is neither comment nor docstring.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import nooks

CLASSES = {
    "block": (
        "*/block*.py",
        *(f"endpoint/{name}*.py" for name in ("disk", "front", "fuse", "loop", "nbd", "ublk", "uring")),
    ),
    "sound": (
        "*/sound*.py",
        *(f"endpoint/{name}*.py" for name in ("fifo", "pipewire", "private_pulse", "pulse", "tagstruct")),
    ),
    "network": ("*/network*.py", "endpoint/*.py"),
}
"""Which files exist for one class of drivers alone; one that several match is the first one's."""

TOP = "nooks (top level)"
_LAB = frozenset({"lab", "faults", "hardware"})
_IGNORED = frozenset(
    {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)
_C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

PAPERS = (
    ("changed lines of kernel code", 924, 0),
    ("changed lines of driver code", 0, 0),
    ("all of the system, lines", 23000, None),
    ("shadow drivers and their manager, lines", 3300, None),
)
"""As Swift, Bershad and Levy give them (SOSP 2003) and Swift, Annamalai, Bershad and Levy (OSDI 2004)."""


def lines_of_code(source: str) -> int:
    """Lines of Python that are neither blank, comment nor docstring."""
    docstrings = _docstring_lines(ast.parse(source))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _IGNORED:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def lines_of_c(source: str) -> int:
    """Lines of C that are neither blank nor comment."""
    code = _C_COMMENT.sub(lambda comment: "\n" * comment.group().count("\n"), source)
    return sum(1 for line in code.splitlines() if line.strip())


def in_c(package: Path) -> dict[str, int]:
    """Lines of code of each file in C."""
    return {str(path.relative_to(package)): lines_of_c(path.read_text()) for path in sorted(package.rglob("*.c"))}


def rooms(package: Path) -> dict[str, int]:
    """Lines of code of each room of the package at ``package``."""
    counted: Counter[str] = Counter()
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        counted[parts[0] if len(parts) > 1 else TOP] += lines_of_code(path.read_text())
    return dict(sorted(counted.items()))


def classes(package: Path) -> dict[str, dict[str, int]]:
    """Lines of code that exist for one class of drivers alone, per class and file."""
    found: dict[str, dict[str, int]] = {}
    counted: set[Path] = set()
    for name, patterns in CLASSES.items():
        paths = sorted({path for pattern in patterns for path in package.glob(pattern)} - counted)
        counted.update(paths)
        kept = [path.relative_to(package) for path in paths if path.name != "__init__.py"]
        files = {str(path): lines_of_code((package / path).read_text()) for path in kept if path.parts[0] not in _LAB}
        if files:
            found[name] = files
    return found


def _docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            statement = node.body[0]
            lines.update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    return lines


def main() -> int:
    """Print the tables; returns the exit status."""
    package = Path(nooks.__path__[0])
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    counted = rooms(package)
    product = sum(lines for room, lines in counted.items() if room not in _LAB)
    rows = [*counted.items(), ("the product", product), ("lab and fault injector", sum(counted.values()) - product)]
    found, c_files = classes(package), in_c(package)
    console.print(_table("lines of Python per room", ("room", "lines"), rows))
    console.print(_table("lines of C", ("file", "lines"), [*c_files.items()]))
    per_class = [(f"{name}: {file}", lines) for name, files in found.items() for file, lines in files.items()]
    per_class += [(f"{name}, all of it", sum(files.values())) for name, files in found.items()]
    console.print(_table("of these, for one class of drivers alone", ("class: file", "lines"), per_class))
    shadow = counted.get("shadow", 0) + counted.get("recovery", 0)
    product += sum(lines for file, lines in c_files.items() if Path(file).parts[0] not in _LAB)
    ours = (None, None, product, shadow)
    compared = [
        (what, theirs, zero if mine is None else mine) for (what, theirs, zero), mine in zip(PAPERS, ours, strict=True)
    ]
    console.print(_table("beside the papers", ("", "Nooks, shadow drivers", "here"), compared))
    return 0


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table


if __name__ == "__main__":
    sys.exit(main())
