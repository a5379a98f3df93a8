"""The heartbeat: a process of its own, real-time, which says every 75 ms that this kernel still schedules.

A process and not a thread, so that nothing that the agent is blocked in can hold it up (CPython keeps its
global lock during ioctls with large buffers, for one). It must stay cheap: an idle domain does little else.
"""

import os
import select
import sys
from binascii import crc32

from nooks.agent.system import make_real_time
from nooks.xpc.wire import HEADER, HEARTBEAT, MAGIC, VERSION

INTERVAL_MS = 75
BEATS_PER_COUNTERS = 3
PRIORITY = 50
_PLAIN = b"{}"
_PLAIN_CRC = crc32(_PLAIN)


class Heartbeat:
    """The agent's handle on its heartbeat process."""

    def __init__(self, port: str, interval_ms: int = INTERVAL_MS, real_time: bool = True) -> None:
        """Start beating on the virtio-serial port node ``port``. Raises OSError."""
        orders, self._orders = os.pipe2(os.O_CLOEXEC)
        self.process_id = os.fork()
        if self.process_id == 0:
            try:
                os.close(self._orders)
                if real_time:
                    make_real_time(PRIORITY)
                descriptor = os.open(port, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                _Beater(descriptor, orders, interval_ms).run()
            except Exception:  # noqa: BLE001 - the console is all there is
                sys.__excepthook__(*sys.exc_info())  # type: ignore[arg-type]
            finally:
                os._exit(1)
        os.close(orders)

    def set_incarnation(self, incarnation: int) -> None:
        """Beats carry ``incarnation`` from now on; the first of them is sent at once."""
        os.write(self._orders, b"incarnation %d\n" % incarnation)

    def set_counters(self, paths: "dict[str, str]") -> None:
        """Counters to report, name to file (of one number each)."""
        for name, path in paths.items():
            os.write(self._orders, f"counter {name} {path}\n".encode())


class _Beater:
    def __init__(self, port: int, orders: int, interval_ms: int) -> None:
        self._interval_ms = interval_ms
        self._port = port
        self._orders = orders
        self._incarnation = 0
        self._sources: list[tuple[str, int]] = []

    def run(self) -> None:
        """Beat for ever; ends when the agent does."""
        poller = select.poll()
        poller.register(self._orders, select.POLLIN)
        poll, write, pack, port = poller.poll, os.write, HEADER.pack, self._port
        count = 0
        while True:
            count += 1
            body, checksum = _PLAIN, _PLAIN_CRC
            if count % BEATS_PER_COUNTERS == 0 and self._sources:
                body = self._counters()
                checksum = crc32(body)
            header = pack(MAGIC, VERSION, HEARTBEAT, count, self._incarnation, len(body), checksum)
            try:  # noqa: SIM105 - contextlib costs too much here
                write(port, header + body)
            except OSError:
                pass  # nobody reads just now: this beat is lost, and that is for the host to judge
            if poll(self._interval_ms) and not self._obey():
                return

    def _counters(self) -> bytes:
        try:
            values = ",".join([f'"{name}":{int(os.pread(file, 32, 0))}' for name, file in self._sources])
        except (OSError, ValueError):
            return _PLAIN  # the interface is going away
        return f'{{"counters":{{{values}}}}}'.encode()

    def _obey(self) -> bool:
        """Carry out the agent's orders; False if there is no agent any more."""
        orders = os.read(self._orders, 4096)
        for line in orders.decode().splitlines():
            order, _, rest = line.partition(" ")
            if order == "incarnation":
                self._incarnation = int(rest)
            elif order == "counter":
                name, _, path = rest.partition(" ")
                self._sources.append((name, os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
        return bool(orders)
