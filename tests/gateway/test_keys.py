"""Idempotency keys: one effect for a request that is sent again, also to another process, and what a kill leaves."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from peerfabric import Options, SpoolError
from peerfabric.gateway import queues
from peerfabric.gateway.auth import Token, Tokens
from peerfabric.gateway.keys import Claim, Keys
from peerfabric.gateway.problems import Problem
from tests.gateway.answering import consuming
from tests.gateway.conftest import SECRET, Gate, problem
from tests.nodes.conftest import eventually

PATH = "/v1/queues/orders/messages"
KEY = {"idempotency-key": "order-7"}
OTHER = "other-secret-0123456789"


def accepted(gate: Gate) -> int:
    return gate.call(lambda: sum(sends.accepted for sends in gate.node.statistics().producers))


def test_the_same_request_has_the_same_answer(gate: Gate) -> None:
    """And one effect; the message says with which key it was sent."""
    first = gate.send("orders", {"number": 7}, headers=KEY)
    assert first.status_code == 202
    assert "idempotent-replay" not in first.headers
    for key in ("order-7", '"order-7"'):  # as text, and as a string of a structured field
        again = gate.send("orders", {"number": 7}, headers={"idempotency-key": key})
        assert (again.status_code, again.json(), again.headers["idempotent-replay"]) == (202, first.json(), "true")
    assert accepted(gate) == 1
    assert gate.taken("orders").headers == KEY


def test_a_retry_of_a_traced_client_is_the_same_request(gate: Gate) -> None:
    """Each of its attempts has a span of its own."""
    traced = [{"traceparent": f"00-{'a' * 32}-{span * 16}-01", "tracestate": f"x={span}"} for span in "12"]
    answers = [gate.send("orders", 7, headers=KEY | headers) for headers in traced]
    assert [(each.status_code, "idempotent-replay" in each.headers) for each in answers] == [(202, False), (202, True)]
    assert accepted(gate) == 1


def test_a_request_that_is_cancelled_leaves_no_key_in_progress(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a program in which a gateway is mounted may do: what was begun is done, and the next one has its answer."""
    really = queues._accept

    async def cancelled() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def accept(*arguments: Any) -> Any:
            begun.set()
            await go_on.wait()
            return await really(*arguments)

        monkeypatch.setattr(queues, "_accept", accept)
        host = f"127.0.0.1:{gate.address.port}"
        headers = {"host": host, "authorization": f"Bearer {SECRET}", "content-type": "application/json"} | KEY
        scope = {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }

        async def receive() -> Any:
            return {"type": "http.request", "body": b"7", "more_body": False}

        async def send(message: Any) -> None:
            raise AssertionError("nobody is there")

        request = asyncio.ensure_future(gate.gateway(scope, receive, send))
        await begun.wait()
        request.cancel()
        await asyncio.wait((request,))
        assert request.cancelled()
        go_on.set()

    gate.run(cancelled())
    eventually(lambda: accepted(gate) == 1, "the message")
    eventually(lambda: "idempotent-replay" in gate.send("orders", 7, headers=KEY).headers, "the answer of before")
    assert accepted(gate) == 1


def test_a_confirmed_answer_is_given_again(gate: Gate) -> None:
    consuming(gate, "orders")
    for replayed in (False, True):
        answer = gate.client.post(f"{PATH}?confirm=processed&timeout=30", json=1, headers=KEY)
        assert (answer.status_code, answer.json()["state"]) == (200, "processed")
        assert ("idempotent-replay" in answer.headers) is replayed
    assert accepted(gate) == 1


def test_another_request_with_the_key_is_refused(gate: Gate) -> None:
    """Another body, queue, header or parameter; nothing of it is accepted."""
    gate.send("orders", {"number": 7}, headers=KEY)
    for answer in (
        gate.send("orders", {"number": 8}, headers=KEY),
        gate.send("others", {"number": 7}, headers=KEY),
        gate.send("orders", {"number": 7}, headers=KEY | {"x-message-a": "b"}),
        gate.client.post(f"{PATH}?ttl=9", json={"number": 7}, headers=KEY),
    ):
        problem(answer, 422, "key-used-before")
    assert accepted(gate) == 1
    for key in ("", '""', "x" * 256, "a b", "\xfc".encode("latin-1")):
        problem(gate.send("orders", 1, headers={"idempotency-key": key}), 400)


def test_keys_are_each_token_s_own(gates: Callable[..., Gate]) -> None:
    send = frozenset({("send", ">")})
    gate = gates(tokens=Tokens({SECRET: Token("a", send), OTHER: Token("b", send)}))
    assert gate.send("orders", 1, headers=KEY).status_code == 202
    assert gate.client_of(OTHER).post(PATH, json=2, headers=KEY).status_code == 202
    assert accepted(gate) == 2


def test_a_refused_request_may_be_sent_again(gate: Gate) -> None:
    """With the same key: nothing was done."""
    gate.call(lambda: gate.node.producer("small", str, on_full="error", buffer_bytes=600))
    assert gate.send("small", "x" * 300).status_code == 202
    for _ in range(2):
        problem(gate.send("small", "y" * 300, headers=KEY), 503, "queue-full")
    assert gate.taken("small").body == "x" * 300
    eventually(lambda: gate.send("small", "y" * 300, headers=KEY).status_code == 202, "room")


def test_keys_outlive_their_gateway(gates: Callable[..., Gate], tmp_path: Path) -> None:
    """Beside the spool, in a file for this user alone."""
    options = {"node": {"spool": str(tmp_path / "spool"), "options": Options(drain_timeout=0.0)}}
    first = gates(**options)
    sent = first.send("orders", 1, headers=KEY)
    first.stop()
    second = gates(**options)
    again = second.send("orders", 1, headers=KEY)
    assert (again.json(), again.headers["idempotent-replay"]) == (sent.json(), "true")
    files = [path for path in (tmp_path / "spool").iterdir() if path.name.startswith("gateway-keys")]
    assert files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_workers_share_their_keys(gates: Callable[..., Gate], tmp_path: Path) -> None:
    options = {"node": {"spool": str(tmp_path / "spool"), "options": Options(drain_timeout=0.0)}}
    one, two = gates(**options), gates(**options)
    sent = one.send("orders", 1, headers=KEY)
    assert two.send("orders", 1, headers=KEY).json() == sent.json()
    assert accepted(one) + accepted(two) == 1


# Of the file


def run(story: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(story())  # type: ignore[arg-type]


def test_a_request_in_progress_is_told(tmp_path: Path) -> None:
    """By who has it in hand, and by every other process while that one lives; when it is dead it is done again."""

    async def story() -> None:
        path = str(tmp_path / "keys")
        one, two = Keys(path), Keys(path)
        await one.open()
        await two.open()
        assert (await one.claim("a", "k", b"1")).status == 0
        for keys in (one, two):
            with pytest.raises(Problem) as refused:
                await keys.claim("a", "k", b"1")
            assert (refused.value.status, refused.value.retry_after) == (409, 1.0)
        # As the system does when a process ends, however.
        os.close(one._lock_file)
        one._lock_file = -1
        claim = await two.claim("a", "k", b"1")
        assert claim.status == 0
        with pytest.raises(Problem) as other:
            await two.claim("a", "k", b"2")
        assert other.value.status == 422
        await two.note(claim, 202, b"{}")
        assert await two.claim("a", "k", b"1") == Claim("a", "k", 202, b"{}")
        await one.close()
        await two.close()

    run(story)


def test_old_keys_and_too_many_are_forgotten(tmp_path: Path) -> None:
    async def story() -> None:
        path = str(tmp_path / "keys")
        keys = Keys(path, most=10)
        await keys.open()
        for number in range(30):
            await keys.note(await keys.claim("a", f"k{number:02}", b""), 202, b"")
        await keys.close()
        keys = Keys(path, most=10)
        await keys.open()
        assert (await keys.claim("a", "k29", b"")).status == 202
        assert (await keys.claim("a", "k19", b"")).status == 0
        await keys.close()
        keys = Keys(path, kept=0.0)
        await keys.open()
        assert (await keys.claim("a", "k29", b"")).status == 0
        await keys.close()

    run(story)


def test_many_at_once_have_one_winner(tmp_path: Path) -> None:
    async def story() -> None:
        path = str(tmp_path / "keys")
        several = [Keys(path) for _ in range(4)]
        await asyncio.gather(*(keys.open() for keys in several))
        found = await asyncio.gather(
            *(keys.claim("a", f"k{number}", b"") for number in range(50) for keys in several * 2),
            return_exceptions=True,
        )
        assert sum(isinstance(each, Claim) for each in found) == 50
        assert {each.status for each in found if isinstance(each, Problem)} == {409}
        await asyncio.gather(*(keys.close() for keys in several))

    run(story)


def test_a_disk_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done then, and an answer that could not be written is written with the next request."""
    monkeypatch.setattr("peerfabric.gateway.keys.PATIENCE", 0.05)

    async def story() -> None:
        path = str(tmp_path / "keys")
        keys, other = Keys(path), Keys(path)
        await keys.open()
        await other.open()
        claim = await keys.claim("a", "k", b"")
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(SpoolError, match="locked"):
            await keys.note(claim, 202, b"x")
        with pytest.raises(SpoolError):
            await keys.claim("a", "k2", b"")
        blocker.execute("ROLLBACK")
        blocker.close()
        assert (await keys.claim("a", "k2", b"")).status == 0
        assert (await other.claim("a", "k", b"")).answer == b"x"
        await keys.close()
        await other.close()

    run(story)


def test_a_key_is_free_again_once_the_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message was refused for a full disk, and so was the note that its key is free: when there is room it is."""
    monkeypatch.setattr("peerfabric.gateway.keys.PATIENCE", 0.05)

    async def story() -> None:
        path = str(tmp_path / "keys")
        keys = Keys(path)
        await keys.open()
        claim = await keys.claim("a", "k", b"")
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(SpoolError):
            await keys.release(claim)
        blocker.execute("ROLLBACK")
        blocker.close()
        again = await keys.claim("a", "k", b"other")
        assert again.status == 0
        await keys.note(again, 202, b"x")
        assert (await keys.claim("a", "k", b"other")).answer == b"x"
        await keys.close()

    run(story)


def test_a_full_disk_is_told_as_that(tmp_path: Path) -> None:
    async def story() -> None:
        keys = Keys(str(tmp_path / "keys"))
        await keys.open()
        assert keys._db is not None
        await keys._do(lambda: keys._db.execute("PRAGMA max_page_count = 1"))  # type: ignore[union-attr]
        with pytest.raises(SpoolError, match=r"full; free some space$"):
            await asyncio.gather(*(keys.claim("a", f"{number}" * 50, b"") for number in range(200)))
        await keys.close()

    run(story)


def test_a_request_is_not_failed_by_its_key(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is sent it is, as it could be done twice; afterwards the message is accepted, and so is the answer."""
    keys = gate.gateway.keys
    assert keys is not None

    async def refuse(*_: Any) -> Any:
        raise SpoolError("keys", "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(keys, "claim", refuse)
        problem(gate.send("orders", 1, headers=KEY), 503, "spool-error")
        assert accepted(gate) == 0
    with monkeypatch.context() as patch:
        patch.setattr(keys, "note", refuse)
        assert gate.send("orders", 1, headers=KEY).status_code == 202


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    async def opened(path: Path) -> None:
        keys = Keys(str(path))
        try:
            await keys.open()
        finally:
            await keys.close()

    (tmp_path / "text").write_text("no database" * 100)
    (tmp_path / "link").symlink_to(tmp_path / "text")
    later = sqlite3.connect(tmp_path / "later")
    later.execute("PRAGMA user_version = 99")
    later.close()
    for name in ("text", "link", "later", "no/such/folder"):
        with pytest.raises(SpoolError, match=name):
            asyncio.run(opened(tmp_path / name))
