"""peerfabric: brokerless messaging between processes.

The public names load on first use, so importing a machine never loads ZeroMQ.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from peerfabric.errors import (
    BadFrame,
    BadName,
    Cancelled,
    ConfigError,
    Corrupt,
    DecodeError,
    EncodeError,
    EndpointInUse,
    FabricError,
    ForkedNode,
    IdentityInUse,
    Incomplete,
    MessageTooLarge,
    NewerFormat,
    NodeClosed,
    NoServer,
    NotConfirmed,
    QueueFull,
    Rejected,
    RemoteError,
    RemoteProtocolError,
    ServerLost,
    ServiceBusy,
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
    from peerfabric.nodes.aio.service import AsyncClient, AsyncParts
    from peerfabric.nodes.aio.topic import AsyncPublisher, AsyncSubscriber
    from peerfabric.nodes.blocking.consumer import Consumer
    from peerfabric.nodes.blocking.node import Node
    from peerfabric.nodes.blocking.producer import Producer
    from peerfabric.nodes.blocking.service import Client, Parts
    from peerfabric.nodes.blocking.topic import Publisher, Subscriber
    from peerfabric.nodes.message import Batch, DeadMessage, Message, Reject, Retry, Update
    from peerfabric.nodes.message_filter import MessageFilter
    from peerfabric.nodes.once import Once
    from peerfabric.nodes.service.call import Busy, Call
    from peerfabric.nodes.service.gathered import Gathered
    from peerfabric.nodes.service.service import Service
    from peerfabric.options import Options
    from peerfabric.receipt import Receipt
    from peerfabric.reports import Statistics

__all__ = [
    "AsyncClient",
    "AsyncConsumer",
    "AsyncNode",
    "AsyncParts",
    "AsyncProducer",
    "AsyncPublisher",
    "AsyncSubscriber",
    "BadFrame",
    "BadName",
    "Batch",
    "Busy",
    "Call",
    "Cancelled",
    "Client",
    "ConfigError",
    "Consumer",
    "Corrupt",
    "DeadMessage",
    "DecodeError",
    "EncodeError",
    "EndpointInUse",
    "FabricError",
    "ForkedNode",
    "Gathered",
    "IdentityInUse",
    "Incomplete",
    "Message",
    "MessageFilter",
    "MessageTooLarge",
    "NewerFormat",
    "NoServer",
    "Node",
    "NodeClosed",
    "NotConfirmed",
    "Once",
    "Options",
    "Parts",
    "Producer",
    "Publisher",
    "QueueFull",
    "Receipt",
    "Reject",
    "Rejected",
    "RemoteError",
    "RemoteProtocolError",
    "Retry",
    "ServerLost",
    "Service",
    "ServiceBusy",
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
    "AsyncClient": "nodes.aio.service",
    "AsyncConsumer": "nodes.aio.consumer",
    "AsyncNode": "nodes.aio.node",
    "AsyncParts": "nodes.aio.service",
    "AsyncProducer": "nodes.aio.producer",
    "AsyncPublisher": "nodes.aio.topic",
    "AsyncSubscriber": "nodes.aio.topic",
    "Batch": "nodes.message",
    "Busy": "nodes.service.call",
    "Call": "nodes.service.call",
    "Client": "nodes.blocking.service",
    "Consumer": "nodes.blocking.consumer",
    "DeadMessage": "nodes.message",
    "Gathered": "nodes.service.gathered",
    "Message": "nodes.message",
    "MessageFilter": "nodes.message_filter",
    "Node": "nodes.blocking.node",
    "Once": "nodes.once",
    "Options": "options",
    "Parts": "nodes.blocking.service",
    "Producer": "nodes.blocking.producer",
    "Publisher": "nodes.blocking.topic",
    "Receipt": "receipt",
    "Reject": "nodes.message",
    "Retry": "nodes.message",
    "Service": "nodes.service.service",
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
