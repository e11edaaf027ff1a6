"""Pydantic models as bodies."""

from __future__ import annotations

import datetime
import enum
import ipaddress
import pathlib
import subprocess
import sys
import uuid
from decimal import Decimal
from typing import Any, Generic, TypeVar

import msgspec
import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Field

from peerfabric.errors import ConfigError, DecodeError, EncodeError
from peerfabric.wire.bodies import Codec, join

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Item(BaseModel):
    price: Decimal
    tags: set[str] = set()


class Order(BaseModel):
    number: int
    at: datetime.datetime
    noon: datetime.datetime
    day: datetime.date
    lasts: datetime.timedelta
    key: uuid.UUID
    picture: bytes
    colour: Colour
    items: list[Item]
    by_size: dict[int, tuple[int, str]]
    file: pathlib.Path
    host: ipaddress.IPv4Address
    limit: float
    first: int = Field(alias="firstNumber")
    second: int = Field(default=0, validation_alias="secondIn")
    third: int = Field(default=0, serialization_alias="thirdOut")
    next: Order | None = None

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> Decimal:
        return sum((item.price for item in self.items), Decimal(0))


FIELDS: dict[str, Any] = {
    "number": 1,
    "at": datetime.datetime(2024, 2, 29, 12, 0, 0, 123456, datetime.UTC),
    "noon": datetime.datetime(2024, 2, 29, 12),
    "day": datetime.date(2024, 2, 29),
    "lasts": datetime.timedelta(seconds=1.5),
    "key": uuid.UUID(int=7),
    "picture": b"\xff\x00",
    "colour": Colour.RED,
    "items": [Item(price=Decimal("1.10"), tags={"hot"})],
    "by_size": {3: (1, "tea")},
    "file": pathlib.Path("menu"),
    "host": ipaddress.IPv4Address("127.0.0.1"),
    "limit": float("inf"),
    "firstNumber": 5,
    "secondIn": 6,
    "third": 7,
}


class Envelope(msgspec.Struct):
    parts: dict[str, list[Item | None]]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    number: int
    at: datetime.datetime
    noon: datetime.datetime
    key: uuid.UUID
    colour: Colour
    tags: set[int]
    price: Decimal


class Page(BaseModel, Generic[T]):
    content: T


def travelled(codec: Codec[T], *bodies: T) -> list[T]:
    """What arrives of `bodies`, sent as one batch."""
    encoded, error = codec.encode_many(bodies)
    assert error is None
    frame, number = join(encoded, codec.number)
    whole = codec.decode_batch(frame, number)
    assert codec.decode_each(frame, number, "shop") == whole
    assert [codec.decode_stored(data, codec.number) for data in encoded] == whole
    return whole


def test_models_travel() -> None:
    """With all that Pydantic has fields for, whatever their aliases; one by one and as a batch."""
    order = Order(**FIELDS)
    order.next = Order(**FIELDS)
    assert (order.first, order.second, order.third) == (5, 6, 7)
    assert travelled(Codec(Order, 10_000), order, order.next) == [order, order.next]


def test_models_travel_inside_of_others() -> None:
    """In containers, in Structs, as generics and as the root of a model."""
    envelope = Envelope({"a": [Item(price=Decimal(3)), None]})
    assert travelled(Codec[Any](list[Envelope], 1000), [envelope]) == [[envelope]]
    page = Page[Item](content=Item(price=Decimal(3)))
    assert travelled(Codec[Any](Page[Item], 1000), page) == [page]
    either = pydantic.RootModel[Item | int]
    assert travelled(Codec[Any](either, 1000), either(3)) == [either(3)]


def test_a_model_where_anything_may_be() -> None:
    """It is encoded as in a model, and arrives as a dictionary."""
    codec: Codec[dict[str, Any]] = Codec(dict, 1000)
    assert travelled(codec, {"item": Item(price=Decimal(3))}) == [{"item": {"price": "3", "tags": []}}]


def test_strict_models() -> None:
    """They take what they would take from JSON, which has no dates either, and nothing else."""
    sent = Strict(
        number=1,
        at=datetime.datetime.now(datetime.UTC),
        noon=datetime.datetime(2024, 2, 29, 12),
        key=uuid.UUID(int=7),
        colour=Colour.RED,
        tags={1},
        price=Decimal("0.10"),
    )
    codec: Codec[Strict] = Codec(Strict, 1000)
    assert travelled(codec, sent) == [sent]
    wrong = msgspec.msgpack.encode({**sent.model_dump(mode="json"), "number": "1"})
    with pytest.raises(DecodeError, match="valid integer"):
        codec.decode_stored(wrong, codec.number)


def test_what_a_model_refuses() -> None:
    """It is found with its place in the body, through msgspec's part of it and Pydantic's."""
    codec: Codec[list[Page[list[Item]]]] = Codec(list[Page[list[Item]]], 1000)
    body = msgspec.msgpack.encode([[{"content": [{"price": 1}, {"price": "x", "tags": 3}]}]])
    with pytest.raises(DecodeError):
        codec.decode_batch(body, codec.number)
    (found,) = codec.decode_each(body, codec.number, "shop")
    assert isinstance(found, DecodeError)
    assert (found.path, found.sender) == ("$[0].content[1].price", "shop")
    assert found.reason == "Input should be a valid decimal (and 1 more)"


class Raising(BaseModel):
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def check(cls, number: int) -> int:
        raise KeyError(number)

    @pydantic.field_serializer("number")
    def write(self, number: int) -> int:
        raise KeyError(number)


class Account(BaseModel):
    password: pydantic.SecretStr


def test_whatever_the_code_of_a_model_raises() -> None:
    """Is an error of ours, on either side."""
    codec: Codec[Raising] = Codec(Raising, 1000)
    with pytest.raises(DecodeError, match="KeyError: 3"):
        codec.decode_stored(msgspec.msgpack.encode({"number": 3}), codec.number)
    with pytest.raises(EncodeError, match="Raising cannot be encoded"):
        codec.encode(Raising.model_construct(number=3))


def test_secrets_are_not_masked_on_the_way() -> None:
    """Pydantic's JSON has stars in their place, and no consumer would know."""
    with pytest.raises(EncodeError, match="give its field a serializer"):
        Codec[Any](Account, 1000).encode(Account(password=pydantic.SecretStr("x")))


def test_a_model_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused when the handle is made: it names what is not there, or Pydantic is too old."""

    class Broken(BaseModel):
        inner: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigError, match=r"Broken is not complete: .*'Missing'"):
        Codec(list[Broken], 1000)
    with pytest.raises(ConfigError, match=r"give pydantic\.RootModel"):
        Codec(Item | int, 1000)
    monkeypatch.setattr(pydantic, "VERSION", "2.10.6")
    with pytest.raises(ConfigError, match=r"model of Pydantic 2\.10\.6, .* upgrade to 2\.11"):
        Codec(list[Item], 1000)


def test_pydantic_is_not_loaded_by_us() -> None:
    """Nor attrs: who does not use them does not pay for them, and need not have them."""
    code = (
        "import sys; from peerfabric.wire.bodies import Codec; codec = Codec(dict[str, int | None], 99); "
        "codec.decode_stored(codec.encode({}), codec.number); "
        "print(*{'pydantic', 'pydantic_core', 'attr', 'attrs', 'json'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
