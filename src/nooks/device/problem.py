"""What keeps a device from being put in a nook."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """``message`` says what is wrong, ``fix`` what to change; ``force``: the user may take the loss (--force)."""

    message: str
    fix: str
    force: bool = False
