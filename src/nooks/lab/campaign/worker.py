"""A process that makes trials, ordered by JSON lines on a descriptor, until that is closed; records go to stdout.

It is the campaign's child on this machine, or a dask worker's on another. If it dies, its parent sweeps up after it
(``sweep``); if its parent dies, it comes to an end by itself.
"""

import argparse
import asyncio
import json
import os
import sys
import traceback
from typing import Any

import msgspec

from nooks.host.errors import NooksError
from nooks.lab.campaign.order import Order, Record, not_run
from nooks.lab.meter import say
from nooks.lab.running import run_lab
from nooks.lab.workers import reading


class Lanes:
    """The lane for what is ordered now; another kind of order closes it and opens another."""

    def __init__(self) -> None:
        self._lane: Any = None
        self._kind: tuple[str, str, str | None, str] | None = None

    async def run(self, order: Order) -> Record:
        """The order's record, whatever happens."""
        try:
            return await (await self._lane_for(order)).run(order)
        except NooksError as error:
            await self.close()
            return not_run(order, str(error))
        except Exception as error:  # noqa: BLE001 - a defect of ours costs this trial
            traceback.print_exc()
            await self.close()
            return not_run(order, f"internal error: {error!r}")

    async def close(self) -> None:
        """Close what is open. Safe to call twice."""
        lane, self._lane, self._kind = self._lane, None, None
        if lane is not None:
            await lane.__aexit__(None, None, None)

    async def _lane_for(self, order: Order) -> Any:  # noqa: ANN401 - either lane
        kind = order.side, order.driver, order.kernel, order.workload
        if self._kind != kind:
            await self.close()
            lane = _new_lane(order)
            await lane.__aenter__()
            self._lane, self._kind = lane, kind
            say({"remains": lane.remains()})
        return self._lane


def _new_lane(order: Order) -> Any:  # noqa: ANN401 - either lane
    if order.side == "native":
        from nooks.lab.campaign.control import ControlLane

        return ControlLane(order.driver, order.kernel)
    from nooks.lab.campaign.lane import Lane

    return Lane(order.driver, order.kernel, order.workload)


async def _serve(orders: int) -> None:
    lanes = Lanes()
    try:
        async with reading(os.dup(orders)) as lines:
            async for line in lines:
                order = msgspec.json.decode(line, type=Order)
                say({"record": await lanes.run(order)})
    finally:
        await asyncio.shield(lanes.close())


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nooks.lab.campaign.worker")
    parser.add_argument("--orders-fd", type=int, required=True)
    options = parser.parse_args()
    try:
        run_lab(_serve(options.orders_fd))
    except KeyboardInterrupt:
        return 130
    except NooksError as error:
        sys.stdout.write(json.dumps({"failed": str(error)}) + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
