"""Rows of queues, topics and nodes, put together of many answers."""

from __future__ import annotations

from msgspec.structs import replace

from peerfabric.nodes.cli.host.rows import hand_rows, node_rows, places, queue_rows, topic_rows
from peerfabric.status import InHand, NodeStatus, Peer, Publishing, Subscribing
from tests.cli.processes import heard, node, sending, taking


def seen(*nodes: NodeStatus, at: float = 0.0, fabric: str | None = None, cpu: float = 0.0):  # type: ignore[no-untyped-def]
    status = heard(7, *nodes, cpu=cpu).status
    assert status is not None
    return places([(status, at)], fabric)


def test_one_row_for_each_queue() -> None:
    """Depths are added up, ages are the highest, over all nodes of one fabric."""
    [row] = queue_rows(
        seen(
            node("a", sends=(sending(waiting=3, in_flight=2, redelivered=1, oldest=4.0, letters=1),)),
            node("b", sends=(sending(waiting=1, on_disk=7, oldest=9.0, letters=2),)),
            node("c", takes=(taking("orders", InHand(id="x", age=2.5), paused=True),)),
        )
    )
    assert (row.waiting, row.in_flight, row.on_disk, row.depth) == (4, 2, 7, 11)
    assert (row.oldest, row.redelivered, row.dead, row.dead_reasons) == (9.0, 1, 3, {"rejected": 3})
    assert (row.producers, row.consumers, row.running, row.longest, row.paused) == (2, 1, 1, 2.5, 1)
    assert (row.in_rate, row.out_rate) == (None, None)


def test_consumers_are_counted_once() -> None:
    """Those that answer and those that producers tell of; two of one name are two."""
    first, second = (replace(sending(), consumers=names) for names in (("k", "k", "far"), ("k", "other")))
    sends = node("a", sends=(first,)), node("b", sends=(second,))
    takes = replace(node("k", takes=(taking(),)), node_id="1"), replace(node("k", takes=(taking(),)), node_id="2")
    [row] = queue_rows(seen(*sends, *takes))
    assert row.consumers == 4


def test_fabrics_are_kept_apart() -> None:
    """A queue of the same name in another fabric is another queue; one of them can be asked for."""
    nodes = node("a", sends=(sending(waiting=1),)), node("b", "other", sends=(sending(waiting=2),))
    assert [(row.fabric, row.waiting) for row in queue_rows(seen(*nodes))] == [("cli", 1), ("other", 2)]
    assert [row.waiting for row in queue_rows(seen(*nodes, fabric="other"))] == [2]


def test_a_node_that_two_tell_of_is_counted_once() -> None:
    """One that this host and another one tell of, by its life; its next life is another."""
    status = heard(7, node("a", sends=(sending(waiting=1),))).status
    assert status is not None
    again = replace(status, nodes=(replace(status.nodes[0], epoch=2),))
    assert len(places([(status, 0.0), (status, 1.0)], None)) == 1
    assert len(places([(status, 0.0), (again, 1.0)], None)) == 2


def test_rates_are_of_lives_that_were_there_before() -> None:
    """What a node that has come meanwhile counted long ago is no rate; a counter that falls is none either."""
    before = seen(node("a", sends=(sending(accepted=10, acked=4),)), node("c", sends=(sending(accepted=9),)), at=1.0)
    now = seen(
        node("a", sends=(sending(accepted=30, retried=2, acked=24),)),
        node("b", sends=(sending(accepted=1000, acked=1000),)),
        node("c", sends=(sending(accepted=3),)),
        at=3.0,
    )
    [row] = queue_rows(now, before)
    assert (row.in_rate, row.out_rate) == (11.0, 10.0)


def test_rates_of_consumers_count_where_no_producer_is() -> None:
    """Else what they were given again would count as well."""
    consumer = [node("k", takes=(taking(received=n, processed=n - 1),)) for n in (10, 30)]
    [row] = queue_rows(seen(consumer[1], at=2.0), seen(consumer[0], at=0.0))
    assert (row.in_rate, row.out_rate) == (10.0, 10.0)
    producer = node("a", sends=(sending(accepted=5),))
    [row] = queue_rows(seen(consumer[1], producer, at=2.0), seen(consumer[0], producer, at=0.0))
    assert (row.in_rate, row.out_rate) == (0.0, 0.0)


def test_topics_and_patterns() -> None:
    """Publishers of a topic are added up; a pattern has a row of its own, with what its subscribers missed."""
    before = seen(node("p", publishes=(Publishing(topic="eur", published=10),)), at=0.0)
    now = seen(
        node("p", publishes=(Publishing(topic="eur", published=30, subscribers=2),)),
        node("q", publishes=(Publishing(topic="eur", published=1, subscribers=3),)),
        node("s", subscribes=(Subscribing(pattern=">", received=5, missed=1, late=2, behind=9),)),
        at=2.0,
    )
    everything, eur = topic_rows(now, before)
    assert (eur.publishers, eur.published, eur.subscribers, eur.out_rate, eur.in_rate) == (2, 31, 3, 10.0, None)
    assert (everything.subscriptions, everything.missed, everything.late, everything.behind) == (1, 1, 2, 9)
    assert (everything.publishers, everything.out_rate, everything.in_rate) == (0, None, 0.0)


def test_nodes_say_what_they_are_at() -> None:
    """A busy engine and a late I/O thread come before the state of life; idle peers are as they should be."""
    peers = tuple(Peer(node_id=str(n), name=str(n), state=state) for n, state in enumerate(("up", "idle", "one-way")))
    rows = node_rows(
        seen(
            node("a", peers=peers, sends=(sending(waiting=2, on_disk=3),)),
            node("b", engine="busy 1.0 s"),
            node("c", pump_late=1.5),
            at=2.0,
            cpu=3.0,
        ),
        seen(node("a"), at=0.0, cpu=1.0),
    )
    assert [(row.name, row.state) for row in rows] == [("a", "running"), ("b", "busy"), ("c", "late")]
    assert (rows[0].peers, rows[0].peers_up, rows[0].waiting, rows[0].cpu) == (3, 2, 5, 1.0)


def test_hands_are_listed_longest_first() -> None:
    """With queue, node and process."""
    first, second = InHand(id="1", age=1.0), InHand(id="2", age=8.0)
    rows = hand_rows(seen(node("k", takes=(taking("orders", first), taking("jobs", second)))))
    assert [(row.queue, row.node, row.pid, row.message.id) for row in rows] == [
        ("jobs", "k", 7, "2"),
        ("orders", "k", 7, "1"),
    ]
