"""Inside a lab machine: runs the command and carries its streams to the ports, to the last byte.

Standard library only. Threads, one for each stream: a reader that is slow on one must not hold up the others.
"""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from nooks.lab.machine.wire import CHUNK_BYTES, PORTS, Frames, Lines, line, port_name

LINGER_SECONDS = 0.5
"""How long the streams of a command that ended may stay silent, while something that it left has them open."""

NOT_FOUND, NOT_EXECUTABLE, SIGNALLED = 127, 126, 128


class Pump(threading.Thread):
    """Copies a descriptor of ours to a port and counts."""

    def __init__(self, source: int, port: BinaryIO) -> None:
        super().__init__(daemon=True)
        self.copied = 0
        self._source = source
        self._port = port
        self._writing = False

    def run(self) -> None:
        while True:
            try:
                data = os.read(self._source, CHUNK_BYTES)
            except OSError:  # a terminal that nobody has open any more (EIO)
                return
            if not data:
                return
            self._writing = True
            write(self._port.fileno(), data)
            self.copied += len(data)
            self._writing = False

    def finish(self) -> None:
        """Wait for the end, or for silence if something else keeps the stream open."""
        copied, since = self.copied, time.monotonic()
        while self.is_alive() and time.monotonic() - since < LINGER_SECONDS:
            self.join(0.02)
            if self._writing or self.copied != copied:
                copied, since = self.copied, time.monotonic()


def run(job: dict[str, Any]) -> None:
    """Run the job's command and tell its status."""
    ports = _open_ports()
    control = ports["control"].fileno()
    try:
        os.chdir(job["directory"])
    except OSError as error:
        write(control, line(event="failed", message=f"{job['directory']} is not there inside: {error.strerror}"))
        return
    terminal = pty.openpty() if job["terminal"] else None
    try:
        process, sources = _start(job, terminal)
    except OSError as error:
        status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        said = f"{job['argv'][0]}: {error.strerror}\n".encode()
        write(control, line(event="ready"))
        write(ports["stderr"].fileno(), said)
        write(control, line(event="exit", status=status, stdout=0, stderr=len(said)))
        return
    write(control, line(event="ready"))
    pumps = {kind: Pump(source, ports[kind]) for kind, source in sources.items()}
    for pump in pumps.values():
        pump.start()
    sink = terminal[0] if terminal else process.stdin.fileno() if process.stdin else -1
    threading.Thread(target=_feed, args=(ports["stdin"], process, sink), daemon=True).start()
    if terminal:
        threading.Thread(target=_resize, args=(ports["control"], terminal[0]), daemon=True).start()
    status = process.wait()
    for pump in pumps.values():
        pump.finish()
    os.sync()
    counts = {kind: pumps[kind].copied if kind in pumps else 0 for kind in ("stdout", "stderr")}
    write(control, line(event="exit", status=status if status >= 0 else SIGNALLED - status, **counts))


def _start(job: dict[str, Any], terminal: tuple[int, int] | None) -> tuple["subprocess.Popen[bytes]", dict[str, int]]:
    """The command, and the descriptors of what it says."""
    if terminal is None:
        pipe = subprocess.PIPE
        process = subprocess.Popen(job["argv"], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        assert process.stdout is not None
        assert process.stderr is not None
        return process, {"stdout": process.stdout.fileno(), "stderr": process.stderr.fileno()}
    master, slave = terminal
    set_size(master, *job["size"])

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(job["argv"], stdin=slave, stdout=slave, stderr=slave, preexec_fn=take_terminal)
    os.close(slave)
    return process, {"stdout": master}


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Set the window size of a terminal (tty_ioctl(4))."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _feed(port: BinaryIO, process: "subprocess.Popen[bytes]", sink: int) -> None:
    """Copy the input to the command; at its end close the command's, or type end-of-file into its terminal."""
    frames = Frames()
    try:
        while not frames.ended:
            data = os.read(port.fileno(), CHUNK_BYTES)
            if not data:
                break
            write(sink, frames.feed(data))
        if process.stdin is None:
            write(sink, b"\x04")
    except OSError:
        # The command closed its input. What still comes is read and dropped, so that nothing waits outside.
        with contextlib.suppress(OSError):
            while not frames.ended and (data := os.read(port.fileno(), CHUNK_BYTES)):
                frames.feed(data)
    finally:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def _resize(port: BinaryIO, terminal: int) -> None:
    lines = Lines()
    while data := os.read(port.fileno(), CHUNK_BYTES):
        for message in lines.feed(data):
            if message.get("event") == "size":
                set_size(terminal, int(message["rows"]), int(message["columns"]))


def _open_ports() -> dict[str, BinaryIO]:
    """The ports by their kinds; a port can be opened once at a time."""
    by_name = {
        (path / "name").read_text().strip(): Path("/dev", path.name)
        for path in Path("/sys/class/virtio-ports").iterdir()
        if (path / "name").exists()
    }
    return {kind: open(by_name[port_name(kind)], "r+b", buffering=0) for kind in PORTS}


def write(descriptor: int, data: bytes) -> None:
    """Write all of it."""
    while data:
        data = data[os.write(descriptor, data) :]
