"""A card of ours on its own: its process, for whoever attaches it to a machine by another way than a nook."""

import contextlib
import select
import socket
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

from nooks.device import model_process
from nooks.hardware.server import listen
from nooks.host.errors import NooksError
from nooks.host.process import spawn

END_SECONDS = 10.0


@contextlib.contextmanager
def powered(name: str, place: Path, ends: Mapping[str, int], serial: str = "") -> Generator[int, None, None]:
    """The card ``name`` (of ``device.model``) for the block, its vfio-user socket at ``place``; yields its process id.

    ``ends`` are descriptors of what it is connected to, as ``hardware.card`` calls them; ``serial`` decides a network
    card's address. Raises ProcessError, OSError, and NooksError if it does not end well when its control connection
    does.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs, listen(str(place)) as listener:
            descriptors = {"listener": listener.fileno(), "control": theirs.fileno(), **ends}
            process = spawn(
                model_process.command(name, descriptors, f"--serial={serial}"),
                pass_fds=list(descriptors.values()),
                stderr=sys.stderr.fileno(),
                new_session=True,
            )
        try:
            yield process.pid
            ours.close()
            ended, _, _ = select.select([process.pidfd], [], [], END_SECONDS)
            if not ended or process.returncode:
                raise NooksError(f"the device model {name} {'failed' if ended else 'does not end'}", "see its output")
        finally:
            process.kill_now()
            place.unlink(missing_ok=True)
