"""Music for machines: noise of which no two places are alike, so a recording tells where each part of it is from."""

from pathlib import Path
from random import Random

from nooks.host.process import run

FRAME_BYTES = 4
_PIECE_FRAMES = 1 << 16
_RATE = 48000
_CHIRP = "0.4*sin(2*PI*(200*t+40*t*t))|0.4*sin(2*PI*(3800*t-40*t*t))"


def write_music(path: Path, frames: int, seed: int = 0) -> None:
    """Write so many frames of 16 bits in stereo into a file. No byte is zero, so no frame is silence."""
    random = Random(seed)
    table = bytes(range(256)).replace(b"\0", b"\1")
    with path.open("wb") as file:
        for at in range(0, frames, _PIECE_FRAMES):
            file.write(random.randbytes(min(_PIECE_FRAMES, frames - at) * FRAME_BYTES).translate(table))


def write_mp3(path: Path, seconds: float) -> None:
    """Write a chirp in stereo as MP3, by ffmpeg. Raises NooksError."""
    source = f"aevalsrc={_CHIRP}:s={_RATE}:d={seconds:g}"
    run(["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", source, "-b:a", "192k", str(path)])
