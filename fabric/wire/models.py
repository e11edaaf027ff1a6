"""Pydantic models in bodies: the hooks by which msgspec encodes and decodes them, alone and inside of other types.

Pydantic is never loaded by this; a model comes with it. Both directions go through values that msgpack has: a model is
dumped in Pydantic's mode "python", so that bytes, dates and numbers stay what they are, and what msgpack has no form
for (paths, addresses) takes the one that Pydantic gives it in JSON.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import msgspec


class Misfit(ValueError):
    """What a model refuses; `path` is the place in the model."""

    def __init__(self, reason: str, path: str) -> None:
        self.reason, self.path = reason, path
        super().__init__(reason)


def is_model(kind: Any) -> bool:
    """Whether it is a model class of Pydantic 2."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_validate")


def prepare(model: Any) -> str:
    """Make a model complete, as Pydantic would with its first object. Returns why it cannot be used; "": it can."""
    version = import_module("pydantic").VERSION
    if tuple(int(part) for part in version.split(".")[:2]) < (2, 11):
        return f"{model.__name__} is a model of Pydantic {version}, which cannot validate by name; upgrade to 2.11"
    try:
        model.model_rebuild()
    except Exception as error:  # whatever the annotations of the user's own classes raise
        return f"{model.__name__} is not complete: {error}; define what it names before the handle is made"
    return ""


def encoded(value: Any) -> Any:
    """What msgspec is to encode in place of `value`, an object of a class that it does not know."""
    if not is_model(type(value)):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    # By their own names fields are found again, whatever aliases there are. What is computed is computed again.
    return msgspec.Raw(_dump(value.model_dump(by_alias=False, round_trip=True)))


def _in_json(value: Any) -> Any:
    if hasattr(value, "get_secret_value"):
        raise TypeError("a secret would arrive masked; give its field a serializer (pydantic.field_serializer)")
    return import_module("pydantic_core").to_jsonable_python(value)


_dump = msgspec.msgpack.Encoder(enc_hook=_in_json).encode


def decoded(kind: Any, value: Any) -> Any:
    """The object of class `kind`, a model or `object`, that `value` was encoded from.

    Raises:
        Misfit: The model refuses it.
    """
    if kind is object:
        return value
    try:
        return kind.model_validate(value, by_alias=True, by_name=True)
    except Exception as error:  # also what validators of the user raise
        refused = error
    try:
        # A strict model takes a date, a set or an enum from JSON, which has none of them, and so from msgpack.
        import json  # needed by no others

        text = json.dumps(value, default=_date_in_json)
        return kind.model_validate_json(text, by_alias=True, by_name=True)
    except Exception:
        raise _misfit(refused) from None


def _date_in_json(value: Any) -> Any:
    return value.isoformat()  # of bytes that is an error: as text they might be taken for something else


def _misfit(error: Any) -> Misfit:
    if not hasattr(error, "errors"):
        return Misfit(f"{type(error).__name__}: {error}", "")
    first, *more = error.errors(include_url=False, include_context=False, include_input=False)
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return Misfit(first["msg"] + (f" (and {len(more)} more)" if more else ""), path)
