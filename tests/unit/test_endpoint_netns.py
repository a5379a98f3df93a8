"""Namespaces: named, anonymous, entered; nothing left behind."""

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from endpoints import open_descriptors

from nooks.endpoint import netns
from nooks.host.errors import InputError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def here() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


def test_a_named_namespace_is_what_ip_netns_knows() -> None:
    name = f"nooks-test-{os.getpid()}"
    home = here()
    netns.make(name)
    try:
        assert here() == home
        assert netns.exists(name)
        assert name in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        inside = subprocess.run(
            ["ip", "netns", "exec", name, "readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True
        ).stdout.strip()
        assert inside != home
        fd = netns.open_named(name)
        with netns.entered(fd):
            assert here() == inside
        os.close(fd)
        with pytest.raises(InputError, match="exists already"):
            netns.make(name)
    finally:
        netns.remove(name)
    netns.remove(name)
    assert not netns.exists(name)
    assert name not in Path("/proc/self/mountinfo").read_text()
    with pytest.raises(InputError, match="there is no network namespace"):
        netns.open_named(name)


def test_names_that_are_no_file_names_are_refused() -> None:
    for name in ("", ".", "..", "a/b"):
        with pytest.raises(InputError, match="cannot name"):
            netns.make(name)


def test_entering_ends_with_the_block_even_on_errors_and_is_the_threads_own() -> None:
    home = here()
    fd = netns.empty_netns()
    elsewhere: list[str] = []
    try:
        entered = threading.Event()
        thread = threading.Thread(target=lambda: elsewhere.append(here()) if entered.wait(10) else None)
        thread.start()
        with netns.entered(fd):
            elsewhere.append(here())
            entered.set()
            thread.join()
        assert elsewhere[0] != home
        assert elsewhere[1] == home
        with pytest.raises(OSError, match="nowhere"), netns.entered(fd):
            Path("/nowhere").read_bytes()
        assert here() == home
        with netns.entered(None):
            assert here() == home
    finally:
        os.close(fd)


def test_an_anonymous_namespace_is_empty_and_goes_with_its_descriptor() -> None:
    before = open_descriptors()
    fd = netns.empty_netns()
    with netns.entered(fd):
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
    os.close(fd)
    assert open_descriptors() == before
