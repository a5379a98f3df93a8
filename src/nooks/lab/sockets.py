"""TCP connections as the kernel lists them (/proc/net/tcp, proc(5))."""

import socket
import sys
from pathlib import Path

_ESTABLISHED = "01"


def local_ports(peer: str, port: int, table: Path = Path("/proc/net/tcp")) -> set[int]:
    """The local ports of this namespace's established IPv4 connections to ``peer``:``port``."""
    address = int.from_bytes(socket.inet_aton(peer), sys.byteorder)
    wanted = f"{address:08X}:{port:04X}"
    rows = (line.split() for line in table.read_text().splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[2] == wanted and row[3] == _ESTABLISHED}
