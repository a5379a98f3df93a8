"""Values of mixer elements as people write them: numbers, percentages, on and off, names; for all channels or each."""

import difflib
import re
from collections.abc import Mapping

from nooks.host.errors import InputError
from nooks.xpc.settings import SettingValue
from nooks.xpc.states import ElementState

_PERCENT = re.compile(r"(\d{1,3})%")
_NUMBER = re.compile(r"-?\d{1,10}")
_WORDS = {"on": 1, "off": 0}


def parse(key: str, value: object, elements: Mapping[str, ElementState]) -> SettingValue:
    """The value of an element as the driver takes it. Raises InputError for an unknown key or a wrong value."""
    element = elements.get(key)
    if element is None:
        raise InputError(f"the card has no {key}", _suggestion(key, elements))
    parts = str(value).split(",") if isinstance(value, str) else [value]
    if len(parts) not in (1, element.count):
        raise InputError(
            f"{key} has {element.count} channels, not {len(parts)}", "give one value for all, or one for each"
        )
    if element.items:
        words = tuple(_item(key, part, element) for part in parts) * (element.count // len(parts))
        return words[0] if element.count == 1 else words
    return tuple(_number(key, part, element) for part in parts) * (element.count // len(parts))


def _number(key: str, value: object, element: ElementState) -> int:
    text = str(value).strip().lower() if not isinstance(value, bool) else ("on" if value else "off")
    percent = _PERCENT.fullmatch(text)
    if percent is not None and int(percent[1]) <= 100:
        return element.low + round((element.high - element.low) * int(percent[1]) / 100)
    if (element.low, element.high) == (0, 1) and text in _WORDS:
        return _WORDS[text]
    if not _NUMBER.fullmatch(text) or not element.low <= int(text) <= element.high:
        switch = "on or off" if (element.low, element.high) == (0, 1) else "0% to 100%"
        raise InputError(f"{key} can't be {value}", f"it is {element.low} to {element.high}, or {switch}")
    return int(text)


def _item(key: str, value: object, element: ElementState) -> str:
    wanted = str(value).strip().lower()
    for item in element.items:
        if item.lower() == wanted:
            return item
    raise InputError(f"{key} can't be {value}", f"it is one of {', '.join(element.items)}")


def _suggestion(key: str, elements: Mapping[str, ElementState]) -> str:
    near = difflib.get_close_matches(key, elements, 3, 0.4)
    return f"perhaps {', '.join(near)} was meant" if near else f"it has {', '.join(sorted(elements)) or 'no elements'}"
