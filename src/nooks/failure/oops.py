"""What a dying kernel says on its console: which function of which module, and what kind of death.

Every byte comes from a domain that has failed and is mistrusted: bounded, made printable, never executed upon.
Formats: arch/x86/kernel/dumpstack.c (``show_regs``, ``printk_stack_address``), kernel/panic.c, mm/oom_kill.c,
kernel/watchdog.c and kernel/hung_task.c of Linux 5.10 to 6.12.
"""

import re
from dataclasses import dataclass

LONGEST_TEXT = 64 << 10
LONGEST_LINE = 400
MOST_OOPS_LINES = 120
MOST_FRAMES = 40

_UNPRINTABLE = re.compile(r"[^\n -~]")
_PREFIX = re.compile(r"^(?:<\d>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")
_SYMBOL = r"(?P<function>[A-Za-z_.$][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+"
_MODULE = r"(?: \[(?P<module>[A-Za-z_][\w-]*)(?: ?\([A-Z+-]+\))?(?: [0-9a-f]+)?\])?"
_POINTER = re.compile(
    rf"^(?:RIP: 00(?!33)[0-9a-f]{{2}}:|EIP: (?:[0-9a-f]{{4}}:)?|EIP is at )(?:{_SYMBOL}{_MODULE}|(?P<raw>0x[0-9a-f]+))"
)
_FRAME = re.compile(rf"^ +(?:\[<[0-9a-f]+>\] )?(?P<unsure>\? )?{_SYMBOL}{_MODULE}")
_DIE = re.compile(r"(?:: [0-9a-f]{4} \[#\d+\])|^kernel BUG at ")
_BUG = re.compile(
    r"^(?:BUG: |kernel BUG at |general protection fault|Oops|invalid opcode|divide error|stack segment|int3)"
)
_PANIC = re.compile(r"^(?:Kernel panic - not syncing: )(?P<why>.*)")
_SOFT_LOCKUP = re.compile(r"BUG: soft lockup - CPU#\d+ stuck")
_HUNG_TASK = re.compile(r"^INFO: task .* blocked for more than \d+ seconds")
_OUT_OF_MEMORY = re.compile(r"Out of memory|invoked oom-killer|System is deadlocked on memory|panic_on_oom")


@dataclass(frozen=True)
class Oops:
    """What was found in a console's text; empty where nothing was.

    Attributes:
        headline: the line that says best what happened ("BUG: unable to handle page fault for address: ...").
        panic: what the kernel gave as the reason of its panic.
        function, module: where it happened: the instruction pointer if that is in a module, else the first sure
            frame of the trace that is, else the instruction pointer.
        pointer: the instruction pointer as printed.
        lines: the report, from its first line to the end of the trace or of the panic.
        trace: the frames, as printed.
        died: an oops led to the panic.
        out_of_memory, soft_lockup, hung_task: so the kernel said.
    """

    headline: str = ""
    panic: str = ""
    function: str = ""
    module: str = ""
    pointer: str = ""
    lines: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()
    died: bool = False
    out_of_memory: bool = False
    soft_lockup: bool = False
    hung_task: bool = False


def printable(text: str | bytes) -> str:
    """The text's last 64 KiB with everything but printable ASCII and line ends replaced."""
    if isinstance(text, bytes):
        text = text[-LONGEST_TEXT:].decode("utf-8", "replace")
    text = text[-LONGEST_TEXT:].replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        c if c == "\n" or c.isprintable() else " " if c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def parse(console: str | bytes) -> Oops:
    """Find the first oops, or the panic, in a console's text."""
    lines = [_PREFIX.sub("", line)[:LONGEST_LINE] for line in printable(console).split("\n")]
    begin, end = _extent(lines)
    report = lines[begin:end]
    panic = next((found["why"].strip() for line in lines if (found := _PANIC.match(line))), "")
    pointer, function, module = _pointer(report)
    frames = [line for line in report if _FRAME.match(line)][:MOST_FRAMES]
    if not module:
        function, module = _first_module_frame(frames) or (function, module)
    return Oops(
        headline=_headline(report, panic),
        panic=panic,
        function=function,
        module=module,
        pointer=pointer,
        lines=tuple(line.rstrip() for line in report[:MOST_OOPS_LINES] if line.strip()),
        trace=tuple(frame.strip() for frame in frames),
        died=any(_DIE.search(line) for line in report),
        out_of_memory=any(_OUT_OF_MEMORY.search(line) for line in lines),
        soft_lockup=any(_SOFT_LOCKUP.search(line) for line in lines),
        hung_task=any(_HUNG_TASK.match(line) for line in lines),
    )


def _extent(lines: list[str]) -> tuple[int, int]:
    """From the first line of bad news to the end of its trace, or to the end of the panic."""
    begin = next((index for index, line in enumerate(lines) if _is_bad_news(line)), len(lines))
    for index in range(begin, len(lines)):
        if "---[ end Kernel panic" in lines[index] or lines[index].startswith("Rebooting in"):
            return begin, index + 1
    return begin, len(lines)


def _is_bad_news(line: str) -> bool:
    patterns = (_BUG, _DIE, _SOFT_LOCKUP, _HUNG_TASK, _OUT_OF_MEMORY, _PANIC)
    return any(pattern.search(line) for pattern in patterns)


def _headline(report: list[str], panic: str) -> str:
    for pattern in (_BUG, _SOFT_LOCKUP, _HUNG_TASK, _OUT_OF_MEMORY, _DIE):
        for line in report:
            if pattern.search(line):
                return line.strip()
    return f"Kernel panic: {panic}" if panic else ""


def _pointer(report: list[str]) -> tuple[str, str, str]:
    for line in report:
        found = _POINTER.match(line.strip())
        if found:
            return line.strip(), found["function"] or "", found["module"] or ""
    return "", "", ""


def _first_module_frame(frames: list[str]) -> tuple[str, str] | None:
    for frame in frames:
        found = _FRAME.match(frame)
        if found and found["module"] and not found["unsure"]:
            return found["function"], found["module"]
    return None
