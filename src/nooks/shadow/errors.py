"""What a shadow says when it cannot do what it was asked for. Common to all classes."""

from dataclasses import dataclass

from nooks.host.errors import NooksError, StateError
from nooks.shadow.readback import Outcome, Verdict, same, shown
from nooks.xpc.settings import Settings, SettingValue


class BusyError(StateError):
    """The driver is being recovered: try again."""

    def __init__(self) -> None:
        super().__init__("the driver is being recovered", "try again in a second")


class SettingRefused(NooksError):  # noqa: N818 - the name says what happened
    """The driver did not take a setting; ``refused`` has the reason for each key."""

    def __init__(self, refused: dict[str, str]) -> None:
        reasons = ", ".join(f"{key} ({reason})" for key, reason in sorted(refused.items()))
        super().__init__(f"the driver refused {reasons}", "`nooks status` shows what it has")
        self.refused = refused


@dataclass(frozen=True)
class Mismatch:
    """A setting that a restarted driver does not have although it once took it."""

    key: str
    wanted: SettingValue
    got: SettingValue | None
    reason: str = ""


class ReplayMismatch(NooksError):  # noqa: N818 - the name says what happened
    """The driver's state after a replay is not the log's."""

    def __init__(self, mismatches: tuple[Mismatch, ...]) -> None:
        told = ", ".join(
            f"{each.key} is {each.reason or ('absent' if each.got is None else shown(each.got))}"
            f" instead of {shown(each.wanted)}"
            for each in mismatches
        )
        super().__init__(f"the driver did not come back to its recorded state: {told}")
        self.mismatches = mismatches


def raise_mismatches(recorded: Settings, outcome: Outcome, verdict: Verdict) -> None:
    """What a driver once took, its successor must have to the value: rounding was done then. Raises ReplayMismatch."""
    wrong = [
        Mismatch(key, value, outcome.readback.get(key), outcome.refused.get(key, ""))
        for key, value in recorded.items()
        if key in verdict.refused or not same(key, value, verdict.accepted[key])
    ]
    if wrong:
        raise ReplayMismatch(tuple(wrong))
