"""A device that is pulled out is noticed, once, and only while an incarnation serves."""

import asyncio

from nooks.failure.presence import PresenceDetector
from nooks.failure.report import FailureReport, Reason


class Clock:
    """Sleeps take no time but let others run."""

    def monotonic(self) -> float:
        return 7.0

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_reported_once_per_incarnation() -> None:
    async def body() -> None:
        there = [True]
        reports: list[FailureReport] = []
        detector = PresenceDetector(lambda: there[0], Clock(), reports.append)
        detector.begin(3)
        await turns()
        assert not reports
        there[0] = False
        await turns()
        assert [(report.incarnation, report.reason, report.noticed_at) for report in reports] == [
            (3, Reason.UNPLUGGED, 7.0)
        ]
        detector.begin(4)
        await turns()
        assert reports[-1].incarnation == 4
        detector.end()

    asyncio.run(body())


def test_nobody_looks_after_the_end() -> None:
    async def body() -> None:
        looked = [0]

        def present() -> bool:
            looked[0] += 1
            return True

        detector = PresenceDetector(present, Clock(), lambda report: None)
        detector.begin(1)
        await turns()
        detector.end()
        detector.end()
        before = looked[0]
        await turns()
        assert looked[0] == before > 0

    asyncio.run(body())
