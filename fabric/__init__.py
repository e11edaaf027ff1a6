"""peerfabric: brokerless messaging between processes.

The public names load on first use, so importing a machine never loads ZeroMQ.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from peerfabric.errors import (
    BadFrame,
    BadName,
    ConfigError,
    Corrupt,
    DecodeError,
    EncodeError,
    EndpointInUse,
    FabricError,
    ForkedNode,
    IdentityInUse,
    MessageTooLarge,
    NewerFormat,
    NodeClosed,
    NotConfirmed,
    QueueFull,
    Rejected,
    RemoteProtocolError,
    SpoolError,
    SpoolFull,
    SpoolLocked,
    SpoolUnsafe,
    TimedOut,
    Undelivered,
    WouldDeadlock,
    WrongLoop,
)

if TYPE_CHECKING:
    from peerfabric.nodes.aio.consumer import AsyncConsumer
    from peerfabric.nodes.aio.node import AsyncNode
    from peerfabric.nodes.aio.producer import AsyncProducer
    from peerfabric.nodes.aio.topic import AsyncPublisher, AsyncSubscriber
    from peerfabric.nodes.blocking.consumer import Consumer
    from peerfabric.nodes.blocking.node import Node
    from peerfabric.nodes.blocking.producer import Producer
    from peerfabric.nodes.blocking.topic import Publisher, Subscriber
    from peerfabric.nodes.message import Batch, DeadMessage, Message, Reject, Retry, Update
    from peerfabric.nodes.once import Once
    from peerfabric.options import Options
    from peerfabric.receipt import Receipt
    from peerfabric.reports import Statistics

__all__ = [
    "AsyncConsumer",
    "AsyncNode",
    "AsyncProducer",
    "AsyncPublisher",
    "AsyncSubscriber",
    "BadFrame",
    "BadName",
    "Batch",
    "ConfigError",
    "Consumer",
    "Corrupt",
    "DeadMessage",
    "DecodeError",
    "EncodeError",
    "EndpointInUse",
    "FabricError",
    "ForkedNode",
    "IdentityInUse",
    "Message",
    "MessageTooLarge",
    "NewerFormat",
    "Node",
    "NodeClosed",
    "NotConfirmed",
    "Once",
    "Options",
    "Producer",
    "Publisher",
    "QueueFull",
    "Receipt",
    "Reject",
    "Rejected",
    "RemoteProtocolError",
    "Retry",
    "SpoolError",
    "SpoolFull",
    "SpoolLocked",
    "SpoolUnsafe",
    "Statistics",
    "Subscriber",
    "TimedOut",
    "Undelivered",
    "Update",
    "WouldDeadlock",
    "WrongLoop",
    "__version__",
]

__version__ = "0.1.0"

_HOMES = {
    "AsyncConsumer": "nodes.aio.consumer",
    "AsyncNode": "nodes.aio.node",
    "AsyncProducer": "nodes.aio.producer",
    "AsyncPublisher": "nodes.aio.topic",
    "AsyncSubscriber": "nodes.aio.topic",
    "Batch": "nodes.message",
    "Consumer": "nodes.blocking.consumer",
    "DeadMessage": "nodes.message",
    "Message": "nodes.message",
    "Node": "nodes.blocking.node",
    "Once": "nodes.once",
    "Options": "options",
    "Producer": "nodes.blocking.producer",
    "Publisher": "nodes.blocking.topic",
    "Receipt": "receipt",
    "Reject": "nodes.message",
    "Retry": "nodes.message",
    "Statistics": "reports",
    "Subscriber": "nodes.blocking.topic",
    "Update": "nodes.message",
}


if not TYPE_CHECKING:  # else a checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'peerfabric' has no attribute {name!r}")
        value = getattr(import_module(f"peerfabric.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
