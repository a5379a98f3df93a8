"""What the host's scheduler gave a domain's threads: how long the virtual CPU ran, and how long it waited for a core.

Reads /proc/PID/task/TID/schedstat: nanoseconds on a core, nanoseconds on a run queue, time slices
(Linux Documentation/scheduler/sched-stats.rst).
"""

import os
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class VcpuTimes:
    """Seconds since the thread began; all three only grow.

    ``main_wait_seconds`` is QEMU's main thread's wait for a core: it carries the heartbeat out of the domain and may
    hold the big lock for which the virtual CPU sleeps, so while it is starved the domain can't be blamed.
    """

    run_seconds: float
    wait_seconds: float
    main_wait_seconds: float = 0.0


class VcpuClock:
    """Reads one domain's VcpuTimes from descriptors that stay open, some microseconds each time.

    Args:
        pid: the QEMU process, whose id is also its main thread's.
        vcpu_tid: the virtual CPU's thread, as QMP's ``query-cpus-fast`` names it (``thread-id``).

    Raises OSError if there is no such thread.
    """

    def __init__(self, pid: int, vcpu_tid: int) -> None:
        self._vcpu = os.open(f"/proc/{pid}/task/{vcpu_tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._main = os.open(f"/proc/{pid}/task/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._vcpu)
            raise

    def read(self) -> VcpuTimes | None:
        """The times now; None when the thread is gone or this kernel keeps no such statistics."""
        try:
            vcpu = os.pread(self._vcpu, 96, 0).split()
            main = os.pread(self._main, 96, 0).split()
        except OSError:
            return None
        if len(vcpu) < 2 or len(main) < 2 or vcpu[0] == b"0":
            return None
        return VcpuTimes(int(vcpu[0]) / 1e9, int(vcpu[1]) / 1e9, int(main[1]) / 1e9)

    def close(self) -> None:
        """Release the descriptors; once more does no harm."""
        for descriptor in (self._vcpu, self._main):
            if descriptor >= 0:
                os.close(descriptor)
        self._vcpu = self._main = -1

    def __enter__(self) -> "VcpuClock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
