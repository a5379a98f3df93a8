"""What the tests of endpoints share: a namespace, a TAP in it, and commands run there."""

import fcntl
import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nooks.endpoint import netns
from nooks.endpoint.tap import TapEndpoint

needs_tap = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun"
)

CSUM, TSO4, TSO6, USO = 0x1, 0x2, 0x4, 0x60
MAC = "02:00:00:00:07:01"
PEER_MAC = "02:00:00:00:07:02"
_TUNSETOFFLOAD = 0x400454D0


def open_descriptors() -> set[str]:
    """The numbers of this process's open descriptors."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@contextmanager
def new_namespace() -> Generator[int]:
    """A namespace of the test's own; at the end no descriptor more is open than before."""
    before = open_descriptors()
    fd = netns.empty_netns()
    yield fd
    os.close(fd)
    assert open_descriptors() <= before


def command(namespace: int, *argv: str) -> str:
    """Run a program in the namespace; its output."""
    done = subprocess.run(
        ["nsenter", f"--net=/proc/self/fd/{namespace}", *argv],
        pass_fds=[namespace],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def offload(tap: TapEndpoint, flags: int) -> None:
    """Set a TAP's offloads as QEMU does when the virtio driver in the domain negotiated them."""
    fcntl.ioctl(tap.queue_fds[0], _TUNSETOFFLOAD, flags)


def ready(namespace: int, tap: TapEndpoint) -> None:
    """Up, with an address, a known neighbour, and no chatter of IPv6."""
    command(namespace, "sysctl", "-qw", f"net.ipv6.conf.{tap.name}.disable_ipv6=1")
    tap.configure(["192.0.2.1/24"], up=True)
    command(namespace, "ip", "neigh", "add", "192.0.2.2", "lladdr", PEER_MAC, "dev", tap.name)
    tap.drain(0)
