"""The archive that the kernel unpacks, read back by a reader written from the format's description."""

import io
import stat
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nooks.image.cpio import CpioWriter


@dataclass(frozen=True)
class Entry:
    """One member of an archive."""

    name: str
    mode: int
    data: bytes
    device: tuple[int, int]


def entries(data: bytes) -> Iterator[Entry]:
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_bytes = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_bytes]
        assert name.endswith(b"\0")
        start = (at + 110 + name_bytes + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert (start + size) == len(data)
            return
        yield Entry(name[:-1].decode(), mode, data[start : start + size], (fields[9], fields[10]))
        at = (start + size + 3) // 4 * 4


def archive(fill: "list[tuple[str, bytes]]") -> list[Entry]:
    buffer = io.BytesIO()
    writer = CpioWriter(buffer)
    for name, data in fill:
        writer.regular(name, data)
    writer.finish()
    return list(entries(buffer.getvalue()))


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_files_come_back_whatever_their_length(contents: list[bytes]) -> None:
    found = archive([(f"/dir/{'x' * number}f", data) for number, data in enumerate(contents)])
    assert [entry.data for entry in found if stat.S_ISREG(entry.mode)] == contents


def test_directories_come_once_and_before_what_is_in_them() -> None:
    names = [entry.name for entry in archive([("/a/b/one", b""), ("/a/b/two", b""), ("/a/three", b"")])]
    assert names == ["a", "a/b", "a/b/one", "a/b/two", "a/three"]


def test_links_devices_and_permissions() -> None:
    buffer = io.BytesIO()
    writer = CpioWriter(buffer)
    writer.directory("/tmp", 0o1777)
    writer.symlink("/bin/sh", "busybox")
    writer.character_device("/dev/console", 5, 1)
    writer.regular("/init", b"#!", 0o755)
    writer.finish()
    found = {entry.name: entry for entry in entries(buffer.getvalue())}
    assert found["tmp"].mode == stat.S_IFDIR | 0o1777
    assert found["bin/sh"].data == b"busybox"
    assert stat.S_ISLNK(found["bin/sh"].mode)
    assert found["dev/console"].device == (5, 1)
    assert found["init"].mode == stat.S_IFREG | 0o755


@pytest.mark.parametrize("name", ["relative", "/a/../b"])
def test_names_are_absolute(name: str) -> None:
    with pytest.raises(ValueError, match="no absolute path"):
        CpioWriter(io.BytesIO()).regular(name, b"")
