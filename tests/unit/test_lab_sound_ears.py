"""What is heard of cards that are models of ours, and of a guest that plays by itself."""

import asyncio
from pathlib import Path

from nooks.hardware.wave import HEADER_BYTES
from nooks.lab.sound import wav_line
from nooks.lab.sound.hearing import Passage, breaks
from nooks.lab.sound.in_domain import Positions, can
from nooks.lab.sound.recorder import Recorder
from nooks.lab.sound.stage import model_of


def test_a_model_s_file_is_heard_as_it_grows_and_a_pause_parts_it(tmp_path: Path) -> None:
    path = tmp_path / "played.wav"

    async def run() -> Recorder:
        ears = Recorder(tmp_path / "line")
        async with wav_line.following(path, ears):
            with path.open("wb", buffering=0) as file:
                file.write(bytes(HEADER_BYTES) + b"abcd" * 3 + b"ef")
                await asyncio.sleep(0.03)
                file.write(b"gh")
                await asyncio.sleep(0.03)
                await asyncio.sleep(2 * wav_line.PAUSE_SECONDS)
                file.write(b"ijkl")
                await asyncio.sleep(0.03)
            with path.open("wb", buffering=0) as file:  # another nook, another model
                await asyncio.sleep(2 * wav_line.PAUSE_SECONDS)
                file.write(bytes(HEADER_BYTES) + b"mnop")
                await asyncio.sleep(0.03)
        return ears

    ears = asyncio.run(run())
    assert [line.played() for line in ears.lines.values()] == [b"abcd" * 3 + b"efgh", b"ijkl", b"mnop"]


def test_which_card_is_a_model_of_ours() -> None:
    assert model_of("ens1371", ()) == "model:es1371"
    assert model_of("ens1371", ("--device", "emulated:ES1370")) is None
    assert model_of("intel8x0", ()) is None
    assert (can("intel8x0"), can("sb16"), can("ens1371")) == (True, False, False)


def test_missing_is_what_was_never_heard() -> None:
    """The card of the second passage went on over its ring after 500, until it was fenced."""
    before = [Passage(1, 0, 0, 500, 0.0, 1.0), Passage(1, 500, 100, 300, 1.0, 1.5)]
    repeated, lost = breaks([*before, Passage(2, 0, 450, 900, 2.0, 3.0)])
    assert (repeated.lost, repeated.changed) == (-400, False)
    assert (lost.lost, lost.changed, lost.silence_seconds) == (-50, True, 0.5)


def test_a_guest_whose_card_begins_anew_ran_dry() -> None:
    positions = Positions()
    positions.said = [(1.0, 0), (2.0, 48000), (3.0, 96000), (4.0, 1000), (5.0, 49000)]
    assert positions.played(1.5, 48000, 0.5) == (0.5, 1, 1.0)
    assert Positions().played(0.0, 48000, 0.5) == (0.5, 0, 0.0)
