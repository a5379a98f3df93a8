"""What programs are linked with: the few things that are read from ELF files."""

from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from nooks.host.errors import NooksError


def needed_libraries(program: Path) -> list[str]:
    """The shared libraries that a program or library names (DT_NEEDED)."""
    with program.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".dynamic")
        if not isinstance(section, DynamicSection):
            return []
        return [str(vars(tag)["needed"]) for tag in section.iter_tags("DT_NEEDED")]


def requested_loader(program: Path) -> str:
    """The absolute path of the dynamic loader that a program asks for (PT_INTERP)."""
    with program.open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_INTERP"):
            if isinstance(segment, InterpSegment):
                return segment.get_interp_name()
    raise NooksError(f"{program} is not a dynamically linked program", "remove the cache; it will be made again")
