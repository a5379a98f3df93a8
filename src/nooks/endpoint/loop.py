"""A loop device on an open file, whose I/O bypasses the host's page cache.

Whoever serves the file must never wait for the device in the kernel: killed meanwhile, it could not end, and nobody
could take over. So it never opens the device; programs of their own do what has to be done (losetup, blockdev).
"""

import os
from pathlib import Path

from nooks.host.errors import MachineError, NooksError
from nooks.host.process import ProcessError, run

CONTROL = Path("/dev/loop-control")
_SYSFS = Path("/sys/block")
_SECONDS = 60.0


class LoopDevice:
    """A loop device at ``path``, on the file called ``name``."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._name = name

    @classmethod
    def create(cls, file: int, name: str, *, sector_bytes: int, read_only: bool) -> "LoopDevice":
        """Lay a free loop device on ``file``, which is called ``name``. Reads partitions. Raises MachineError."""
        options = ["--show", "--direct-io=on", "--partscan", f"--sector-size={sector_bytes}"]
        if read_only:
            options.append("--read-only")
        try:
            made = run(["losetup", *options, "--find", f"/proc/{os.getpid()}/fd/{file}"], timeout_seconds=_SECONDS)
        except ProcessError as error:
            raise MachineError(f"no loop device can be made: {error.message}", "modprobe loop") from None
        return cls(Path(made.stdout.strip()), name)

    @property
    def is_ours(self) -> bool:
        """Whether the device still is on that file: somebody may have detached it, and laid it on another one."""
        try:
            backing = (_SYSFS / self.path.name / "loop/backing_file").read_text().strip()
        except OSError:
            return False
        return Path(backing.removesuffix(" (deleted)")).name == self._name

    def flush(self, within_seconds: float) -> None:
        """Have the driver write what the host's page cache holds of the device, and forget it. Raises ProcessError."""
        run(["blockdev", "--flushbufs", str(self.path)], timeout_seconds=within_seconds)

    def resized(self) -> None:
        """The file has another size, and perhaps other content. Raises ProcessError."""
        run(["losetup", str(self.path)], timeout_seconds=_SECONDS)  # has the kernel ask for the size (LOOP_GET_STATUS)
        run(["losetup", "--set-capacity", str(self.path)], timeout_seconds=_SECONDS)
        self.flush(_SECONDS)

    def detach(self) -> None:
        """Take it off its file, at the latest when the last of its users closes it. Raises ProcessError."""
        if self.is_ours:
            try:
                run(["losetup", "--detach", str(self.path)], timeout_seconds=_SECONDS)
            except NooksError:
                if self.is_ours:
                    raise
