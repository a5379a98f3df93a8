"""How the lab brings failures about, on a product that is made up."""

import asyncio
import time
from typing import Any

import pytest

from nooks.lab import ways
from nooks.lab.product import Journal


class Product:
    """A nook that is recovering by itself when it is first looked at."""

    def __init__(self, recovering: int) -> None:
        self.journal = Journal()
        self.crashed: list[str] = []
        self._recovering = recovering
        self._say("failed", 1, reason="no-progress")

    def _say(self, event: str, incarnation: int, **more: object) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "+00:00"
        self.journal.add({"time": now, "event": event, "incarnation": incarnation, "reason": "", "detail": {}} | more)

    async def status(self) -> dict[str, Any]:
        self._recovering -= 1
        return {"state": "recovering" if self._recovering >= 0 else "running", "incarnation": 2}

    async def crash(self, how: str) -> None:
        assert self._recovering < 0, "nobody can be failed twice"
        self.crashed.append(how)
        self._say("failed", 2, reason="exit", detail={"commanded": how})
        self._say("resumed", 3, detail={"recovery_seconds": 0.02, "means": "spare"})


@pytest.mark.parametrize("recovering", [0, 3])
def test_a_nook_that_recovers_by_itself_is_waited_for_and_told_of(recovering: int) -> None:
    async def play() -> None:
        product = Product(recovering)
        failure = await ways.fail(product, "kill")  # type: ignore[arg-type]
        assert product.crashed == ["kill"]
        assert (failure.reason, failure.recovered, failure.recovery_seconds) == ("exit", True, 0.02)
        (besides,) = ways.unasked(product)  # type: ignore[arg-type]
        assert (besides["incarnation"], besides["reason"]) == (1, "no-progress")

    asyncio.run(play())
