"""Music for machines: noise of which no two places are alike, so a recording tells where each part of it is from."""

from pathlib import Path
from random import Random

FRAME_BYTES = 4
_PIECE_FRAMES = 1 << 16


def write_music(path: Path, frames: int, seed: int = 0) -> None:
    """Write so many frames of 16 bits in stereo into a file. No byte is zero, so no frame is silence."""
    random = Random(seed)
    table = bytes(range(256)).replace(b"\0", b"\1")
    with path.open("wb") as file:
        for at in range(0, frames, _PIECE_FRAMES):
            file.write(random.randbytes(min(_PIECE_FRAMES, frames - at) * FRAME_BYTES).translate(table))
