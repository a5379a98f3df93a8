"""The web site that the lab serves and asks for: what every answer must be, known to both sides from a seed.

The *simple page* is one static file of 4 KiB. The *complex page* is made anew for each visit: a list of goods from a
database, sorted by price, about 30 KB of HTML with the visit's number in it, and ten objects of 4 to 60 KiB beside it,
204 KiB together; eleven requests. Who asks computes the same list without a database.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

SIMPLE_BYTES = 4096
OBJECT_KIB = (4, 6, 8, 10, 12, 16, 20, 28, 40, 60)
CATEGORIES = 20
ITEMS_PER_CATEGORY = 100
LISTED = 60
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "&", "<jetty>", '"knoll"')
_DESCRIPTION_WORDS = 57

SIMPLE = "/simple"
OBJECT = "/object/"
COMPLEX = "/complex?"


@dataclass(frozen=True)
class Item:
    """A row of the database."""

    number: int
    category: int
    cents: int
    name: str
    description: str


class Site:
    """Everything that belongs to ``seed``."""

    def __init__(self, seed: int) -> None:
        random = Random(seed)
        filler = random.randbytes(SIMPLE_BYTES // 2).hex()
        self.simple = f"<!DOCTYPE html><title>simple</title><pre>{filler}".encode()[:SIMPLE_BYTES]
        self.objects = tuple(random.randbytes(kib << 10) for kib in OBJECT_KIB)
        self.items = tuple(_item(number, random) for number in range(CATEGORIES * ITEMS_PER_CATEGORY))
        self._frames: dict[int, tuple[bytes, bytes]] = {}

    def complex_page(self, category: int, visit: int) -> bytes:
        """What the page of this visit must be."""
        if category not in self._frames:
            items = sorted(
                (item for item in self.items if item.category == category), key=lambda item: (item.cents, item.number)
            )
            page = render(category, "\0", [(item.cents, item.name, item.description) for item in items[:LISTED]])
            before, _, after = page.partition(b"\0")
            self._frames[category] = (before, after)
        before, after = self._frames[category]
        return b"%b%d%b" % (before, visit, after)


def render(category: int, visit: object, rows: Sequence[tuple[int, str, str]]) -> bytes:
    """The complex page's HTML; of each row the price in cents, the name and the description."""
    lines = [
        f"<!DOCTYPE html><html><head><title>Category {category}</title></head><body><h1>Visit {visit}</h1>",
        *(f'<img src="{OBJECT}{number}">' for number in range(len(OBJECT_KIB))),
        "<table>",
        *(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td><td>{cents // 100}.{cents % 100:02}</td></tr>"
            for cents, name, text in rows
        ),
        "</table></body></html>",
    ]
    return "\n".join(lines).encode()


def _item(number: int, random: Random) -> Item:
    return Item(
        number,
        number % CATEGORIES,
        random.randrange(100, 10_000),
        " ".join(random.choices(_WORDS, k=3)),
        " ".join(random.choices(_WORDS, k=_DESCRIPTION_WORDS)),
    )
