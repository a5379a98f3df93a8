"""The outstanding requests of a block nook: which may go to the driver now, which must be repeated when it dies.

Pure policy: no time, no descriptors. Whoever moves the data asks it what to do next (``take``), and tells it what came
of that (``finish``) and when the driver is gone (``lose``). The rules:

- Requests that touch the same bytes go one after the other, in the order of their arrival, unless both only read.
- A write that the driver acknowledged is kept until a flush succeeded that was issued after its acknowledgement.
- Replay: kept writes in their order, then modifications without an answer in theirs, then a flush. All else waits.
- What was outstanding when a driver died by itself is repeated alone. After three deaths with the same request alone
  outstanding, that request fails, and the rest goes on.
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from errno import EIO
from typing import Any, NamedTuple, Protocol

from nooks.xpc.block import DISCARD, FLUSH, WRITE, ZERO

DEATHS = 3

_MODIFY = frozenset((WRITE, ZERO, DISCARD))


class Request:
    """One request. ``offset`` and ``length`` in bytes; ``fua``: a write that is on the medium when it is answered.

    ``handle`` is the endpoint's name for it, None if nobody waits for its answer; ``place`` is where its data are kept.
    """

    __slots__ = (
        "acknowledged",
        "covers",
        "deaths",
        "doubted",
        "end",
        "fua",
        "handle",
        "issued_at",
        "length",
        "mismatches",
        "modifies",
        "number",
        "offset",
        "operation",
        "place",
        "suspect",
        "was_issued",
    )

    def __init__(
        self,
        operation: int,
        offset: int = 0,
        length: int = 0,
        *,
        handle: Any = None,  # noqa: ANN401 - whatever the endpoint has
        fua: bool = False,
        place: Any = None,  # noqa: ANN401 - whatever the store has
    ) -> None:
        self.operation = operation
        self.offset = offset
        self.length = length
        self.end = offset + length
        self.handle = handle
        self.fua = fua
        self.place = place
        self.modifies = operation in _MODIFY
        self.number = 0
        self.acknowledged = 0
        self.covers = 0
        self.was_issued = False
        self.suspect = False
        self.deaths = 0
        self.doubted = False
        self.mismatches = 0
        self.issued_at = 0.0

    def touches(self, other: "Request") -> bool:
        """Whether the two must not be under way together."""
        return self.offset < other.end and other.offset < self.end and (self.modifies or other.modifies)


class Store(Protocol):
    """Where data of writes are kept, so that they outlive driver and supervisor."""

    def acknowledge(self, request: Request) -> None:
        """The request is to be kept, even if the supervisor dies."""
        ...

    def release(self, request: Request) -> None:
        """Its data are not needed any more."""
        ...


class Answer(NamedTuple):
    """What became of a request; ``handle`` None: nobody waits for it. ``error`` is an errno, 0 for success."""

    request: Request
    handle: Any
    error: int


class Bounds(NamedTuple):
    """How much may be kept before a flush is forced."""

    kept_bytes: int = 24 << 20
    kept_requests: int = 4096


class _Phase(Enum):
    AWAY = auto()
    KEPT = auto()
    UNANSWERED = auto()
    SYNC = auto()
    SUSPECTS = auto()
    SERVING = auto()


class RequestLog:
    """Begins without a driver. ``kept``: acknowledged writes that an earlier supervisor left, by their numbers.

    ``write_through`` is true if the device has no cache: what it acknowledged is on the medium.
    """

    def __init__(self, store: Store, kept: Iterable[Request] = (), bounds: Bounds | None = None) -> None:
        self.write_through = False
        self.flush_error = 0
        """Of the last flush of our own that was of no use, an errno."""
        self.lost: list[Request] = []
        """Acknowledged writes that the device refused to repeat, until somebody takes them off this list."""
        self._store = store
        self._bounds = bounds or Bounds()
        self._phase = _Phase.AWAY
        self._issued: dict[int, Request] = {}
        self._waiting: deque[Request] = deque()
        self._kept: dict[int, Request] = {}
        self._kept_bytes = 0
        self._repeating: deque[Request] = deque()
        self._clock = 0
        self._flushing = 0
        self._pressed = False
        self._flush_deaths = 0
        self._write_error = 0
        for request in sorted(kept, key=lambda each: each.number):
            self._keep(request)
        self._number = max(self._kept, default=0)

    @property
    def replayed(self) -> bool:
        """Whether the driver has got all that it had to be told again."""
        return self._phase in (_Phase.SUSPECTS, _Phase.SERVING)

    @property
    def kept_bytes(self) -> int:
        """Data of acknowledged writes that no flush has covered."""
        return self._kept_bytes

    @property
    def kept(self) -> int:
        """How many acknowledged modifications no flush has covered."""
        return len(self._kept)

    @property
    def issued(self) -> Iterable[Request]:
        """What the driver has at the moment."""
        return self._issued.values()

    @property
    def waiting(self) -> Iterable[Request]:
        """What the driver has not been given."""
        return self._waiting

    def press(self) -> None:
        """The store has no room: have a flush release something, however little is kept."""
        self._pressed = True

    def is_issued(self, number: int) -> bool:
        """Whether the driver has this request at the moment."""
        return number in self._issued

    # -- requests ----------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """A request arrived; ``take`` gives it back when it may go to the driver."""
        self._number += 1
        request.number = self._number
        self._waiting.append(request)

    def take(self) -> Request | None:
        """The next request for the driver, which then has it; None if none may go now."""
        if self._phase is not _Phase.SERVING:
            return self._take_replay()
        if not self._flushing and self._flush_due():
            return self._issue(self._own_flush())
        waiting = self._waiting
        if not waiting:
            return None
        first = waiting[0]
        if not self._blocked(first):
            waiting.popleft()
            return self._issue(first)
        return self._overtaking()

    def finish(self, number: int, error: int = 0) -> Answer:
        """The driver answered. Raises KeyError if it never had that request, or answered it before."""
        request = self._issued.pop(number)
        handle, request.handle = request.handle, None
        if request.operation == FLUSH:
            error = self._flushed(request, handle is None, error)
        elif request.modifies:
            if error:
                self._failed(request, error)
            else:
                self._acknowledged(request)
        if self._phase is not _Phase.SERVING:
            self._advance()
        return Answer(request, handle, error)

    # -- the life of the driver --------------------------------------------------------------------------------

    def lose(self, *, counts: bool) -> list[Answer]:
        """The driver is gone; ``counts`` unless somebody made it fail. Returns what fails for killing drivers."""
        issued = list(self._issued.values())
        self._issued.clear()
        self._repeating.clear()
        self._flushing = 0
        self._phase = _Phase.AWAY
        killer = issued[0] if counts and len(issued) == 1 else None
        if killer is not None:
            killer.deaths += 1
            if killer.operation == FLUSH and killer.handle is None:
                self._flush_deaths += 1
        failed: list[Answer] = []
        back: list[Request] = []
        for request in issued:
            request.suspect |= counts
            if request is killer and request.deaths >= DEATHS:
                failed.append(Answer(request, request.handle, EIO))
                request.handle = None
                if request.modifies:
                    self._failed(request, EIO)
            elif request.number not in self._kept and request.handle is not None:
                back.append(request)
        if back:
            self._waiting = deque(sorted([*back, *self._waiting], key=lambda each: each.number))
        return failed

    def replay(self) -> None:
        """A driver is there again, and has got nothing yet."""
        assert self._phase is _Phase.AWAY
        self._repeating = deque(sorted(self._kept.values(), key=lambda each: each.number))
        self._phase = _Phase.KEPT
        self._advance()

    def give_up(self, error: int = EIO) -> list[Answer]:
        """No driver will come: whatever waits fails. What was acknowledged stays kept."""
        given_up = [Answer(request, request.handle, error) for request in self._waiting]
        for request in self._waiting:
            self._release(request)
        self._waiting.clear()
        return given_up

    # -- inside ------------------------------------------------------------------------------------------------

    def _issue(self, request: Request) -> Request:
        request.was_issued = True
        if request.operation == FLUSH:
            request.covers = self._clock
            self._flushing += 1
        self._issued[request.number] = request
        return request

    def _own_flush(self) -> Request:
        self._pressed = False
        flush = Request(FLUSH)
        self._number += 1
        flush.number = self._number
        return flush

    def _flush_due(self) -> bool:
        much = self._kept_bytes > self._bounds.kept_bytes or len(self._kept) > self._bounds.kept_requests
        return (much or (self._pressed and bool(self._kept))) and self._flush_deaths < DEATHS

    def _blocked(self, request: Request) -> bool:
        """Whether the driver has a request of which this one must await the end."""
        offset, end, modifies = request.offset, request.end, request.modifies
        for other in self._issued.values():  # as touches(), which would cost more than the rest of this
            if offset < other.end and other.offset < end and (modifies or other.modifies):
                return True
        return False

    def _overtaking(self) -> Request | None:
        """The first that neither the driver's requests nor those waiting longer hold up."""
        passed: list[Request] = []
        for index, request in enumerate(self._waiting):
            if not self._blocked(request) and not any(request.touches(earlier) for earlier in passed):
                del self._waiting[index]
                return self._issue(request)
            passed.append(request)
        return None

    def _take_replay(self) -> Request | None:
        if self._phase is _Phase.SYNC:
            return None if self._issued else self._issue(self._own_flush())
        if self._phase is _Phase.SUSPECTS:
            if self._issued:
                return None
            suspect = next(request for request in self._waiting if request.suspect)
            self._waiting.remove(suspect)
            return self._issue(suspect)
        if not self._repeating:
            return None
        first = self._repeating[0]
        if self._issued and (first.suspect or any(request.suspect for request in self.issued) or self._blocked(first)):
            return None
        self._repeating.popleft()
        if self._phase is _Phase.UNANSWERED:
            self._waiting.remove(first)
        return self._issue(first)

    def _advance(self) -> None:
        """Go on to the next phase of a replay, if this one has come to its end."""
        while not self._issued and not self._repeating:
            if self._phase is _Phase.KEPT:
                self._repeating.extend(request for request in self._waiting if request.modifies and request.was_issued)
                self._phase = _Phase.UNANSWERED
            elif self._phase is _Phase.UNANSWERED:
                self._phase = _Phase.SYNC
                if self._kept and self._flush_deaths < DEATHS:
                    return
            elif self._phase is _Phase.SYNC:
                self._phase = _Phase.SUSPECTS
            elif self._phase is _Phase.SUSPECTS and not any(request.suspect for request in self._waiting):
                self._phase = _Phase.SERVING
            else:
                return

    def _acknowledged(self, request: Request) -> None:
        self._clock += 1
        request.acknowledged = self._clock
        if request.number in self._kept:
            self._kept[request.number] = self._kept.pop(request.number)  # so that they stand in this order
        elif not (request.fua or self.write_through) or self._overwrites_kept(request):
            self._keep(request)
            self._store.acknowledge(request)
        else:
            self._release(request)

    def _overwrites_kept(self, request: Request) -> bool:
        """Whether a replay of kept writes would undo this one, which is on the medium already."""
        return any(request.touches(other) for other in self._kept.values())

    def _keep(self, request: Request) -> None:
        self._kept[request.number] = request
        self._kept_bytes += request.length if request.place is not None else 0

    def _failed(self, request: Request, error: int) -> None:
        """The device refused a modification. If it had acknowledged it once, the next flush has to tell."""
        if request.number in self._kept:
            self.lost.append(request)
            self._write_error = error
            self._drop(request)
        else:
            self._release(request)

    def _flushed(self, flush: Request, own: bool, error: int) -> int:
        """A failed flush releases nothing. Returns what is to be answered."""
        self._flushing -= 1
        if own or not error:
            self.flush_error = error
        if not error:
            self._flush_deaths = 0
            self._release_covered(flush.covers)
        if self._phase is _Phase.SYNC:
            self._phase = _Phase.SUSPECTS
        if not own and self._write_error:
            error, self._write_error = error or self._write_error, 0
        return error

    def _release_covered(self, covers: int) -> None:
        """Oldest number first: a supervisor that dies in the midst of it leaves nothing that newer data overwrote."""
        covered: list[Request] = []
        for request in self._kept.values():
            if request.acknowledged > covers:
                break
            covered.append(request)
        for request in sorted(covered, key=lambda each: each.number):
            self._drop(request)

    def _drop(self, request: Request) -> None:
        del self._kept[request.number]
        self._kept_bytes -= request.length if request.place is not None else 0
        self._release(request)

    def _release(self, request: Request) -> None:
        self._store.release(request)
        request.place = None
