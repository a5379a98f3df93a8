"""The host endpoint of block nooks over memory, without a driver: the limit of what a nook could reach.

Says the block device's path in a JSON line, and serves it until SIGTERM.
"""

import argparse
import mmap
import select
import signal
import threading
from typing import get_args

from nooks.endpoint.disk import Kind, kind, make
from nooks.endpoint.front import Front, FrontGone
from nooks.lab.meter import say
from nooks.xpc.block import READ, REQUEST_BYTES_MAX, WRITE


class RamDisk:
    """Answers the endpoint's requests from memory, with the one copy that safety needs for each."""

    def __init__(self, front: Front, size_bytes: int) -> None:
        self._front = front
        self._data = memoryview(mmap.mmap(-1, size_bytes))
        self._space = memoryview(bytearray(REQUEST_BYTES_MAX))

    def serve(self) -> None:
        """Until the endpoint is gone."""
        poll = select.epoll()
        poll.register(self._front.fileno(), select.EPOLLIN)
        try:
            while True:
                self._front.settle()
                poll.poll()
                while self._one():
                    pass
        except (FrontGone, ValueError):
            return

    def _one(self) -> bool:
        arrival = self._front.receive(self._space)
        if arrival is None:
            return False
        operation, offset, length, _, handle = arrival
        data = None
        if operation == WRITE:
            self._data[offset : offset + length] = self._space[:length]
        elif operation == READ:
            data = self._data[offset : offset + length]
        self._front.answer(handle, 0, data)
        return True


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="nooks.lab.disk.ram_disk")
    parser.add_argument("--name", required=True)
    parser.add_argument("--size-bytes", type=int, required=True)
    parser.add_argument("--endpoint", choices=get_args(Kind), help="without it the one that a nook's disk gets here")
    options = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    disk = make(options.endpoint or kind(), options.name, options.size_bytes, read_only=False)
    try:
        threading.Thread(target=RamDisk(disk.front, options.size_bytes).serve, daemon=True).start()
        disk.publish(options.name, 512)
        say({"event": "ready", "path": str(disk.path)})
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        disk.withdraw()
    finally:
        disk.close()


if __name__ == "__main__":
    main()
