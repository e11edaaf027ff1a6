"""Named hooks of the mutants: the one place that spells the private names of the code under test.

`tests/test_world_catches.py` breaks one rule at a time by replacing what a hook stands for. Whoever moves or renames
that changes its path here, and nothing there; a hook whose path leads nowhere fails a test of its own by its name.
"""

from __future__ import annotations

from collections import deque
from importlib import import_module
from typing import Any, Final

from peerfabric.service.served import RESTING_MAX
from peerfabric.spool.slots import slot_folder

HOOKS: Final = {
    # The consumer's side of a queue
    "incoming.receive": "peerfabric.queue.incoming:IncomingQueue.receive",
    "incoming.decline": "peerfabric.queue.incoming:IncomingQueue.decline",
    "incoming.fence": "peerfabric.queue.incoming:IncomingQueue.fence",
    "incoming.release": "peerfabric.queue.incoming:IncomingQueue.release",
    "producers.possession": "peerfabric.queue.sources:Producers.possession",
    "producers.inherited": "peerfabric.queue.sources:Producers._inherited",
    "dedup.receive": "peerfabric.queue.received:Dedup.receive",
    "dedup.reported": "peerfabric.queue.received:Dedup.reported",
    "overdue.deferred": "peerfabric.queue.delivery:Overdue.let_go",
    "handon.defer": "peerfabric.queue.handon:HandOn.defer",
    "handon.need_only_be_delivered": "peerfabric.queue.handon:Watch._need_only_be_delivered",
    "handon.one_is_safe": "peerfabric.queue.handon:Together.one_is_safe",
    "ledger.record": "peerfabric.nodes.storage.ledger_store:LedgerStore.record",
    "ledger.remembered": "peerfabric.nodes.storage.ledger_store:LedgerStore.remembered",
    "incoming.give_back_unstarted": "peerfabric.queue.incoming:IncomingQueue.give_back_unstarted",
    "incoming.grant": "peerfabric.queue.incoming:IncomingQueue.grant",
    "receiver.return_unstarted": "peerfabric.queue.receiver:Receiver._return_unstarted",
    "receiver.forget": "peerfabric.queue.receiver:Receiver.forget",
    "receiver.resume": "peerfabric.queue.receiver:Receiver.resume",
    # The producer's side
    "outgoing.purge": "peerfabric.queue.outgoing:OutgoingQueue.purge",
    "durable.purge": "peerfabric.queue.durable:DurableQueue.purge",
    "durable.accept": "peerfabric.queue.durable:DurableQueue.accept",
    "durable.loaded": "peerfabric.queue.durable:DurableQueue.loaded",
    "outgoing.gone": "peerfabric.queue.outgoing:OutgoingQueue.gone",
    "outgoing.ran": "peerfabric.queue.outgoing:OutgoingQueue.ran",
    "outgoing.reconcile": "peerfabric.queue.outgoing:OutgoingQueue.reconcile",
    "outgoing.nacked": "peerfabric.queue.outgoing:OutgoingQueue.nacked",
    "outgoing.numbers": "peerfabric.queue.outgoing:OutgoingQueue.numbers",
    "sender.close": "peerfabric.queue.sender:Sender.close",
    "producers.left": "peerfabric.queue.sources:Producers.left",
    "outgoing.is_over": "peerfabric.queue.outgoing:OutgoingQueue._is_over",
    "outgoing.pick": "peerfabric.queue.outgoing:OutgoingQueue.pick",
    "pending.take_expired": "peerfabric.queue.pending:Pending.take_expired",
    "loaded.expires_at": "peerfabric.nodes.storage.store:Loaded.expires_at",
    "durable.adopt": "peerfabric.queue.durable:DurableQueue._adopt",
    "outgoing.raise_floor": "peerfabric.queue.settled:Settled.raise_floor",
    "receiver.slow_after": "peerfabric.queue.receiver:slow_after",
    "sender.data_frame": "peerfabric.queue.dispatch:data_frame",
    "credit.rest": "peerfabric.link.sending:ProducerCredit.rest",
    "sender.receive_ack": "peerfabric.queue.sender:Sender.receive_ack",
    "sender.acks_to_settle": "peerfabric.queue.sender:Sender.acks_to_settle",
    "sender.awaits": "peerfabric.queue.sender:Sender._awaits",
    # A durable queue
    "durable.dead_lettered": "peerfabric.queue.backlog:Backlog.dead_lettered",
    "durable.count_death": "peerfabric.queue.backlog:Backlog.count_death",
    "durable.runs": "peerfabric.queue.backlog:Backlog.runs",
    "durable.reunion": "peerfabric.queue.backlog:REUNION",
    "durable.begin": "peerfabric.queue.durable:Recovered.begin",
    "store.store_dead_letters": "peerfabric.nodes.storage.store:Store.store_dead_letters",
    "store.remember": "peerfabric.nodes.storage.store:Store.remember",
    "store.settle": "peerfabric.nodes.storage.store:Store.settle",
    "store.sync": "peerfabric.nodes.storage.store:Store.sync",
    "store.write_cursor": "peerfabric.nodes.storage.store:Store.write_cursor",
    "deposits.store": "peerfabric.nodes.outbox.deposits:Deposits.store",
    "log.trim": "peerfabric.spool.log:Log._trim",
    "log.close": "peerfabric.spool.log:Log.close",
    "log.abandon": "peerfabric.spool.log:Log.abandon",
    "spool.next_owner": "peerfabric.spool.spool:next_owner",
    "spool.left": "peerfabric.spool.spool:Spool._left",
    # Orphans
    "slots.sights": "peerfabric.spool.slots:Slots.sights",
    "slots.open": "peerfabric.spool.slots:Slots.open",
    "orphans.keeps": "peerfabric.spool.orphans:Orphans.keeps",
    "orphans.look": "peerfabric.spool.orphans:Orphans.look",
    "roster.consumers_of": "peerfabric.link.roster:Roster.consumers_of",
    # Links and topics
    "engine.handle_frames": "peerfabric.engine:Engine.handle_frames",
    "engine.handle_access": "peerfabric.engine:Engine.handle_access",
    "engine.readdress": "peerfabric.engine:Engine.readdress",
    "links.discovered": "peerfabric.link.dialling:Dialling.discovered",
    "links.unanswered": "peerfabric.link.dialling:Dialling._unanswered",
    "links.change_gates": "peerfabric.link.dialling:Dialling.change_gates",
    "links.not_for_us": "peerfabric.link.hello:Hellos._not_for_us",
    "links.share_network": "peerfabric.link.tables:Tables._share_network",
    "links.receive_hello": "peerfabric.link.hello:Hellos.receive_hello",
    "links.superseded": "peerfabric.link.hello:Hellos._superseded",
    "links.told_address": "peerfabric.link.hello:Hellos._told_address",
    "addresses.met": "peerfabric.link.addresses:Addresses.met",
    "links.reject": "peerfabric.link.hello:Hellos.reject",
    "link.probed": "peerfabric.link.link:Link.probed",
    "link.is_hung_for_too_long": "peerfabric.link.link:Link.is_hung_for_too_long",
    "link.accept": "peerfabric.link.link:Link.accept",
    "link.take_echo": "peerfabric.link.link:Link.take_echo",
    "link.ask_at_once": "peerfabric.link.link:Link._ask_at_once",
    "link.new_life": "peerfabric.link.link:Link._new_life",
    "links.stray": "peerfabric.link.links:Links.stray",
    # Services
    "caller.link_down": "peerfabric.service.caller:Caller.link_down",
    "caller.judge": "peerfabric.service.caller:Caller._judge",
    "caller.time_out": "peerfabric.service.caller:Caller._time_out",
    "responder.receive": "peerfabric.service.responder:Responder.receive",
    "responder.receive_cancel": "peerfabric.service.responder:Responder.receive_cancel",
    "responder.link_down": "peerfabric.service.responder:Responder.link_down",
    "responder.fail": "peerfabric.service.responder:Responder.fail",
    "responder.resume": "peerfabric.service.responder:Responder.resume",
    "served.has_slot": "peerfabric.service.served:Served.has_slot",
    "served_call.may_send": "peerfabric.service.served:ServedCall.may_send",
    "topic.receive": "peerfabric.topic.subscriber:IncomingTopic.receive",
    "topic.keep": "peerfabric.topic.subscriber:IncomingTopic._keep",
}


class HookGone(Exception):
    """A hook's path leads nowhere, since the code has changed."""


def place(name: str) -> tuple[Any, str]:
    """The owner of what a hook stands for, a module or a class, and its attribute there."""
    module, _, path = HOOKS[name].partition(":")
    *owners, attribute = path.split(".")
    try:
        owner: Any = import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        getattr(owner, attribute)
    except (ImportError, AttributeError) as error:
        raise HookGone(f"{name!r} is no longer {HOOKS[name]}: say in tests/world/hooks.py where it is now") from error
    return owner, attribute


def original(name: str) -> Any:
    """What a hook stands for: a function, a method of a class, or a property."""
    return getattr(*place(name))


# State that mutants look at or change


def resting_max() -> int:
    """How many handlers may run beyond the capacity of a service while others wait in calls."""
    return RESTING_MAX


def calls_at(caller: Any, link: Any) -> list[Any]:
    """The open calls that were sent over a link in its present life."""
    return [call for call, _ in caller._sent.get(link, {}).values()]


def keep(caller: Any, link: Any, frames: Any) -> None:
    """Take all calls of a link for those of a frame that its socket did not take."""
    caller._kept[link] = frames, calls_at(caller, link)


def source(queue: Any, peer: str) -> Any:
    """All that a consumed queue knows of one producer: `done`, `buffer`, `credit`; None if it knows nothing."""
    return queue._sources.get(peer)


def part(links: Any, node_id: str, now: float) -> list[Any]:
    """Take the peer of a node for dead."""
    link = links._by_node.get(node_id)
    changes: list[Any] = links._part(link, now, proven=True, died=True) if link is not None else []
    return changes


def believe_alive(link: Any, now: float) -> None:
    """Take the peer of a link for alive."""
    link._alive(now)


def linked_at(links: Any, address: Any) -> list[Any]:
    """The links that are dialled to where a node says that it listens."""
    found: list[Any] = links._at(address)
    return found


def settled(queue: Any) -> Any:
    """The settled messages of a queue sent to, with their `floor`."""
    return queue.settled


def halves(links: Any) -> dict[int, Any]:
    """Each half link by its half number."""
    found: dict[int, Any] = links._halves
    return found


def break_lock(slots: Any, number: int) -> None:
    """Take the lock of a slot away from whoever has it."""
    platter = slots._files.platter
    for descriptor, (path, _) in platter._descriptors.items():
        if path == f"{slot_folder(slots.folder, number)}/lock":
            platter._locks.pop(descriptor, None)


def remove_sealed_segments(log: Any) -> None:
    """Remove each segment of a log that nothing is appended to, whatever is in it."""
    for segment in [s for s in log._contents.segments if s.sealed and not s.syncs]:
        log._remove(segment)


def send_written(deposits: Any) -> None:
    """Hand over to the pump what was written, but not synced."""
    handle = deposits._handle
    for deposit in deposits._written:
        if deposit.letter is None:
            handle.handed.append((deposit.bodies[: deposit.count], False, deposit.kind))
            deposit.bodies = []
    handle.process.wake()


def track(topic: Any, peer: str, name: str) -> Any:
    """What a subscription remembers of one publisher's topic, `seen` among it; None if it has heard nothing."""
    return topic._tracks.get(peer, {}).get(name)


def buffer(topic: Any) -> deque[Any]:
    """The batches that a subscription has received and not handed out."""
    found: deque[Any] = topic._buffer
    return found


def left_off(receiver: Any) -> dict[str, Any]:
    """The totals of queues that were forgotten, by peer."""
    left: dict[str, Any] = receiver._left_off
    return left
