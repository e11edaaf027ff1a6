"""The world records what it is there to record: each variant here has one rule of the protocol broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from peerfabric.errors import BadFrame
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import BUSY, ERROR, SUPERSEDED, Hello, decode_frame, encode_frame
from tests.world import World, hooks
from tests.world.hooks import original

SEEDS = 200
"""Most are caught within five; RELEASE, and letters that are not stored yet, matter to one world in thirty."""

Patch = Callable[[str, Any], None]
"""Replaces what a hook stands for."""


def ack_at_arrival(patch: Patch) -> None:
    receive = original("incoming.receive")

    def broken(self: Any, peer: str, sender: str, data: Any, *rest: Any) -> None:
        receive(self, peer, sender, data, *rest)
        hooks.source(self, peer).done.setdefault(data.stream, Ranges()).add(data.first, data.first + data.count)

    patch("incoming.receive", broken)


def floor_too_high(patch: Patch) -> None:
    data_frame = original("sender.data_frame")

    def broken(to: Any, end: Any, run: Any, now: float) -> Any:
        settled = hooks.settled(end)
        floor, settled.floor = settled.floor, run.stop
        try:
            return data_frame(to, end, run, now)
        finally:
            settled.floor = floor

    patch("sender.data_frame", broken)


def nothing_requeued_at_death(patch: Patch) -> None:
    def broken(self: Any, peer: str, now: float, *, died: bool) -> None:
        self.consumers.pop(peer, None)
        self.in_flight.take_all(peer)

    patch("outgoing.gone", broken)


def deaths_unnoticed(patch: Patch) -> None:
    patch("outgoing.gone", lambda self, peer, now, *, died: None)


def no_fence(patch: Patch) -> None:
    fence, receive = original("incoming.fence"), original("incoming.receive")
    patch("incoming.fence", lambda self, peer, until: fence(self, peer, 1e18))
    patch("incoming.receive", lambda self, *given: receive(self, *given[:4], 1e18, *given[5:]))


def evidence_from_hearing(patch: Patch) -> None:
    take_echo = original("link.take_echo")

    def broken(self: Any, echo: int, now: float) -> Any:
        echoed = take_echo(self, echo, now)
        self.evidence = now
        return echoed

    patch("link.take_echo", broken)


def no_ping_when_idle_becomes_busy(patch: Patch) -> None:
    patch("link.ask_at_once", lambda self: setattr(self, "busy", True))


def held_forgotten(patch: Patch) -> None:
    def broken(self: Any, start: int, stop: int) -> Any:
        self.held.add(start, stop)
        return [(start, stop)], []

    patch("dedup.receive", broken)
    possession = original("producers.possession")
    patch("producers.possession", lambda self, peer: ([], possession(self, peer)[1]))


def done_forgotten_when_told(patch: Patch) -> None:
    reported = original("dedup.reported")

    def broken(self: Any, ack: int) -> None:
        reported(self, ack)
        self.settle(ack)

    patch("dedup.reported", broken)


def done_not_told_on_return(patch: Patch) -> None:
    possession = original("producers.possession")
    patch("producers.possession", lambda self, peer: (possession(self, peer)[0], []))


def gap_accepted(patch: Patch) -> None:
    accept = original("link.accept")

    def broken(self: Any, number: int, echo: int, size: int, now: float) -> Any:
        self.in_number = number - 1
        return accept(self, number, min(echo, self.out_number), size, now)

    def believe_any_life(self: Any, link_id: bytes, now: float) -> None:
        known = hooks.halves(self).get(int.from_bytes(link_id[4:], "big"))
        if known is not None:
            self.by_id[link_id] = known

    patch("link.accept", broken)
    patch("links.stray", believe_any_life)


def release_ignored(patch: Patch) -> None:
    patch("incoming.release", lambda self, peer, stream, ranges: None)


def credit_kept_over_lives(patch: Patch) -> None:
    new_life = original("link.new_life")

    def broken(self: Any, now: float) -> None:
        credits = dict(self.sending.credits)
        new_life(self, now)
        self.sending.credits.update(credits)

    patch("link.new_life", broken)


def reconcile_skipped(patch: Patch) -> None:
    patch("outgoing.reconcile", lambda self, peer, held: Ranges())


def everything_taken_back_on_return(patch: Patch) -> None:
    reconcile = original("outgoing.reconcile")
    patch("outgoing.reconcile", lambda self, peer, held: reconcile(self, peer, Ranges()))


def nack_taken_for_ack(patch: Patch) -> None:
    patch("outgoing.nacked", lambda self, peer, nack, now: self.acked(peer, nack.start, nack.stop))


def every_death_counts_as_an_attempt(patch: Patch) -> None:
    gone = original("outgoing.gone")

    def broken(self: Any, peer: str, now: float, *, died: bool) -> None:
        for run in self.in_flight.runs(peer):
            run.deaths += 3 * died
        gone(self, peer, now, died=died)

    patch("outgoing.gone", broken)


def credit_of_declined_lost(patch: Patch) -> None:
    def broken(self: Any, peer: str, data: Any) -> None:
        source = hooks.source(self, peer)
        if source is not None:
            source.credit.adopt(data.sent_messages, data.sent_bytes, data.waiting)

    patch("incoming.decline", broken)


def expired_messages_sent(patch: Patch) -> None:
    """Nobody looks at the time before a frame is made."""
    pick = original("outgoing.pick")
    patch("outgoing.pick", lambda self, peer, messages, size, most, now=0.0: pick(self, peer, messages, size, most))
    patch("pending.take_expired", lambda self, now: [])


def expired_messages_handed_out(patch: Patch) -> None:
    """A consumer does not look at the time that came with them."""
    receive = original("incoming.receive")
    patch("incoming.receive", lambda self, *given: receive(self, *given[:5]))


def time_begins_anew_with_each_frame(patch: Patch) -> None:
    """The consumer is told of the time as it was when the message was sent for the first time."""
    data_frame, first = original("sender.data_frame"), dict[tuple[str, int], float]()

    def broken(to: Any, end: Any, run: Any, now: float) -> Any:
        return data_frame(to, end, run, first.setdefault((end.stream, run.first), now))

    patch("sender.data_frame", broken)


def expired_messages_tried_again(patch: Patch) -> None:
    """What comes back is a failure, however late it is."""
    patch("outgoing.is_over", staticmethod(lambda run, now, reason=0: False))


def time_forgotten_on_disk(patch: Patch) -> None:
    patch("loaded.expires_at", lambda self, now, unix_ms: None)


def time_begins_anew_at_a_start(patch: Patch) -> None:
    """As if what is on disk had been sent when it is read."""
    patch("loaded.expires_at", lambda self, now, unix_ms: now + 5.0 if self.expires_ms else None)


def expires_too_early(patch: Patch) -> None:
    take_expired = original("pending.take_expired")
    patch("pending.take_expired", lambda self, now: take_expired(self, now + 0.5))


def numbers_begin_anew(patch: Patch) -> None:
    """A queue that is opened again counts from 1."""
    close = original("sender.close")

    def broken(self: Any, queue: str) -> None:
        close(self, queue)
        self.left_off = type(self.left_off)()

    patch("sender.close", broken)


def credit_outlives_its_queue(patch: Patch) -> None:
    """A consumer goes on counting where its producer begins anew."""
    patch("producers.left", lambda self, peer, held: None)


def newest_first(patch: Patch) -> None:
    receive = original("incoming.receive")

    def broken(self: Any, peer: str, *rest: Any) -> None:
        receive(self, peer, *rest)
        hooks.source(self, peer).buffer.rotate(1)

    patch("incoming.receive", broken)


def settled_before_the_cursor(patch: Patch) -> None:
    patch("sender.acks_to_settle", lambda self: {})
    receive_ack = original("sender.receive_ack")

    def broken(self: Any, link: Any, ack: Any, body: Any, now: float) -> None:
        receive_ack(self, link, ack, body, now)
        link.sending.acks_settled = link.sending.acks_applied

    patch("sender.receive_ack", broken)


def settled_before_the_letter_is_stored(patch: Patch) -> None:
    dead_lettered = original("durable.dead_lettered")

    def broken(self: Any, letters: Any) -> None:
        dead_lettered(self, letters)
        for number, _ in letters:
            self.settle(number, number + 1)

    patch("durable.dead_lettered", broken)


def letters_not_stored(patch: Patch) -> None:
    patch("store.store_dead_letters", lambda self, letters, unix_ms: [number for number, _ in letters])


def recovered_messages_forgotten(patch: Patch) -> None:
    begin = original("durable.begin")

    def broken(self: Any, stream: str, memory_bytes: int, now: float) -> Any:
        self.settled = [*self.settled, *self.eras]
        return begin(self, stream, memory_bytes, now)

    patch("durable.begin", broken)


def no_reunion(patch: Patch) -> None:
    patch("durable.reunion", 0.0)


def acks_of_earlier_lives_ignored(patch: Patch) -> None:
    numbers = original("outgoing.numbers")

    def broken(self: Any, stream: str, flat: Any) -> Any:
        return numbers(self, stream, flat) if stream == self.stream else []

    patch("outgoing.numbers", broken)


def settled_messages_read_again(patch: Patch) -> None:
    runs = original("durable.runs")

    def broken(self: Any, first: int, bodies: Any, run: Any) -> Any:
        settled, self.settled = self.settled, Ranges()
        try:
            return runs(self, first, bodies, run)
        finally:
            self.settled = settled

    patch("durable.runs", broken)


def never_synced(patch: Patch) -> None:
    patch("store.sync", lambda self: None)


def cursor_ahead(patch: Patch) -> None:
    settle = original("store.settle")
    patch("store.settle", lambda self, ranges: settle(self, [(s, a, b + 3) for s, a, b in ranges]))


def trimmed_too_early(patch: Patch) -> None:
    patch("log.trim", hooks.remove_sealed_segments)


def floor_above_an_unstored_letter(patch: Patch) -> None:
    def broken(self: Any) -> None:
        self.floor = self.numbers.first_missing(self.floor)

    patch("outgoing.raise_floor", broken)


def held_in_the_last_life_not_adopted(patch: Patch) -> None:
    patch("durable.adopt", lambda self, peer: self.backlog.adopted.pop(peer, None))


def earlier_lives_not_inherited(patch: Patch) -> None:
    patch("producers.inherited", lambda self, peer: None)


def cursors_never_written(patch: Patch) -> None:
    patch("store.write_cursor", lambda self: True)
    patch("log.close", original("log.abandon"))


def sent_before_it_is_synced(patch: Patch) -> None:
    store = original("deposits.store")

    def broken(self: Any) -> Any:
        waits = store(self)
        hooks.send_written(self)
        return waits

    patch("deposits.store", broken)


def epoch_not_advanced(patch: Patch) -> None:
    advance = original("spool.next_owner")

    def broken(files: Any, before: Any, *rest: Any, **named: Any) -> Any:
        owner = advance(files, before, *rest, **named)
        return msgspec.structs.replace(owner, epoch=before.epoch, counter=before.counter) if before.epoch else owner

    patch("spool.next_owner", broken)


def marks_forgotten(patch: Patch) -> None:
    remember = original("store.remember")
    patch("store.remember", lambda self, news: remember(self, news._replace(states=[])))


def own_deaths_not_counted(patch: Patch) -> None:
    patch("durable.count_death", lambda self, marks, numbering: None)


def loaded_twice(patch: Patch) -> None:
    loaded = original("durable.loaded")

    def broken(self: Any, *record: Any) -> Any:
        before = self.backlog.load_at
        taken = loaded(self, *record)
        if before > 1:
            self.backlog.load_at = before
            loaded(self, *record)
        return taken

    patch("durable.loaded", broken)


def read_ahead_of_what_is_accepted(patch: Patch) -> None:
    loaded = original("durable.loaded")

    def broken(self: Any, *record: Any) -> Any:
        following, self.next = self.next, 2**53
        try:
            return loaded(self, *record)
        finally:
            self.next = following

    patch("durable.loaded", broken)


def stored_as_if_in_memory_only(patch: Patch) -> None:
    accept = original("durable.accept")

    def broken(self: Any, *given: Any, volatile: bool = False, **named: Any) -> Any:
        volatile = volatile or not self.backlog.behind(self.next)
        return accept(self, *given, volatile=volatile, **named)

    patch("durable.accept", broken)


def closed_without_what_is_in_memory(patch: Patch) -> None:
    patch("sender.awaits", staticmethod(lambda end, waits_for_consumers: False))


def acked_before_it_is_in_the_ledger(patch: Patch) -> None:
    patch("ledger.record", lambda self, parts: None)


def ledger_not_read(patch: Patch) -> None:
    patch("ledger.remembered", property(lambda self: {}))


def updates_out_of_order(patch: Patch) -> None:
    keep = original("topic.keep")

    def broken(self: Any, batch: Any) -> None:
        keep(self, batch)
        hooks.buffer(self).rotate(1)

    patch("topic.keep", broken)


def lost_updates_not_counted(patch: Patch) -> None:
    receive = original("topic.receive")

    def broken(self: Any, peer: str, data: Any, body: Any) -> Any:
        track = hooks.track(self, peer, data.topic)
        if track is not None:
            track.seen = max(track.seen, data.first - 1)
        return receive(self, peer, data, body)

    patch("topic.receive", broken)


# Several hosts


def who_accepts_is_the_peer(patch: Patch) -> None:
    patch("links.unanswered", lambda self, link, now: [])


def hello_for_another_node_believed(patch: Patch) -> None:
    handle_frames = original("engine.handle_frames")

    def broken(self: Any, frames: Any, *rest: Any) -> None:
        try:
            frame = decode_frame(bytes(frames[0]))
        except BadFrame:
            frame = None
        if isinstance(frame, Hello):
            frame.to = ""
            frames = [encode_frame(frame)]
        handle_frames(self, frames, *rest)

    patch("engine.handle_frames", broken)


def endpoints_mean_the_same_everywhere(patch: Patch) -> None:
    patch("links.share_network", staticmethod(lambda a, b: True))


def what_a_hello_lists_proves_deaths(patch: Patch) -> None:
    receive_hello = original("links.receive_hello")

    def broken(self: Any, hello: Any, now: float, *rest: Any) -> Any:
        listed = hooks.linked_at(self, hello.address)
        gone = [k.node_id for k in listed if k.node_id not in ("", hello.address.node_id) and not k.up]
        changes = [change for node_id in gone for change in hooks.part(self, node_id, now)]
        return changes + receive_hello(self, hello, now, *rest)

    patch("links.receive_hello", broken)


def refusals_prove_deaths_on_other_hosts(patch: Patch) -> None:
    probed = original("link.probed")

    def broken(self: Any, outcome: Any, now: float, *, far: bool) -> Any:
        return probed(self, outcome, now, far=False)

    patch("link.probed", broken)


def hung_on_another_host_for_ever(patch: Patch) -> None:
    patch("link.is_hung_for_too_long", lambda self, now: False)


def who_is_heard_is_well(patch: Patch) -> None:
    accept = original("link.accept")

    def broken(self: Any, number: int, echo: int, size: int, now: float) -> Any:
        self.asked_at = max(now, self.asked_at)
        hooks.believe_alive(self, now)
        return accept(self, number, echo, size, now)

    patch("link.accept", broken)


def discovery_proves_deaths(patch: Patch) -> None:
    discovered = original("links.discovered")

    def broken(self: Any, address: Any, now: float) -> Any:
        known = next((k.address for k in self.by_wire.values() if k.node_id == address.node_id and k.up), None)
        if known is None or address.epoch <= known.epoch:
            return discovered(self, address, now)
        hooks.part(self, address.node_id, now)
        return discovered(self, address, now)

    patch("links.discovered", broken)


def new_addresses_not_read(patch: Patch) -> None:
    patch("links.told_address", lambda self, link, theirs, now: [])
    met = original("addresses.met")

    def broken(self: Any, address: Any, *rest: Any) -> None:
        known = self.get(address.node_id)
        met(self, known if known is not None and known.epoch == address.epoch else address, *rest)

    patch("addresses.met", broken)


def own_address_not_told(patch: Patch) -> None:
    def broken(self: Any, address: Any, now: float) -> None:
        self.links.address = address

    patch("engine.readdress", broken)


def senders_not_checked(patch: Patch) -> None:
    handle_frames = original("engine.handle_frames")

    def broken(self: Any, frames: Any, now: float, sender: str = "", observed: str = "") -> None:
        try:
            frame = decode_frame(bytes(frames[0]))
        except BadFrame:
            return
        link = None if isinstance(frame, Hello) else self.links.by_id.get(frame.link)
        handle_frames(self, frames, now, link.sender if link is not None else "", observed)

    patch("engine.handle_frames", broken)


def revoked_nodes_stay(patch: Patch) -> None:
    patch("engine.handle_access", lambda self, admits, now: None)


def wires_under_a_removed_key_stay(patch: Patch) -> None:
    def broken(self: Any, gates: list[str], now: float) -> list[Any]:
        self.gates = list(gates)
        return []

    patch("links.change_gates", broken)


def copies_not_told(patch: Patch) -> None:
    reject = original("links.reject")

    def broken(self: Any, address: Any, reason: int, *rest: Any) -> None:
        if reason != SUPERSEDED:
            reject(self, address, reason, *rest)

    patch("links.reject", broken)
    patch("links.superseded", lambda self, link, now: hooks.part(self, link.node_id, now))


def warned_of_what_is_usual(patch: Patch) -> None:
    patch("receiver.slow_after", lambda lease, usual: usual / 2)


def acked_at_return(patch: Patch) -> None:
    def broken(self: Any, delivery: Any, low: int, high: int, outputs: Any, parts: Any = ()) -> None:
        delivery.ack(low, high)

    patch("handon.defer", broken)


def delivered_taken_for_safe(patch: Patch) -> None:
    patch("handon.need_only_be_delivered", lambda self, wait: True)


def first_of_the_outputs_counts(patch: Patch) -> None:
    patch("handon.one_is_safe", lambda self: True)


def late_acks_do_not_wait(patch: Patch) -> None:
    patch("overdue.deferred", lambda self, delivery, low, high: None)


# Services


def lost_calls_sent_again(patch: Patch) -> None:
    link_down = original("caller.link_down")

    def broken(self: Any, link: Any) -> None:
        for call in hooks.calls_at(self, link):
            call.idempotent = True
        link_down(self, link)

    patch("caller.link_down", broken)


def lost_calls_taken_for_unsent(patch: Patch) -> None:
    link_down = original("caller.link_down")

    def broken(self: Any, link: Any) -> None:
        link.unsent = [b"all of them"]
        hooks.keep(self, link, link.unsent)
        link_down(self, link)

    patch("caller.link_down", broken)


def deaths_with_calls_not_counted(patch: Patch) -> None:
    judge = original("caller.judge")
    patch("caller.judge", lambda self, peer, *, died: judge(self, peer, died=False))


def calls_wait_for_ever(patch: Patch) -> None:
    patch("caller.time_out", lambda self, now: None)


def errors_tried_elsewhere(patch: Patch) -> None:
    fail = original("responder.fail")

    def broken(self: Any, call: Any, now: float, status: int, **more: Any) -> None:
        fail(self, call, now, BUSY if status == ERROR else status, **more)

    patch("responder.fail", broken)


def cancels_ignored(patch: Patch) -> None:
    patch("responder.receive_cancel", lambda self, link, cancel, body, now: None)


def started_before_all_is_read(patch: Patch) -> None:
    receive = original("responder.receive")

    def broken(self: Any, link: Any, request: Any, body: Any, now: float) -> None:
        receive(self, link, request, body, now)
        self.start(now, unread=False)

    patch("responder.receive", broken)


def calls_of_ended_lives_go_on(patch: Patch) -> None:
    def broken(self: Any, link: Any) -> None:
        self.outgoing.pop(link, None)

    patch("responder.link_down", broken)


def more_run_than_may(patch: Patch) -> None:
    patch("served.has_slot", property(lambda self: True))


def credit_of_streams_ignored(patch: Patch) -> None:
    patch("served_call.may_send", property(lambda self: True))


def handlers_rest_for_ever(patch: Patch) -> None:
    patch("responder.resume", lambda self, call: None)


def orphans_left_alone(patch: Patch) -> None:
    patch("orphans.look", lambda self, *rest, **named: [])


def orphans_whose_consumers_are_not_seen(patch: Patch) -> None:
    patch("roster.consumers_of", lambda self, queue: [])


def slots_adopted_that_somebody_has(patch: Patch) -> None:
    sights, open_ = original("slots.sights"), original("slots.open")

    def broken(self: Any, number: int, act: Any) -> Any:
        hooks.break_lock(self, number)
        return open_(self, number, act)

    patch("slots.open", broken)
    patch("slots.sights", lambda self, **named: [sight._replace(held=False) for sight in sights(self, **named)])


def slots_emptied_with_messages_left(patch: Patch) -> None:
    patch("spool.left", lambda self, kind, *, failed: 0)


def adopted_slots_never_let_go(patch: Patch) -> None:
    keeps = original("orphans.keeps")
    patch("orphans.keeps", lambda self, number, **named: keeps(self, number, **named) or True)


def paused_consumers_go_on(patch: Patch) -> None:
    patch("receiver.return_unstarted", staticmethod(lambda end: None))


def paused_consumers_return_what_runs(patch: Patch) -> None:
    give_back = original("incoming.give_back_unstarted")

    def broken(self: Any, only: str | None = None) -> None:
        for delivery in self.in_hand if self.paused else ():
            delivery.next = delivery.reported
        give_back(self, only)

    patch("incoming.give_back_unstarted", broken)


def paused_consumers_keep_what_comes(patch: Patch) -> None:
    give_back = original("incoming.give_back_unstarted")

    def broken(self: Any, only: str | None = None) -> None:
        if not self.paused:
            give_back(self, only)
        elif only is not None:
            self.fence(only, -1e18)

    patch("incoming.give_back_unstarted", broken)
    patch("receiver.resume", lambda self, queue, now: False)


def what_comes_back_is_sent_there_again(patch: Patch) -> None:
    patch("credit.rest", lambda self, now: now)


def totals_are_forgotten_with_a_queue(patch: Patch) -> None:
    forget = original("receiver.forget")

    def broken(self: Any, queue: str, now: float) -> Any:
        forgotten = forget(self, queue, now)
        hooks.left_off(self).clear()
        return forgotten

    patch("receiver.forget", broken)


def purged_messages_are_in_flight(patch: Patch) -> None:
    def broken(self: Any) -> int:
        runs = [
            *self.pending.take_all(),
            *(run for peer in list(self.in_flight.tables) for run in self.in_flight.take_all(peer)),
        ]
        for run in runs:
            self._end("dropped", run)
        self.touched[self] = None
        return sum(len(run.bodies) for run in runs)

    patch("outgoing.purge", broken)


def purged_messages_are_sent(patch: Patch) -> None:
    def broken(self: Any) -> int:
        return int(self.pending.count + self.pending.delayed_count)

    patch("outgoing.purge", broken)


def purged_messages_stay_on_disk(patch: Patch) -> None:
    purge = original("durable.purge")

    def broken(self: Any) -> int:
        backlog = self.backlog
        backlog.settle = lambda start, stop: None
        try:
            dropped: int = purge(self)
        finally:
            del backlog.settle
        return dropped

    patch("durable.purge", broken)


def purged_without_those_on_disk(patch: Patch) -> None:
    patch("durable.purge", original("outgoing.purge"))


def deaths_of_what_has_run_counted(patch: Patch) -> None:
    patch("outgoing.ran", lambda self, peer, start, stop: None)


CASES = [
    (ack_at_arrival, "deaths"),
    (floor_too_high, "cuts"),
    (nothing_requeued_at_death, "deaths"),
    (deaths_unnoticed, "deaths"),
    (no_fence, "hung"),
    (evidence_from_hearing, "hung"),
    (no_ping_when_idle_becomes_busy, "calm"),
    (held_forgotten, "cuts"),
    (done_forgotten_when_told, "cuts"),
    (done_not_told_on_return, "cuts"),
    (gap_accepted, "cuts"),
    (release_ignored, "hung"),
    (credit_kept_over_lives, "cuts"),
    (reconcile_skipped, "cuts"),
    (everything_taken_back_on_return, "cuts"),
    (nack_taken_for_ack, "handlers"),
    (every_death_counts_as_an_attempt, "graves"),
    (credit_of_declined_lost, "leaving"),
    (newest_first, "calm"),
    (numbers_begin_anew, "leaving"),
    (credit_outlives_its_queue, "leaving"),
    (expired_messages_sent, "expiry"),
    (expired_messages_handed_out, "expiry"),
    (time_begins_anew_with_each_frame, "expiry"),
    (expired_messages_tried_again, "expiry"),
    (expires_too_early, "expiry"),
    (time_forgotten_on_disk, "stale"),
    (time_begins_anew_at_a_start, "stale"),
    (settled_before_the_cursor, "disk"),
    (settled_before_the_letter_is_stored, "graves"),
    (letters_not_stored, "graves"),
    (recovered_messages_forgotten, "disk"),
    (no_reunion, "disk"),
    (acks_of_earlier_lives_ignored, "disk"),
    (settled_messages_read_again, "disk"),
    (never_synced, "power"),
    (cursor_ahead, "disk"),
    (trimmed_too_early, "disk"),
    (floor_above_an_unstored_letter, "graves"),
    (held_in_the_last_life_not_adopted, "relapses"),
    (earlier_lives_not_inherited, "disk"),
    (cursors_never_written, "disk"),
    (sent_before_it_is_synced, "power"),
    (epoch_not_advanced, "disk"),
    (marks_forgotten, "graves"),
    (own_deaths_not_counted, "suicides"),
    (loaded_twice, "disk"),
    (read_ahead_of_what_is_accepted, "disk"),
    (stored_as_if_in_memory_only, "overflow"),
    (closed_without_what_is_in_memory, "overflow"),
    (acked_before_it_is_in_the_ledger, "ledgers"),
    (ledger_not_read, "ledgers"),
    (updates_out_of_order, "topics"),
    (lost_updates_not_counted, "topics"),
    (who_accepts_is_the_peer, "addresses"),
    (hello_for_another_node_believed, "docker"),
    (endpoints_mean_the_same_everywhere, "docker"),
    (what_a_hello_lists_proves_deaths, "liars"),
    (refusals_prove_deaths_on_other_hosts, "rejects"),
    (hung_on_another_host_for_ever, "lost hosts"),
    (who_is_heard_is_well, "wires"),
    (discovery_proves_deaths, "addresses"),
    (new_addresses_not_read, "secrets"),
    (own_address_not_told, "moves"),
    (senders_not_checked, "liars"),
    (revoked_nodes_stay, "revoked"),
    (wires_under_a_removed_key_stay, "secrets"),
    (copies_not_told, "copies"),
    (warned_of_what_is_usual, "calm"),
    (acked_at_return, "pipeline"),
    (acked_at_return, "spooled pipeline"),
    (delivered_taken_for_safe, "pipeline"),
    (first_of_the_outputs_counts, "pipeline"),
    (late_acks_do_not_wait, "pipeline"),
    (deaths_of_what_has_run_counted, "pipeline"),
    (lost_calls_sent_again, "cut services"),
    (lost_calls_taken_for_unsent, "cut services"),
    (deaths_with_calls_not_counted, "deadly calls"),
    (calls_wait_for_ever, "services"),
    (errors_tried_elsewhere, "services"),
    (cancels_ignored, "stopped services"),
    (started_before_all_is_read, "stopped services"),
    (calls_of_ended_lives_go_on, "cut services"),
    (more_run_than_may, "asking services"),
    (credit_of_streams_ignored, "services"),
    (handlers_rest_for_ever, "asking services"),
    (orphans_left_alone, "adoption"),
    (orphans_whose_consumers_are_not_seen, "adoption"),
    (slots_adopted_that_somebody_has, "adoption"),
    (slots_emptied_with_messages_left, "adoption"),
    (adopted_slots_never_let_go, "adoption"),
    (paused_consumers_go_on, "operators"),
    (paused_consumers_return_what_runs, "operators"),
    (paused_consumers_keep_what_comes, "operators"),
    (what_comes_back_is_sent_there_again, "operators"),
    (totals_are_forgotten_with_a_queue, "handlers"),
    (purged_messages_are_in_flight, "operators"),
    (purged_messages_are_sent, "operators"),
    (purged_messages_stay_on_disk, "purged disks"),
    (purged_without_those_on_disk, "purged disks"),
]


@pytest.mark.parametrize("name", hooks.HOOKS)
def test_each_hook_leads_somewhere(name: str) -> None:
    """What is moved or renamed is said in one place; nothing is replaced that is not there."""
    hooks.place(name)


@pytest.mark.parametrize(("mutate", "theme"), CASES, ids=[mutate.__name__ for mutate, _ in CASES])
def test_world_catches(mutate: Callable[[Patch], None], theme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken rule shows within a few seeds."""

    def patch(name: str, replacement: Any) -> None:
        monkeypatch.setattr(*hooks.place(name), replacement)

    mutate(patch)
    for seed in range(SEEDS):
        try:
            World(seed, theme).run()
        except AssertionError as error:
            if not isinstance(error.__cause__, AssertionError):
                raise  # a variant that breaks down, since what it replaces has changed, shows nothing
            monkeypatch.undo()
            World(seed, theme).run()  # nothing else was caught
            return
    pytest.fail(f"{mutate.__name__} went unnoticed")
