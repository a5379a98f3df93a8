"""For all tests: a run that was started in the background must not hand its deafness to interrupts down to them."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
