"""User-mode networking for a wire: slirp4netns in the wire's private namespace, bridged to the wire's TAP.

A process of its own, so that the cable outlives domains and supervisors. The host's interface finds a network
10.0.2.0/24 with gateway 10.0.2.2, DNS 10.0.2.3 and DHCP there (slirp4netns(1)). The host's loopback addresses cannot
be reached through it.
"""

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from nooks.endpoint import netns
from nooks.endpoint.interface import Interface
from nooks.host import process
from nooks.host.errors import MachineError

PROGRAM = "slirp4netns"
TAP = "slirp0"
BRIDGE = "bridge0"
READY_SECONDS = 10.0
END_SECONDS = 5.0


@dataclass
class Slirp:
    """A running slirp4netns: it ends when nobody holds ``exit_fd`` any more."""

    pidfd: int
    exit_fd: int
    child: process.Process | None

    async def close(self) -> None:
        """End it and reap it. Raises ReapError."""
        os.close(self.exit_fd)
        if not await process.wait_readable(self.pidfd, END_SECONDS):
            await process.kill(self.pidfd, within_seconds=END_SECONDS)
        if self.child is None:
            os.close(self.pidfd)
            return
        await self.child.kill(within_seconds=END_SECONDS)
        self.child.close()


def prepare(namespace: int) -> None:
    """Have the interfaces that will be made in the namespace send nothing of their own."""
    with netns.entered(namespace):
        for scope in ("all", "default"):
            setting = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
            if setting.exists():
                setting.write_text("1")


async def start(namespace: int, wire: str) -> Slirp:
    """Start slirp4netns in the namespace with this descriptor and join it to the interface ``wire`` there.

    Raises MachineError if it is not installed or does not come up.
    """
    exit_fd_theirs, exit_fd = os.pipe2(os.O_CLOEXEC)
    ready, ready_theirs = os.pipe2(os.O_CLOEXEC)
    try:
        slirp = _spawn(namespace, exit_fd_theirs, exit_fd, ready_theirs)
    except BaseException:
        os.close(exit_fd)
        os.close(ready)
        raise
    finally:
        os.close(exit_fd_theirs)
        os.close(ready_theirs)
    try:
        if not await process.wait_readable(ready, READY_SECONDS) or not os.read(ready, 1):
            raise MachineError(f"{PROGRAM} did not come up", f"try it: {PROGRAM} --help")
        await asyncio.to_thread(_join, namespace, wire)
    except BaseException:
        await slirp.close()
        raise
    finally:
        os.close(ready)
    return slirp


def _spawn(namespace: int, exit_fd_theirs: int, exit_fd: int, ready: int) -> Slirp:
    command = [
        # Its sandbox unmounts everything; without a mount namespace of its own that would reach the host's named
        # network namespaces, whose directory is a shared mount.
        *("unshare", "--mount", "--propagation=private", "--"),
        PROGRAM,
        "--disable-host-loopback",
        "--enable-sandbox",
        "--enable-seccomp",
        f"--exit-fd={exit_fd_theirs}",
        f"--ready-fd={ready}",
        "--netns-type=path",
        f"/proc/self/fd/{namespace}",
        TAP,
    ]
    if shutil.which(PROGRAM) is None:
        raise MachineError(f"the wire 'user' needs {PROGRAM}", f"apt-get install {PROGRAM}")
    child = process.spawn(command, pass_fds=[namespace, exit_fd_theirs, ready], new_session=True)
    return Slirp(child.pidfd, exit_fd, child)


def _join(namespace: int, wire: str) -> None:
    """A bridge with both as its ports; it has no addresses of its own."""
    bridge = Interface(lambda: BRIDGE, namespace)
    try:
        bridge.make_bridge()
        for name in (TAP, wire):
            port = Interface(lambda name=name: name, namespace)
            try:
                bridge.add_port(port.index)
                port.up = True
            finally:
                port.close()
        bridge.up = True
    except OSError as error:
        raise MachineError(f"cannot bridge the wire to {PROGRAM}: {error.strerror}", "modprobe bridge") from None
    finally:
        bridge.close()
