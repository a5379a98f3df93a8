"""Which functions of a driver run under its class's workload: ``python -m nooks.lab.campaign.survey DRIVER ...``.

Prints a table for ``faults/busy.toml``. Measured in a guest without a nook, by the emulator's log of translations.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence

from nooks.faults.busy import plain_name
from nooks.faults.coverage import TranslationLog
from nooks.faults.symbols import ModuleCode, read_module
from nooks.host.errors import NooksError
from nooks.lab.campaign.control import ControlLane
from nooks.lab.running import run_lab

SECONDS = 6.0
"""Long enough for what runs every two seconds, as network drivers' watchdogs do."""


def running_functions(module: ModuleCode, sections: dict[str, int], addresses: frozenset[int]) -> list[str]:
    """Names of the functions of which an instruction is among ``addresses``, without what the compiler appended."""
    starts = {name: sections[name] for name in sections if name in module.sections}
    return sorted(
        {
            plain_name(function)
            for function in module.functions
            if (start := starts.get(function.section)) is not None
            and any(start + function.offset + index in addresses for index in range(function.size))
        }
    )


async def survey(driver: str, kernel: str | None) -> dict[str, tuple[str, set[str]]]:
    """Kernel and functions by module: the driver's, and those that carry its load. Raises NooksError."""
    async with ControlLane(driver, kernel) as lane:
        log = TranslationLog()
        try:
            sections = await lane.survey(log, SECONDS)
            addresses = log.addresses()
        finally:
            log.close()
    modules = [read_module(path) for path in lane.module_files]
    return {each.name: (lane.version, set(running_functions(each, sections[each.name], addresses))) for each in modules}


def as_toml(module: str, kernel: str, functions: Iterable[str]) -> str:
    """A module's table."""
    lines = "".join(f'    "{name}",\n' for name in sorted(functions))
    return f'[{module}]\nkernel = "{kernel}"\nfunctions = [\n{lines}]\n'


async def _survey_all(drivers: Sequence[str], kernel: str | None) -> None:
    """What several drivers use of one module goes into one table."""
    tables: dict[str, tuple[str, set[str]]] = {}
    for driver in drivers:
        for module, (version, functions) in (await survey(driver, kernel)).items():
            _, known = tables.get(module, ("", set[str]()))
            tables[module] = version, known | functions
    for module, (version, functions) in tables.items():
        print(as_toml(module, version, functions), flush=True)


def main() -> int:
    """Survey the drivers that are named; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nooks.lab.campaign.survey")
    parser.add_argument("drivers", nargs="+", metavar="DRIVER")
    parser.add_argument("--kernel")
    options = parser.parse_args()
    try:
        run_lab(_survey_all(options.drivers, options.kernel))
    except NooksError as error:
        print(f"nooks: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
