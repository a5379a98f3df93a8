"""The base of all messages: typed values with one check per field. Host side only."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Generic, Self, TypeVar

from nooks.xpc import checks
from nooks.xpc.checks import Check
from nooks.xpc.errors import ProtocolError


class Message:
    """Base of all messages: subclasses are frozen dataclasses with one check per field in CHECKS."""

    TYPE: ClassVar[str] = ""
    CHECKS: ClassVar[Mapping[str, Check[Any]]]

    @classmethod
    def parse(cls, payload: object) -> Self:
        """A message from an untrusted JSON object (without ``type``). Raises ProtocolError."""
        try:
            return cls(**checks.record(cls.CHECKS, payload))
        except ProtocolError as error:
            raise ProtocolError(f"{cls.__name__}: {error}") from None

    def to_payload(self) -> dict[str, object]:
        """The JSON object that ``parse`` takes."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]


def _plain(value: object) -> object:
    if isinstance(value, Message):
        return value.to_payload()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


R = TypeVar("R", bound=Message)


class Request(Message, Generic[R]):
    """A message that asks for one reply of class REPLY."""

    REPLY: ClassVar[type[Message]]
