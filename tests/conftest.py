"""For all tests: interrupts are heard, and generated examples may take their time on a busy machine."""

import signal

from hypothesis import HealthCheck, settings

# A run that was started in the background must not hand its deafness to interrupts down to its tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
