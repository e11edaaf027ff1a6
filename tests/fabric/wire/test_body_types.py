"""Which types a handle may be made for."""

from __future__ import annotations

import abc
import collections
import dataclasses
import threading
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Generic, NamedTuple, NewType, Protocol, TypedDict, TypeVar

import attrs
import msgspec
import pydantic.dataclasses
import pytest

from peerfabric.errors import ConfigError, DecodeError
from peerfabric.wire.bodies import Codec
from peerfabric.wire.body_types import outer_classes

T = TypeVar("T")
CHOICE = "use a msgspec.Struct, a dataclass"


class Plain:
    """A class that says nothing of its fields."""


class Shape(Protocol):
    side: int


class Base(abc.ABC):
    """A class of classes."""

    @abc.abstractmethod
    def area(self) -> int: ...


class Number(int):
    """An int that decodes as int."""


class InStruct(msgspec.Struct):
    inner: dict[str, list[Plain]]


class Tree(msgspec.Struct):
    leaf: Plain
    branches: list[Tree] = []


class Pair(msgspec.Struct, Generic[T]):
    one: T


@dataclasses.dataclass
class InDataclass:
    inner: Plain | None


@attrs.define
class InAttrs:
    inner: Plain


class InTypedDict(TypedDict):
    inner: Plain


class InNamedTuple(NamedTuple):
    inner: Plain


@pytest.mark.parametrize(
    "body_type",
    [
        *(Plain, Shape, Base, Number, Exception, complex, range, type, threading.Lock, collections.deque),
        *(Callable[[int], int], Iterable[int], collections.Counter[str], collections.OrderedDict[str, int]),
        *(list[Plain], set[Plain], dict[str, Plain], dict[Plain, int], tuple[int, Plain], tuple[Plain, ...]),
        *(
            Plain | None,
            Plain | int,
            Annotated[Plain, "text"],
            NewType("Renamed", Plain),
            list[dict[str, Plain | None]],
        ),
        *(InStruct, Tree, Pair[Plain], Pair[Pair[Plain]], InDataclass, InAttrs, InTypedDict, InNamedTuple),
        *(list[int] | set[int], typing.NoReturn),
    ],
    ids=str,
)
def test_what_cannot_travel_is_refused(body_type: Any) -> None:
    """When the handle is made, however deep it is in the type, with what to use instead."""
    with pytest.raises(ConfigError, match=CHOICE):
        Codec(body_type, 1000)


def test_where_it_is() -> None:
    """The text names the class and the field, so that a large type need not be searched."""
    with pytest.raises(ConfigError, match=r"list\[.*Tree\] cannot be a body type: Tree\.leaf: .* Plain; "):
        Codec(list[Tree], 1000)


@pytest.mark.parametrize(
    "body_type",
    [Any, object, dict, list[Any], Pair, Pair[int], Pair[Any], None, int | None, dict[str, object]],
    ids=str,
)
def test_what_says_nothing_is_taken(body_type: Any) -> None:
    """A type that leaves open what comes is no class that cannot be decoded."""
    codec: Codec[Any] = Codec(body_type, 1000)
    if body_type in (Any, object):
        assert codec.decode_stored(codec.encode({"a": [1, None]}), codec.number) == {"a": [1, None]}


@pytest.mark.parametrize(
    ("body_type", "text"),
    [
        ("Order", "'Order' is text .* without quotes"),
        (Pair(1), f"an object of class Pair is no body type; give a class: {CHOICE}"),
        ([int], "an object of class list is"),
        ({"number": int}, "an object of class dict is"),
        (5, "an object of class int is"),
        (pytest, "an object of class module is"),
        (print, "an object of class builtin_function_or_method is"),
    ],
    ids=str,
)
def test_what_is_no_type(body_type: Any, text: str) -> None:
    """The mistake itself is named."""
    with pytest.raises(ConfigError, match=text):
        Codec(body_type, 1000)


def test_an_annotation_that_leads_nowhere() -> None:
    """It is a mistake in the user's class, which the text names."""

    class Broken(msgspec.Struct):
        inner: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigError, match=r"Broken cannot be a body type: .*'Missing'.*import that name"):
        Codec(Broken, 1000)


def stripped(text: str) -> str:
    return text.strip()


@attrs.define
class Account:
    number: int = attrs.field(validator=attrs.validators.gt(0))
    owner: str = attrs.field(converter=stripped)
    limits: list[int] = attrs.field(factory=list)
    parent: Account | None = None
    cache: dict[str, int] = attrs.field(init=False, factory=dict)


@attrs.frozen
class Point:
    x: int


@attrs.define(slots=False)
class Hidden:
    _secret: int = 0


def test_attrs_classes_travel() -> None:
    """Alone and inside of other types, with slots and frozen; converters have run where the object was made."""
    accounts: Codec[list[Account]] = Codec(list[Account], 1000)
    sent = [Account(1, " Ann ", [2], Account(3, "Bob"))]
    assert accounts.decode_stored(accounts.encode(sent), accounts.number) == sent
    points: Codec[Point] = Codec(Point, 1000)
    assert points.decode_stored(points.encode(Point(1)), points.number) == Point(1)


def test_what_the_validators_of_attrs_refuse() -> None:
    """It is a body that does not fit, like one with a wrong field."""
    codec: Codec[Account] = Codec(Account, 1000)
    with pytest.raises(DecodeError, match="'number' must be > 0: -1"):
        codec.decode_stored(msgspec.msgpack.encode({"number": -1, "owner": "Ann"}), codec.number)


def test_fields_that_would_be_left_out() -> None:
    """msgspec does not encode what begins with an underscore in an attrs class, and says nothing."""
    with pytest.raises(ConfigError, match="leaves out '_secret' of the attrs class Hidden"):
        Codec(list[Hidden], 1000)


@pydantic.dataclasses.dataclass
class Checked:
    number: int = pydantic.Field(gt=0)


def test_validation_that_would_be_left_out() -> None:
    """msgspec takes a dataclass of Pydantic for a plain one."""
    with pytest.raises(ConfigError, match=r"Checked is a dataclass of Pydantic.* make it a pydantic\.BaseModel"):
        Codec(dict[str, Checked], 1000)


class Failing(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        raise KeyError(self.number)


@attrs.define
class FailingToo:
    number: int

    def __attrs_post_init__(self) -> None:
        raise ZeroDivisionError(self.number)


@pytest.mark.parametrize(("body_type", "name"), [(Failing, "KeyError"), (FailingToo, "ZeroDivisionError")])
def test_whatever_the_code_of_a_class_raises(body_type: Any, name: str) -> None:
    """It is a body that does not fit; nothing else comes out of decoding."""
    codec: Codec[Any] = Codec(body_type, 1000)
    body = msgspec.msgpack.encode([{"number": 3}])
    for decode in (
        lambda: codec.decode_batch(body, codec.number),
        lambda: codec.decode_stored(body[1:], codec.number),
    ):
        with pytest.raises(DecodeError, match=f"{name}: 3"):
            decode()
    (found,) = codec.decode_each(body, codec.number, "shop")
    assert isinstance(found, DecodeError)
    assert found.sender == "shop"


def test_outer_classes() -> None:
    """What a sender can be told before anything is encoded."""
    assert set(outer_classes(Annotated[int | None, 1]) or ()) == {int, types.NoneType}
    assert outer_classes(Pair[int]) == (Pair,)
    assert outer_classes(Any) is None
