"""Two engines over a perfect wire: that each part reaches the other, and what strangers cannot do."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec
import pytest

from peerfabric.engine import Engine
from peerfabric.link.liveness import FENCE
from peerfabric.link.sending import Sending
from peerfabric.options import Options
from peerfabric.queue import numbering
from peerfabric.queue.delivery import Verdict
from peerfabric.queue.durable import DurableQueue, Recovered
from peerfabric.queue.incoming import UNREADABLE
from peerfabric.queue.marks import Marks
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.wire.frames import (
    IDLE,
    LEAVING,
    NAMES_MAX,
    OTHER_FABRIC,
    RAW,
    REJECTED,
    Ack,
    Address,
    Bye,
    Data,
    Grant,
    Hello,
    Interest,
    Nack,
    Ping,
    Pong,
    Release,
    StreamRanges,
    decode_frame,
    encode_frame,
)
from tests.fabric.helpers import Pair, bodies, claim, take, transmitted


def flow(pair: Pair, count: int = 3) -> OutgoingQueue:
    """`a` sends messages to `b`, whose one taker waits."""
    end = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.b.open_consumer("jobs", 10.0, pair.now)
    pair.meet()
    pair.b.consumers.by_queue["jobs"].want(1, 100, pair.now)
    pair.b.consumers.progress(pair.b.consumers.by_queue["jobs"], pair.now)
    pair.a.producers.accept(end, bodies(count), 0)
    pair.settle()
    return end


def run_all(pair: Pair) -> list[bytes]:
    """The taker of `b` runs and acks what it can get."""
    end = pair.b.consumers.by_queue["jobs"]
    done: list[bytes] = []
    while (delivery := end.take(pair.now)) is not None:
        low = delivery.next
        found = claim(delivery, 100, pair.now)
        done += found
        delivery.ack(low, low + len(found))
        pair.b.consumers.progress(end, pair.now)
        pair.settle()
    return done


def test_messages_flow_and_settle() -> None:
    """Accepted, dispatched by credit, run, acked: and nothing remains."""
    pair = Pair()
    end = flow(pair)
    assert run_all(pair) == bodies(3)
    assert (end.account().acked, end.unsettled_count, pair.a.settled(), pair.b.settled()) == (3, 0, True, True)


def test_nothing_is_sent_without_credit() -> None:
    """Nobody takes, so the messages stay at home."""
    pair = Pair()
    end = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.b.open_consumer("jobs", 10.0, pair.now)
    pair.meet()
    pair.a.producers.accept(end, bodies(3), 0)
    pair.pass_time(3.0)
    assert end.account().waiting == 3


def test_what_came_together_is_answered_once() -> None:
    """One ACK for several frames of messages, with the new credit, and nothing after it."""
    pair = Pair()
    end = flow(pair)
    run_all(pair)
    for link in pair.a.links.by_wire.values():
        link.rate = 1e9  # so that several large frames may be on their way
    data: list[list[bytes]] = []

    def arrives(sender: Engine, frames: list[bytes]) -> bool:
        if len(frames) == 2:
            data.append(frames)
        return len(frames) == 1 or len(data) == 1  # the first says that more waits, for which it is granted credit

    pair.filter = arrives
    pair.a.producers.accept(end, bodies(4, 300_000), 0)
    pair.settle()
    assert len(data) == 4
    for frames in data[1:]:
        pair.b.handle_frames(frames, pair.now)
    consumer = pair.b.consumers.by_queue["jobs"]
    for _ in range(4):
        delivery = consumer.take(pair.now)
        assert delivery is not None
        claim(delivery, 1, pair.now)
        delivery.ack(0, 1)
    pair.b.consumers.progress(consumer, pair.now)
    [answer] = [decode_frame(header) for _, (header,) in transmitted(pair.b, pair.now)]
    assert isinstance(answer, Ack)
    assert (len(answer.results), len(answer.grants)) == (1, 1)
    assert not pair.b.consumers.progress(consumer, pair.now)
    assert transmitted(pair.b, pair.now) == []


def test_delivered_by_the_echo() -> None:
    """Once the peer has echoed the frame the messages are in its memory."""
    pair = Pair()
    end = flow(pair, 1)
    assert end.state(1) in ("in flight", "delivered")
    pair.pass_time(0.2)
    assert end.state(1) == "delivered"


def test_a_body_that_its_header_does_not_describe_is_refused() -> None:
    """By each consumer, so that it ends as a dead letter; the link lives, and what comes after it arrives."""
    pair = Pair()

    def spoil(sender: Engine, frames: list[bytes]) -> bool:
        if len(frames) == 2:
            frames[1] = b"\xc0"
        return True

    pair.filter = spoil
    end = flow(pair, 1)
    pair.filter = lambda sender, frames: True
    assert [(letter.reason, letter.error) for letter in end.letters()] == [("refused", UNREADABLE)]
    pair.a.producers.accept(end, [b"next"], 0)
    pair.settle()
    assert run_all(pair) == [b"next"]
    assert (pair.a.statistics().counters, pair.b.statistics().counters) == ({}, {})


def test_a_lost_frame_renews_the_link() -> None:
    """The next one shows the gap; what was lost goes again, once, with the same attempt."""
    pair = Pair()
    flow(pair, 1)
    assert run_all(pair) == bodies(1)
    end = pair.a.producers.by_queue["jobs"]
    lost: list[int] = []

    def lose_data_once(sender: Engine, frames: list[bytes]) -> bool:
        if not lost and isinstance(decode_frame(frames[0]), Data):
            lost.append(1)
            return False
        return True

    pair.filter = lose_data_once
    pair.b.consumers.by_queue["jobs"].want(1, 100, pair.now)
    pair.b.consumers.progress(pair.b.consumers.by_queue["jobs"], pair.now)
    pair.a.producers.accept(end, [b"again"], 0)
    pair.pass_time(2.0)
    assert lost == [1]
    assert run_all(pair) == [b"again"]
    assert (pair.b.links.counters["links renewed"], end.account().acked) == (1, 2)


def renew(pair: Pair, meanwhile: Callable[[], object] = lambda: None, *, by: str = "b") -> None:
    """`by` misses a frame; `meanwhile` happens before the link is up again, for which no time passes."""
    engine = pair.a if by == "a" else pair.b
    [link] = engine.links.by_wire.values()
    engine._apply(engine.links.broken(link, pair.now), pair.now)
    meanwhile()
    pair.settle()


def test_cursors_settle_what_they_have() -> None:
    """Those of another life of the link settle nothing, an older one takes nothing back, and none goes too far."""
    pair = Pair()
    pair.a.producers.durable = True
    producers = pair.a.producers
    flow(pair)
    run_all(pair)
    [(link, (life, ack))] = producers.acks_to_settle().items()
    assert ack > 1
    for stored, settled in (((life - 1, ack), 0), ((life, ack), ack), ((life, ack - 1), ack), ((life, ack + 9), ack)):
        producers.cursors_stored({link: stored})
        assert link.sending.acks_settled == settled
    assert producers.acks_to_settle() == {}


def test_cursors_are_not_hurried_for_any_ack() -> None:
    """Only for one that somebody waits for, as with a suspect."""
    pair = Pair()
    pair.a.producers.durable = True
    flow(pair)
    run_all(pair)
    assert pair.a.producers.acks_to_settle()
    assert not pair.a.producers.awaits_cursors([])


def test_pings_name_only_queues_that_have_changed() -> None:
    """So that one beside a thousand that are idle costs what it costs alone; a new life of the link begins with all."""
    pair = Pair()
    for queue in ("idle", "rare"):
        pair.a.open_producer(queue, RAW, 5, 2**20, pair.now)
        pair.b.open_consumer(queue, 10.0, pair.now)
    end = flow(pair)
    run_all(pair)
    producers = pair.a.producers
    [link] = producers._links.by_peer.values()
    producers.ping_contents(link)[1]
    assert producers.ping_contents(link)[1] == []
    producers.accept(end, bodies(1), 0)
    list(producers.frames(pair.now))
    assert [backlog.queue for backlog in producers.ping_contents(link)[1]] == ["jobs"]
    link.sending = Sending()
    assert {backlog.queue for backlog in producers.ping_contents(link)[1]} == {"idle", "rare", "jobs"}


def test_a_peer_that_counts_its_acks_anew() -> None:
    """It has forgotten this node meanwhile: what was settled of the old count says nothing of the new one."""
    pair = Pair()
    pair.a.producers.durable = True
    end = flow(pair)
    for _ in range(4):
        run_all(pair)
        pair.a.producers.accept(end, bodies(1), 0)
        pair.settle()
    pair.a.producers.cursors_stored(pair.a.producers.acks_to_settle())
    [link], [theirs] = pair.a.links.by_wire.values(), pair.b.links.by_wire.values()
    before = link.sending.acks_settled
    theirs.ack_number = 0
    renew(pair)
    assert 0 < link.sending.acks_applied == theirs.ack_number < before
    assert link.sending.acks_settled == 0


def test_what_was_settled_elsewhere_is_not_run() -> None:
    """While the link was not up; as it begins anew `b` names what it holds, and is told what it must not run."""
    pair = Pair()
    end = flow(pair)
    renew(pair, lambda: end.acked("c:1", 2, 3))
    assert (end.state(2), end.account().in_flight) == ("processed", 2)
    assert run_all(pair) == [b"0001", b"0003"]
    assert (end.account().acked, end.account().redelivered, end.account().closes) == (3, 0, True)


NONE: Recovered = Recovered([], [], [], Marks(), died=False)


@pytest.mark.parametrize(
    ("stream", "spool", "released"),
    [
        (f"a:{7 << 20}:jobs", None, True),
        (f"a:{7 << 20}:other", None, True),
        ("a:1:jobs", None, False),
        ("a:1:jobs", NONE, True),
        ("a:1:other", NONE, False),
    ],
    ids=["of this life", "of a queue not opened", "of an earlier life", "with a spool", "of another queue"],
)
def test_what_is_held_and_not_known_here(stream: str, spool: Recovered | None, released: bool) -> None:
    """It need not run if it is settled for sure; what an earlier life without a spool had sent is nowhere else."""
    pair = Pair()
    pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now, spool)
    pair.b.open_consumer("jobs", 10.0, pair.now)
    pair.meet()
    [link] = pair.a.links.by_wire.values()
    held = [StreamRanges(stream, [1, 3])]
    pair.a.producers.reconcile(link, Interest(b"", 0, 0, 9, [], [], [], [], held), pair.now)
    assert pair.a.producers.take_release(link).streams == (held if released else [])


def test_a_life_begins_with_the_streams_that_go_on() -> None:
    """Once: consumers forget what they remember of the others."""
    pair = Pair()
    told: list[list[str] | None] = []

    def listen(sender: Engine, frames: list[bytes]) -> bool:
        frame = decode_frame(frames[0])
        if isinstance(frame, Release) and sender is pair.a:
            told.append(frame.live)
        return True

    pair.filter = listen
    flow(pair)
    run_all(pair)
    assert told == [[f"a:{7 << 20}:jobs"]]
    renew(pair)
    assert told == [[f"a:{7 << 20}:jobs"]] * 2


def test_a_node_consumes_from_itself() -> None:
    """Over the same machines, with no wire."""
    pair = Pair()
    end = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    consumer = pair.a.open_consumer("jobs", 10.0, pair.now)
    pair.settle()
    consumer.want(1, 1, pair.now)
    pair.a.consumers.progress(consumer, pair.now)
    pair.a.producers.accept(end, bodies(1), 0)
    pair.settle()
    delivery = consumer.take(pair.now)
    assert delivery is not None
    assert claim(delivery, now=pair.now) == bodies(1)
    delivery.ack(0, 1)
    pair.a.consumers.progress(consumer, pair.now)
    pair.settle()
    assert (end.account().acked, pair.commands) == (1, [])


def test_leaving_in_order() -> None:
    """DRAIN stops new work, the last ACK goes before BYE, and BYE is answered."""
    pair = Pair()
    end = flow(pair)
    delivery = pair.b.consumers.by_queue["jobs"].take(pair.now)
    assert delivery is not None
    first = claim(delivery, 1, pair.now)
    pair.b.drain(pair.now)
    pair.settle()
    delivery.ack(0, 1)
    pair.b.say_bye(pair.now)
    pair.settle()
    assert (first, end.account().acked, end.account().waiting) == (bodies(1), 1, 2)
    assert pair.b.finished(pair.now)
    assert pair.a.links.by_peer == {}


def test_nothing_in_common_parts() -> None:
    """After ten seconds; a change of interest brings them together again."""
    pair = Pair()
    pair.meet()
    pair.pass_time(11.0)
    assert (pair.a.links.by_peer, pair.b.links.by_peer) == ({}, {})
    pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.b.open_consumer("jobs", 10.0, pair.now)
    pair.pass_time(1.0)
    assert [link.up for link in pair.a.links.by_peer.values()] == [True]


def test_parting_and_interest_cross() -> None:
    """Who finds something in common in the very moment of a goodbye dials again."""
    pair = Pair()
    pair.meet()
    pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.settle()
    pair.b.open_consumer("jobs", 10.0, pair.now)
    [link] = pair.a.links.by_peer.values()
    pair.a._part_idle(link, pair.now)
    pair.pass_time(1.0)
    assert [link.up for link in pair.a.links.by_peer.values()] == [True]


def test_who_parts_is_not_called_gone() -> None:
    """Both sides say that there is nothing in common."""
    pair = Pair()
    pair.meet()
    [link] = pair.a.links.by_peer.values()
    pair.a.records.take(), pair.b.records.take()
    pair.a._part_idle(link, pair.now)
    pair.pass_time(0.5)
    assert [line.text for line in pair.a.records.take()] == ["b parted, nothing in common"]
    assert [line.text for line in pair.b.records.take()] == ["a parted, nothing in common"]


def test_data_for_nobody() -> None:
    """It comes back at once, and counts no attempt."""
    pair = Pair()
    end = flow(pair, 0)
    pair.b.close_consumer("jobs", pair.now)
    run_before = end.account().redelivered
    pair.a.producers.accept(end, bodies(2), 0)
    pair.settle()
    account = end.account()
    assert (account.waiting, account.in_flight, account.redelivered, end.consumers) == (2, 0, run_before, {})


def test_what_waits_is_told_at_once_unless_it_leaves() -> None:
    """To a consumer that has left us without credit, and once until something leaves."""
    pair = Pair()
    end = flow(pair, 1)
    run_all(pair)
    pair.settle()
    credit = next(iter(pair.a.links.by_wire.values())).sending.credit("jobs")
    credit.sent_messages = credit.limit_messages - 1

    def sent() -> list[object]:
        pair.a.producers.accept(end, bodies(1), 0)
        return [decode_frame(frames[0]) for _, frames in transmitted(pair.a, pair.now)]

    assert [type(frame) for frame in sent()] == [Data]
    [ping] = sent()
    assert isinstance(ping, Ping)
    assert [backlog.waiting for backlog in ping.backlogs] == [1]
    assert sent() == []


def test_a_refused_frame_is_kept_and_goes_first() -> None:
    """The socket was full for a moment: nothing is lost, nothing overtakes."""
    pair = Pair()
    end = flow(pair, 1)
    run_all(pair)
    pair.settle()
    pair.a.producers.accept(end, bodies(1), 0)
    refused = [frames for _, frames in transmitted(pair.a, pair.now, taken=False)]
    assert [type(decode_frame(frames[0])) for frames in refused] == [Data]
    assert transmitted(pair.a, pair.now) == []
    pair.a.handle_writable(next(iter(pair.a.links.by_wire)))
    assert [frames for _, frames in transmitted(pair.a, pair.now)] == refused


def test_another_fabric_is_refused() -> None:
    """And told why, in words that say what to do."""
    pair = Pair()
    stranger = Engine(pair.b.address, "other", Options(), Random(9), pair.now)
    stranger.handle_discovered(pair.a.address, pair.now)
    stranger.poll_commands()
    stranger.handle_connected(1, pair.now)
    [(_, hello)] = transmitted(stranger, pair.now)
    pair.a.handle_frames(hello, pair.now)
    [(_, bye)] = transmitted(pair.a, pair.now)
    frame = decode_frame(bye[0])
    assert isinstance(frame, Bye)
    assert frame.reason == OTHER_FABRIC
    stranger.handle_frames(bye, pair.now)
    assert [record.text for record in stranger.records.take() if "refused" in record.text] == [
        "a refused this node: it is in another fabric; give both nodes the same fabric="
    ]


def test_the_statistics_close() -> None:
    """Producer and consumer tell the same story."""
    pair = Pair()
    flow(pair)
    run_all(pair)
    [produced] = pair.a.statistics().producers
    [consumed] = pair.b.statistics().consumers
    assert produced.closes
    assert (produced.acked, consumed.processed, consumed.received) == (3, 3, 3)


def _hostile(random: Random, link: bytes, number: int) -> bytes:
    """A frame that is well-formed and lies."""
    some = random.choice((0, 1, 2, 5, 2**40, 2**53 - 1))
    flat = [random.choice((0, 1, 3, 7, 2**53 - 1)) for _ in range(random.randrange(6))]
    stream = random.choice(("a:7340032:jobs", "b:7340032:jobs", "x", "a:1:none", ""))
    echo = random.choice((0, 1, 10**6))
    result = [stream, "jobs", flat, flat, [[1, some, 1, 3, -1, "x"]], flat]
    lies = (max(1, some), 1, some, some, RAW, 0, 0, some, some, some, some)
    frames = [
        msgspec.msgpack.encode([4, link, number, echo, some, [result], [["jobs", some, some]]]),
        msgspec.msgpack.encode([5, link, number, echo, [[stream, flat]], [stream]]),
        msgspec.msgpack.encode([6, link, number, echo, float("nan"), some, [["jobs", stream, some, some, some, some]]]),
        encode_frame(Pong(link, number, echo, random.choice((float("inf"), float("-inf"), 1e300, float("nan"))))),
        encode_frame(Interest(link, number, echo, some, [], [], ["jobs"], [])),
        encode_frame(Bye(link, number, echo, "b", random.choice((LEAVING, IDLE, 77)))),
        encode_frame(Data(link, number, echo, stream or "s", "jobs", *lies)),
        encode_frame(Hello("peerfabric", 1, "test", "a", Address("b", some, "b", "h", [], []), 5, 5, False, some)),
        encode_frame(Ack(link, number, echo, some)),
        encode_frame(Ping(link, number, echo, 1.0, some)),
    ]
    return random.choice(frames)


@pytest.mark.parametrize("seed", range(40))
def test_a_lying_peer_cannot_hurt(seed: int) -> None:
    """Frames that are well-formed and say impossible things: the engine lives, and its invariants hold."""
    random = Random(seed)
    pair = Pair()
    end = flow(pair, 5)
    pair.b.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.a.open_consumer("jobs", 10.0, pair.now)
    pair.settle()
    for _ in range(40):
        links = list(pair.a.links.by_peer.values())
        link = links[0] if links else None
        number = link.in_number + 1 if link is not None and random.random() < 0.9 else random.randrange(5)
        header = _hostile(random, link.in_id if link is not None else bytes(8), number)
        body = random.choice((b"", b"\x91\xc4\x01x", b"\x92\x01", b"\xc1"))
        pair.a.handle_frames([header, body], pair.now)
        pair.a.handle_timeout(pair.now)
        for frames in transmitted(pair.a, pair.now):
            assert frames
        assert end.account().closes
    pair.a.producers.by_queue["jobs"].check()


def test_random_bytes_cannot_hurt() -> None:
    """Counted, and that is all."""
    pair = Pair()
    random = Random(1)
    for _ in range(500):
        pair.a.handle_frames([random.randbytes(random.randrange(40)), b""], pair.now)
        pair.a.handle_published([b"x\0", random.randbytes(random.randrange(40))], pair.now)
    assert set(pair.a.links.counters) <= {"bad frames", "frames of unknown kind", "frames of another life"}


def test_a_text_that_no_frame_can_carry() -> None:
    """It is told in another way on the same link, and what is sent beside it arrives."""
    pair = Pair()
    end = flow(pair)
    consumer = pair.b.consumers.by_queue["jobs"]
    delivery = consumer.take(pair.now)
    assert delivery is not None
    claim(delivery, 1, pair.now)
    source = consumer._sources[delivery.peer]
    source.nacks[delivery.stream] = [Nack(1, 2, 1, REJECTED, -1, "\udcff")]  # past all that cleans it
    pair.b.control.due.update(dict.fromkeys(pair.b.links.by_peer.values()))
    pair.settle()
    assert [letter.error for letter in end.letters()] == ["\\udcff"]
    counters = {**pair.a.statistics().counters, **pair.b.statistics().counters}
    assert counters == {}


def test_names_are_told_together() -> None:
    """Four thousand queues that are opened one after the other make a handful of INTERESTs, and one that is not echoed
    keeps back those after it.
    """
    pair = Pair()
    pair.meet()
    sent: list[Interest] = []

    def note(sender: Engine, frames: list[bytes]) -> bool:
        frame = decode_frame(frames[0])
        if sender is pair.b and isinstance(frame, Interest):
            sent.append(frame)
        return True

    pair.filter = note
    for number in range(4000):
        pair.b.open_consumer(f"jobs.{number}", 10.0, pair.now)
        if number % 100 == 0:
            pair.settle(0.02)
    pair.settle(0.5)
    pair.settle(0.1)
    assert len(sent) <= 8
    assert len(sent[-1].consumes) == 4000
    pair.filter = lambda sender, frames: note(sender, frames) and sender is pair.b
    sent.clear()
    for number in range(10):
        pair.b.open_consumer(f"more.{number}", 10.0, pair.now)
        pair.settle(0.1)
    assert len(sent) == 1


def test_a_ping_tells_of_many_queues_in_parts() -> None:
    """What waits in more queues than one frame may name is told in several, and each of them once."""
    pair = Pair()
    for n in range(4000):
        end = pair.a.open_producer(f"jobs.{n}", RAW, 5, 2**20, pair.now)
        pair.b.open_consumer(f"jobs.{n}", 10.0, pair.now)
        pair.a.producers.accept(end, bodies(1), 0)
    told: list[list[str]] = []

    def note(sender: Engine, frames: list[bytes]) -> bool:
        frame = decode_frame(frames[0])
        if isinstance(frame, Ping):
            told.append([backlog.queue for backlog in frame.backlogs])
        return True

    pair.filter = note
    pair.meet()
    names = [name for each in told for name in each]
    assert max(map(len, told)) <= NAMES_MAX // 2
    assert sorted(names) == sorted(f"jobs.{n}" for n in range(4000))
    assert len([each for each in told if each]) == 2


def test_a_retried_message_is_waited_for() -> None:
    """Also when all of its queue was settled for so long that health has left it out."""
    pair = Pair()
    end = flow(pair, 1)
    delivery = take(pair.b.consumers.by_queue["jobs"], pair.now)
    delivery.next = 1
    delivery.verdicts.append((Verdict.REJECT, 0, 1, -1.0, "no"))
    pair.b.consumers.progress(pair.b.consumers.by_queue["jobs"], pair.now)
    pair.pass_time(6.0)
    assert pair.a.settled()
    [letter] = end.letters()
    taken = end.take_dead_letter(letter.id)
    assert taken is not None
    end.retry(taken)
    assert (pair.a.settled(), pair.a.producers.unsettled_queues()) == (False, {"jobs"})
    pair.settle()
    assert (pair.a.settled(), pair.a.producers.unsettled_queues()) == (False, {"jobs"})


def test_what_a_timer_gives_up_is_told() -> None:
    """Whoever waits for the message looks again, though no frame has come."""
    pair = Pair()
    end = flow(pair, 1)
    pair.a.open_consumer("jobs", 30.0, pair.now)
    pair.settle(1.0)
    refusing = pair.b.consumers.by_queue["jobs"]
    delivery = take(refusing, pair.now)
    delivery.next = 1
    delivery.verdicts.append((Verdict.REFUSE, 0, 1, -1.0, "no"))
    pair.b.consumers.progress(refusing, pair.now)
    pair.settle(0.1)
    pair.a.close_consumer("jobs", pair.now)
    pair.settle(0.1)
    told = False
    while not end.letters():
        pair.a.poll_events()
        pair.settle(0.1)
        told = end in pair.a.poll_events().changed
        assert pair.now < 200.0
    assert told


def test_a_consumer_that_reads_late_what_a_hung_peer_holds_counts_on_it() -> None:
    """What was adopted before it was read keeps its link busy, so that a peer that hangs loses it after its lease."""
    pair = Pair()
    end = flow(pair, 1)
    delivery = take(pair.b.consumers.by_queue["jobs"], pair.now)
    delivery.next = 1
    stream, old = end.stream, pair.a
    address = Address("a", 9 << 20, "a", "host", ["tcp://a:1"], ["tcp://a:2"])
    pair.a = Engine(address, "test", Options(), Random("again"), pair.now)
    pair.wires = {key: pair.a if engine is old else engine for key, engine in pair.wires.items() if key[0] != "a"}
    again = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now, Recovered([(stream, 1, 2)], [], [], Marks()))
    pair.a.handle_discovered(pair.b.address, pair.now)
    pair.pass_time(2.0)
    [link] = pair.a.links.by_peer.values()
    assert pair.a.producers.needs(link)
    assert isinstance(again, DurableQueue)
    again.loaded(stream, 1, bodies(1), 0, {})
    pair.a.producers.disk_moved(again)
    pair.pass_time(1.0)
    assert (again.held_by(link.peer), pair.a.producers.needs(link), link.busy) == (1, True, True)


def test_credit_for_a_queue_that_opens_later_is_told_again() -> None:
    """A peer that comes back in a new epoch is known, and granted credit before it has the queue."""
    pair = Pair()
    flow(pair, 1)
    run_all(pair)
    old, address = pair.a, Address("a", 9 << 20, "a", "host", ["tcp://a:1"], ["tcp://a:2"])
    pair.a = Engine(address, "test", Options(), Random("again"), pair.now)
    pair.wires = {key: pair.a if engine is old else engine for key, engine in pair.wires.items() if key[0] != "a"}
    pair.a.open_consumer("others", 1.0, pair.now)
    pair.b.open_producer("others", RAW, 5, 2**20, pair.now)
    pair.a.handle_discovered(pair.b.address, pair.now)
    taking = pair.b.consumers.by_queue["jobs"]
    taking.want(1, 1, pair.now)
    pair.b.consumers.progress(taking, pair.now)
    pair.pass_time(1.0)
    end = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.settle(0.5)
    pair.a.producers.accept(end, bodies(1), 0)
    for _ in range(20):
        taking.want(1, 1, pair.now)
        pair.b.consumers.progress(taking, pair.now)
        pair.settle(0.1)
    assert taking.available(pair.now)


def test_the_link_to_ourselves_stays() -> None:
    """However long nothing is in common on it: a consumer that opens again must not find it half closed."""
    pair = Pair()
    end = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.a.open_consumer("jobs", 30.0, pair.now)
    pair.settle(0.2)
    pair.a.close_consumer("jobs", pair.now)
    pair.pass_time(10.3)
    pair.a.reopen_consumer("jobs", pair.now)
    pair.pass_time(2.0)
    assert list(end.consumers) == [f"a:{7 << 20}"]


def test_a_hung_peer_keeps_what_it_may_still_start() -> None:
    """However short its lease is: nobody else gets a message before its fence has ended."""
    pair = Pair()
    end = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    taking = pair.b.open_consumer("jobs", 1.0, pair.now)
    pair.meet()
    taking.want(1, 1, pair.now)
    pair.b.consumers.progress(taking, pair.now)
    pair.settle()
    pair.a.producers.accept(end, bodies(1), 0)
    pair.settle()
    [link] = pair.a.links.by_peer.values()
    held = []
    for after in (1.5, FENCE - 0.1, FENCE + 0.1):
        pair.a.producers.peer_hung(link, link.heard_at + after)
        held.append(end.held_by(link.peer))
    assert held == [1, 1, 0]


def test_what_was_to_travel_with_an_echo_leaves_though_data_took_that_along() -> None:
    """A grant that nobody waits for has lost its ride: at the time of the echo it leaves by itself."""
    pair = Pair()
    flow(pair, 0)
    [link] = pair.b.links.by_peer.values()
    found = []
    for each in pair.b.machines:
        each.due.clear()
    pair.b.control.due.clear()
    for machine in (None, pair.b.consumers):
        pair.b.links.echo_soon(link, pair.now)
        link.next_number()  # DATA leaves
        if machine is not None:
            machine.due[link] = None
        pair.b.pings.handle_timeout(pair.now + 1.0)
        found.append(link in pair.b.control.due)
        pair.b.control.due.clear()
    assert found == [False, True]


# Producers that are closed and opened again


def reopen(pair: Pair) -> OutgoingQueue:
    pair.a.close_producer("jobs", pair.now)
    return pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)


def consume_all(pair: Pair, end: OutgoingQueue, count: int) -> None:
    """`count` messages of `a` are run at `b`, and settled."""
    consumer, done = pair.b.consumers.by_queue["jobs"], 0
    pair.a.producers.accept(end, bodies(count), 0)
    for _ in range(100):
        consumer.want(1, 1, pair.now)
        pair.b.consumers.progress(consumer, pair.now)
        pair.settle(0.1)
        done += len(run_all(pair))
        if done == count and not end.unsettled_count:
            return
    raise AssertionError(f"{done} of {count}: {end.account()}")


def totals(pair: Pair) -> tuple[int, int]:
    """How many messages of the queue were sent in this life of the link, as either side counts."""
    [link] = pair.a.links.by_peer.values()
    source = pair.b.consumers.by_queue["jobs"].producers.by_peer["a:7340032"]
    return link.sending.credit("jobs").sent_messages, source.credit.seen_messages


def test_a_closed_queue_is_forgotten_and_goes_on_counting() -> None:
    """By its consumer, once it is told which streams go on; and its totals begin anew on both sides."""
    pair = Pair()
    end = flow(pair, 0)
    consume_all(pair, end, 5)
    assert totals(pair) == (5, 5)
    pair.a.close_producer("jobs", pair.now)
    pair.settle(1.0)
    assert not list(pair.b.consumers.by_queue["jobs"].producers.streams)
    assert (pair.a.producers.by_queue, pair.a.interests.produces) == ({}, set())
    again = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    assert (again.next, again.floor, again.account().accepted) == (6, 6, 0)
    consume_all(pair, again, 5)
    assert (totals(pair), again.account().acked, again.settled.of(3)) == ((5, 5), 5, "processed")


def test_what_is_closed_and_opened_before_anybody_hears_of_it() -> None:
    """Its credit goes on, as its consumer knows of nothing."""
    pair = Pair()
    end = flow(pair, 0)
    consume_all(pair, end, 5)
    again = reopen(pair)
    consume_all(pair, again, 5)
    assert totals(pair) == (10, 10)


def test_a_grant_that_crosses_the_end_of_a_queue_does_not_count() -> None:
    """It is of the totals that were; else it would allow what nobody has granted."""
    pair = Pair()
    end = flow(pair, 0)
    consume_all(pair, end, 50)
    [link] = pair.a.links.by_peer.values()
    [back] = pair.b.links.by_peer.values()
    held: list[list[bytes]] = []
    pair.filter = lambda sender, frames: sender is pair.a or bool(held.append(frames))  # type: ignore[func-returns-value]
    pair.b.control.put_ack(back, [], [Grant("jobs", 90, 90_000)])  # `b` has not read yet that the queue ends
    pair.a.close_producer("jobs", pair.now)
    pair.settle(0.3)
    again = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.filter = lambda sender, frames: True
    for frames in held:
        pair.a.handle_frames(frames, pair.now)
    assert link.sending.credit("jobs").limit_messages < 50
    pair.settle(0.3)
    consume_all(pair, again, 5)
    assert (totals(pair), link.sending.closed) == ((5, 5), {})


def test_nothing_remains_of_a_queue_that_is_closed() -> None:
    """However many of them there are: not even timers, or what others are told."""
    pair = Pair()
    pair.b.open_consumer("jobs", 10.0, pair.now)
    pair.meet()
    producers = pair.a.producers
    for number in range(500):
        end = pair.a.open_producer(f"q{number}", RAW, 5, 2**20, pair.now)
        producers.accept(end, bodies(1), 0, kind=(pair.now + 1e6, 0))
        pair.settle(0.001)
        end.drop_oldest(1)
        pair.a.close_producer(f"q{number}", pair.now)
    pair.settle(1.0)
    tables = (producers.by_queue, producers.touched, producers._unsettled, producers._changed_at, pair.a.changed)
    assert [len(table) for table in tables] == [0] * 5
    assert len(producers.deadlines._heap) <= 64
    assert len(producers.left_off) == 500


def test_names_of_closed_queues_are_forgotten_and_numbers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many the oldest go: whatever is opened then goes on above all that they had."""
    monkeypatch.setattr(numbering, "LEFT_OFF_MAX", 3)
    pair = Pair()
    used: dict[str, set[int]] = {}
    for name, count in [
        ("a", 5),
        ("b", 0),
        ("c", 2),
        ("d", 1),
        ("e", 1),
        ("a", 1),
        ("f", 1),
        ("b", 1),
        ("g", 0),
        ("c", 3),
    ]:
        end = pair.a.open_producer(name, RAW, 5, 2**20, pair.now)
        first = end.next
        if count:
            pair.a.producers.accept(end, bodies(count), 0)
            end.drop_oldest(2**20)
        numbers = set(range(first, end.next))
        assert not numbers & used.setdefault(name, set())
        used[name] |= numbers
        pair.a.close_producer(name, pair.now)
        assert len(pair.a.producers.left_off) <= 3
    assert min(used["b"]) == 6  # "a" was forgotten after 1 to 5
