"""A picture of the waveform around a failure: as time went by, and with the silence cut out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no display is needed, and none may be there

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nooks.lab.sound.card_line import Line
from nooks.lab.sound.hearing import Break, Passage
from nooks.lab.sound.music import FRAME_BYTES

AROUND_SECONDS = 0.06
_BEFORE, _AFTER, _ORIGINAL = "#2f6fb0", "#c4622d", "#9a9a9a"
_DPI = 130


def draw(lines: Mapping[int, Line], original: bytes, heard: Sequence[Passage], around: Break, into: Path) -> None:
    """Draw the left channel around a break, as recorded, into a PNG file."""
    place = next(number for number, each in enumerate(heard) if each.ended == around.when)
    before, after = heard[place], heard[place + 1]
    rate = lines[before.pid].out.rate
    frames = round(AROUND_SECONDS * rate)
    end = before.at + before.end - before.of
    first = _left(lines[before.pid].played(), end - frames, end)
    second = _left(lines[after.pid].played(), after.at, after.at + frames)
    figure = Figure((9, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    _draw(top, first, -len(first) / rate, rate, _BEFORE)
    _draw(top, second, around.silence_seconds, rate, _AFTER)
    top.axvspan(0, 1e3 * around.silence_seconds, color="#eeeeee")
    top.set_title(f"as it was heard: {1e3 * around.silence_seconds:.0f} ms of silence", loc="left")
    top.set_xlabel("ms")
    begin = min(before.end - frames, after.of)
    whole = _left(original, begin, max(before.end, after.of + frames))
    _draw(bottom, whole, (begin - before.end) / rate, rate, _ORIGINAL, width=4)
    _draw(bottom, first, -len(first) / rate, rate, _BEFORE)
    _draw(bottom, second, around.lost / rate, rate, _AFTER)
    again = f"{-around.lost} frames are heard again" if around.lost <= 0 else f"{around.lost} frames are missing"
    bottom.set_title(f"where it is from in what was played (grey): {again}", loc="left")
    bottom.set_xlabel("ms of the music")
    figure.savefig(into, format="png", dpi=_DPI)


def _left(samples: bytes, begin: int, end: int) -> list[int]:
    """The left channel of these frames."""
    return list(memoryview(samples[max(0, begin) * FRAME_BYTES : end * FRAME_BYTES]).cast("h")[::2])


def _draw(axes: Axes, samples: Sequence[int], begin: float, rate: int, color: str, *, width: float = 1) -> None:
    axes.plot([1e3 * (begin + at / rate) for at in range(len(samples))], samples, color=color, linewidth=width)
