"""Which functions of a driver run all the time: measured where somebody did, else guessed by their names."""

import re
import tomllib
from functools import cache
from pathlib import Path

from nooks.faults.symbols import Function, ModuleCode

TABLE = Path(__file__).with_name("busy.toml")

# Words in the names of functions that a driver runs for every packet, request or period, whatever the driver,
# and words in the names of functions that it does not run then, though they speak of the same things
_BUSY = re.compile(
    r"xmit|intr|interrupt|poll|clean|(^|_)[rt]x(_|$)|alloc_rx|queuecommand|queue_rq|prep_rq|complete_rq|qc_issue|bmdma|pointer|trigger"
)
_IDLE = re.compile(
    r"setup|free_all|timeout|cleanup|netpoll|test|config|vlan|_ring$|_mode|module|stall|list|dummy|\.cold"
)


def busy_functions(module: ModuleCode) -> tuple[Function, ...]:
    """The functions of ``module`` that run all the time under load, as far as is known."""
    measured = _measured().get(module.name)
    if measured is not None and not measured:
        return ()  # others do all the work
    known = tuple(
        each for each in module.functions if plain_name(each) in (measured or ()) and ".cold" not in each.name
    )
    guessed = (each for each in module.functions if _BUSY.search(each.name) and not _IDLE.search(each.name))
    return known or tuple(guessed)


def plain_name(function: Function) -> str:
    """The function's name in the source: compilers append what they did to it (``.isra.0``)."""
    return function.name.partition(".")[0]


@cache
def _measured() -> dict[str, frozenset[str]]:
    tables = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {module: frozenset(table["functions"]) for module, table in tables.items()}
