"""An application that does one thing after the other until it is told to end, as a process of its own.

Writes JSON lines in the form of ``meter`` (progress in rounds); ``errors`` counts those that were not what they should
be. Any other error is told and is the end. Standard library only.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable

from nooks.lab.meter import Meter, say


def work(one: Callable[[int], bool]) -> None:
    """Do ``one`` with 0, 1, 2 ... until SIGTERM; it says whether all was right. The round that it is at is ended.

    Its OSError or CalledProcessError ends the process, with what the program said on its standard error.
    """
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    meter, errors, number = Meter(time.time()), 0, 0
    say(meter.report(time.time()))
    try:
        while not ending:
            errors += not one(number)
            number += 1
            now = time.time()
            meter.progressed(1, now)
            say(meter.report(now) | {"errors": errors})
        say(meter.report(time.time()) | {"errors": errors, "judged": True})
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or b""
        say(meter.report(time.time()) | {"errors": errors, "broken": f"{error} {said.decode(errors='replace')}"})
        sys.exit(1)
