"""Threads that are bound to one of the host's processors."""

import os
import threading

from nooks.host import processors


def test_a_name_has_one_processor_that_we_may_use() -> None:
    assert {processors.one_for("eth0") for _ in range(3)} <= os.sched_getaffinity(0)
    assert {processors.one_for(f"nook{number}") for number in range(64)} == os.sched_getaffinity(0)


def test_threads_are_bound_and_the_others_are_not() -> None:
    processor = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    numbers: list[int] = []
    go = threading.Event()

    def live() -> None:
        numbers.append(threading.get_native_id())
        go.wait()

    thread = threading.Thread(target=live)
    thread.start()
    while not numbers:
        pass
    try:
        processors.bind([*numbers, 1 << 22], processor)
        assert os.sched_getaffinity(numbers[0]) == {processor}
        assert os.sched_getaffinity(0) == before
    finally:
        go.set()
        thread.join()
