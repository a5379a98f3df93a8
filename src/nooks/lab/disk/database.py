"""An application that keeps a database on a disk: sqlite, each transaction on the medium before it goes on.

Writes JSON lines in the form of ``meter`` (progress in transactions). On SIGTERM it opens its database anew and looks
whether every transaction that was ever acknowledged is there, to the byte; the last line says so. Any error is told
and is the end. Standard library only.
"""

import argparse
import hashlib
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from nooks.lab.meter import REPORT_SECONDS, Meter, say

_SIZES = (40, 400, 4000, 40000)
_LONGEST_WAIT_SECONDS = 120.0


def content(number: int, seed: int) -> bytes:
    """What the row ``number`` holds."""
    block = hashlib.sha256(f"{seed} {number}".encode()).digest()
    size = _SIZES[block[0] % len(_SIZES)]
    return (block * (size // len(block) + 1))[:size]


class Database:
    """The database at ``path``."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed
        self.acknowledged = 0
        self._connection = self._connect()
        self._connection.execute("CREATE TABLE IF NOT EXISTS entry (number INTEGER PRIMARY KEY, content BLOB)")

    def add(self) -> None:
        """One more transaction. Raises sqlite3.Error."""
        number = self.acknowledged
        with self._connection:
            self._connection.execute("INSERT INTO entry VALUES (?, ?)", (number, content(number, self._seed)))
        self.acknowledged += 1

    def judge(self) -> dict[str, Any]:
        """Look at all of it with a new connection. Raises sqlite3.Error."""
        self._connection.close()
        connection = self._connect()
        said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        rows = dict(connection.execute("SELECT number, content FROM entry"))
        wrong = sum(rows.get(number) != content(number, self._seed) for number in range(self.acknowledged))
        connection.close()
        return {"transactions": self.acknowledged, "lost": wrong, "integrity": said[0] if len(said) == 1 else said[:9]}

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_LONGEST_WAIT_SECONDS)
        connection.execute("PRAGMA synchronous=FULL")
        return connection


def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser(prog="nooks.lab.disk.database")
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interval-seconds", type=float, default=0.0)
    options = parser.parse_args()
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    reported = time.time()
    meter = Meter(reported)
    try:
        database = Database(options.path, options.seed)
        while not ending:
            database.add()
            now = time.time()
            meter.progressed(1, now)
            if now - reported >= REPORT_SECONDS:
                say(meter.report(now))
                reported = now
            time.sleep(options.interval_seconds)
        say(meter.report(time.time()) | {"judged": database.judge()})
    except (sqlite3.Error, OSError) as error:
        say(meter.report(time.time()) | {"broken": f"{type(error).__name__}: {error}"})
        sys.exit(1)


if __name__ == "__main__":
    main()
