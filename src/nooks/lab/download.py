"""A download by curl, with a meter at the end of its pipe."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator
from typing import Any

from nooks.host.process import Process, spawn
from nooks.lab.gauge import Gauge
from nooks.lab.workers import Worker, enter, python, reading, worker

_END_SECONDS = 10.0
_CURL = ("curl", "--silent", "--show-error", "--fail", "--no-buffer", "--write-out", "%{stderr}\n%{json}\n")


class Download:
    """A running download. ``gauge`` follows it."""

    def __init__(self, curl: Process, meter: Worker, gauge: Gauge, report: asyncio.StreamReader) -> None:
        self.gauge = gauge
        self._curl = curl
        self._meter = meter
        self._report = report

    @property
    def running(self) -> bool:
        """Whether curl is still at it."""
        return self._curl.returncode is None

    async def result(self) -> dict[str, Any]:
        """Wait for the end. ``sha256`` and ``wrong_blocks`` as the meter found them, ``curl`` curl's own report
        (``--write-out '%{json}'``), ``exit`` its exit status, ``said`` its error message."""
        last = await self._meter.finished()
        said, _, report = (await self._report.read()).decode(errors="replace").rpartition("\n{")
        while self._curl.returncode is None:
            await asyncio.sleep(0.01)
        try:
            curl = json.loads("{" + report.strip().removeprefix("{"))
        except ValueError:
            curl = {}
        return {**last, "curl": curl, "exit": self._curl.returncode, "said": said.strip()}


@contextlib.asynccontextmanager
async def download(url: str, seed: int, *, netns: str | None = None) -> AsyncGenerator[Download, None]:
    """Fetch ``url`` with curl (in the namespace ``netns``) for the block, comparing it with the content of ``seed``."""
    gauge = Gauge()
    data_read, data_write = os.pipe()
    report_read, report_write = os.pipe()
    try:
        curl = spawn(
            [*enter(netns), *_CURL, url],
            stdout=data_write,
            stderr=report_write,
        )
    except BaseException:
        os.close(data_read)
        os.close(report_read)
        raise
    finally:
        os.close(data_write)
        os.close(report_write)
    try:
        async with reading(report_read) as report:
            metering = python("nooks.lab.meter", "--seed", seed, "--fd", data_read)
            async with worker("meter", metering, gauge.add, pass_fds=[data_read]) as meter:
                os.close(data_read)
                data_read = -1
                yield Download(curl, meter, gauge, report)
    finally:
        if data_read >= 0:
            os.close(data_read)
        await curl.terminate(within_seconds=_END_SECONDS)
        curl.close()
