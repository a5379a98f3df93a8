"""Finding the virtio-serial ports by name. There is no udev here; devtmpfs makes the nodes."""

import os
import time

_PORTS = "/sys/class/virtio-ports"


def find_port(name: str, timeout_seconds: float) -> str:
    """The device node of the port called ``name``. Raises OSError if it does not appear in time.

    The kernel adds ports from a work queue some milliseconds after virtio_console was inserted.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        for port in _list(_PORTS):
            if _first_line(f"{_PORTS}/{port}/name") == name:
                return f"/dev/{port}"
        if time.monotonic() > deadline:
            raise OSError(19, "no such virtio-serial port", name)
        time.sleep(0.001)


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - pathlib costs too much here
    except FileNotFoundError:
        return []


def _first_line(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""  # not yet named
    try:
        return os.read(descriptor, 256).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
