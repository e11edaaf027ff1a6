"""Service: the name of one kind of call, the types of its request and its reply, and whether it may run twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from peerfabric.arguments import shown
from peerfabric.errors import ConfigError
from peerfabric.names import check_name
from peerfabric.wire.body_types import check_body_type, type_name

if TYPE_CHECKING:
    from typing_extensions import TypeForm
else:
    TypeForm = type  # as near as it comes without that package, for who resolves annotations

Q = TypeVar("Q")
R = TypeVar("R")


class Service(Generic[Q, R]):
    """What a service is called, takes and gives: a value that callers and servers share, in a module of both.

    It never changes, and belongs to no node. Two with the same fields are equal.

    Args:
        name: Of the service, such as "prices.get".
        body_type: Of a request. `bytes` travels raw.
        reply_type: Of its reply; of a stream, of each part.
        idempotent: Running a call twice does what running it once does. Such a call goes on at another server when its
            server is lost.
        stream: It is answered in parts: handlers yield them, callers use `stream` in place of `request`.

    Raises:
        BadName: Not a name of parts joined by '.'.
        ConfigError: Objects of these types cannot be sent.
    """

    __slots__ = ("__weakref__", "body_type", "idempotent", "name", "reply_type", "stream")

    name: str
    body_type: TypeForm[Q]
    reply_type: TypeForm[R]
    idempotent: bool
    stream: bool

    def __init__(
        self,
        name: str,
        body_type: TypeForm[Q],
        reply_type: TypeForm[R],
        *,
        idempotent: bool = False,
        stream: bool = False,
    ) -> None:
        checked = check_name("service", name)
        for kind in (body_type, reply_type):
            check_body_type(kind)
        for option, value in (("idempotent", idempotent), ("stream", stream)):
            if not isinstance(value, bool):
                raise ConfigError(f"{option}={shown(value)} is no bool; give True or False")
        put = object.__setattr__
        put(self, "name", checked)
        put(self, "body_type", body_type)
        put(self, "reply_type", reply_type)
        put(self, "idempotent", idempotent)
        put(self, "stream", stream)

    def _fields(self) -> tuple[Any, ...]:
        return self.name, self.body_type, self.reply_type, self.idempotent, self.stream

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Service never changes; make another one")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Service) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash((self.name, self.idempotent, self.stream))

    def __reduce__(self) -> Any:
        return _made, self._fields()

    def __repr__(self) -> str:
        more = "".join(f", {option}=True" for option in ("idempotent", "stream") if getattr(self, option))
        return f"Service({self.name!r}, {type_name(self.body_type)}, {type_name(self.reply_type)}{more})"


def _made(name: str, body_type: Any, reply_type: Any, idempotent: bool, stream: bool) -> Service[Any, Any]:
    return Service(name, body_type, reply_type, idempotent=idempotent, stream=stream)
