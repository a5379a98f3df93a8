"""What /proc shows of other processes, of those that change meanwhile and of those that are gone."""

import os
import socket
import subprocess

from nooks.host import proc


def test_the_sockets_of_a_process_are_told_though_it_opens_and_closes_others() -> None:
    """To list our own descriptors takes one, which is gone when its entry is read."""
    with socket.socket() as one:
        inode = str(os.fstat(one.fileno()).st_ino)
        assert inode in proc.open_sockets(os.getpid())
    assert inode not in proc.open_sockets(os.getpid())


def test_a_process_is_seen_with_its_parent_its_user_and_its_words() -> None:
    with subprocess.Popen(["sleep", "300"], env={"A": "b"}) as process:
        while not proc.command_line(process.pid):
            pass
        seen = proc.name_of(process.pid), proc.command_line(process.pid), proc.environment(process.pid)
        assert seen == ("sleep", ["sleep", "300"], b"A=b\0")
        assert (proc.parent_of(process.pid), proc.user_of(process.pid)) == (os.getpid(), os.geteuid())
        assert process.pid in proc.all_pids()
        assert proc.runs_a_program(process.pid)
        process.kill()
    pid = process.pid
    assert (proc.name_of(pid), proc.command_line(pid), proc.environment(pid)) == ("", [], b"")
    assert (proc.parent_of(pid), proc.user_of(pid), proc.open_sockets(pid)) == (0, None, set())
    assert not proc.runs_a_program(pid)
