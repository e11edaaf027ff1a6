"""What must hold at the end, after everything was healed and became quiet."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from peerfabric.names import matches
from peerfabric.nodes.storage.store import Store
from peerfabric.queue.runs import DEATHS_TO_ISOLATE
from peerfabric.reports import DeadLetter
from peerfabric.spool import Spool
from tests.world.disks import SEGMENT_BYTES
from tests.world.producer import MAX_ATTEMPTS
from tests.world.record import PROCESSED

if TYPE_CHECKING:
    from tests.world.consumer import Consumer
    from tests.world.process import Process
    from tests.world.producer import Producer
    from tests.world.record import Run
    from tests.world.roles import Role
    from tests.world.world import World

MOST_DEATHS = DEATHS_TO_ISOLATE + MAX_ATTEMPTS


class Judge:
    """Reads the world and its record, and changes nothing."""

    def __init__(self, world: World) -> None:
        self.world, self.record = world, world.record

    def restless(self) -> str:
        """What is not yet as it will be in the end; "" if all is quiet."""
        for role in self.world.supervisor.roles:
            if role.spooled and (role.last is None or not role.last.alive):
                return f"{role.node_id} is not there"
        if self.world.theme.calls and not self.world.calls.all_asked:
            return "the last calls are to come"
        for process in self.world.supervisor.living():
            if process.leaving:
                return f"{process.peer} is leaving"
            if process.services is not None and not process.services.is_quiet:
                return f"{process.peer} has open calls, or works for some"
            if process.disk is not None and (process.looking or process.disk.has_work):
                return f"the disk of {process.peer} has work"
            for producer in process.producers.values():
                if not producer.all_stored:
                    return f"{producer.end.stream} is being stored"
                if producer.end.unsettled_count:
                    return f"{producer.end.stream} has {producer.end.account()}"
            for consumer in process.consumers.values():
                if not consumer.end.idle or any(taker.busy for taker in consumer.takers):
                    return f"{consumer.queue} at {process.peer} holds {consumer.end.account()}"
        if self.world.theme.topics and self.world.now < 100:
            return "updates are to come"
        if self.world.shared is not None and (restless := self.world.shared.restless()):
            return restless
        return self.half_up()

    def half_up(self) -> str:
        """Which links are not as they should be between all who live; "" if none."""
        for a in self.world.supervisor.living():
            for b in self.world.supervisor.living():
                if a is b:
                    continue
                ours, theirs = a.engine.links.by_peer.get(b.peer), b.engine.links.by_peer.get(a.peer)
                a_up, b_up = ours is not None and ours.up, theirs is not None and theirs.up
                if a_up != b_up:
                    return f"the link {a.peer} {b.peer} is half up"
                common = a.engine.interests
                if not a_up and (
                    common.consumes & b.engine.interests.produces or common.produces & b.engine.interests.consumes
                ):
                    return f"{a.peer} and {b.peer} have no link"
                if a_up and ours is not None and theirs is not None and ours.out_id != theirs.in_id:
                    return f"{a.peer} and {b.peer} are on different lives of their link"
        return ""

    def check(self) -> None:
        """Assert what must hold at the end, after healing and quiet."""
        restless = self.restless()
        assert not restless, f"not quiet: {restless}"
        living = self.world.supervisor.living()
        for process in living:
            process.engine.check()
            for producer in process.producers.values():
                self._judge_producer(producer)
            for consumer in process.consumers.values():
                self._judge_consumer(process, consumer)
        self.world.calls.check()
        shared = self.world.shared
        for role in [*self.world.supervisor.roles, *(shared.slots.values() if shared is not None else ())]:
            if role.spooled and role.last is not None:
                self._judge_disk(role, role.last)
        if shared is not None:
            shared.check()
            for role in shared.slots.values():
                for producer in role.last.producers.values() if role.last is not None else ():
                    self._judge_promises(producer)
        if self.world.theme.strict:
            again = {key: runs for key, runs in self.record.runs.items() if len(runs) > 1}
            assert not again, f"ran twice without any reason: {again}"
        self._judge_order()
        if self.world.theme.topics:
            self._judge_topics()

    def judge_closed(self, producer: Producer) -> None:
        """All that was accepted is settled; what became of it nobody will know after this."""
        self._judge_producer(producer)
        self.record.judged[producer.end.stream] = producer.end.next

    def _judge_producer(self, producer: Producer) -> None:
        end = producer.end
        account = end.account()
        assert account.closes, f"the accounting of {end.stream} does not close: {account}"
        assert account.waiting == account.in_flight == 0, f"{end.stream} is not settled: {account}"
        if producer.store is not None:
            self._judge_promises(producer)
            return
        letters = {int(letter.id.rpartition("/")[2]): letter for letter in end.letters()}
        for (stream, sequence), body in self.record.accepted.items():
            if stream != end.stream or sequence < self.record.judged.get(stream, 0):
                continue
            state = end.state(sequence)
            runs = self.record.runs.get((stream, sequence), [])
            kind = body.split(b"|")[1].decode()
            if state == "processed":
                assert any(run.outcome in PROCESSED for run in runs), f"{stream}/{sequence} is acked and never ran"
            elif state == "dead":
                letter = letters.get(sequence)
                if not (letter and letter.reason == "refused" and len(body) > 19_000):
                    self._judge_letter(kind, letter.reason if letter else "", runs, f"{stream}/{sequence}")
            elif state == "expired":
                assert (stream, sequence) in self.record.expired, f"{stream}/{sequence} expired and was not to"
            else:
                assert state == "dropped", f"{stream}/{sequence} is {state}"
                is_dropped = self.world.theme.tight or (stream, sequence) in self.record.purged
                assert is_dropped, f"{stream}/{sequence} was dropped by nobody"

    def _judge_promises(self, producer: Producer) -> None:
        """Every message that was ever stored here was processed, expired, or is a dead letter, whoever died since."""
        end = producer.end
        node_id = producer.process.address.node_id
        letters = {letter.id: letter for letter in end.letters()}
        assert end.account().on_disk == 0, f"{end.stream} has something on disk only"
        excused = (self.record.unsure, self.record.tended, self.record.expired, self.record.purged)
        for (stream, sequence), body in self.record.accepted.items():
            if stream.split(":")[0] != node_id or stream.split(":", 2)[2] != producer.queue:
                continue
            name = f"{stream}/{sequence}"
            runs = self.record.runs.get((stream, sequence), [])
            if name in letters:
                self._judge_letter(body.split(b"|")[1].decode(), letters[name].reason, runs, name)
            elif not any((stream, sequence) in those for those in excused):
                assert any(run.outcome in PROCESSED for run in runs), f"{name} is lost: {runs}"

    def _judge_disk(self, role: Role, process: Process) -> None:
        """Should it all end now, the disk knows that all is settled."""
        before = self.world.disks.platters[role.disk]
        folder = role.shared.folder_of(role) if role.shared is not None else "/spool"
        # Of a cursor whose sync failed once the platter believes nothing any more, though it is written anew each time.
        doubtful = any(file.doomed and "/cursor." in path for path, file in before.files.items())
        after = before.lose_power(Random(self.world.seed)) if role.fsync and not doubtful else before.copy()
        spool = Spool.open(folder, files=after, random_bits=0, node_id="?", segment_bytes=SEGMENT_BYTES, unix_ms=0)
        for queue, store in process.stores.items():
            kept = [segment for segment in store._log._contents.segments if segment.messages]
            assert len(kept) <= 1, f"segments of {queue} at {process.peer} are not trimmed"
            assert store.end is not None
            found = Store(spool, queue, role.fsync, 0)
            recovered = found.recovered()
            _, backlog = recovered.begin("?:1:?", 2**20, 0.0)
            # How many records a torn copy held that a failed sync has left is not known, and the number after the last
            # known one is reported for them. That is none that was given out.
            damaged = {(stream, n) for stream, a, b in recovered.damaged for n in range(a, b)}
            unsettled = (
                backlog.recovered != backlog.damaged.total or damaged & self.record.accepted.keys() - self.record.unsure
            )
            assert not unsettled, f"the disk of {process.peer} does not know that {queue} is settled"
            on_disk, in_memory = found.letters(), store.end.letters()
            ids = {letter.id for letter in on_disk if self._key(letter) not in self.record.tended}
            assert ids == {letter.id for letter in in_memory if self._key(letter) not in self.record.tended}, (
                "letters differ"
            )
            assert len(on_disk) == len({letter.id for letter in on_disk}), "a dead letter is on disk twice"
        spool.abandon()

    @staticmethod
    def _key(letter: DeadLetter) -> tuple[str, int]:
        stream, _, sequence = letter.id.rpartition("/")
        return stream, int(sequence)

    def _judge_letter(self, kind: str, reason: str, runs: list[Run], name: str) -> None:
        failures = sum(1 for run in runs if run.outcome in ("nack", "batch_failed") or run.end - run.start >= run.lease)
        troubled = any(what in ("backstop",) for _, what, _ in self.record.excuses)
        legal = {
            "poison": ("died with it",),
            "rejected": ("rejected",),
            "misfit": ("refused",),
            "fails": ("attempts", "lease", *(("died with it",) if "kill" in self.world.theme.faults else ())),
            "fails twice": ("lease",) if troubled else (),
            "hangs": ("lease",) if troubled else (),
        }
        unacked = reason == "attempts" and any(run.outcome in ("unacked", "kept") for run in runs)
        # Deaths while alone count as attempts, so the last of those may also be a failure.
        innocent = reason in ("died with it", "attempts", "lease") and self._deaths_near(name) + failures >= MOST_DEATHS
        retried = not reason or unacked or innocent
        assert retried or reason in legal.get(kind, ()) or (troubled and failures), f"{name}, which {kind}: {reason}"

    def _deaths_near(self, name: str) -> int:
        """How many processes died that had been sent the message, or may have had it in hand as its own consumer.

        An innocent one can be taken for the killer after so many: nobody says which message a process runs.
        """
        stream, _, sequence = name.rpartition("/")
        node_id = stream.partition(":")[0]
        peers = {whom for _, whom, _ in self.record.sends[stream, int(sequence)]}
        died = {peer for _, what, peer in self.record.excuses if what in ("died", "vanished")}
        return sum(peer in peers or peer.startswith(f"{node_id}:") for peer in died)

    def _judge_consumer(self, process: Process, consumer: Consumer) -> None:
        end = consumer.end
        account = end.account()
        assert account.buffered == account.started == 0, f"{consumer.queue} at {process.peer} holds: {account}"
        for peer, source in end._sources.items():
            credit = source.credit
            if source.attached and not source.proven_gone:
                assert credit.outstanding() == credit.unused(), f"credit of {peer} at {process.peer} is not back"

    def _judge_order(self) -> None:
        """First deliveries are in order: of what was sent once, each consumer started a lower sequence first."""
        for (stream, peer), sequences in self.record.starts.items():
            # What is too large for one consumer is put aside for another, and comes later.
            sent_once = [n for n in sequences if len(self.record.sends.get((stream, n), ())) == 1]
            once = [n for n in sent_once if len(self.record.accepted[stream, n]) < 19_000]
            assert once == sorted(once), f"{peer} did not run {stream} in order: {once}"

    def _judge_topics(self) -> None:
        """Whoever confirmed a subscription knows of every update since: delivered, or counted as missed."""
        for process in self.world.supervisor.living():
            for subscriber in process.engine.topics.subscribers.values():
                for peer, tracks in subscriber._tracks.items():
                    publisher = next((p for p in self.world.supervisor.living() if p.peer == peer), None)
                    if publisher is None:
                        continue
                    for topic, track in tracks.items():
                        last = publisher.engine.topics.publishers[topic].last
                        assert track.seen == last, f"{process.peer} saw {topic} up to {track.seen} of {last}"
                        _, given = process.updated.get(track, (0, 0))
                        text = f"{process.peer} was given {given} and missed {track.missed} of {topic}, in all {last}"
                        assert given + track.missed == last - track.baseline, text
        for publisher in self.world.supervisor.living():
            for end in publisher.engine.topics.publishers.values():
                wanted = {
                    f"{process.address.node_id} {pattern}"
                    for process in self.world.supervisor.living()
                    for pattern in process.engine.topics.subscribers
                    if matches(pattern, end.topic)
                }
                assert end.confirmed == wanted, f"{publisher.peer} {end.topic}: {end.confirmed} instead of {wanted}"
