"""Where an interrupt may break a command off. Each is a signal to this process, and is handled before the next line."""

import asyncio
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from nooks.host import interrupts
from nooks.lab.running import run_lab


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    signal.raise_signal(number)


pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.mark.parametrize("number", interrupts.INTERRUPTS)
def test_each_of_them_interrupts(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt(number)


def test_what_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts.catch()
    interrupt(signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_an_import_is_brought_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever imports it next, in a clean-up, finds its submodules there and their names not."""
    package = tmp_path / "interruptible"
    package.mkdir()
    (package / "__init__.py").write_text("from .part import *\nNAME = part.NAME\n")
    (package / "part.py").write_text("NAME = 'part'\n__all__ = []\nimport signal\nsignal.raise_signal(signal.SIGINT)\n")
    monkeypatch.syspath_prepend(tmp_path)

    def use() -> None:
        __import__("interruptible")
        time.sleep(5.0)

    with pytest.raises(KeyboardInterrupt):
        use()
    assert sys.modules.pop("interruptible").NAME == "part"
    del sys.modules["interruptible.part"]


def test_what_cleans_up_is_not_interrupted_again() -> None:
    done: list[str] = []
    try:
        try:
            interrupt()
        finally:
            try:
                raise FileNotFoundError
            except FileNotFoundError:
                interrupt(signal.SIGTERM)
                done.append("within another error")
            interrupt()
            done.append("the rest")
    except KeyboardInterrupt:
        interrupt()
        done.append("the end")
    assert done == ["within another error", "the rest", "the end"]
    with pytest.raises(KeyboardInterrupt):  # the next command can be interrupted
        interrupt()


def test_those_that_are_held_come_at_the_end() -> None:
    done: list[str] = []

    def work() -> None:
        with interrupts.Held():
            with interrupts.Held():
                interrupt()
            done.append("all")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all"]
    with interrupts.Held():
        pass  # it came once


def test_a_thread_that_gets_the_signal_changes_nothing() -> None:
    """A mask of the main thread's would not hold it."""
    ending = threading.Event()
    other = threading.Thread(target=ending.wait)
    other.start()
    done: list[str] = []

    def work() -> None:
        with interrupts.Held():
            signal.pthread_kill(other.ident or 0, signal.SIGINT)
            time.sleep(0.05)
            done.append("all")

    with pytest.raises(KeyboardInterrupt):
        work()
    ending.set()
    other.join()
    assert done == ["all"]


def test_an_error_is_told_in_spite_of_an_interrupt() -> None:
    def fail_and_clean_up() -> None:
        try:
            raise FileNotFoundError
        except FileNotFoundError:
            with interrupts.Held():
                interrupt()
            raise

    with pytest.raises(FileNotFoundError):
        fail_and_clean_up()
    with interrupts.Held():
        pass  # nor does it come later


def test_at_the_end_nothing_interrupts() -> None:
    interrupts.ignore()
    for number in (*interrupts.INTERRUPTS, signal.SIGALRM):
        interrupt(number)


def test_the_lab_hears_no_interrupt_that_is_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def work(number: signal.Signals) -> None:
        interrupt(number)
        await asyncio.sleep(0.05)

    run_lab(work(signal.SIGHUP))
    with pytest.raises(KeyboardInterrupt):
        run_lab(work(signal.SIGTERM))


def test_what_a_command_does_after_the_lab_can_be_interrupted_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_lab(asyncio.sleep(0))
    assert signal.getsignal(signal.SIGTERM) is before
