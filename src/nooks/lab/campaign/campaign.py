"""``nooks campaign``: many trials into one folder, from where it was left off, and what they amount to."""

import contextlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nooks import drivers
from nooks.faults import names
from nooks.host.errors import InputError, MachineError, NooksError
from nooks.image import kernel as kernels
from nooks.lab.campaign.classes import class_of
from nooks.lab.campaign.order import MOST_TRIALS, Order, Record, Side, Verdict, not_run
from nooks.lab.campaign.pools import DaskPool, LocalPool, Pool
from nooks.lab.campaign.report import check_charts, write_report
from nooks.lab.campaign.store import Identity, Store, document, recorded_kernels
from nooks.lab.campaign.summary import summarize
from nooks.lab.running import run_lab

TRIALS, FAULTS = 100, 5
MOST_FAULTS = 100


class Interrupted(NooksError):  # noqa: N818 - the name says what happened
    """Somebody pressed Ctrl-C."""

    exit_code = 130


@dataclass(frozen=True)
class Wanted:
    """What a campaign is asked for; ``kernels`` by flavour."""

    drivers: tuple[str, ...]
    trials: int
    faults: int
    type: str
    seed: int
    kernels: dict[str, str]
    controls: bool
    workload: str = ""

    def orders(self) -> list[Order]:
        """Every trial; a driver's trials together, so that workers seldom change their lanes."""
        sides: tuple[Side, ...] = ("nook", "native") if self.controls else ("nook",)
        return [
            self.order(driver, trial, side) for driver in self.drivers for side in sides for trial in range(self.trials)
        ]

    def order(self, driver: str, trial: int, side: Side) -> Order:
        """One trial."""
        kernel = self.kernels[drivers.find(driver).flavour]
        return Order(
            side=side,
            driver=driver,
            trial=trial,
            seed=self.seed,
            faults=self.faults,
            type=self.type,
            kernel=kernel,
            workload=self.workload,
        )


def run(
    driver: Sequence[str],
    seed: int,
    out: Path,
    trials: int = TRIALS,
    faults: int = FAULTS,
    type: str = names.MIXED,
    kernel: str | None = None,
    controls: bool = False,
    jobs: int | None = None,
    scheduler: str | None = None,
    json: bool = False,
    workload: str = "",
) -> dict[str, Any]:
    """Make the trials that ``out`` doesn't have yet and return the summary, which is written there with the report.

    Raises NooksError; Interrupted after Ctrl-C, and what was done is kept then.
    """
    _check(driver, trials, faults, workload, native=controls)
    check_charts()
    wanted = Wanted(tuple(driver), trials, faults, type, seed, _kernels(driver, kernel, out), controls, workload)
    identity = Identity(seed=seed, faults=faults, type=type, kernels=wanted.kernels, workload=workload)
    with Store(out, identity) as store:
        waiting = store.open_orders(wanted.orders())
        try:
            if waiting:
                with _pool(jobs, scheduler) as pool:
                    run_lab(_make(store, waiting, pool, Console(stderr=True, quiet=json)))
        except KeyboardInterrupt:
            conclude(store)
            left = len(store.open_orders(wanted.orders()))
            done = f"interrupted: {len(wanted.orders()) - left} of {len(wanted.orders())} trials are kept"
            raise Interrupted(done, "the same command goes on") from None
        return conclude(store)


def run_one(
    driver: str,
    seed: int,
    trial: int,
    faults: int = FAULTS,
    type: str = names.MIXED,
    kernel: str | None = None,
    native: bool = False,
    workload: str = "",
) -> Record:
    """Make one trial and return its record; nothing is written. Raises NooksError."""
    _check([driver], trial + 1, faults, workload, native=native)
    wanted = Wanted((driver,), 1, faults, type, seed, _kernels([driver], kernel, None), native, workload)
    order = wanted.order(driver, trial, "native" if native else "nook")

    async def make() -> Record:
        async with contextlib.aclosing(LocalPool(1).run([order])) as results:
            records = [record async for _, record in results]  # to their end: the worker is killed else
        return records[0] if records else not_run(order, "nobody made it")

    return run_lab(make())


def conclude(store: Store) -> dict[str, Any]:
    """Write summary and report of what there is; returns the summary. Raises MachineError."""
    trials, controls = store.records("nook"), store.records("native")
    summary = summarize(trials, controls, msgspec.to_builtins(store.identity))
    store.write("summary.json", document(summary))
    write_report(store, summary, trials, controls)
    return summary


def _check(driver: Sequence[str], trials: int, faults: int, workload: str, *, native: bool) -> None:
    """Raises InputError for what makes no sense, MachineError without root: before anything is begun."""
    for name in driver:
        known = class_of(name).workloads(name)
        if workload and workload not in known:
            choice = f"choose one of {', '.join(known)}, or leave --workload out" if known else "leave --workload out"
            raise InputError(f"there is no workload {workload!r} for {name}", choice)
        if not drivers.find(name).known:
            raise InputError(f"{name} is not a known driver", drivers.suggestion(name))
    if workload and native:
        raise InputError("native controls have the ordinary workload only", "leave --workload out")
    if not 1 <= trials <= MOST_TRIALS:
        raise InputError(f"{trials} trials can't be made", f"give a number from 1 to {MOST_TRIALS}")
    if not 1 <= faults <= MOST_FAULTS:
        raise InputError(f"{faults} faults can't be injected in a trial", f"give a number from 1 to {MOST_FAULTS}")
    if os.geteuid() != 0:
        raise MachineError("a campaign needs root", "run the command with sudo")


def _kernels(driver: Sequence[str], kernel: str | None, out: Path | None) -> dict[str, str]:
    """The versions by flavour: as asked for, else as the campaign has them already, else the distribution's."""
    recorded = recorded_kernels(out) if out is not None and kernel is None else {}
    found: dict[str, str] = {}
    for flavour in dict.fromkeys(drivers.find(name).flavour for name in driver):
        found[flavour] = recorded.get(flavour) or kernels.resolve(kernel or "debian", flavour).version
    return found


@contextlib.contextmanager
def _pool(jobs: int | None, scheduler: str | None) -> Generator[Pool, None, None]:
    if scheduler is None:
        yield LocalPool(jobs or os.cpu_count() or 1)
        return
    pool = DaskPool(scheduler)
    try:
        yield pool
    finally:
        pool.close()


async def _make(store: Store, orders: list[Order], pool: Pool, console: Console) -> None:
    with _progress(console) as progress:
        task = progress.add_task("", total=len(orders), told="")
        counts: dict[str, int] = {}
        async with contextlib.aclosing(pool.run(orders)) as done:
            async for order, record in done:
                store.append(order.side, record)
                result = str(record.get("verdict") or record.get("outcome"))
                counts[result] = counts.get(result, 0) + 1
                told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
                progress.update(task, advance=1, told=f"{order.driver}: {told}")
                if result == Verdict.NOT_RUN:
                    console.print(f"trial {order.trial} of {order.driver}: {record.get('why')}", markup=False)


def _progress(console: Console) -> Progress:
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[told]}", markup=False), console=console)
