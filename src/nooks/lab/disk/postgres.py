"""A PostgreSQL server with its data on a disk, and pgbench at work on it: bank transfers, each committed on the medium.

Writes JSON lines in the form of ``meter`` (progress in transactions). On SIGTERM the server ends, what the page cache
has of its files is dropped, and a new one looks: whether every acknowledged transfer is in the history, whether the
sums of accounts, tellers, branches and history agree, and what pg_amcheck says. Any error is told and is the end.
Standard library only.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from nooks.lab.disk.archive import forget
from nooks.lab.meter import Meter, say

USER = "postgres"
PLACES = Path("/usr/lib/postgresql")
PROGRAMS = ("initdb", "postgres", "pgbench", "pg_amcheck", "pg_isready", "psql")
CLIENTS = 2
ROUND_SECONDS = 2
START_SECONDS = 120.0
POLL_SECONDS = 0.2

_PROCESSED = re.compile(r"number of transactions actually processed: (\d+)")
_SUMS = """SELECT (SELECT count(*) FROM pgbench_history),
    (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
    AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
    AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"""


def programs() -> Path | None:
    """Where the newest PostgreSQL's programs are; None if there is none with all of them."""
    for place in sorted(PLACES.glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True):
        if all((place / program).exists() for program in PROGRAMS):
            return place
    return None


class Server:
    """A server on the data in ``folder``, reached through ``socket`` alone, run as the user that Debian has for it."""

    def __init__(self, place: Path, folder: Path, socket: Path) -> None:
        self._place = place
        self._data = folder / "data"
        self._socket = socket
        self.acknowledged = 0
        for path in (folder, socket):
            shutil.chown(path, USER, USER)
        self._run("initdb", "-D", str(self._data), "-A", "trust", "--no-locale", "-E", "UTF8", "--no-instructions")

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """The server, for the block; it does not outlive this process. Raises CalledProcessError."""
        argv = [
            *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--pdeathsig=KILL"),
            *(str(self._place / "postgres"), "-D", str(self._data), "-k", str(self._socket)),
            *("-c", "listen_addresses=", "-c", "shared_buffers=32MB", "-c", "max_wal_size=64MB"),
        ]
        with (self._socket / "log").open("ab") as log:
            server = subprocess.Popen(argv, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not self._is_ready():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise subprocess.CalledProcessError(server.poll() or 0, "postgres", self._log())
                time.sleep(POLL_SECONDS)
            yield
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown
            server.wait()

    def _is_ready(self) -> bool:
        try:
            self._client("pg_isready", "--quiet")
        except subprocess.CalledProcessError:
            return False
        return True

    def _log(self) -> str:
        return (self._socket / "log").read_text(errors="replace")

    def fill(self) -> None:
        """The bank, and what pg_amcheck needs."""
        self._client("pgbench", "--initialize", "--quiet", "--scale=1")
        self.ask("CREATE EXTENSION amcheck")

    def transfer(self) -> int:
        """Some seconds of transfers; how many were acknowledged. Raises CalledProcessError if one failed."""
        options = (f"--client={CLIENTS}", f"--time={ROUND_SECONDS}", "--no-vacuum")
        found = _PROCESSED.search(self._client("pgbench", *options))
        done = int(found[1]) if found else 0
        self.acknowledged += done
        return done

    def forget(self) -> None:
        """Have none of its files in the page cache; it must not run."""
        for path in self._data.rglob("*"):
            if path.is_file():
                forget(path)

    def judge(self) -> dict[str, Any]:
        """Look at all of it. Raises CalledProcessError if pg_amcheck finds something."""
        count, agree = self.ask(_SUMS).split("|")
        self._client("pg_amcheck", "--heapallindexed", "--all")
        integrity = "ok" if agree == "t" else "the sums of accounts, tellers, branches and history differ"
        return {"transactions": self.acknowledged, "lost": self.acknowledged - int(count), "integrity": integrity}

    def ask(self, statement: str) -> str:
        """The answer to an SQL statement: a row, its columns parted by "|". Raises CalledProcessError."""
        return self._client("psql", "--quiet", "--tuples-only", "--no-align", f"--command={statement}").strip()

    def _client(self, program: str, *arguments: str) -> str:
        return self._run(program, "--host", str(self._socket), *arguments)

    def _run(self, program: str, *arguments: str) -> str:
        """One of PostgreSQL's programs, to its end; what it wrote. Raises CalledProcessError."""
        argv = [str(self._place / program), *arguments]
        done = subprocess.run(
            argv,
            user=USER,
            group=USER,
            extra_groups=(),
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "PGDATABASE": "postgres"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, program, done.stdout)
        return done.stdout


def work(server: Server, ending: list[int]) -> None:
    """Transfer until something is in ``ending``, then judge; says how it goes."""
    with server.running():
        server.fill()
        meter = Meter(time.time())
        say(meter.report(time.time()))
        while not ending:
            meter.progressed(server.transfer(), time.time())
            say(meter.report(time.time()))
    server.forget()
    with server.running():
        say(meter.report(time.time()) | {"judged": server.judge()})


def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser(prog="nooks.lab.disk.postgres")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    place = programs()
    if place is None:
        sys.exit("PostgreSQL is not installed (Debian's package postgresql)")
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    options.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nooks-lab-postgres-") as socket:
        try:
            work(Server(place, options.folder, Path(socket)), ending)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "output", "") or "").strip().splitlines()[-3:]
            now = time.time()
            say(Meter(now).report(now) | {"broken": f"{error} {' '.join(said)}"})
            sys.exit(1)


if __name__ == "__main__":
    main()
