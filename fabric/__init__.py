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
    from peerfabric.nodes.async_consumer import AsyncConsumer
    from peerfabric.nodes.async_node import AsyncNode
    from peerfabric.nodes.async_producer import AsyncProducer
    from peerfabric.nodes.async_topics import AsyncPublisher, AsyncSubscriber
    from peerfabric.nodes.message import Batch, DeadMessage, Message, Reject, Retry, Update
    from peerfabric.nodes.node import Node
    from peerfabric.nodes.once import Once
    from peerfabric.nodes.queues import Consumer, Producer
    from peerfabric.nodes.topics import Publisher, Subscriber
    from peerfabric.options import Options
    from peerfabric.receipt import Receipt
    from peerfabric.stats import Statistics

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
    "AsyncConsumer": "nodes.async_consumer",
    "AsyncNode": "nodes.async_node",
    "AsyncProducer": "nodes.async_producer",
    "AsyncPublisher": "nodes.async_topics",
    "AsyncSubscriber": "nodes.async_topics",
    "Batch": "nodes.message",
    "Consumer": "nodes.queues",
    "DeadMessage": "nodes.message",
    "Message": "nodes.message",
    "Node": "nodes.node",
    "Once": "nodes.once",
    "Options": "options",
    "Producer": "nodes.queues",
    "Publisher": "nodes.topics",
    "Receipt": "receipt",
    "Reject": "nodes.message",
    "Retry": "nodes.message",
    "Statistics": "stats",
    "Subscriber": "nodes.topics",
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
