"""Which interrupts a card has, how often they came, and how to keep them from it.

Sources: Documentation/ABI/testing/sysfs-kernel-irq; PCI Local Bus Specification 3.0, 6.2.2 and 6.8; Intel 8237A.
"""

import os

from nooks.agent import system

_FOLDER = "/sys/kernel/irq"
_PCI_COMMAND, _PCI_COMMAND_MASTER, _PCI_COMMAND_NO_INTX = 4, 0x4, 0x400
_ISA_MASK_ALL = ((0x0F, 0x0F), (0xDE, 0x0F))
"""The "write all mask bits" ports of both DMA controllers, and what masks all four channels of each."""


def active() -> "dict[str, str]":
    """The interrupts that somebody handles: their handlers' names by number."""
    found: dict[str, str] = {}
    try:
        numbers = os.listdir(_FOLDER)  # noqa: PTH208 - pathlib costs too much here
    except FileNotFoundError:
        return found
    for number in numbers:
        handlers = system.read(f"{_FOLDER}/{number}/actions").strip()
        if handlers:
            found[number] = handlers
    return found


def new(before: "dict[str, str]") -> "list[str]":
    """The interrupts that somebody else handles by now than when ``active`` said ``before``."""
    return [number for number, handlers in active().items() if before.get(number) != handlers]


def counter(number: str) -> str:
    """The file that says how often an interrupt came: one number, on the one processor that a domain has."""
    return f"{_FOLDER}/{number}/per_cpu_count"


def disable(device: str) -> None:
    """Keep a PCI device, whose folder is ``device``, from interrupting, behind its driver's back.

    Interrupts by message are writes to memory, so that the device may not be bus master any more where it has them.
    """
    by_message = os.path.isdir(f"{device}/msi_irqs")  # noqa: PTH112 - pathlib costs too much here
    descriptor = os.open(f"{device}/config", os.O_RDWR | os.O_CLOEXEC)
    try:
        command = int.from_bytes(os.pread(descriptor, 2, _PCI_COMMAND), "little")
        command = command & ~_PCI_COMMAND_MASTER if by_message else command | _PCI_COMMAND_NO_INTX
        os.pwrite(descriptor, command.to_bytes(2, "little"), _PCI_COMMAND)
    finally:
        os.close(descriptor)


def mask_isa_dma() -> None:
    """Keep all ISA cards from memory, behind their drivers' backs."""
    descriptor = os.open("/dev/port", os.O_WRONLY | os.O_CLOEXEC)
    try:
        for port, mask in _ISA_MASK_ALL:
            os.pwrite(descriptor, bytes([mask]), port)
    finally:
        os.close(descriptor)
