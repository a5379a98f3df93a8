"""How values of JSON documents are written for people."""

import pytest

from nooks.cli.output import seconds, words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        ({}, "-"),
        ([], "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        ("running", "running"),
        ({"Headphone": True, "Line Out": False}, "Headphone yes, Line Out no"),
        (["a", None, 3], "a, -, 3"),
    ],
)
def test_words(value: object, shown: str) -> None:
    assert words(value) == shown


def test_words_of_durations() -> None:
    assert words({"fence": 0.0123, "probe": 1.5}, seconds) == "fence 12 ms, probe 1.50 s"
    assert words(None, seconds) == "-"
