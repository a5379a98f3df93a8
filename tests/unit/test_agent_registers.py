"""Writing a card's registers by sysfs's resource files, which are plain files here."""

from pathlib import Path

import pytest

from nooks.agent.registers import write_registers

MEMORY, PORT = 0x40200, 0x40101


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device with a memory region of two pages and one of 32 ports."""
    lines = [f"0x0 0x1fff {MEMORY:#x}", f"0xc000 0xc01f {PORT:#x}"]
    (tmp_path / "resource").write_text("\n".join(lines) + "\n")
    (tmp_path / "resource0").write_bytes(b"\xaa" * 8192)
    (tmp_path / "resource1").write_bytes(b"\xaa" * 32)
    return tmp_path


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("bar", "offset"), [(0, 0), (0, 0x1804), (1, 0x10)])
def test_exactly_the_register_is_written(device: Path, bar: int, offset: int, size: int) -> None:
    write_registers(str(device), [{"bar": bar, "offset": offset, "size": size, "value": 0x11}])
    data = (device / f"resource{bar}").read_bytes()
    assert data[offset : offset + size] == (0x11).to_bytes(size, "little")
    assert set(data[:offset] + data[offset + size :]) == {0xAA}


def test_registers_are_written_in_order(device: Path) -> None:
    both = [{"bar": 1, "offset": 4, "size": 4, "value": value} for value in (1, 2)]
    write_registers(str(device), both)
    assert (device / "resource1").read_bytes()[4] == 2


def test_a_region_that_is_not_there(device: Path) -> None:
    with pytest.raises((OSError, IndexError)):
        write_registers(str(device), [{"bar": 5, "offset": 0, "size": 4, "value": 0}])
