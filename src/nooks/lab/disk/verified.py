"""fio with verification on a file of a disk: rounds of random writes past the page cache, several at a time, checked.

Each round writes every block of its file once, in random order and sizes, with a CRC32C in each, then reads them all.
Writes JSON lines in the form of ``meter`` (progress in rounds). Ends after its round on SIGTERM; any complaint of fio's
is told and is the end. Standard library only.
"""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from nooks.lab.meter import Meter, say

SIZE = "24M"
OPTIONS = (
    *("--rw=randwrite", "--bsrange=4k-64k", "--direct=1", "--ioengine=libaio", "--iodepth=8", "--fsync=64"),
    *("--verify=crc32c", "--verify_fatal=1", "--verify_dump=0", "--do_verify=1", f"--size={SIZE}"),
)


def verify(path: Path, seed: int) -> None:
    """One round. Raises CalledProcessError, with what fio said."""
    argv = [
        "setpriv",
        "--pdeathsig=KILL",
        "fio",
        "--name=verified",
        f"--filename={path}",
        f"--randseed={seed}",
        *OPTIONS,
        "--output-format=terse",
    ]
    subprocess.run(argv, check=True, capture_output=True, text=True, cwd="/")


def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser(prog="nooks.lab.disk.verified")
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    meter, number = Meter(time.time()), 0
    say(meter.report(time.time()))
    try:
        while not ending:
            verify(options.path, options.seed + number)
            number += 1
            meter.progressed(1, time.time())
            say(meter.report(time.time()))
        say(meter.report(time.time()) | {"judged": True})
    except (OSError, subprocess.CalledProcessError) as error:
        said = f"{getattr(error, 'stdout', '') or ''} {getattr(error, 'stderr', '') or ''}".split()
        say(meter.report(time.time()) | {"broken": f"{error} {' '.join(said)[-300:]}"})
        sys.exit(1)


if __name__ == "__main__":
    main()
