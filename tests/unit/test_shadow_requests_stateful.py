"""Random lives of a disk whose cache forgets: what was acknowledged is read back, whatever dies when."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nooks.shadow.requests import Answer, Bounds, Request, RequestLog
from nooks.xpc.block import FLUSH, READ, WRITE, ZERO

BLOCKS = 4
BOUNDS = Bounds(kept_bytes=9, kept_requests=6)
extents = st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 4)).map(
    lambda pair: (pair[0], min(pair[1], BLOCKS - pair[0]))
)
subsets = st.sets(st.integers(0, BLOCKS - 1))


class FakeStore:
    """Keeps tokens in place of data; knows what a new supervisor would find."""

    def __init__(self) -> None:
        self.kept: dict[int, Request] = {}

    def acknowledge(self, request: Request) -> None:
        assert request.number not in self.kept
        self.kept[request.number] = request

    def release(self, request: Request) -> None:
        self.kept.pop(request.number, None)


class ForgetfulDisk:
    """A token a block. What no flush has covered, the cache may forget when its domain dies.

    Each block has the number of the write that it comes from: nothing older ever replaces something newer.
    """

    def __init__(self) -> None:
        self.medium = [(0, 0)] * BLOCKS
        self.cache: dict[int, tuple[int, int]] = {}
        self.writes = 0

    def read(self, block: int) -> int:
        return self.cache.get(block, self.medium[block])[1]

    def write(self, block: int, token: int, *, through: bool) -> None:
        self.writes += 1
        self.cache[block] = (self.writes, token)
        if through:
            self.flush(self.cache, {block})

    def flush(self, cached: dict[int, tuple[int, int]], blocks: set[int]) -> None:
        """Only what was in the cache when it was asked for has to reach the medium."""
        for block in blocks & set(cached):
            self.medium[block] = max(self.medium[block], cached[block])
            if self.cache.get(block, (0, 0)) <= self.medium[block]:
                self.cache.pop(block, None)

    def die(self, kept: set[int]) -> None:
        """Of the cache only ``kept`` blocks had reached the medium by themselves."""
        self.flush(dict(self.cache), kept)
        self.cache.clear()


class DiskMachine(RuleBasedStateMachine):
    """``content``: what a read of each block may bring: the last acknowledged token, more if something failed."""

    def __init__(self) -> None:
        super().__init__()
        self.store = FakeStore()
        self.disk = ForgetfulDisk()
        self.log = RequestLog(self.store, bounds=BOUNDS)
        self.content: list[set[int]] = [{0} for _ in range(BLOCKS)]
        self.asked: dict[int, Request] = {}
        self.cached: dict[int, dict[int, tuple[int, int]]] = {}
        self.handles = 0
        self.log.replay()
        self.serving = True
        self.untold = False
        """A flush has yet to tell that something acknowledged was refused later."""

    # -- what applications do ----------------------------------------------------------------------------------

    def ask(self, operation: int, offset: int = 0, length: int = 0, *, fua: bool = False) -> None:
        self.handles += 1
        place = self.handles if operation == WRITE else None
        request = Request(operation, offset, length, handle=self.handles, fua=fua, place=place)
        self.asked[self.handles] = request
        self.log.add(request)

    @rule(extent=extents, fua=st.booleans())
    def write(self, extent: tuple[int, int], fua: bool) -> None:
        self.ask(WRITE, *extent, fua=fua)

    @rule(extent=extents)
    def read(self, extent: tuple[int, int]) -> None:
        self.ask(READ, *extent)

    @rule(extent=extents)
    def zero(self, extent: tuple[int, int]) -> None:
        self.ask(ZERO, *extent)

    @rule()
    def flush(self) -> None:
        self.ask(FLUSH)

    # -- what the driver does ----------------------------------------------------------------------------------

    @rule(most=st.integers(1, 6))
    def driver_takes(self, most: int) -> None:
        for _ in range(most):
            request = self.log.take()
            if request is None:
                return
            if request.operation == FLUSH:
                self.cached[request.number] = dict(self.disk.cache)
            others = [other for other in self.log.issued if other is not request]
            assert not any(request.touches(other) for other in others)
            if request.modifies:
                assert not any(self.waits_before(request, other) for other in self.asked.values())

    def waits_before(self, request: Request, other: Request) -> bool:
        return other.number < request.number and other.touches(request) and not self.log.is_issued(other.number)

    def apply(self, request: Request, blocks: set[int] | None = None) -> None:
        if request.operation == FLUSH:
            self.disk.flush(self.cached.pop(request.number), set(range(BLOCKS)))
        elif request.modifies:
            token = 0 if request.operation == ZERO else request.place
            assert token is not None, "its data were given up"
            for block in range(request.offset, request.end):
                if blocks is None or block in blocks:
                    self.disk.write(block, token, through=request.fua)

    @rule(most=st.integers(1, 12))
    def driver_works(self, most: int) -> None:
        for _ in range(most):
            self.driver_takes(8)
            if not list(self.log.issued):
                return
            self.driver_answers(most, 0)

    @precondition(lambda self: any(True for _ in self.log.issued))
    @rule(choice=st.integers(0, 100), error=st.sampled_from([0, 0, 5]))
    def driver_answers(self, choice: int, error: int) -> None:
        issued = list(self.log.issued)
        request = issued[choice % len(issued)]
        token = 0 if request.operation == ZERO else request.place
        if not error:
            self.apply(request)
        self.settle(self.log.finish(request.number, error), token)

    def settle(self, answer: Answer, token: Any) -> None:  # noqa: ANN401
        request, handle, error = answer
        for lost in self.log.lost:
            self.untold = True
            self.doubt(lost)
        self.log.lost.clear()
        if handle is None:
            return
        del self.asked[handle]
        if request.operation == FLUSH:
            assert not self.untold or error, "a flush must tell that something acknowledged was lost"
            self.untold = False
        elif error:
            self.doubt(request, token)
        elif request.operation == READ:
            for block in range(request.offset, request.end):
                assert self.disk.read(block) in self.content[block]
        else:
            for block in range(request.offset, request.end):
                self.content[block] = {token}

    def doubt(self, request: Request, token: int | None = None) -> None:
        """The device refused it, so that these blocks may hold anything of late."""
        if not request.modifies:
            return
        for block in range(request.offset, request.end):
            everything = {0, *range(1, self.handles + 1)}
            self.content[block] = everything if token is None else self.content[block] | {token}

    # -- what dies ---------------------------------------------------------------------------------------------

    def crash(self, kept: set[int], applied: set[int]) -> None:
        for request in list(self.log.issued):
            self.apply(request, applied) if request.modifies else None
        self.disk.die(kept)

    @precondition(lambda self: self.serving)
    @rule(kept=subsets, applied=subsets, counts=st.booleans())
    def driver_dies(self, kept: set[int], applied: set[int], counts: bool) -> None:
        self.crash(kept, applied)
        before = list(self.log.issued)
        tokens = {request.number: request.place for request in before}
        failed = self.log.lose(counts=counts)
        assert len(failed) <= (1 if counts and len(before) == 1 else 0)
        for answer in failed:
            self.settle(answer, 0 if answer.request.operation == ZERO else tokens[answer.request.number])
        self.serving = False

    @precondition(lambda self: not self.serving)
    @rule()
    def driver_comes(self) -> None:
        self.log.replay()
        self.serving = True

    @rule(kept=subsets, applied=subsets, driver_too=st.booleans())
    def supervisor_dies(self, kept: set[int], applied: set[int], driver_too: bool) -> None:
        """The next one finds what was kept, and is asked again for what had no answer."""
        if driver_too:
            self.crash(kept, applied)
        else:
            for request in list(self.log.issued):
                self.apply(request)
        left = [
            (each.number, Request(each.operation, each.offset, each.length, fua=each.fua, place=each.place))
            for each in self.store.kept.values()
        ]
        asked, self.asked = self.asked, {}
        self.store = FakeStore()
        for number, request in left:
            request.number = number
            self.store.kept[number] = request
        self.log = RequestLog(self.store, list(self.store.kept.values()), BOUNDS)
        self.untold = False  # only the driver's life long
        self.serving = False
        for handle, old in asked.items():
            again = Request(old.operation, old.offset, old.length, handle=handle, fua=old.fua, place=old.place)
            self.asked[handle] = again
            self.log.add(again)

    @precondition(lambda self: not self.serving)
    @rule()
    def nobody_comes(self) -> None:
        tokens = {number: request.place for number, request in self.asked.items()}
        for answer in self.log.give_up():
            self.settle(answer, 0 if answer.request.operation == ZERO else tokens[answer.handle])
        assert not self.asked

    @precondition(lambda self: self.serving)
    @rule(error=st.sampled_from([0, 5]))
    def flush_comes_to_an_end(self, error: int) -> None:
        self.run_dry()
        self.flush()
        self.driver_takes(1)
        self.driver_answers(0, error)

    @precondition(lambda self: self.serving)
    @rule(kept=subsets, applied=subsets)
    def driver_is_replaced(self, kept: set[int], applied: set[int]) -> None:
        self.driver_dies(kept, applied, counts=True)
        self.driver_comes()
        self.run_dry()
        self.compare()

    # -- what holds --------------------------------------------------------------------------------------------

    @invariant()
    def counts_agree(self) -> None:
        assert self.log.kept == len(self.store.kept)
        places = [each.length for each in self.store.kept.values() if each.place is not None]
        assert self.log.kept_bytes == sum(places)

    def teardown(self) -> None:
        """Whatever state it is in: it comes to rest, a flush covers all, and then nothing is forgotten."""
        if not self.serving:
            self.driver_comes()
        self.run_dry()
        self.flush()
        self.run_dry()
        assert not self.asked
        assert self.log.kept == 0
        self.disk.die(set())
        self.compare()

    def compare(self) -> None:
        """With nothing outstanding, the disk has what was acknowledged."""
        for block in range(BLOCKS):
            assert self.disk.read(block) in self.content[block]

    def run_dry(self) -> None:
        for _ in range(10_000):
            self.driver_takes(8)
            if not list(self.log.issued):
                return
            self.driver_answers(0, 0)
        raise AssertionError("it does not come to rest")


DiskMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
test_a_disk_whose_cache_forgets = DiskMachine.TestCase
