"""What a client grants a device of its memory, and takes back."""

import fcntl
import os
from collections.abc import Iterator

import pytest

from nooks.hardware.memory import DmaRefused, GuestMemory

PAGE = 4096
PAGES = 40000
BOTH = (True, True)


@pytest.fixture
def file() -> Iterator[int]:
    """A memory file as QEMU has it."""
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, PAGES * PAGE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def memory() -> GuestMemory:
    made = GuestMemory(lambda address, size, access: None)
    made.enabled = True
    return made


def test_a_range_is_withdrawn_alone_or_with_all_inside(memory: GuestMemory, file: int) -> None:
    for number in (0, 1, 2, 5):
        memory.grant(number * PAGE, PAGE, number * PAGE, file, BOTH)
    memory.write(PAGE, b"x" * 8)
    memory.withdraw(PAGE, PAGE)
    with pytest.raises(DmaRefused):
        memory.read(PAGE, 8)
    assert bytes(memory.read(0, 4)) == bytes(4)
    with pytest.raises(OSError, match="nothing is granted"):
        memory.withdraw(PAGE, PAGE)
    with pytest.raises(OSError, match="nothing is granted"):
        memory.withdraw(5 * PAGE, PAGE - 1)
    memory.withdraw(0, 5 * PAGE)
    assert memory.grants == 1
    memory.withdraw(PAGE, 100 * PAGE)
    assert memory.grants == 0


def test_thousands_of_pages_are_withdrawn_one_by_one_or_at_once(memory: GuestMemory, file: int) -> None:
    """Behind an IOMMU memory comes page by page; a client whose message takes five seconds gives the device up."""
    for number in range(PAGES):
        memory.grant(number * PAGE, PAGE, number * PAGE, file, BOTH)
    for number in range(0, PAGES, 2):
        memory.withdraw(number * PAGE, PAGE)
    memory.withdraw(0, PAGES * PAGE)
    assert memory.grants == 0
