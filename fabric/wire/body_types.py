"""Body types: which types a handle may be made for, and what is said of those that cannot travel."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

from peerfabric.errors import ConfigError
from peerfabric.wire.models import is_model, prepare

_CHOICE: Final = (
    "use a msgspec.Struct, a dataclass, a TypedDict, an attrs class, a Pydantic model (2.11 or later), "
    "a built-in type, bytes, or memoryview"
)
_TYPING: Final = ("types", "typing", "typing_extensions")
"""Where the classes of what is a type and no class come from, such as `int | str`."""


def check_body_type(body_type: Any) -> None:
    """Refuse what cannot be encoded or decoded, however deep in `body_type` it is.

    msgspec itself takes any class, and refuses its objects one by one.

    Raises:
        ConfigError: It says what, and where in the type.
    """
    try:
        msgspec.msgpack.Decoder(body_type)
        tree = inspect.type_info(body_type)
    except Exception as error:  # also what the annotations of the user's own classes raise
        raise ConfigError(_refusal(body_type, error)) from None
    for where, node in _walk(tree):
        problem = _problem(node)
        if problem:
            raise ConfigError(f"{type_name(body_type)} cannot be a body type: {where}{problem}")


def _refusal(body_type: Any, error: Exception) -> str:
    if isinstance(body_type, str):
        return f"{body_type!r} is text and no body type; give the type itself, without quotes"
    if not isinstance(body_type, type) and type(body_type).__module__ not in _TYPING:
        kind = type(body_type).__name__
        return f"an object of class {kind} is no body type; give a class: {_CHOICE}"
    if isinstance(error, NameError):
        return (
            f"{type_name(body_type)} cannot be a body type: an annotation in it cannot be resolved ({error}); "
            f"import that name where the class is defined, or define it before the handle is made"
        )
    if any(is_model(member) for member in typing.get_args(body_type)):
        return f"{type_name(body_type)} cannot be a body type, but a model of it can; give pydantic.RootModel[…]"
    said = str(error) if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: {error}"
    return f"{type_name(body_type)} cannot be a body type: {said}; {_CHOICE}"


def _walk(root: Any) -> Iterator[tuple[str, Any]]:
    """All of what `msgspec.inspect` found in a type, each with the field that it was found in."""
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        where, node = waiting.pop()
        if id(node) in seen:  # a type may contain itself
            continue
        seen.add(id(node))
        yield where, node
        owner = getattr(node, "cls", None)
        for field in getattr(node, "fields", ()):
            waiting.append((f"{type_name(owner)}.{field.name}: ", field.type))
        for name in ("item_type", "key_type", "value_type", "type"):
            if hasattr(node, name):
                waiting.append((where, getattr(node, name)))
        for name in ("item_types", "types"):
            waiting.extend((where, inner) for inner in getattr(node, name, ()))


def _problem(node: Any) -> str:
    """Why objects of what msgspec found cannot travel as they are; "": they can."""
    owner: Any = getattr(node, "cls", None)
    name = type_name(owner)
    match type(node).__name__:
        case "CustomType" if is_model(owner):
            return prepare(owner)
        case "CustomType" if owner is not object:  # that is Any by another name
            return f"msgspec knows no way to encode and decode {name}; {_CHOICE}"
        case "DataclassType" if hasattr(owner, "__pydantic_validator__"):
            return (
                f"{name} is a dataclass of Pydantic, whose validation would be left out; make it a pydantic.BaseModel"
            )
        case "DataclassType" if hasattr(owner, "__attrs_attrs__"):
            hidden = [field.name for field in owner.__attrs_attrs__ if field.init and field.name.startswith("_")]
            if hidden:
                return (
                    f"msgspec leaves out {hidden[0]!r} of the attrs class {name}, as it begins with an underscore; "
                    f"name it without, or give it init=False if it need not travel"
                )
    return ""


def outer_classes(body_type: Any) -> tuple[type, ...] | None:
    """The classes that a value of `body_type` may have; None: cannot be told from outside."""
    if body_type is None:
        return (type(None),)
    origin = typing.get_origin(body_type)
    if origin is typing.Annotated:
        return outer_classes(typing.get_args(body_type)[0])
    if origin is typing.Literal:
        return tuple({type(value) for value in typing.get_args(body_type)})
    if origin in (typing.Union, types.UnionType):
        members = [outer_classes(member) for member in typing.get_args(body_type)]
        return None if None in members else tuple({c for member in members if member for c in member})
    if isinstance(body_type, typing.NewType):
        return outer_classes(body_type.__supertype__)
    if typing.is_typeddict(origin or body_type):
        return (dict,)
    candidate = origin or body_type
    if candidate is float:
        return (float, int)
    return (candidate,) if isinstance(candidate, type) and candidate not in (object, Any) else None


def type_name(body_type: Any) -> str:
    """A type as people write it."""
    return body_type.__name__ if isinstance(body_type, type) and not typing.get_args(body_type) else str(body_type)
