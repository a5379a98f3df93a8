"""Addresses of unix sockets, of any length."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_PATH_BYTES_MAX = 107
"""sun_path holds 108 bytes with the final zero (unix(7))."""


@contextmanager
def socket_address(path: Path) -> Generator[str]:
    """An address for bind or connect that stands for ``path``, however long that is.

    Raises OSError if the directory of ``path`` is not there.
    """
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
