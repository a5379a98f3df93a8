"""For all tests: interrupts are heard, a run that is told to end clears up, and examples may take their time."""

import signal
import threading

from hypothesis import HealthCheck, settings

# A run that was started in the background must not hand its deafness to interrupts down to its tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a test had started would outlive a run that is told to end, as CI does with one that is no longer wanted.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, signal.default_int_handler)

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
