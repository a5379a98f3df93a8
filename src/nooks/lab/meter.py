"""Reads a stream from a descriptor, checks it, and says on stdout how it flows: progress, and the longest pause so far.

A process of its own, so that nothing else of the lab delays its clock. JSON lines, at most one per REPORT_SECONDS;
``pause`` is the longest time without a byte that ended since the last line, as [from, until]. Times are
``time.time()``. Standard library only.
"""

import argparse
import hashlib
import json
import os
import select
import sys
import time
from typing import Any

from nooks.lab.content import Checker, Content

REPORT_SECONDS = 0.05
READ_BYTES = 1 << 16


class Meter:
    """Progress and pauses of one stream."""

    def __init__(self, now: float) -> None:
        self.received_bytes = 0
        self._last = now
        self._pause = (now, now)

    def progressed(self, size_bytes: int, now: float) -> None:
        """Some bytes came."""
        if now - self._last > self._pause[1] - self._pause[0]:
            self._pause = (self._last, now)
        self._last = now
        self.received_bytes += size_bytes

    def report(self, now: float) -> dict[str, Any]:
        """A line of output; the next one speaks of later pauses."""
        pause, self._pause = self._pause, (now, now)
        return {"time": now, "bytes": self.received_bytes, "pause": pause}


def say(record: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read until the end of the stream, then say what it was."""
    parser = argparse.ArgumentParser(prog="nooks.lab.meter")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--fd", type=int, default=0)
    options = parser.parse_args()
    checker = Checker(Content(options.seed))
    digest = hashlib.sha256()
    source: int = options.fd
    reported = time.time()
    meter = Meter(reported)
    while True:
        readable, _, _ = select.select([source], [], [], REPORT_SECONDS)
        now = time.time()
        if readable:
            data = os.read(source, READ_BYTES)
            if not data:
                break
            meter.progressed(len(data), now)
            digest.update(data)
            checker.feed(data)
        if now - reported >= REPORT_SECONDS:
            say(meter.report(now))
            reported = now
    checker.finish()
    say(meter.report(time.time()) | {"sha256": digest.hexdigest(), "wrong_blocks": checker.wrong_blocks})


if __name__ == "__main__":
    main()
