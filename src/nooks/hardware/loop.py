"""A model's event loop: descriptors and timers, in one thread. asyncio would cost a register access twice its time.

epoll counts in milliseconds, which is long for a card: the next timer is set on a timerfd (timerfd_create(2)).
"""

import contextlib
import ctypes
import heapq
import itertools
import os
import select
import struct
import time
from collections.abc import Callable

Callback = Callable[[], None]

_EVENTS_MAX = 8
"""Taken in one turn; a card has half as many descriptors. Python makes room for a thousand at each turn unless told."""
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_ITIMERSPEC = struct.Struct("qqqq")
_libc = ctypes.CDLL(None, use_errno=True)


class Timer:
    """A call that is to be made at a time."""

    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Don't make it. Harmless if it was made."""
        self.cancelled = True


class Loop:
    """Calls back when descriptors are readable, and at times of ``clock``, which is ``time.monotonic``."""

    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._timer = _libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_FLAGS)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._armed = 0.0
        self._epoll.register(self._timer, select.EPOLLIN)
        self._readers: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._running = True

    def add(self, descriptor: int, callback: Callback) -> None:
        """Call back whenever ``descriptor`` is readable or has hung up."""
        self._readers[descriptor] = callback
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Don't any more. Harmless if it was not asked for."""
        if self._readers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Call back at ``when``, or as soon as possible after it."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        if not self._armed or when < self._armed:
            self._arm(when)
        return timer

    def stop(self) -> None:
        """Let ``run`` return after this turn."""
        self._running = False

    def run(self) -> None:
        """Until ``stop``."""
        while self._running:
            self.turn()

    def turn(self, longest_seconds: float = -1.0) -> None:
        """Wait for something to do (at most ``longest_seconds``; below 0: for ever), and do it."""
        readers = self._readers
        for descriptor, _ in self._epoll.poll(longest_seconds, _EVENTS_MAX):
            callback = readers.get(descriptor)  # another callback may have removed it
            if callback is not None:
                callback()
            elif descriptor == self._timer:
                self._run_timers()

    def close(self) -> None:
        """Release the descriptors."""
        self._epoll.close()
        os.close(self._timer)

    def _run_timers(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._timer, 8)
        self._armed = 0.0
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.callback()
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if self._timers and (not self._armed or self._timers[0][0] < self._armed):
            self._arm(self._timers[0][0])

    def _arm(self, when: float) -> None:
        self._armed = when
        seconds, rest = divmod(max(1, int(when * 1e9)), 1_000_000_000)
        _libc.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, _ITIMERSPEC.pack(0, 0, seconds, rest), None)
