"""Process 1 of a lab machine: sets up what an operating system would, runs the session, reaps orphans.

Standard library only. It never ends by itself: whoever started the lab ends it, once the session told its status.
If the session dies the kernel panics, and the console says why.
"""

import fcntl
import grp
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from nooks.lab.machine import coldplug, session
from nooks.lab.machine.wire import DEVICES, JOB

MODULES = ("kvm_amd", "vfio-pci", "tun", "virtio_net", "loop", "fuse", "sd_mod")
"""What a machine has loaded that does what nooks wants; the drivers of its cards come by their aliases, but that of
disks, which are found by a card's driver only later."""

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFNAME, _IFF_UP = 0x8913, 0x8914, 0x8923, 1
_JOB = Path("/run/nooks-lab") / Path(JOB).name


def main() -> None:
    """Be process 1."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    job: dict[str, Any] = json.loads(_JOB.read_text())
    os.environ.clear()
    os.environ |= job["environment"]
    child = os.fork()
    if child == 0:
        _run_session(job)
    while True:
        pid, status = os.wait()
        if pid == child:
            os.sync()
            # Process 1 ends, the kernel panics, QEMU ends: nobody waits for a lab without a session.
            sys.exit(f"nooks lab: the session ended with status {os.waitstatus_to_exitcode(status)}")


def _run_session(job: dict[str, Any]) -> None:
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        prepare(job)
        session.run(job)
        status = 0
        while True:  # until we are killed from outside
            time.sleep(3600)
    except BaseException as error:
        with open("/dev/console", "w") as console:
            print(f"nooks lab: {type(error).__name__}: {error}", file=console, flush=True)
        raise
    finally:
        os._exit(status)


def prepare(job: dict[str, Any]) -> None:
    """Make the machine what its command expects: names, groups, modules, interfaces, devices.json."""
    socket.sethostname(job["hostname"])
    _limit()
    _control_groups()
    _up("lo")
    coldplug.modprobe(MODULES)
    _open_kvm()
    layout: list[dict[str, Any]] = job["layout"]
    coldplug.load_drivers(layout)
    for device in layout:
        if device["wire"] is not None:
            _rename(coldplug.interface(device["wire_mac"]), device["wire"])
    Path(DEVICES).write_text(json.dumps([coldplug.described(device) for device in layout], indent=1) + "\n")


def _limit() -> None:
    """As systemd has it by default: many descriptors for those that ask."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 524288))


def _control_groups() -> None:
    """Controllers for everybody, and a group of its own for the session, as a login has it."""
    root = Path("/sys/fs/cgroup")
    available = (root / "cgroup.controllers").read_text().split()
    (root / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in available))
    own = root / "session"
    own.mkdir()
    (own / "cgroup.procs").write_text(str(os.getpid()))


def _open_kvm() -> None:
    """What udev's rules do: the group kvm may use it."""
    device = Path("/dev/kvm")
    if not device.exists():
        return
    try:
        os.chown(device, 0, grp.getgrnam("kvm").gr_gid)
        device.chmod(0o660)
    except KeyError:
        device.chmod(0o666)


def _up(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", interface.encode(), 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", interface.encode(), flags | _IFF_UP))


def _rename(interface: str, name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFNAME, struct.pack("16s16s", interface.encode(), name.encode()))
