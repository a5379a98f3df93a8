"""Where Ctrl-C, SIGTERM and SIGHUP may break a command off: once, and neither in an import nor while it cleans up.

Python raises KeyboardInterrupt wherever the main thread happens to be. A module whose import was broken off can't be
imported by the clean-up either (its submodules are there and it has forgotten them), and somebody who presses Ctrl-C
twice would break off the clean-up itself and be left with half a nook. Masks (pthread_sigmask(3)) don't help: another
thread takes the signal then, and Python calls the handler in the main thread all the same.
"""

import signal
import sys
from types import FrameType, TracebackType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_IMPORTING = "<frozen importlib._bootstrap>"
_AGAIN_SECONDS = 0.01
"""How soon an interrupt that came during an import is tried again."""

_held = 0
_waiting = False


def catch() -> None:
    """From here on an interrupt raises KeyboardInterrupt, in the main thread, where it may.

    What whoever started us has ignored stays so: nohup(1), a shell's job in the background (POSIX, sh, 2.11).
    """
    signal.signal(signal.SIGALRM, _arrive)
    for number in INTERRUPTS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _arrive)


def ignore() -> None:
    """From here on nothing interrupts: the exit status is decided.

    An interrupt that came while a string was being executed (dataclasses do that) is noted by CPython as one that
    nobody caught, and the process would end by SIGINT instead of with our status; executing another one clears that
    note (CPython, Python/pythonrun.c, run_eval_code_obj).
    """
    exec("")
    for number in (*INTERRUPTS, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


class Held:
    """In the block interrupts wait. At its end they are raised, unless an error is on its way to the user."""

    def __enter__(self) -> None:
        global _held
        _held += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _held, _waiting
        _held -= 1
        if _held or not _waiting:
            return
        _waiting = False
        if sys.exception() is None:
            raise KeyboardInterrupt


def _arrive(number: int, frame: FrameType | None) -> None:
    global _waiting
    if _is_cleaning_up():
        return
    if _held:
        _waiting = True
    elif _is_importing(frame):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
    else:
        raise KeyboardInterrupt


def _is_cleaning_up() -> bool:
    """Whether an interrupt is being handled in the main thread: in an ``except``, a ``finally``, an ``__exit__``."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False
