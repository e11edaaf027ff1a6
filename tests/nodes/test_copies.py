"""What can be pickled and copied, and what is said of the rest."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import peerfabric
from peerfabric import (
    AsyncNode,
    BadName,
    Busy,
    Cancelled,
    Corrupt,
    DecodeError,
    EncodeError,
    EndpointInUse,
    FabricError,
    ForkedNode,
    Gathered,
    IdentityInUse,
    Incomplete,
    MessageTooLarge,
    NewerFormat,
    Node,
    NodeClosed,
    NoServer,
    NotConfirmed,
    Options,
    QueueFull,
    Receipt,
    Reject,
    Rejected,
    RemoteError,
    Retry,
    ServerLost,
    ServiceBusy,
    SpoolError,
    SpoolFull,
    SpoolLocked,
    SpoolUnsafe,
    Undelivered,
    WrongLoop,
)

COPIES: list[Callable[[Any], Any]] = [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy]

ERRORS: list[Exception] = [
    BadName("queue", "a b", "has a blank"),
    EndpointInUse("tcp://127.0.0.1:7700"),
    EndpointInUse("tcp://0.0.0.0:7700-7701", "PEERFABRIC_LISTEN"),
    IdentityInUse("tcp://10.0.0.5:7700"),
    EncodeError("no", accepted=3),
    MessageTooLarge(20, 10, accepted=3),
    DecodeError("no int", path="$.number", sender="shop"),
    NotConfirmed(Receipt("node:1:q", 3), "processed", 1.5),
    QueueFull("q", 10, accepted=2, waited=0.5),
    Rejected("node:1:q/3", "attempts"),
    Undelivered(1, 2),
    NodeClosed("this consumer"),
    ForkedNode(),
    WrongLoop(),
    SpoolError("/tmp/spool", "cannot be written", errno=5),
    SpoolFull("/tmp/spool", limit=10, accepted=2),
    SpoolFull("/tmp/spool", errno=28),
    SpoolLocked("/tmp/spool", 17),
    SpoolUnsafe("/tmp/spool", "is a link"),
    NewerFormat("/tmp/spool", 9),
    Corrupt("/tmp/spool/1.seg", 8, "no magic"),
    Retry(delay=2.5, reason="later"),
    Reject("never"),
    NoServer("prices.get"),
    Cancelled(),
    Incomplete("prices.get", 2, Gathered(replies={"a": 1}, errors={}, missing={"b": "lost"}, names={"b": "prices"})),
    ServerLost("prices.get", "prices", proven=2),
    ServiceBusy("prices.get", 0.5),
    RemoteError("KeyError", "'dem'", "prices"),
    Busy("the database is away", retry=0.5),
]

PUBLIC = [getattr(peerfabric, name) for name in peerfabric.__all__]
WITH_TEXT = [
    kind("what happened; what to do")
    for kind in PUBLIC
    if inspect.isclass(kind) and issubclass(kind, FabricError) and kind.__init__ is Exception.__init__
]


def test_all_errors_are_here() -> None:
    """A new class needs an example above."""
    errors = {kind for kind in PUBLIC if inspect.isclass(kind) and issubclass(kind, Exception)}
    own_arguments = {kind for kind in errors if inspect.isfunction(kind.__init__)}
    assert own_arguments <= {type(error) for error in ERRORS}


@pytest.mark.parametrize("copied", COPIES, ids=["pickled", "copied", "deeply copied"])
@pytest.mark.parametrize("error", [*ERRORS, *WITH_TEXT], ids=repr)
def test_errors_come_through(error: Exception, copied: Callable[[Any], Any]) -> None:
    """As results of other processes, with text, attributes, errno and notes."""
    error.add_note("seen in a worker")
    found = copied(error)
    assert type(found) is type(error)
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))
    assert getattr(found, "errno", None) == getattr(error, "errno", None)


@pytest.mark.parametrize("copied", COPIES, ids=["pickled", "copied", "deeply copied"])
@pytest.mark.parametrize("value", [Receipt("node:1:q", 3), Options(peers_max=5)], ids=repr)
def test_values_come_through(value: Any, copied: Callable[[Any], Any]) -> None:
    """A receipt may be kept anywhere."""
    assert copied(value) == value


@pytest.mark.usefixtures("runtime")
def test_what_is_bound_to_a_node() -> None:
    """Whatever users hold of a node says so, and what to do instead."""
    node = Node("shop")
    producer, consumer = node.producer("q", int, max_attempts=1), node.consumer("q", int)
    publisher, subscriber = node.publisher("t", int), node.subscriber("t", int)
    other = AsyncNode("other")
    bound: list[tuple[Any, str]] = [
        (node, "make one in each process"),
        (other, "make one in each process"),
        *((handle, "make a Node in each process") for handle in (producer, consumer, publisher, subscriber)),
        *((make("q", int), "make a Node") for make in (other.producer, other.consumer)),
        *((make("t", int), "make a Node") for make in (other.publisher, other.subscriber)),
        (iter(consumer), "make a Node"),
        (subscriber.batches(), "make a Node"),
        (other.consumer("q", int).batches(), "make a Node"),
    ]
    with node:
        publisher.ready(timeout=30)
        publisher.publish(1)
        bound.append((subscriber.get(timeout=30), r"pass on update\.body"))
        producer.send_many([1, 2, 3])
        message = consumer.get(timeout=30)
        bound.append((message, r"pass on message\.body"))
        message.reject("no")
        batch = next(iter(consumer.batches()))
        bound.append((batch, r"pass on message\.body"))
        batch.ack()
        producer.flush(timeout=30)
        bound.append((node.dead_letters("q")[0], r"ask node\.dead_letters\(\) again"))
        assert statistics_come_through(node)
    for thing, text in bound:
        for copied in COPIES:
            if isinstance(thing, peerfabric.Update) and copied is copy.copy:
                continue  # shares what came with it
            with pytest.raises(TypeError, match=text):
                copied(thing)


def statistics_come_through(node: Node) -> bool:
    found = node.statistics()
    return all(copied(found) == found for copied in COPIES)
