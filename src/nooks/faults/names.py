"""The names of all that can be injected. Importing this costs nothing, so the command line can."""

FAULTS = ("source", "destination", "pointer", "interface", "branch", "loop", "text", "nop")
"""The fault types of the Nooks evaluation."""

MIXED = "mixed"
"""All of them, by chance."""

BUGS = (
    "missing-check",
    "uninitialised",
    "double-free",
    "use-after-free",
    "lock-held",
    "endless-loop",
    "endless-loop-irqs-off",
    "stack-overflow",
    "memory-leak",
    "interrupt-storm",
)
"""Deliberate bugs: mistakes of programmers, written into the driver's code."""
