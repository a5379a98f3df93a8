"""The data path of a block nook: a thread that moves requests and data between the endpoint, the log and a domain.

A thread, so that neither waits for the other when the event loop prepares a spare or a disk is busy. The event loop's
side calls in under the lock; what is to be told goes to the loop by ``Listener``. Data that the domain can reach are
copied: writes are kept in the log's ring from the moment they arrive, reads are copied out before they are looked at.
"""

import asyncio
import os
import select
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EIO
from time import monotonic
from typing import Any

import structlog

from nooks.endpoint.front import Front, FrontGone
from nooks.nook.block_doubts import MISMATCHES, HeldErrors
from nooks.nook.block_link import SMALL_BYTES, Link
from nooks.nook.block_listener import NAMES, WAITING, Finished, Listener, facts_of
from nooks.shadow.integrity import IntegrityMap
from nooks.shadow.requests import Answer, Request, RequestLog
from nooks.shadow.write_log import WriteLog
from nooks.xpc.block import ALONE, FUA, READ, REQUEST, REQUEST_BYTES_MAX, REQUEST_MAGIC, REQUEST_MARK, WRITE
from nooks.xpc.errors import ProtocolError

_BATCH = 32
_TAG_MASK = 2**32 - 1


class DataPath:
    """Owns the thread, and knows the link to whichever domain serves; links, log and store are the caller's."""

    def __init__(self, log: RequestLog, store: WriteLog) -> None:
        self._front: Front | None = None
        self._integrity: IntegrityMap | None = None
        self._log = log
        self._store = store
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._listener: Listener | None = None
        self._link: Link | None = None
        self._under_way: dict[int, tuple[Request, int]] = {}
        """What the domain has: by tag the request and its slot."""
        self._replayed: asyncio.Future[None] | None = None
        self._given_up = False
        self._ending = False
        self._paused = False
        self._full = False  # the port, for now
        self._doubts = HeldErrors()
        self._scratch = memoryview(bytearray(REQUEST_BYTES_MAX))
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="block data", daemon=True)
        self._finished = Finished()

    def start(self, listener: Listener) -> None:
        """Begin, without a driver and without an endpoint."""
        self._listener = listener
        self._thread.start()

    def serve(self, front: Front, integrity: IntegrityMap | None, *, doubting: bool = False) -> None:
        """Take an endpoint's requests from now on; compare what is read with what ``integrity`` knows.

        ``doubting``: a request's first error is no answer yet.
        """
        with self._from_the_loop():
            self._front = front
            self._integrity = integrity
            self._doubts.wanted = doubting
            self._poll.register(front.fileno(), select.EPOLLIN)

    def change(self, integrity: IntegrityMap | None, *, doubting: bool) -> None:
        """There is another medium, of which nothing is known; ``doubting`` as of ``serve``."""
        with self._lock:
            self._integrity = integrity
            self._doubts.wanted = doubting

    # -- for the event loop ------------------------------------------------------------------------------------

    def lose(self, *, counts: bool) -> None:
        """The driver is gone: nothing more is heard of it. ``counts``: it died by itself."""
        with self._from_the_loop():
            self._disconnect()
            for answer in self._log.lose(counts=counts):
                self._refuse(answer, "deterministic")
            if self._replayed is not None and not self._replayed.done():
                self._replayed.cancel()
            self._replayed = None

    async def replay(self, link: Link, *, write_through: bool) -> Mapping[str, int]:
        """Serve by this domain, which has nothing to do yet; returns, when it has repeated all, how much had waited."""
        replayed = self._loop.create_future()
        with self._lock:
            self._disconnect()
            self._given_up = False
            self._link = link
            for end in (link.port, link.bell):
                self._poll.register(end.fileno(), select.EPOLLIN)
            self._log.write_through = write_through
            self._replayed = replayed
            waited = Counter(WAITING[request.operation] for request in self._log.waiting)
            self._log.replay()
            self._issue()
            self._tell_replayed()
        await replayed
        return waited

    def give_up(self) -> None:
        """Answer whatever waits, and whatever comes, with an error, until there is a driver again."""
        with self._from_the_loop():
            self._given_up = True
            self._fail_waiting()

    def doubted(self) -> int:
        """How many errors are doubted."""
        with self._lock:
            return len(self._doubts)

    def believe(self) -> None:
        """The errors that are doubted are the device's own: answer with them."""
        with self._from_the_loop():
            for request, error in self._doubts.release():
                self._finish(request, error, None)
            self._issue()
            self._tell_replayed()

    def oldest_seconds(self) -> float | None:
        """For how long the driver has had the request that it has had longest; None if it has none."""
        with self._lock:
            oldest = min((request.issued_at for request in self._log.issued), default=None)
        return None if oldest is None else monotonic() - oldest

    def facts(self) -> dict[str, Any]:
        """Figures for ``status`` and ``metrics``."""
        with self._lock:
            return self._finished.facts() | {
                "outstanding": len(list(self._log.issued)) + len(list(self._log.waiting)),
                "unflushed_writes": self._log.kept,
                "unflushed_bytes": self._log.kept_bytes,
            }

    def close(self) -> None:
        """End the thread. The link is the caller's to close. Again is harmless."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._poll.close()
        os.close(self._wake)

    @contextmanager
    def _from_the_loop(self) -> Generator[None]:
        """The lock; and what was answered meanwhile is for the thread to send."""
        with self._lock:
            yield
            if not self._ending:
                os.eventfd_write(self._wake, 1)

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ending:
                events = self._poll.poll()
                with self._lock:
                    if not self._ending:
                        self._handle(events)
        except FrontGone:
            self._tell(lambda listener: listener.gone())
        except Exception:  # noqa: BLE001 - logged with its trace; without data the nook is of no use
            structlog.get_logger().exception("defect in the data path")
            self._tell(lambda listener: listener.gone())

    def _handle(self, events: list[tuple[int, int]]) -> None:
        front = self._front
        for descriptor, event in events:
            link = self._link
            if front is not None and descriptor == front.fileno():
                self._receive(front)
            elif link is not None and descriptor == link.bell.fileno():
                self._collect(link, link.rung)
            elif link is not None and descriptor == link.port.fileno():
                if event & select.EPOLLOUT:
                    self._send(link)
                if event & ~select.EPOLLOUT:
                    self._collect(link, link.replies)
            elif descriptor == self._wake:
                with suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
        if front is not None:
            front.settle()
        if self._paused:
            self._look_for_room()
        self._issue()
        self._tell_replayed()

    def _receive(self, front: Front) -> None:
        """Take requests from the endpoint, writes straight into the log's ring."""
        store, log = self._store, self._log
        for _ in range(_BATCH):
            if store.full:
                self._receive_without_room(front)
                return
            arrival = front.receive(store.space())
            if arrival is None:
                return
            operation, offset, length, fua, handle = arrival
            place = store.keep(length) if operation == WRITE else None
            request = Request(operation, offset, length, handle=handle, fua=fua, place=place)
            integrity = self._integrity
            if operation == READ and integrity is not None and integrity.is_condemned(offset, length):
                front.answer(handle, EIO)
                continue
            log.add(request)
            if self._given_up:
                self._fail_waiting()
            elif not self._under_way:
                self._issue()  # the domain begins while we look whether there is more

    def _receive_without_room(self, front: Front) -> None:
        """Wait until a flush has made room; if flushes fail there never will be, and writes have to fail too."""
        error = self._log.flush_error
        if not error:
            self._pause(True)
            self._look_for_room()
            return
        arrival = front.receive(self._scratch)
        if arrival is None:
            return
        if arrival.operation == WRITE:
            front.answer(arrival.handle, error)
        else:
            self._log.add(Request(arrival.operation, arrival.offset, arrival.length, handle=arrival.handle))

    def _look_for_room(self) -> None:
        """Go on if there is room, or there never will be; else see that a flush makes some."""
        if self._store.full and not self._log.flush_error:
            self._log.press()
        else:
            self._pause(False)

    def _pause(self, paused: bool) -> None:
        """Leave further requests in the kernel, or take them again."""
        if paused != self._paused and self._front is not None:
            self._paused = paused
            self._poll.modify(self._front.fileno(), 0 if paused else select.EPOLLIN)

    def _issue(self) -> None:
        """Give the driver what it may have."""
        link, log = self._link, self._log
        if link is None:
            return
        while link.room and (request := log.take()) is not None:
            link.put(self._order(link, request))
        self._send(link)

    def _order(self, link: Link, request: Request) -> bytes:
        operation, length = request.operation, request.length
        slot = link.take(length) if operation <= WRITE else 0
        if operation == WRITE:
            link.region[slot : slot + length] = self._store.data(request)
        if request.modifies and self._integrity is not None:
            self._integrity.forget(request.offset, length)
        request.issued_at = monotonic()
        flags = FUA if request.fua else 0
        if not self._under_way and operation <= WRITE and length <= SMALL_BYTES:
            flags |= ALONE
        tag = request.number & _TAG_MASK
        self._under_way[tag] = request, slot
        return REQUEST.pack(REQUEST_MAGIC, operation, flags, tag, request.offset, length, slot, 0, REQUEST_MARK)

    def _send(self, link: Link) -> None:
        full = not link.flush()
        if full != self._full:
            self._full = full
            self._poll.modify(link.port.fileno(), select.EPOLLIN | select.EPOLLOUT if full else select.EPOLLIN)

    def _collect(self, link: Link, receive: Callable[[], Sequence[tuple[int, int]] | None]) -> None:
        """Take the driver's answers and pass them on."""
        try:
            replies = receive()
            if replies is None:
                self._disconnect()  # others notice as well
                return
            for tag, result in replies:
                if not self._conclude(link, tag, result):
                    return
        except ProtocolError as error:
            self._disconnect()
            violation = error
            self._tell(lambda listener: listener.violated(violation))

    def _conclude(self, link: Link, tag: int, result: int) -> bool:
        """Finish a request; False if nothing more is to be heard from this domain. Raises ProtocolError."""
        request, slot = self._under_way.pop(tag, (None, 0))
        if request is None:
            raise ProtocolError(f"an answer to the unknown request {tag}")
        operation, length = request.operation, request.length
        expected = length if operation <= WRITE else 0
        if result >= 0 and result != expected:
            raise ProtocolError(f"{result} bytes of {expected} in the answer to a {NAMES[operation]}")
        error = -result if result < 0 else 0
        data: memoryview | None = None
        if operation == READ and not error:
            data = self._read(link, request, slot)
            if data is None and request.mismatches < MISMATCHES:
                return False
            error = 0 if data is not None else EIO
        written = self._store.data(request) if operation == WRITE and not error else None
        if self._doubts.hold(request, max(0, -result)):
            facts = facts_of(request, error=error)
            self._tell(lambda listener: listener.doubted(facts))
        else:
            self._finish(request, error, data, refused=result < 0)
        if written is not None and self._integrity is not None:
            self._integrity.learn(request.offset, written)  # nobody waits for that any more
        if operation <= WRITE:
            link.give(slot, length)
        return True

    def _finish(self, request: Request, error: int, data: memoryview | None, *, refused: bool = True) -> None:
        self._finished.count(request)
        self._answer(self._log.finish(request.number, error), data)
        if refused:
            facts = facts_of(request, error=error)
            self._tell(lambda listener: listener.device_error(facts))
        for lost in self._log.lost:
            self._tell_refused(lost, "the device refused to write again what it had acknowledged")
        self._log.lost.clear()

    def _read(self, link: Link, request: Request, slot: int) -> memoryview | None:
        """What a read brought, or None if it is wrong. Copied before it is looked at: the domain can change it."""
        brought = link.region[slot : slot + request.length]
        if self._integrity is None:
            return brought
        data = self._scratch[: request.length]
        data[:] = brought
        wrong = self._integrity.check(request.offset, data)
        if wrong is None:
            return data
        request.mismatches += 1
        if request.mismatches >= MISMATCHES:
            self._integrity.condemn(wrong)
            self._tell_refused(request, "corruption")
        else:
            self._disconnect()  # a fresh driver has to read it again
            facts = facts_of(request, wrong_at=wrong)
            self._tell(lambda listener: listener.corrupted(facts))
        return None

    def _answer(self, answer: Answer, data: memoryview | None) -> None:
        if answer.handle is not None and self._front is not None:
            self._front.answer(answer.handle, answer.error, data)

    def _refuse(self, answer: Answer, why: str) -> None:
        self._answer(answer, None)
        self._tell_refused(answer.request, why)

    def _fail_waiting(self) -> None:
        for answer in self._log.give_up():
            self._answer(answer, None)
        if self._paused:
            self._look_for_room()

    def _disconnect(self) -> None:
        """Hear nothing more of the present domain."""
        link, self._link = self._link, None
        self._under_way.clear()
        self._doubts.release()
        self._full = False
        if link is not None:
            for end in (link.port, link.bell):
                self._poll.unregister(end.fileno())

    # -- telling -----------------------------------------------------------------------------------------------

    def _tell_replayed(self) -> None:
        replayed = self._replayed
        if replayed is not None and self._log.replayed:
            self._replayed = None
            self._loop.call_soon_threadsafe(lambda: replayed.done() or replayed.set_result(None))

    def _tell_refused(self, request: Request, why: str) -> None:
        facts = facts_of(request)
        self._tell(lambda listener: listener.refused(facts, why))

    def _tell(self, what: Callable[[Listener], None]) -> None:
        if self._listener is not None:
            self._loop.call_soon_threadsafe(what, self._listener)
