"""Secrets and lists that change under running nodes, and a node whose key runs twice."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from peerfabric import AsyncNode, ConfigError, IdentityInUse, Node
from peerfabric.nodes import rekeying
from peerfabric.nodes.cli.exits import Exit, exit_code
from peerfabric.nodes.io import ports
from peerfabric.nodes.io.ports import Ports
from peerfabric.secret import Secret, new_secret
from tests.nodes.conftest import DEADLINE, Front, eventually

pytestmark = pytest.mark.usefixtures("runtime")


class Files:
    """The secret files of one host each, replaced as a whole, as they should be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, secret: Secret) -> str:
        path = self._folder / name
        path.with_suffix(".tmp").write_text(secret.text())
        path.with_suffix(".tmp").chmod(0o600)
        path.with_suffix(".tmp").rename(path)
        return f"file:{path}"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def fresh() -> Callable[[], Secret]:
    return lambda: new_secret(os.urandom(32))


@pytest.fixture
def nodes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


TCP: dict[str, Any] = {"listen": "tcp://127.0.0.1:*"}
"""All of it over TCP, and so under keys."""


def chosen(first: int) -> dict[str, Any]:
    """The same at a port that was given by hand."""
    return {"listen": f"tcp://127.0.0.1:{first}"}


def free_port() -> int:
    """A port that is free with the three behind it, and which the kernel gives to nobody."""
    for first in range(20_000 + os.getpid() % 97, 32_000, 97):
        try:
            with ExitStack() as stack:
                for port in range(first, first + 4):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no ports")


def inbox(node: Any) -> list[str]:
    node.statistics()
    return list(getattr(node, "_async", node)._context.engine.address.inbox)


def states(node: Any) -> dict[str, str]:
    return {peer.name: peer.state for peer in node.peers()}


def node_id(node: Any) -> str:
    return str(node.statistics().node_id)


# The secret


@pytest.mark.parametrize(
    "rotations", [1, pytest.param(2, id="at ports that were chosen, twice", marks=pytest.mark.long)]
)
def test_rotation_under_load(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, monkeypatch: pytest.MonkeyPatch, rotations: int
) -> None:
    """Old, then both, then new, on one node after the other: nothing lost, nothing twice, nobody given up."""
    monkeypatch.setattr(rekeying, "GRACE", 2.0)
    old = fresh()
    names = ("shop", "kitchen", "bakery")
    sources = {name: [files.put(f"{name}-current", old), files.put(f"{name}-next", old)] for name in names}
    at: dict[str, int] = {}
    there: dict[str, Any] = {}
    for name in names:
        at[name] = free_port() if rotations > 1 else 0
        listen = chosen(at[name]) if rotations > 1 else TCP
        there[name] = nodes.enter_context(Node(name, secret=sources[name], **listen))
        there[name].statistics()  # it listens
    producer = there["shop"].producer("orders", int)
    consumers = [there[name].consumer("orders", int) for name in ("kitchen", "bakery")]
    seen: list[int] = []
    beliefs: set[str] = set()
    stop = threading.Event()

    def take(consumer: Any) -> None:
        while not stop.is_set():
            try:
                with consumer.get(timeout=0.2) as body:
                    seen.append(body)
            except TimeoutError:
                pass

    threads = [threading.Thread(target=take, args=(consumer,)) for consumer in consumers]
    for thread in threads:
        thread.start()
    nodes.callback(stop.set)
    eventually(lambda: list(states(there["shop"]).values()) == ["up", "up"], "the links")
    sent = 0

    def work(seconds: float) -> None:
        nonlocal sent
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for _ in range(10):
                producer.send(sent, timeout=DEADLINE)
                sent += 1
            beliefs.update(states(there["shop"]).values())  # the others have nothing in common
            beliefs.update(states(there[name]).get("shop", "gone") for name in ("kitchen", "bakery"))
            time.sleep(0.01)

    work(0.5)
    for _ in range(rotations):
        new = fresh()
        for which in ("next", "current"):
            for name in names:
                files.put(f"{name}-{which}", new)
                there[name].reload()
                work(0.3)
            work(3.5)  # longer than the old one counts, and than a link without an answer
    producer.flush(timeout=DEADLINE)
    stop.set()
    for thread in threads:
        thread.join()
    account = there["shop"].statistics().producers[0]
    assert sorted(seen) == list(range(sent))
    assert (account.acked, account.redelivered, account.closes) == (sent, 0, True)
    assert beliefs <= {"up", "connecting", "suspect", "one-way", "hung"}  # for some 20 ms, while all are dialled anew
    assert states(there["shop"]) == {"kitchen": "up", "bakery": "up"}
    if rotations > 1:
        assert {name: inbox(there[name]) for name in names} == {n: [f"tcp://127.0.0.1:{at[n]}"] for n in names}
    key_ids = {there["shop"]._async._context.engine.links.gates[0]}
    assert key_ids == {new.key_id(there["shop"].fabric)}
    peers = [endpoint for endpoint in inbox(there["shop"]) if endpoint.startswith("tcp://")]
    with Node("late", secret=files.put("late", old), peers=peers, **TCP) as late:
        late.producer("orders", int)
        eventually(lambda: any(peer.reason in ("secret", "denied") for peer in late.peers()), "that it is not let in")
        assert "up" not in states(late).values()


def test_a_changed_file_is_taken_up_by_itself(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """Within three seconds; one that is no secret changes nothing, and is an error in the log."""
    caplog.set_level(logging.INFO, "peerfabric")
    old, new = fresh(), fresh()
    a = nodes.enter_context(Node("a", secret=files.put("a", old), **TCP))
    a.producer("orders", int).send(1)
    b = nodes.enter_context(Node("b", secret=files.put("b", new), **TCP))
    consumer = b.consumer("orders", int)
    with pytest.raises(TimeoutError):
        consumer.get(timeout=0.5)
    Path(str(files._folder / "a")).write_text("pf1-nonsense")
    eventually(lambda: "the old secrets and lists stay in use" in caplog.text, "the error")
    assert "nonsense" not in caplog.text
    with pytest.raises(ConfigError, match="not a secret"):
        a.reload()
    changed_at = time.monotonic()
    files.put("a", new)
    with consumer.get(timeout=DEADLINE) as body:
        assert body == 1
    assert time.monotonic() - changed_at < 10.0


def test_a_chosen_port_leads_to_the_first_secret(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rotation takes the port behind the outbox and gives it back; who knows the chosen one alone gets a link.

    Those who were linked come along: nobody is dialled at the other port any more.
    """
    monkeypatch.setattr(rekeying, "GRACE", 1.0)
    first = free_port()
    p, p2 = f"tcp://127.0.0.1:{first}", f"tcp://127.0.0.1:{first + 2}"
    secret = fresh()
    names = ("shop", "guest")
    sources = {name: [files.put(f"{name}-current", secret), files.put(f"{name}-next", secret)] for name in names}
    shop = nodes.enter_context(Node("shop", secret=sources["shop"], **chosen(first)))
    consumer = shop.consumer("orders", int)
    guest = nodes.enter_context(Node("guest", secret=sources["guest"], **TCP))
    producer = guest.producer("orders", int)
    beliefs: set[str] = set()

    def put(which: str) -> None:
        for name, node in (("shop", shop), ("guest", guest)):
            files.put(f"{name}-{which}", secret)
            node.reload()

    def dialled() -> set[str]:
        links = guest._async._context.engine.links
        return {link.endpoint for link in list(links.by_wire.values()) if link.up}

    def is_there(*inboxes: str) -> bool:
        beliefs.update(states(guest).values())
        return inbox(shop) == [*inboxes]

    eventually(lambda: states(guest).get("shop") == "up", "the link")
    for n in range(3):
        secret = fresh()
        put("next")
        assert inbox(shop) == [p, p2]
        put("current")
        assert inbox(shop) == [p2]
        eventually(lambda: is_there(p), "the return to the chosen port")
        eventually(lambda: is_there(p) and dialled() == {p}, "the link at the chosen port")
        late_secret = files.put(f"late-{n}", secret)
        with Node(f"late-{n}", secret=late_secret, peers=[p], discovery=["static"], **TCP) as late:
            late.producer("orders", int)
            eventually(lambda: states(late).get("shop") == "up", "the link of one who comes later")
        producer.send(n)
        with consumer.get(timeout=DEADLINE) as body:
            assert body == n
    assert "gone" not in beliefs
    assert guest.statistics().counters.get("deaths", 0) == 0
    with socket.create_connection(("127.0.0.1", first + 2)):
        pass  # whoever still asks there is not told of a death
    # One that was removed can be taken back.
    again = secret
    secret = fresh()
    put("current")
    eventually(lambda: is_there(p2, p), "both, the new one first")
    put("next")
    eventually(lambda: is_there(p), "the first of them alone")
    secret = again
    put("next")
    eventually(lambda: is_there(p, p2), "the one taken back")
    eventually(lambda: states(guest).get("shop") == "up", "the link")


def test_where_a_node_is_to_be_found_while_its_secret_changes(
    front: Front, files: Files, fresh: Callable[[], Secret]
) -> None:
    """The second one has a port of its own beside the first; in the end there is that one alone, and another folder."""
    old, new = fresh(), fresh()
    sources = [files.put("current", old), files.put("next", old)]
    with front.node("shop", secret=sources, reach="lan", listen="tcp://127.0.0.1:*") as shop:
        shop.producer("orders", int)

        ipc, first = inbox(shop)
        assert f"~{old.key_id(shop.fabric)}/" in ipc
        files.put("next", new)
        shop.reload()
        assert inbox(shop)[:2] == [ipc, first]
        second = inbox(shop)[2]
        with Node("kitchen", secret=files.put("kitchen", new), peers=[second], discovery=["static"], **TCP) as kitchen:
            kitchen.consumer("orders", int)
            eventually(lambda: states(kitchen).get("shop") == "up", "the link under the new one")
        files.put("current", new)
        shop.reload()
        assert inbox(shop)[1:] == [second]
        assert f"~{new.key_id(shop.fabric)}/" in inbox(shop)[0]


def test_a_new_secret_without_a_port_keeps_nobody_from_being_revoked(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for it is told; and once there is a port, the secret is in use."""
    config, old, new = tmp_path / "node.toml", fresh(), fresh()
    config.write_text("")
    shop = nodes.enter_context(Node("shop", secret=files.put("shop", old), config=config, **TCP))
    astray = nodes.enter_context(Node("astray", secret=files.put("astray", old), **TCP))
    shop.look_at_all()
    astray.look_at_all()
    eventually(lambda: states(shop).get("astray") == "up")

    def none_free(ports: Ports, gate: str) -> str:
        raise ConfigError("no port is free")

    config.write_text(f'[access]\nrevoked = ["{node_id(astray)}"]\n')
    with monkeypatch.context() as patched:
        patched.setattr(Ports, "add", none_free)
        files.put("shop", new)
        with pytest.raises(ConfigError, match="no port is free"):
            shop.reload()
        eventually(lambda: states(shop).get("astray") != "up")
    shop.reload()
    late = nodes.enter_context(Node("late", secret=files.put("late", new), **TCP))
    late.look_at_all()
    eventually(lambda: states(shop).get("late") == "up")


def test_relative_paths_are_meant_from_where_the_node_was_made(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may go to another folder, where somebody else's file of that name may lie."""
    monkeypatch.chdir(tmp_path)
    files.put("secret", fresh())
    Path("node.toml").write_text("")
    kitchen = nodes.enter_context(Node("kitchen", secret="file:secret", config="node.toml", **TCP))
    shop = nodes.enter_context(Node("shop", secret="file:secret", **TCP))
    kitchen.look_at_all()
    shop.look_at_all()
    eventually(lambda: states(kitchen).get("shop") == "up")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "node.toml").write_text(f'[access]\nrevoked = ["{node_id(shop)}"]\n')
    kitchen.reload()
    eventually(lambda: states(kitchen).get("shop") != "up")


def test_a_port_that_cannot_be_had_is_asked_for_again(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old secrets stay until it is there; nobody is told of a secret behind which nothing listens."""
    monkeypatch.setattr(rekeying, "LOOK_EVERY", 0.1)
    old, new, hold = fresh(), fresh(), ports._hold
    sources = [files.put("fabric.secret", old), files.put("next.secret", old)]
    node = nodes.enter_context(Node("a", secret=sources, **TCP))
    tried = threading.Event()

    def fail(*arguments: Any) -> Any:
        tried.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(ports, "_hold", fail)
    files.put("next.secret", new)
    assert tried.wait(DEADLINE)
    monkeypatch.setattr(ports, "_hold", hold)
    other = nodes.enter_context(Node("b", secret=files.put("other.secret", new), **TCP))
    node.consumer("jobs", int)
    other.producer("jobs", int)
    eventually(lambda: states(other).get("a") == "up")


def test_reload_without_a_secret_does_nothing(front: Front) -> None:
    """There is nothing to read again."""
    with front.node("shop") as node:
        node.producer("orders", int)
        node.reload()


# Who may come in


def configure(path: Path, text: str) -> None:
    path.with_suffix(".tmp").write_text(text)
    path.with_suffix(".tmp").rename(path)


def test_a_revoked_node_is_out_within_a_second(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, tmp_path: Path
) -> None:
    """Its links end, what it had goes to another one, and it stays out; taken back, it is in again."""
    secret, config = files.put("secret", fresh()), tmp_path / "node.toml"
    configure(config, "")
    shop = nodes.enter_context(Node("shop", secret=secret, config=config, **TCP))
    astray = nodes.enter_context(Node("astray", secret=secret, **TCP))
    producer, bad = shop.producer("orders", int), astray.consumer("orders", int)
    producer.send(1)
    held = bad.get(timeout=DEADLINE)
    configure(config, f'[access]\nrevoked = ["{node_id(astray)}"]\n')
    shop.reload()
    started_at = time.monotonic()
    eventually(lambda: "up" not in states(shop).values(), "the end of the link")
    assert time.monotonic() - started_at < 1.5
    good = nodes.enter_context(Node("good", secret=secret, **TCP)).consumer("orders", int)
    with good.get(timeout=DEADLINE) as body:
        assert body == 1
    del held
    producer.send(2)
    with good.get(timeout=DEADLINE) as body:
        assert body == 2
    eventually(lambda: any(peer.reason == "denied" for peer in astray.peers()), "that it is not let in")
    assert states(shop).get("astray") != "up"
    configure(config, "")
    shop.reload()
    eventually(lambda: states(shop).get("astray") == "up", "the return")


def test_only_who_is_allowed_comes_in(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, tmp_path: Path
) -> None:
    """With a list, the secret alone does not suffice, in either direction."""
    secret = files.put("secret", fresh())
    friend = nodes.enter_context(Node("friend", secret=secret, identity=tmp_path / "friend.key", **TCP))
    other = nodes.enter_context(Node("other", secret=secret, **TCP))
    shop = nodes.enter_context(Node("shop", secret=secret, allow=[node_id(friend)], **TCP))
    consumers = [node.consumer("orders", int) for node in (friend, other)]
    producer = shop.producer("orders", int)
    producer.send_many(range(20))
    for expected in range(20):
        with consumers[0].get(timeout=DEADLINE) as body:
            assert body == expected
    assert states(shop).get("other") != "up"
    assert states(other).get("shop") != "up"


def test_over_ipc_too(files: Files, fresh: Callable[[], Secret], nodes: ExitStack, tmp_path: Path) -> None:
    """A revoked node of the same user and host is turned away by its id."""
    secret, config = files.put("secret", fresh()), tmp_path / "node.toml"
    configure(config, "")
    shop = nodes.enter_context(Node("shop", secret=secret, config=config))
    kitchen = nodes.enter_context(Node("kitchen", secret=secret))
    shop.producer("orders", int)
    kitchen.consumer("orders", int)
    eventually(lambda: states(shop).get("kitchen") == "up", "the link")
    configure(config, f'[access]\nrevoked = ["{node_id(kitchen)}"]\n')
    eventually(lambda: states(shop).get("kitchen") != "up", "the end of the link")


def test_nodes_with_and_without_the_secret_do_not_meet(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack
) -> None:
    """Not even over ipc, on one host and as one user: they meet in folders of their own."""
    secret = files.put("secret", fresh())
    inside = nodes.enter_context(Node("inside", secret=secret))
    outside = nodes.enter_context(Node("outside"))
    stranger = nodes.enter_context(Node("stranger", secret=files.put("other", fresh())))
    inside.producer("orders", int)
    for node in (outside, stranger):
        with pytest.raises(TimeoutError):
            node.consumer("orders", int).get(timeout=0.5)
    assert inside.peers() == outside.peers() == stranger.peers() == []


# One key in two places


def copies(files: Files, fresh: Callable[[], Secret], tmp_path: Path) -> dict[str, Any]:
    return {"secret": files.put("secret", fresh()), "identity": tmp_path / "node.key", **TCP}


def test_the_earlier_of_two_copies_stops(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Within two seconds of their meeting; its calls say why, and the later one goes on and loses nothing."""
    options = copies(files, fresh, tmp_path)
    shop = nodes.enter_context(Node("shop", secret=options["secret"], **TCP))
    consumer = shop.consumer("orders", int)
    first = Node("first", **options)
    producer = first.producer("orders", int)
    producer.send(1)
    with consumer.get(timeout=DEADLINE) as body:
        assert body == 1
    second = nodes.enter_context(Node("second", **options))
    later = second.producer("orders", int)
    later.send(2)
    started_at = time.monotonic()
    with consumer.get(timeout=DEADLINE) as body:
        assert body == 2

    eventually(lambda: first._async._context.failure is not None, "the end of the first")
    with pytest.raises(IdentityInUse, match=r"remove node\.key and the spool from one of them"):
        producer.send(3)
    assert time.monotonic() - started_at < 10.0
    with pytest.raises(IdentityInUse):
        first.consumer("more", int)
    with pytest.raises(IdentityInUse):
        first.close()
    first.close()
    assert "first stops: another copy of this node runs" in caplog.text
    for n in range(10, 60):
        later.send(n)
    seen: list[int] = []
    while len(seen) < 50:
        with consumer.get(timeout=DEADLINE) as body:
            seen += [body] if body >= 10 else []
    assert seen == list(range(10, 60))
    later.flush(timeout=DEADLINE)


def test_run_raises_it(files: Files, fresh: Callable[[], Secret], nodes: ExitStack, tmp_path: Path) -> None:
    """A service ends with it, and a command with 78, which tells a supervisor to leave it alone."""
    options = copies(files, fresh, tmp_path)
    first = Node("first", **options)

    @first.on_message("orders")
    def handle(body: int) -> None:
        pass

    found: list[BaseException] = []

    def run() -> None:
        try:
            first.run()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: first._async._context.is_running, "the start")
    second = nodes.enter_context(Node("second", **options))
    second.producer("orders", int)
    thread.join(DEADLINE)
    assert [type(error) for error in found] == [IdentityInUse]
    assert exit_code(IdentityInUse("tcp://10.0.0.5:7700")) is Exit.COPY == 78  # type: ignore[comparison-overlap]


def test_an_async_node_stops_with_it(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, tmp_path: Path
) -> None:
    """`async with` raises it at its end, and what waits is woken."""
    import asyncio

    options = copies(files, fresh, tmp_path)

    async def main() -> None:
        async with AsyncNode("first", **options) as node:
            consumer = node.consumer("orders", int)
            waiting = asyncio.create_task(consumer.get())
            second = await asyncio.to_thread(lambda: nodes.enter_context(Node("second", **options)))
            await asyncio.to_thread(second.statistics)
            with pytest.raises(IdentityInUse):
                await asyncio.wait_for(waiting, DEADLINE)

    with pytest.raises(IdentityInUse):
        asyncio.run(main())


def test_a_copied_spool_that_runs_elsewhere(
    files: Files, fresh: Callable[[], Secret], nodes: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cloned machine: the earlier one stops, and what it had stored is still there."""
    secret = files.put("secret", fresh())
    first = Node("first", secret=secret, spool=tmp_path / "spool", **TCP)
    producer = first.producer("orders", int)
    producer.send(1)
    shutil.copytree(tmp_path / "spool", tmp_path / "clone")
    # Another machine knows nothing of the locks of this one.
    monkeypatch.setattr("peerfabric.spool.spool.Claim", lambda *args: _NoClaim())
    monkeypatch.setattr("peerfabric.spool.files.RealFiles.alive", lambda self, process: False)
    second = nodes.enter_context(Node("second", secret=secret, spool=tmp_path / "clone", **TCP))
    second.statistics()
    eventually(lambda: first._async._context.failure is not None, "the end of the first")
    with pytest.raises(IdentityInUse):
        producer.send(2)
    with pytest.raises(IdentityInUse):
        first.close()


class _NoClaim:
    lock = -1
    path = ""

    def sign(self, pid: int) -> None:
        pass

    release = abandon = lambda self: None
