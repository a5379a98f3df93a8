"""What a trial is: asked for by an Order, told by a record. Both go between processes and machines as JSON."""

from enum import StrEnum
from typing import Any, Literal

import msgspec

MOST_TRIALS = 100_000

Side = Literal["nook", "native"]


class Verdict(StrEnum):
    """What became of a trial (CONTRACT, "Results of a campaign")."""

    NO_EFFECT = "no-effect"
    RECOVERED = "recovered"
    RECOVERED_WITH_ERROR = "recovered-with-error"
    UNDETECTED = "undetected"
    NOT_RECOVERED = "not-recovered"
    NOT_RUN = "not-run"


class Outcome(StrEnum):
    """What became of a native control: the same faults without a nook."""

    NO_EFFECT = "no-effect"
    PANIC = "panic"
    HANG = "hang"
    DRIVER_FAILED = "driver-failed"
    """The system lives, its application doesn't get on."""
    NOT_RUN = "not-run"


CRASHES = frozenset({Outcome.PANIC, Outcome.HANG})
"""The outcomes that need somebody who presses the reset button."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One trial. What is injected follows from driver, kernel, ``type`` and ``injection_seed`` alone."""

    side: Side = "nook"
    driver: str
    trial: int
    seed: int
    faults: int = 5
    type: str = "mixed"
    kernel: str | None = None
    workload: str = ""
    """Of those that the class has beside its ordinary one."""

    @property
    def injection_seed(self) -> int:
        """The seed as ``nooks inject`` takes it."""
        return self.seed * MOST_TRIALS + self.trial

    @property
    def key(self) -> tuple[str, str, int]:
        """Which trial of a campaign it is."""
        return self.side, self.driver, self.trial

    def repeat(self) -> str:
        """The command that does this trial again."""
        kernel = f" --kernel {self.kernel}" if self.kernel is not None else ""
        native = " --native" if self.side == "native" else ""
        workload = f" --workload {self.workload}" if self.workload else ""
        what = f"--driver {self.driver} --faults {self.faults} --type {self.type} --seed {self.seed}{kernel}{workload}"
        return f"nooks campaign {what} --trial {self.trial}{native}"


Record = dict[str, Any]
"""A line of trials.jsonl or controls.jsonl."""


def not_run(order: Order, why: str) -> Record:
    """The record of a trial that could not be run."""
    common = {"trial": order.trial, "driver": order.driver, "seed": order.injection_seed, "why": why}
    if order.side == "native":
        return common | {"outcome": Outcome.NOT_RUN, "faults": [], "repeat": order.repeat()}
    return common | {
        "kernel": order.kernel,
        "faults": [],
        "workload": "",
        "domain": "healthy",
        "reason": "",
        "host": "unharmed",
        "verdict": Verdict.NOT_RUN,
        "detection_seconds": None,
        "recovery_seconds": None,
        "outage_seconds": None,
        "repeat": order.repeat(),
    }
