"""Fake processes of a host, for a page that shows them: their numbers move as a `Shop` or `Many` says."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from peerfabric.reports import CallAccount, ConsumerAccount, QueueAccount, ServiceAccount
from peerfabric.status import (
    InHand,
    Letters,
    NodeStatus,
    Peer,
    Process,
    Publishing,
    Sending,
    SlotStatus,
    SpoolStatus,
    Status,
    Subscribing,
    Taking,
    Warned,
)

STARTED = 1_790_000_000_000
HOSTILE = "<img src=x onerror=document.title='broken'>"


class FakeAnswer(NamedTuple):
    """As `peerfabric.admin.Answer`."""

    pid: int
    started: int
    path: Path
    status: Status | None
    problem: str


def answer(pid: int, nodes: list[NodeStatus], **of_process: Any) -> FakeAnswer:
    """A process that answers."""
    given = {
        "argv0": "shop.py",
        "user": "shop",
        "version": "0.2.0",
        "python": "3.11.2",
        "rss": 61_000_000 + pid * 9_000,
    }
    process = Process(
        pid=pid, started=STARTED, threads=6, descriptors=48, descriptors_max=1024, **{**given, **of_process}
    )
    return FakeAnswer(pid, STARTED, Path(f"/run/{pid}.sock"), Status(process=process, nodes=tuple(nodes)), "")


def silent(pid: int) -> FakeAnswer:
    """A process that does not answer."""
    return FakeAnswer(pid, STARTED, Path(f"/run/{pid}.sock"), None, "no answer in 1 s: stopped, or starved")


def node(name: str, fabric: str = "shop", **fields: Any) -> NodeStatus:
    """A node; its id is made of its name."""
    identity = name.encode().hex().ljust(32, "0")[:32]
    return NodeStatus(
        node_id=identity,
        epoch=7,
        name=name,
        fabric=fabric,
        state="running",
        host="quince",
        **{"uptime": 7_532.0, **fields},
    )


def letter(number: int, **fields: Any) -> dict[str, Any]:
    """A dead letter as a process tells of it."""
    return {
        "id": f"9f2c{number:028x}.7.{number}",
        "queue": "payments",
        "reason": "attempts",
        "error": "CardDeclined: the bank said no, 3 times in a row",
        "attempts": 3,
        "deaths": 0,
        "sent_at": 1_790_000_000.0 + number,
        "headers": {"tenant": "oxford"},
        "body": {"order": 4_210 + number, "total": "129.90", "currency": "EUR"},
        "slot": 0,
        "node": "shop-1",
        "node_id": "ab" * 16,
        "fabric": "shop",
        **fields,
    }


class Host:
    """What a host answers; a test changes what is in it."""

    def __init__(self) -> None:
        self.looks = 0
        self.letters: list[dict[str, Any]] = []
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.paused: set[str] = set()

    def look(self) -> list[FakeAnswer]:
        self.looks += 1
        return self.answers()

    def answers(self) -> list[FakeAnswer]:
        return []

    def ask(self, asked: FakeAnswer, do: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What a process does at its admin socket. The first has all dead letters."""
        self.asked.append((do, arguments))
        tag = {"node": f"process-{asked.pid}", "node_id": "ab" * 16, "fabric": arguments["fabric"]}
        first = asked.pid == self.answers()[0].pid
        match do:
            case "dead":
                queue = arguments.get("queue")
                found = [each for each in self.letters if first and queue in (None, each["queue"])]
                return {"letters": found[: arguments["limit"]]}
            case "retry" | "drop":
                known = [each for each in self.letters if first and each["id"] in arguments["ids"]]
                self.letters = [each for each in self.letters if each not in known]
                return {"outcomes": [{**tag, "id": each["id"], "done": True, "problem": ""} for each in known]}
            case "pause" | "resume":
                (self.paused.add if do == "pause" else self.paused.discard)(arguments["queue"])
                return {"nodes": [{**tag, "done": first}]}
            case "purge":
                return {"nodes": [{**tag, "purged": 40 if first else 0}]}
        raise AssertionError(do)


class Shop(Host):
    """An order shop of seven processes, one of which is stopped, with something of everything."""

    def __init__(self, began: float | None = None) -> None:
        super().__init__()
        self.began = time.time() - 400 if began is None else began
        self.letters = [letter(n) for n in range(3)]
        self.letters[1]["error"] = f"ValueError: {HOSTILE}"
        self.letters[1]["body"] = HOSTILE

    def answers(self) -> list[FakeAnswer]:
        t = time.time() - self.began

        def sent(rate: float, phase: float = 0.0) -> int:
            return int(rate * t + 0.35 * rate * 40 * math.sin(t / 40 + phase) + rate * 4 * math.sin(t / 3 + phase))

        def sends(queue: str, rate: float, behind: int = 0, phase: float = 0.0, **fields: Any) -> Sending:
            accepted, flight = sent(rate, phase), min(64, int(rate / 8))
            account = {
                "accepted": accepted,
                "acked": accepted - behind - flight,
                "waiting": behind,
                "in_flight": flight,
            }
            account |= fields.pop("account", {})
            return Sending(queue=queue, account=QueueAccount(queue=queue, **account), **fields)

        def takes(queue: str, rate: float, phase: float = 0.0, **fields: Any) -> Taking:
            account = {"received": sent(rate, phase), "processed": sent(rate, phase) - 4, "started": 4, "window": 32}
            account |= fields.pop("account", {})
            usual: dict[str, Any] = {
                "takers": 4,
                "last_taken": 0.02,
                "lease": 30.0,
                "longest_running": 0.08,
                "seconds": (5, 60, 900, 300, 12, 1, 0, 0, 0, 0),
            }
            return Taking(queue=queue, account=ConsumerAccount(queue=queue, **account), **usual | fields)

        hung = InHand(
            id="9f2c7711aa0b4e8f9b1d20c3e1f0a9b4.7.48211",
            age=t % 500 + 61.0,
            attempt=2,
            lease_left=240.0,
            handler="send_mail",
            thread="mail-handler-2",
            line="mail.py:118",
        )
        peers = tuple(
            Peer(
                node_id=f"{n:032x}",
                name=name,
                state="up",
                rtt=0.0004 + n / 9000,
                endpoint=f"ipc://shop/{n}",
                consumes=("orders",),
            )
            for n, name in enumerate(("kitchen-1", "kitchen-2", "mailer"))
        )
        shop = node(
            "shop-1",
            peers=peers,
            sends=(
                sends(
                    "orders",
                    420,
                    38,
                    oldest_waiting=0.09,
                    oldest_unsettled=0.14,
                    consumers=("kitchen-1", "kitchen-2"),
                    credit_free=210,
                    spooled=True,
                ),
                sends(
                    "payments",
                    61,
                    phase=1.0,
                    consumers=("till",),
                    letters=Letters(count=len(self.letters), bytes=2048, by_reason={"attempts": 3}),
                    account={"redelivered": 12},
                ),
                sends(
                    "mail",
                    33,
                    int(t * 9) % 9000,
                    oldest_waiting=t % 900,
                    consumers=("mailer",),
                    account={"on_disk": 12_400},
                    blocked_senders=2,
                ),
                sends("invocies", 0, 214, oldest_waiting=t % 3000),
            ),
            publishes=(
                Publishing(topic="orders.placed", published=sent(420), subscribers=2),
                Publishing(topic="prices.eu", published=sent(90), subscribers=1),
            ),
            warnings=(
                Warned(
                    code="no-consumer",
                    queue="invocies",
                    since=312.0,
                    text="214 messages wait and nobody consumes 'invocies'; did you mean 'invoices'? "
                    "it is consumed by ledger",
                ),
            ),
            spool=SpoolStatus(
                folder="/var/lib/shop",
                slot=0,
                used=812_000_000,
                limit=1 << 30,
                disk_free=41 << 30,
                disk_size=100 << 30,
                last_sync=0.004,
                letters=3,
                slots=(
                    SlotStatus(slot=0, state="running", pid=4711, name="shop-1"),
                    SlotStatus(slot=1, state="adopted", pid=4711, name="shop-2", left=118),
                    SlotStatus(slot=2, state="empty"),
                    SlotStatus(slot=3, state="left", left=40, letters=2),
                ),
            ),
            counters={"frames_sent": sent(800), "frames_received": sent(790), "hellos": 12},
            calls=CallAccount(started=1800, open=2),
        )
        kitchen = [
            node(
                f"kitchen-{n}",
                peers=peers,
                takes=(takes("orders", 210, paused="orders" in self.paused),),
                sends=(sends("mail", 12, phase=2.0, consumers=("mailer",)),),
                subscribes=(Subscribing(pattern="prices.>", received=sent(90), missed=14 * (n - 1)),),
            )
            for n in (1, 2)
        ]
        mailer = node(
            "mailer",
            takes=(takes("mail", 24, running=(hung,), longest_running=hung.age, account={"buffered": 28}),),
            warnings=(
                Warned(
                    code="slow-handler",
                    queue="mail",
                    since=31.0,
                    text="send_mail has had a message for 61 s, at mail.py:118; lease=300 ends it in 240 s",
                ),
            ),
        )
        ledger = node(
            "ledger",
            takes=(
                takes(
                    "invoices",
                    0,
                    takers=1,
                    last_taken=None,
                    account={"received": 0, "processed": 0, "started": 0},
                    seconds=(),
                    longest_running=0.0,
                ),
            ),
            serves=(
                ServiceAccount(
                    service="price", received=sent(70), answered=sent(70) - 3, running=3, waiting=1, capacity=8
                ),
            ),
        )
        till = node(
            "till",
            takes=(takes("payments", 61, phase=1.0),),
            subscribes=(Subscribing(pattern="orders.placed", received=sent(420)),),
        )
        cpu = t * 0.11
        return [
            answer(
                4711,
                [
                    shop,
                    node(
                        "shop-2",
                        adopted=1,
                        sends=(sends("orders", 0, 118, oldest_waiting=44.0, consumers=("kitchen-1",)),),
                    ),
                ],
                cpu=cpu * 2,
            ),
            answer(4712, [kitchen[0]], cpu=cpu),
            answer(4713, [kitchen[1]], cpu=cpu * 1.1),
            answer(4720, [mailer], cpu=cpu / 4),
            answer(4731, [ledger], cpu=cpu / 9),
            answer(4733, [till], cpu=cpu / 2) if t % 240 < 200 or t < 500 else silent(4733),
            silent(4740),
        ]


class Many(Host):
    """Fifty nodes with two hundred queues each, all of them busy."""

    def __init__(self, nodes: int = 50, queues: int = 200) -> None:
        super().__init__()
        self.nodes, self.queues, self.began = nodes, queues, time.time() - 100

    def answers(self) -> list[FakeAnswer]:
        t = time.time() - self.began
        found = []
        for n in range(self.nodes):
            names = [f"queue-{n:02}-{k:03}" for k in range(self.queues)]
            sends = tuple(
                Sending(
                    queue=name,
                    account=QueueAccount(
                        queue=name,
                        accepted=int(t * (k + 1)),
                        acked=int(t * (k + 1)) - k,
                        waiting=int(k * (1 + math.sin(t + k))),
                    ),
                    oldest_waiting=k / 10,
                    consumers=(f"node-{n + 1:02}",),
                )
                for k, name in enumerate(names)
            )
            before = [f"queue-{(n - 1) % self.nodes:02}-{k:03}" for k in range(self.queues)]
            takes = tuple(
                Taking(
                    queue=name,
                    account=ConsumerAccount(
                        queue=name, received=int(t * (k + 1)), processed=int(t * (k + 1)), window=32
                    ),
                    takers=1,
                    last_taken=0.1,
                    seconds=(1,) * 10,
                )
                for k, name in enumerate(before)
            )
            found.append(answer(5000 + n, [node(f"node-{n:02}", sends=sends, takes=takes)], cpu=t / 9))
        return found
