"""How the slow steps of this room tell what they do: a plain callable, so that it needs no terminal library."""

from typing import Protocol


class Progress(Protocol):
    """Called with a short message in the present tense, and how far along where that is known.

    ``done`` and ``total`` are bytes or steps of the same kind; both None where the length is unknown.
    """

    def __call__(self, message: str, done: int | None = None, total: int | None = None) -> None: ...


def quiet(message: str, done: int | None = None, total: int | None = None) -> None:
    """A Progress that says nothing."""
