"""Signature of a handler of a service: its types, how it is called, and how it answers."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from peerfabric.nodes.service.call import Call
from peerfabric.nodes.service.service import Service
from peerfabric.wire.body_types import type_name

STREAMS = ("Iterator", "Iterable", "Generator", "AsyncIterator", "AsyncIterable", "AsyncGenerator")


class Signature(NamedTuple):
    """What the decorated function is."""

    service: Service[Any, Any]
    wants_call: bool
    is_async: bool
    """It is an `async def`, with or without a `yield`."""


def signature_of(
    function: Callable[..., Any], service: Service[Any, Any] | str, names: Mapping[str, Any] | None
) -> Signature:
    """How `function` answers `service`; of a name alone, its annotations say the types.

    Raises:
        TypeError: It does not say what it takes or gives, has other parameters than a body and a `Call`, or yields
            where the service has one reply, or the other way round.
        ConfigError: Its types cannot be sent.
    """
    name = getattr(function, "__qualname__", repr(function))
    named = isinstance(service, str)
    try:
        hints = typing.get_type_hints(function, localns=dict(names) if names else None, include_extras=True)
    except NameError as error:
        raise TypeError(f"{name}: an annotation cannot be resolved ({error}); import it") from None
    except TypeError:
        raise TypeError(f"{function!r} is no function; decorate a def") from None
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and (parameter.default is parameter.empty or parameter.name in hints)
    ]
    if not parameters or (named and parameters[0].name not in hints):
        raise TypeError(
            f"{name} does not say what it takes; annotate its first parameter with the type of the request, "
            f"or decorate it with a Service"
        )
    if len(parameters) > 2 or (len(parameters) == 2 and hints.get(parameters[1].name) is not Call):
        raise TypeError(f"{name}: its second parameter must be annotated Call, and there is no third")
    yields = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if isinstance(service, str):
        service = _named(name, service, hints, parameters[0].name, yields=yields)
    if yields and not service.stream:
        raise TypeError(f"{name} yields, and {service!r} has one reply; return it, or give the Service stream=True")
    if inspect.iscoroutinefunction(function) and service.stream:
        raise TypeError(f"{name} returns, and {service!r} is answered in parts; yield each of them")
    return Signature(service, len(parameters) == 2, is_async)


def _named(name: str, service: str, hints: Mapping[str, Any], first: str, *, yields: bool) -> Service[Any, Any]:
    if "return" not in hints:
        raise TypeError(f"{name} does not say what it gives; annotate what it returns, or decorate it with a Service")
    reply = hints["return"]
    if yields:
        parts = typing.get_args(reply)
        kind = typing.get_origin(reply) or reply
        if getattr(kind, "__name__", "") not in STREAMS or not parts:
            raise TypeError(f"{name} yields; annotate what it returns as an Iterator of {type_name(reply)}")
        reply = parts[0]
    return Service(service, hints[first], type(None) if reply is None else reply, stream=yields)
