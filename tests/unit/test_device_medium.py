"""Media: what is fit to be one, and that only one has it at a time."""

import fcntl
import os
import struct
from pathlib import Path

import pytest

from nooks.device.medium import Medium, adopt_medium, open_medium
from nooks.host.errors import InputError, StateError

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    return path


def opened(path: Path, *, read_only: bool = False, sector_bytes: int = 512) -> Medium:
    return open_medium(str(path), read_only=read_only, sector_bytes=sector_bytes)


def test_a_file_is_opened_with_its_size(image: Path) -> None:
    medium = opened(image)
    assert (medium.size_bytes, medium.read_only, medium.is_device) == (SIZE, False, False)
    assert (medium.missing_bytes, medium.is_deleted) == (0, False)
    assert medium.free_bytes > 0
    medium.close()


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (bytes(1000), "no multiple of 512")],
)
def test_a_file_of_a_wrong_size_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        opened(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no medium"):
        opened(tmp_path / "nothing.img")
    with pytest.raises(InputError, match="directory"):
        opened(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a file nor a block device"):
        opened(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a file nor a block device"):
        opened(Path("/dev/null"))


def test_a_medium_has_one_user(image: Path) -> None:
    medium = opened(image)
    with pytest.raises(StateError, match="in use by another nook"):
        opened(image)
    with pytest.raises(StateError, match="in use by another nook"):
        opened(image, read_only=True)
    medium.close()
    opened(image).close()


def test_several_may_read_one(image: Path) -> None:
    first, second = opened(image, read_only=True), opened(image, read_only=True)
    with pytest.raises(StateError):
        opened(image)
    first.close()
    second.close()


def test_the_lock_goes_on_with_a_duplicate(image: Path) -> None:
    """As the keeper has it while the supervisor is dead."""
    medium = opened(image)
    kept = os.dup(medium.descriptor)
    medium.close()
    with pytest.raises(StateError):
        opened(image)
    adopted = adopt_medium(kept, SIZE)
    assert (adopted.read_only, adopted.direct) == (medium.read_only, medium.direct)
    adopted.close()
    opened(image).close()


def test_the_lock_is_the_one_that_qemu_takes(image: Path) -> None:
    """QEMU's write permission: byte 101 shared-locked (block/file-posix.c)."""
    qemu = os.open(image, os.O_RDWR)
    fcntl.fcntl(qemu, 37, struct.pack("@hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
    with pytest.raises(StateError):
        opened(image)
    os.close(qemu)


def test_shrinking_and_deleting_show(image: Path) -> None:
    medium = opened(image)
    os.truncate(image, SIZE - 4096)
    assert medium.missing_bytes == 4096
    image.unlink()
    assert medium.is_deleted
    medium.close()


def test_holes_are_tried_beyond_the_end(image: Path) -> None:
    medium = opened(image)
    image.write_bytes(b"x" * SIZE)
    assert medium.punches_holes in (True, False)
    assert image.read_bytes() == b"x" * SIZE
    medium.close()
    reading = opened(image, read_only=True)
    assert not reading.punches_holes
    reading.close()
