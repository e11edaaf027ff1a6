"""Access: tokens and what they are for, hosts and origins, types of bodies that a form cannot send."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerfabric import ConfigError
from peerfabric.gateway import auth
from peerfabric.gateway.auth import Origins, Tokens, covers, drawn_token
from peerfabric.gateway.problems import Problem
from peerfabric.names import matches
from tests.gateway.conftest import SECRET, Gate, problem
from tests.nodes.conftest import eventually

SHOP, OTHER = "shop-secret-0123456789", "other-secret-0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "tokens"
        path.write_text(text)
        path.chmod(0o600)
        return path

    return write


@pytest.fixture
def plain(gates: Callable[..., Gate], file: Callable[[str], Path]) -> Gate:
    """A gateway whose token SHOP may send to `orders.…`."""
    return gates(tokens=str(file(f"# of the shop\n\nshop:send,take:orders.>:{SHOP}\n")))


def test_a_token_is_asked_for(gate: Gate) -> None:
    for secret, code in (
        (None, "no-token"),
        ("wrong-secret-0123456789", "unknown-token"),
        (SECRET[:-1], "unknown-token"),
    ):
        answer = gate.client_of(secret).post("/v1/queues/orders/messages", json=1)
        problem(answer, 401, code)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    problem(httpx.post(f"{gate.url}/v1/queues/a/messages", json=1, auth=("u", SECRET)), 401, "no-token")
    assert gate.send("orders", 1).status_code == 202


def test_a_token_does_only_what_it_is_for(plain: Gate) -> None:
    """Neither another scope nor a name that its pattern does not select, and nothing of that is accepted."""
    shop = plain.client_of(SHOP)
    assert shop.post("/v1/queues/orders.eu/messages", json=1).status_code == 202
    assert "orders" in problem(shop.post("/v1/queues/orders/messages", json=1), 403, "not-allowed")["detail"]
    problem(shop.post("/v1/queues/invoices/messages", json=1), 403, "not-allowed")
    assert set(plain.call(lambda: plain.node._lifecycle.handles.producers)) == {"orders.eu"}


def test_a_changed_file_is_read_again(
    plain: Gate, file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to take a token away; a wrong file changes nothing."""
    monkeypatch.setattr(auth, "LOOK_EVERY", 0.0)
    shop, other = plain.client_of(SHOP), plain.client_of(OTHER)
    path = "/v1/queues/orders.eu/messages"
    file(f"other:send:>:{OTHER}")
    eventually(lambda: other.post(path, json=1).status_code == 202, "the new token")
    assert shop.post(path, json=1).status_code == 401
    file("nonsense")
    assert other.post(path, json=1).status_code == 202


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shop:send:>", "has 3 parts"),
        ("shop:send:>:short", "fewer than 16"),
        (f"shop:sned:>:{SHOP}", "no scope 'sned'"),
        (f"shop:send:a..b:{SHOP}", "not a topic name"),
        (f"s hop:send:>:{SHOP}", "no name of a token"),
        (f"shop:send:>:{SHOP}\nother:take:>:{SHOP}", "secret of 'shop'"),
        ("# nothing", "has no token"),
    ],
)
def test_a_wrong_file_is_refused(file: Callable[[str], Path], line: str, said: str) -> None:
    """With the line, and without any secret."""
    with pytest.raises(ConfigError, match=said) as caught:
        Tokens.read(file(line))
    assert SHOP not in str(caught.value)


def test_a_file_for_others_to_read_is_refused(file: Callable[[str], Path]) -> None:
    path = file(f"shop:send:>:{SHOP}")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Tokens.read(path)


def test_lines_of_one_secret_add_up(file: Callable[[str], Path]) -> None:
    tokens = Tokens.read(file(f"shop:send:orders:{SHOP}\nshop:admin:invoices:{SHOP}"))
    token = tokens.find(SHOP)
    assert token is not None
    assert token.allows("send", "orders")
    assert not token.allows("send", "invoices")
    assert token.allows("read", "invoices"), "admin includes read"
    assert not token.allows("read", None)
    assert tokens.find(OTHER) is None


@pytest.mark.parametrize("host", ["localhost:1/v1/queues/b:purge?", "localhost/x", "localhost:[", "[", "a@b", "a:b"])
def test_what_is_no_host_is_refused(gates: Callable[..., Gate], host: str) -> None:
    """Also where all hosts are let in: put into a URL, it would be a path of its own, or no URL at all."""
    for hosts in (None, ["localhost"]):
        answer = gates(hosts=hosts).client.get("/healthz", headers={"host": host})
        problem(answer, 400, "bad-host")


def test_a_browser_runs_nothing_of_any_answer(gate: Gate) -> None:
    """Refusals among them, whoever gives them."""
    for answer, status in (
        (gate.send("orders", "<img src=x onerror=alert(1)>"), 202),
        (gate.client.get("/v1/status"), 200),
        (gate.client.get("/<img>"), 404),
        (gate.client.put("/v1/status"), 405),
        (gate.client_of(None).get("/v1/status"), 401),
        (gate.client.get("/openapi.json", headers={"host": "evil.example"}), 403),
        (gate.client.get("/healthz", headers={"origin": "http://evil.example"}), 403),
        (gate.client.get("/healthz", headers={"host": "["}), 400),
    ):
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert gate.client.get("/").headers["content-security-policy"].startswith("default-src 'self'")


def test_only_what_ends_is_answered_without_a_body(gate: Gate) -> None:
    """HEAD of a stream would wait for its end; what is no path here is not led elsewhere."""
    assert gate.client.head("/healthz").status_code == 200
    for path in ("/v1/status/events", "/v1/topics/prices/events"):
        answer = gate.client.head(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    problem(gate.client.get("/healthz/"), 404)


NAMES = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(".".join)
PATTERNS = st.tuples(st.lists(st.sampled_from("ab*"), max_size=3), st.booleans()).map(
    lambda parts: ".".join([*parts[0], ">"] if parts[1] or not parts[0] else parts[0])
)


@given(PATTERNS, PATTERNS, st.lists(NAMES, max_size=30))
def test_what_covers_a_pattern_covers_all_that_it_selects(outer: str, inner: str, names: list[str]) -> None:
    if covers(outer, inner):
        assert all(matches(outer, name) for name in names if matches(inner, name))
    for name in names:
        assert covers(outer, name) == matches(outer, name)


def test_the_drawn_token_stays(tmp_path: Path) -> None:
    """For this user alone, and the same at the next start."""
    path = tmp_path / "~gateway-token"
    secret, is_new = drawn_token(path)
    assert is_new
    assert path.stat().st_mode & 0o777 == 0o600
    assert drawn_token(path) == (secret, False)
    assert os.listdir(tmp_path) == [path.name]
    path.chmod(0o640)
    assert drawn_token(path) == (secret, False), "a group that may read it is the user's choice"
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        drawn_token(path)


def test_without_tokens_names_are_needed() -> None:
    from peerfabric import AsyncNode, Node
    from peerfabric.gateway import Gateway

    with pytest.raises(ConfigError, match="hosts="):
        Gateway(AsyncNode(), tokens=None)
    with pytest.raises(ConfigError, match="AsyncNode"):
        Gateway(Node(), tokens=Tokens.of(SECRET))  # type: ignore[arg-type]


# Browsers


def test_a_name_that_leads_here_is_no_key(gate: Gate) -> None:
    """DNS rebinding: a page of evil.example has the answers of its own name read by the browser."""
    for host in ("evil.example", "evil.example:7780", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::2]"):
        problem(gate.client.get("/openapi.json", headers={"host": host}), 403, "foreign-host")
    port = gate.address.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", f"[::1]:{port}"):
        assert gate.client.get("/openapi.json", headers={"host": host}).status_code == 200


def test_a_page_of_another_origin_is_refused(gate: Gate) -> None:
    """CSRF, and a form's types of body; nothing of it is accepted."""
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1"):
        problem(gate.send("orders", 1, headers={"origin": origin}), 403, "foreign-origin")
    assert gate.send("orders", 1, headers={"origin": gate.url}).status_code == 202
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        headers = {"content-type": kind} if kind else {}
        answer = gate.client.post("/v1/queues/orders/messages", content=b'{"a": 1}', headers=headers)
        problem(answer, 415, "content-type")
        assert "application/json" in answer.headers["accept-post"]
    assert gate.taken("orders").body == 1
    assert gate.call(lambda: gate.node.statistics().producers[0].accepted) == 1


def test_an_origin_that_is_named_may_ask(gates: Callable[..., Gate]) -> None:
    """With what its browser asks before; and no other one."""
    gate = gates(cors=["https://shop.example"])
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,idempotency-key"}
    shop, evil = {"origin": "https://shop.example"}, {"origin": "https://evil.example"}
    asked = gate.client.options("/v1/queues/orders/messages", headers=shop | ask)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "https://shop.example")
    assert "idempotency-key" in asked.headers["access-control-allow-headers"]
    sent = gate.send("orders", 1, headers=shop)
    assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (202, "https://shop.example")
    assert "Origin" in sent.headers["vary"]
    problem(gate.client.options("/v1/queues/orders/messages", headers=evil | ask), 403, "foreign-origin")
    assert "access-control-allow-origin" not in gate.send("orders", 1).headers
    with pytest.raises(ConfigError, match="no origin"):
        Origins(None, ["https://shop.example/page"])


@given(st.text(max_size=30), st.one_of(st.none(), st.text(max_size=30)))
def test_nothing_odd_is_let_in(host: str, origin: str | None) -> None:
    """Whatever the headers are: it is one of ours, or refused."""
    origins = Origins(["127.0.0.1"])
    try:
        origins.check(host, origin)
    except Problem:
        pass
    else:
        assert host.partition(":")[0] == "127.0.0.1"
        assert origin is None or origin.lower().endswith(f"://{host.lower()}")


def test_answers_are_of_their_type_and_not_kept(gate: Gate) -> None:
    answer = gate.client.get("/openapi.json")
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert "server" not in answer.headers
    assert "date" in answer.headers


def test_a_read_only_gateway_changes_nothing(gates: Callable[..., Gate]) -> None:
    gate = gates(read_only=True)
    problem(gate.send("orders", 1), 403, "read-only")
    assert gate.client.get("/openapi.json").status_code == 200
