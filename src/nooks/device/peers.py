"""Whom this machine must not lose: the addresses that logins, network file systems and network disks come from.

Needs no utmp, which today's systems no longer write: it looks at the environment that sshd gives (also of the
processes above this one, since sudo drops it) and at the established connections of login servers. Reads only.
Sources: ssh(1), proc_pid_stat(5), Documentation/networking/proc_net_tcp.rst.
"""

import ipaddress
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from nooks.device import usage
from nooks.device.sysfs import HOST, Sysfs

LOGIN_SERVERS = frozenset({"sshd", "sshd-session", "sshd-auth", "dropbear", "telnetd", "in.telnetd", "rlogind"})
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse.sshfs", "fuse.glusterfs", "afs"})

_ESTABLISHED, _LISTENING = 0x01, 0x0A
_VARIABLES = ("SSH_CONNECTION", "SSH_CLIENT")
_ANCESTORS_MAX = 64
_ADDRESS_OPTION = re.compile(r"(?:^|,)(?:addr|mon_addr)=([^,/]+)")
_SESSION = re.compile(r"/session([0-9]+)/")


@dataclass(frozen=True)
class Peer:
    """``address`` is the other side's, ``local`` ours if it is known; ``what`` we would lose; ``root`` is on it."""

    address: str
    what: str
    local: str = ""
    root: bool = False


@dataclass(frozen=True)
class Connection:
    """One line of /proc/net/tcp or tcp6."""

    local: str
    local_port: int
    remote: str
    state: int
    inode: int


def logins(sysfs: Sysfs = HOST, pid: int | None = None) -> list[Peer]:
    """Where this session and every login over the network come from. ``pid``: whose ancestors to ask, None: ours."""
    found = [*_from_environments(sysfs, os.getpid() if pid is None else pid), *_from_servers(sysfs)]
    return list({peer.address: peer for peer in reversed(found)}.values())[::-1]


def storage(sysfs: Sysfs = HOST) -> list[Peer]:
    """The servers of mounted network file systems, and of network disks that are in use (iSCSI)."""
    found: list[Peer] = []
    for mount in usage.mounts(sysfs):
        if mount.kind in NETWORK_FILE_SYSTEMS:
            address = _server(mount)
            if address:
                where = "the root file system" if mount.point == "/" else f"{mount.point} ({mount.kind})"
                found.append(Peer(address, where, root=mount.point == "/"))
    return found + list(_network_disks(sysfs))


def parse_tcp(text: str) -> list[Connection]:
    """The connections of /proc/net/tcp or tcp6; lines of another form are left out."""
    found: list[Connection] = []
    for line in text.splitlines():
        words = line.split()
        try:
            (local, port), remote = words[1].split(":"), words[2].partition(":")[0]
            state, inode = int(words[3], 16), int(words[9])
            found.append(Connection(_address(local), int(port, 16), _address(remote), state, inode))
        except (ValueError, IndexError):
            continue
    return found


def plain(address: str) -> str:
    """An address in its usual form, IPv4 for one that is mapped into IPv6. Raises ValueError."""
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _address(text: str) -> str:
    """The kernel writes an address as 32-bit words of the processor's byte order."""
    words = [int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8)]
    return plain(str(ipaddress.ip_address(b"".join(words))))


def _from_environments(sysfs: Sysfs, pid: int) -> Iterator[Peer]:
    for _ in range(_ANCESTORS_MAX):
        if pid <= 0:
            return
        for entry in (sysfs.text(sysfs.at("proc", str(pid), "environ")) or "").split("\0"):
            name, _, value = entry.partition("=")
            words = value.split()
            if name in _VARIABLES and words and _is_address(words[0]):
                local = words[2] if len(words) == 4 and _is_address(words[2]) else ""
                yield Peer(plain(words[0]), "this login", local and plain(local))
        pid = _parent(sysfs.text(sysfs.at("proc", str(pid), "stat")) or "")


def _parent(stat: str) -> int:
    """The parent's process id; the name in front of it, in parentheses, may contain anything."""
    words = stat.rpartition(")")[2].split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _from_servers(sysfs: Sysfs) -> Iterator[Peer]:
    for pid in filter(str.isdigit, sysfs.names(sysfs.at("proc"))):
        place = sysfs.at("proc", pid)
        if sysfs.text(place / "comm") not in LOGIN_SERVERS:
            continue
        inodes = _sockets(sysfs, pid)
        tables = (parse_tcp(sysfs.text(place / "net" / name) or "") for name in ("tcp", "tcp6"))
        connections = [connection for table in tables for connection in table]
        ports = {connection.local_port for connection in connections if connection.state == _LISTENING}
        for connection in connections:
            # A connection to a port that nobody listens on is one that sshd forwards.
            mine = connection.inode in inodes and connection.local_port in ports
            if mine and connection.state == _ESTABLISHED:
                yield Peer(connection.remote, "a login", connection.local)


def _sockets(sysfs: Sysfs, pid: str) -> set[int]:
    folder = sysfs.at("proc", pid, "fd")
    found: set[int] = set()
    for name in sysfs.names(folder):
        try:
            link = str((folder / name).readlink())
        except OSError:
            continue
        if link.startswith("socket:["):
            found.add(int(link[len("socket:[") : -1]))
    return found


def _server(mount: usage.Mount) -> str | None:
    """The server's address: from the options, where the kernel puts it, or the source's host part if it is one."""
    match = _ADDRESS_OPTION.search(mount.options)
    host = match[1] if match else mount.source.lstrip("/").partition("/")[0].rpartition("@")[2]
    for candidate in (host, host.rpartition(":")[0].strip("[]"), host.partition(":")[0]):
        if _is_address(candidate):
            return plain(candidate)
    return None


def _network_disks(sysfs: Sysfs) -> Iterator[Peer]:
    place = sysfs.at("sys/class/iscsi_connection")
    addresses: dict[str, str] = {}
    for name in sysfs.names(place):
        session = name.removeprefix("connection").partition(":")[0]
        address = sysfs.text(place / name / "address") or ""
        if _is_address(address):
            addresses[session] = plain(address)
    for disk in sysfs.names(sysfs.at("sys/class/block")) if addresses else ():
        match = _SESSION.search(str(sysfs.target(sysfs.at("sys/class/block", disk)) or ""))
        partition = sysfs.at("sys/class/block", disk, "partition").exists()
        if match and match[1] in addresses and not partition:
            root = any(mount.point == "/" for _, mount in usage.mounted(disk, sysfs))
            yield Peer(addresses[match[1]], f"the disk {disk} (iSCSI)", root=root)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
