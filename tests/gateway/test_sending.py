"""Sending over HTTP: what becomes of bodies, headers and errors, and what an answer promises."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peerfabric import AsyncNode, Options
from peerfabric.gateway import Limits
from tests.conftest import stuff
from tests.gateway.answering import consuming
from tests.gateway.conftest import JSON, SECRET, Gate, problem
from tests.nodes.conftest import DEADLINE, eventually

PATH = "/v1/queues/orders/messages"
LINES = {"content-type": "application/x-ndjson"}


class Order(msgspec.Struct):
    number: int
    item: str = ""


def test_a_body_arrives_as_it_was_sent(gate: Gate) -> None:
    """JSON of any kind, in order, with the id that the answer says."""
    bodies = [{"a": [1, 2.5, None, True, "é"]}, [], "text", 7, None, {"": {}}]
    answers = [gate.client.post(PATH, content=json.dumps(body), headers=JSON) for body in bodies]
    assert {answer.status_code for answer in answers} == {202}
    assert {answer.json()["state"] for answer in answers} == {"queued"}
    for body, answer in zip(bodies, answers, strict=True):
        message = gate.taken("orders")
        assert (message.body, message.id) == (body, answer.json()["id"])


def test_raw_bytes_arrive_as_bytes(gate: Gate) -> None:
    """For consumers of bytes, and beside JSON on one queue."""
    data = bytes(range(256))
    sent = gate.client.post(PATH, content=data, headers={"content-type": "application/octet-stream"})
    assert sent.status_code == 202
    assert gate.taken("orders", bytes).body == data


def test_headers_arrive(gate: Gate) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    gate.send("orders", 1, headers={"X-Message-Tenant": "a", "x-message-note": "ü".encode(), "traceparent": trace})
    assert gate.taken("orders").headers == {"tenant": "a", "note": "ü", "traceparent": trace}
    problem(gate.send("orders", 1, headers={"x-message-big": "x" * 9000}), 400, "cannot-be-sent")
    problem(gate.send("orders", 1, headers={"x-message-idempotency-key": "x"}), 400)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "not-json"),
        (b"{", 400, "not-json"),
        (b'{"a": NaN}', 400, "not-json"),
        (b"\xff", 400, "not-json"),
        (b"[" * 1000, 400, "not-json"),
        (b'"\\ud800"', 400, "not-json"),
        (b'"' + b"x" * 2000 + b'"', 413, "too-large"),
        (b"9" * 40, 400, "cannot-be-sent"),
    ],
)
def test_what_cannot_be_sent(gates: Callable[..., Gate], content: bytes, status: int, code: str) -> None:
    gate = gates(node={"options": Options(message_bytes_max=1024, drain_timeout=0.0)})
    answer = gate.client.post(PATH, content=content, headers={"content-type": "application/json; charset=utf-8"})
    problem(answer, status, code)
    assert not gate.call(lambda: [sends.accepted for sends in gate.node.statistics().producers if sends.accepted])


def test_a_deep_body_is_refused(gate: Gate) -> None:
    """By the decoder, and not by the end of the process."""
    problem(gate.client.post(PATH, content=b"[" * 1_000_000, headers=JSON), 400, "not-json")
    problem(gate.client.post(PATH, content=b"[" * 300_000 + b"]" * 300_000, headers=JSON), 400, "not-json")


def test_a_long_body_is_cut_at_the_limit(gates: Callable[..., Gate]) -> None:
    """Whether or not its length is said before; no more of it is read."""
    gate = gates(node={"options": Options(message_bytes_max=1024)})
    many = 100_000
    read = 0

    def parts() -> Any:
        nonlocal read
        while read < many:
            read += 1
            yield bytes(1024)

    try:
        answer = gate.client.post(PATH, content=parts(), headers={"content-type": "application/json"})
    except Exception:
        assert read < many, "the connection was closed in the middle of the body"
    else:
        problem(answer, 413, "too-large")
    gate.client.close()
    with socket.create_connection(("127.0.0.1", gate.address.port), DEADLINE) as sock:
        sock.sendall(
            f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {SECRET}\r\ncontent-length: 99999999999\r\n\r\n".encode()
        )
        sock.settimeout(DEADLINE)
        assert b" 413 " in sock.recv(4096)


def test_a_body_that_does_not_come_holds_nothing(gates: Callable[..., Gate]) -> None:
    gate = gates(limits=Limits(body_timeout=0.1))
    with socket.create_connection(("127.0.0.1", gate.address.port), DEADLINE) as sock:
        sock.sendall(
            f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {SECRET}\r\ncontent-length: 10\r\n\r\n12".encode()
        )
        sock.settimeout(DEADLINE)
        assert b" 408 " in sock.recv(4096)


def test_names_and_parameters_are_looked_at(gate: Gate) -> None:
    problem(gate.send("a..b", 1), 404, "bad-name")
    problem(gate.send("x" * 300, 1), 404, "bad-name")
    for query in ("confirm=done", "timeout=x", "timeout=-1", "timeout=61", "timeout=nan", "ttl=x", "confirm=stored"):
        problem(gate.client.post(f"{PATH}?{query}", json=1), 400)
    problem(gate.client.get(PATH), 405)
    problem(gate.client.post("/v1/queues/orders", json=1), 404)
    problem(gate.client.post(f"{PATH}?ttl=0", json=1), 400, "bad-parameter")


# States


def test_a_spool_has_what_is_answered(gates: Callable[..., Gate], tmp_path: Path) -> None:
    gate = gates(node={"spool": str(tmp_path / "spool"), "options": Options(drain_timeout=0.0)})
    sent = gate.send("orders", 1)
    assert (sent.status_code, sent.json()["state"]) == (202, "stored")
    assert gate.client.post(f"{PATH}?confirm=stored", json=1).json()["state"] == "stored"


def test_a_confirmation_that_does_not_come_is_no_error(gate: Gate) -> None:
    """The message is accepted: a client that got 5xx would send it again."""
    for state in ("delivered", "processed"):
        answer = gate.client.post(f"{PATH}?confirm={state}&timeout=0.05", json=1)
        assert (answer.status_code, answer.json()["state"]) == (202, "queued")


def test_a_processed_message_is_answered_with_200(gate: Gate) -> None:
    consuming(gate, "orders")
    answer = gate.client.post(f"{PATH}?confirm=processed&timeout=30", json=1)
    assert (answer.status_code, answer.json()["state"]) == (200, "processed")


def test_a_rejected_message_says_so(gate: Gate) -> None:
    async def refuse(body: Any) -> None:
        from peerfabric import Reject

        raise Reject("no")

    gate.call(lambda: gate.node.on_message("orders")(refuse))
    answer = gate.client.post(f"{PATH}?confirm=processed&timeout=30", json=1)
    assert (answer.status_code, answer.json()["state"]) == (202, "dead")


def test_too_many_waits_are_still_accepted(gates: Callable[..., Gate]) -> None:
    """A refusal after the message was accepted would have it sent again."""
    gate = gates(limits=Limits(waits_per_token=1))
    slow = threading.Thread(target=lambda: gate.client.post(f"{PATH}?confirm=processed&timeout=30", json=1))
    slow.start()
    eventually(lambda: gate.call(lambda: gate.gateway.waits._open), "the first wait")
    answer = gate.client_of(SECRET).post(f"{PATH}?confirm=processed&timeout=30", json=2)
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert gate.taken("orders").body == 1
    slow.join(DEADLINE)


def test_full_queues_and_disks_are_told(gates: Callable[..., Gate], small_disk: Path) -> None:
    """503 with Retry-After, and nothing of it is accepted."""
    gate = gates(node={"options": Options(drain_timeout=0.0)})
    gate.call(lambda: gate.node.producer("small", str, on_full="error", buffer_bytes=1000))
    answers = [gate.send("small", "x" * 300) for _ in range(9)]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert refused
    for answer in refused:
        problem(answer, 503, "queue-full")
        assert int(answer.headers["retry-after"]) >= 1
    assert gate.call(lambda: gate.node.statistics().producers[0].accepted) == 9 - len(refused)

    full = gates(node={"spool": str(small_disk / "spool"), "options": Options(drain_timeout=0.0)})
    assert full.send("orders", "x").status_code == 202
    stuff(small_disk)
    answers = [full.send("orders", "x" * 1_000_000) for _ in range(20)]
    assert answers[-1].status_code == 503
    said = problem(answers[-1], 503, "spool-full")
    assert str(small_disk) in said["path"]
    accepted = 1 + sum(answer.status_code == 202 for answer in answers)
    assert full.call(lambda: full.node.statistics().producers[0].accepted) == accepted
    (small_disk / "ballast").unlink()


def test_any_number_of_queues_is_sent_to(
    gates: Callable[..., Gate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Producers that are not used are closed, and opened again; nothing of what they accepted is lost."""
    monkeypatch.setattr("peerfabric.gateway.shared.PRODUCERS_MAX", 3)
    gate = gates(node={"spool": str(tmp_path / "spool"), "options": Options(drain_timeout=0.0)})
    for number in (1, 2):
        for queue in range(30):
            assert gate.send(f"queue{queue}", number).status_code == 202
    eventually(lambda: len(gate.call(lambda: gate.node._lifecycle.handles.producers)) < 20, "closed producers")
    for queue in (0, 7, 29):
        assert [gate.taken(f"queue{queue}").body for _ in range(2)] == [1, 2]


# Types


def test_declared_types_are_checked(gates: Callable[..., Gate]) -> None:
    """Of a producer or a consumer that the program has; what does not fit is told with the place."""
    gate = gates()
    gate.call(lambda: gate.node.producer("orders", Order))
    gate.call(lambda: gate.node.consumer("others", Order))
    gate.call(lambda: gate.node.consumer("raw", bytes))
    for queue in ("orders", "others"):
        assert gate.send(queue, {"number": 1}).status_code == 202
        said = problem(gate.send(queue, {"number": "one"}), 422, "wrong-type")
        assert said["path"] == "$.number"
        problem(gate.send(queue, {}), 422, "wrong-type")
        headers = {"content-type": "application/octet-stream"}
        problem(gate.client.post(f"/v1/queues/{queue}/messages", content=b"x", headers=headers), 415, "content-type")
    problem(gate.send("raw", 1), 415, "content-type")
    problem(gate.client.post("/v1/queues/raw/messages:batch", content=b"1", headers=LINES), 415, "content-type")
    assert gate.taken("others", Order).body == Order(1)


# Batches


def test_a_batch_is_sent_in_order(gates: Callable[..., Gate], tmp_path: Path) -> None:
    """With the ids of its messages, with a spool and without."""
    spooled = {"spool": str(tmp_path / "spool"), "options": Options(drain_timeout=0.0)}
    for queue, gate in (("orders", gates()), ("stored", gates(node=spooled))):
        path = f"/v1/queues/{queue}/messages:batch"
        lines = b"\r\n".join(b'{"n": %d}' % number for number in range(3000)) + b"\n\n"
        answer = gate.client.post(path, content=lines, headers=LINES)
        assert answer.status_code == 202
        assert (answer.json()["accepted"], len(set(answer.json()["ids"]))) == (3000, 3000)
        assert "problem" not in answer.json()
        for number in (0, 1):
            message = gate.taken(queue)
            assert (message.body, message.id) == ({"n": number}, answer.json()["ids"][number])


@pytest.mark.parametrize(
    ("content", "accepted", "status", "code"),
    [
        (b"1\n2\nx\n4\n", 2, 400, "not-json"),
        (b"x\n1\n", 0, 400, "not-json"),
        (b"\n \n", 0, 400, ""),
        (b"1\n" * 11, 10, 413, "too-large"),
        (b'1\n"' + b"x" * 2000 + b'"\n3\n', 1, 413, "too-large"),
        (b'"' + b"x" * 9000 + b'"\n', 0, 413, "too-large"),
    ],
)
def test_a_batch_is_accepted_up_to_what_cannot_be(
    gates: Callable[..., Gate], content: bytes, accepted: int, status: int, code: str
) -> None:
    """The first lines, 202, and why no more; of none, only why."""
    gate = gates(
        node={"options": Options(message_bytes_max=1024, drain_timeout=0.0)},
        limits=Limits(batch_bytes_max=8000, batch_messages_max=10),
    )
    answer = gate.client.post(f"{PATH}:batch", content=content, headers=LINES)
    if not accepted:
        problem(answer, status, code)
        return
    assert answer.status_code == 202
    body = answer.json()
    assert (body["accepted"], len(body["ids"]), body["problem"]["status"]) == (accepted, accepted, status)
    assert body["problem"]["type"].endswith(code)
    assert gate.call(lambda: gate.node.statistics().producers[0].accepted) == accepted


def test_a_batch_into_a_full_queue_says_how_many(gates: Callable[..., Gate]) -> None:
    gate = gates()
    gate.call(lambda: gate.node.producer("small", str, on_full="error", buffer_bytes=2000))
    lines = b'"%s"\n' % (b"x" * 300) * 20
    body = gate.client.post("/v1/queues/small/messages:batch", content=lines, headers=LINES).json()
    assert 0 < body["accepted"] < 20
    assert body["problem"]["status"] == 503
    assert gate.call(lambda: gate.node.statistics().producers[0].accepted) == body["accepted"]
    problem(gate.client.post(f"{PATH}:batch", content=b"1", headers=LINES | {"idempotency-key": "k"}), 400)


# The end


def test_a_gateway_that_ends_accepts_nothing_new(gates: Callable[..., Gate]) -> None:
    """What waits is answered at once; what is new is refused, so that it goes to another one."""
    gate = gates()
    answers: list[Any] = []
    slow = threading.Thread(
        target=lambda: answers.append(gate.client.post(f"{PATH}?confirm=processed&timeout=60", json=1))
    )
    slow.start()
    eventually(lambda: gate.call(lambda: gate.gateway.waits._open), "the wait")
    gate.call(gate.gateway.drain)
    slow.join(DEADLINE)
    assert (answers[0].status_code, answers[0].json()["state"]) == (202, "queued")
    for path, headers in ((PATH, {}), (f"{PATH}:batch", LINES)):
        refused = gate.client.post(path, content=b"1", headers={"content-type": "application/json"} | headers)
        problem(refused, 503, "closing")
        assert "retry-after" in refused.headers


def test_a_program_starts_and_closes_its_gateway(runtime: Path) -> None:
    """As an ASGI server does that runs it alone; the node it did not start stays."""
    import asyncio

    from peerfabric.gateway import Gateway, Tokens

    async def live(gateway: Gateway) -> list[str]:
        said: list[str] = []
        asked: asyncio.Queue[Any] = asyncio.Queue()
        for kind in ("lifespan.startup", "lifespan.shutdown"):
            asked.put_nowait({"type": kind})

        async def send(message: Any) -> None:
            said.append(message["type"])

        await gateway({"type": "lifespan"}, asked.get, send)
        return said

    async def main() -> None:
        node = AsyncNode()
        gateway = Gateway(node, tokens=Tokens.of(SECRET))
        assert await live(gateway) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert node._context.is_closed
        async with AsyncNode() as other:
            async with Gateway(other, tokens=Tokens.of(SECRET)):
                pass
            assert other._context.is_running

    asyncio.run(main())
