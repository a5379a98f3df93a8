"""For all tests: interrupts are heard, a run that is told to end clears up, and examples may take their time."""

import signal
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from nooks.host import interrupts

# A run that was started in the background must not hand its deafness to interrupts down to its tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a test had started would outlive a run that is told to end, as CI does with one that is no longer wanted.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, signal.default_int_handler)

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture
def signals() -> Iterator[None]:
    """Whatever the test does to them, signals are heard afterwards as before."""
    before = {number: signal.getsignal(number) for number in (*interrupts.INTERRUPTS, signal.SIGALRM)}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def interruptible(signals: None) -> None:
    """Interrupts are dealt with as in a command (``host.interrupts``), also of a run that was started deaf to them."""
    for number in interrupts.INTERRUPTS:
        signal.signal(number, signal.SIG_DFL)
    interrupts.catch()
