"""`peerfabric spool` and `peerfabric dead` on the spools of nodes that ended, as processes."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from crc32c import crc32c

from peerfabric import Node
from peerfabric.spool import Spool
from peerfabric.wire.frames import MSGPACK, RAW, Extra
from tests.cli.conftest import DEADLINE, Start, ended
from tests.cli.spools import NOW, content, opened, put, store_dead_letters
from tests.conftest import remount, stuff

DESK = """
import os, signal, sys
from peerfabric import Node
node = Node("desk", spool=sys.argv[1])
orders = node.producer("orders", dict)
for n in (1, 2, 3):
    orders.send({"number": n}, headers={"from": "desk"})
print("stored", flush=True)
if sys.argv[2] == "stays":
    sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def desk(folder: Path, how: str = "dies") -> subprocess.Popen[str]:
    """A process that stores three orders in a spool, and is killed or stays."""
    process = subprocess.Popen(
        [sys.executable, "-c", DESK, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "stored\n"
    return process


@pytest.fixture
def left(tmp_path: Path) -> str:
    """The spool of a node that was killed with three orders in it."""
    desk(tmp_path / "spool").communicate(timeout=DEADLINE)
    return str(tmp_path / "spool")


@pytest.fixture
def given_up(tmp_path: Path) -> str:
    """A spool with two dead letters."""
    folder = str(tmp_path / "spool")
    with Node("desk", spool=folder) as node, Node("kitchen") as kitchen:
        orders = node.producer("orders", dict)
        for n in (1, 2):
            orders.send({"number": n})
        consumer = kitchen.consumer("orders", dict)
        for _ in (1, 2):
            consumer.get(timeout=DEADLINE).reject("burnt")
        orders.flush(timeout=DEADLINE)
    return folder


def lines(start: Start, *arguments: str) -> list[dict[str, Any]]:
    code, out, err = ended(start(*arguments))
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_what_a_killed_node_has_left(start: Start, left: str) -> None:
    """Counted, shown with ids and headers, exported so that `send` can read it, and all of it intact."""
    [row] = lines(start, "spool", "ls", left, "-o", "json")
    assert (row["queue"], row["messages"], row["dead"], row["damaged"]) == ("orders", 3, 0, 0)
    code, out, _ = ended(start("spool", "ls", left))
    assert (code, out.split()[:2], "orders" in out) == (0, ["slot", "state"], True)
    shown = lines(start, "spool", "show", left, "orders", "-n", "2", "-o", "json")
    assert [(m["body"], m["headers"]) for m in shown] == [({"number": n}, {"from": "desk"}) for n in (1, 2)]
    exported = lines(start, "spool", "export", left, "orders")
    assert [m["body"] for m in exported] == [{"number": n} for n in (1, 2, 3)]
    assert len({m["id"] for m in exported}) == 3
    assert ended(start("spool", "verify", left))[0] == 0
    taking = start("take", "again", "-n", "3")
    sending = start("send", "again", "-")
    assert ended(sending, "".join(json.dumps(m["body"]) + "\n" for m in exported))[0] == 0
    assert [json.loads(line)["number"] for line in ended(taking)[1].splitlines()] == [1, 2, 3]


def test_dropped_messages_are_not_delivered(start: Start, left: str) -> None:
    """By id or all, and only if somebody says so."""
    first, *_ = lines(start, "spool", "export", left, "orders")
    code, _, err = ended(start("spool", "drop", left, "orders", first["id"]), "")
    assert (code, "--yes" in err) == (1, True)
    assert ended(start("spool", "drop", left, "orders", first["id"], "--yes"))[:2] == (0, "1 message dropped\n")
    code, _, err = ended(start("spool", "drop", left, "orders", first["id"], "--yes"))
    assert (code, "not in the queue" in err) == (1, True)
    assert [m["body"]["number"] for m in lines(start, "spool", "export", left, "orders")] == [2, 3]
    assert ended(start("spool", "drop", left, "orders", "--all", "--yes"))[0] == 0
    assert lines(start, "spool", "export", left, "orders") == []


def test_damage_is_named(start: Start, left: str) -> None:
    """One flipped byte costs one message, which is reported by number; the others are there."""
    [segment] = Path(left, "queues", "orders").glob("*.seg")
    data = bytearray(segment.read_bytes())
    at = data.index(b"number") + 2
    data[at] ^= 0xFF
    segment.write_bytes(data)
    code, out, err = ended(start("spool", "verify", left))
    assert (code, "sequences 1-1" in out, "intact" in err) == (1, True, True)
    found = [json.loads(line) for line in ended(start("spool", "verify", left, "-o", "json"))[1].splitlines()]
    assert [(f["found"], f.get("first"), f.get("last")) for f in found] == [("lost", 1, 1), ("damage", None, None)]
    assert f"{segment}: offset " in found[1]["text"]
    code, out, err = ended(start("spool", "export", left, "orders"))
    assert (code, "spool verify" in err) == (0, True)
    assert [json.loads(line)["body"]["number"] for line in out.splitlines()] == [2, 3]
    second = json.loads(out.splitlines()[0])["id"]
    code, out, err = ended(start("spool", "drop", left, "orders", second, "--yes"))
    # Opened for writing, it tells what the node's next start would have told.
    assert (code, out, "messages 1 to 1 of epoch" in err) == (0, "1 message dropped\n", True)


def test_damage_outside_of_messages_is_found(start: Start, left: str) -> None:
    """A torn end, a cursor, and the file that says whose spool it is: each with its file and offset."""
    queue = Path(left, "queues", "orders")
    [segment] = queue.glob("*.seg")
    size = segment.stat().st_size
    with segment.open("ab") as file:
        file.write(b"half a record")
    for sheet in (queue / "cursor.0", queue / "cursor.1", Path(left, "node")):
        data = bytearray(sheet.read_bytes())
        data[20] ^= 1
        sheet.write_bytes(data)
    before = content(left)
    code, out, err = ended(start("spool", "verify", left))
    assert (code, len(err.splitlines())) == (1, 1)
    for text in (f"{segment}: torn at offset {size:,}", f"{queue}/cursor.", f"{left}/node: offset 0"):
        assert text in out
    assert content(left) == before


def test_looking_changes_nothing(start: Start, given_up: str) -> None:
    """Not a byte and not a time of a file, whatever is looked at."""
    before = content(given_up)
    for arguments in (("ls",), ("show", "orders"), ("export", "orders"), ("verify",)):
        assert ended(start("spool", arguments[0], given_up, *arguments[1:]))[0] == 0
    assert ended(start("dead", "ls", given_up))[0] == 0
    assert content(given_up) == before


def test_bodies_that_are_no_json(start: Start, tmp_path: Path) -> None:
    """Bytes, dates and NaN say that they are not exact; what cannot be read at all says why and is exit code 1."""
    spool = opened(tmp_path / "spool")
    encode = msgspec.msgpack.encode
    bodies = [encode(b"abc"), encode(float("nan")), encode({"a": [1, None]})]
    put(spool, "odd", 1, bodies, MSGPACK, Extra(1, {"h": "\x1b"}))
    put(spool, "odd", 4, [b"raw"], RAW)
    spool.close()
    folder = str(tmp_path / "spool")
    code, out, err = ended(start("spool", "export", folder, "odd"))
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, "3 bodies" in err) == (0, True)
    assert [(m["body"], m.get("exact")) for m in found] == [
        ("YWJj", False),
        (None, False),
        ({"a": [1, None]}, None),
        ("cmF3", False),
    ]
    assert "\x1b" not in ended(start("spool", "show", folder, "odd"))[1]
    spool = opened(tmp_path / "spool")
    deep = b"\x91" * 100_000 + b"\xc0"
    put(spool, "odd", 1, [deep])
    put(spool, "odd", 2, [b"\xa1\xff", encode("good")])
    spool.queue("odd", unix_ms=NOW).append(spool.epoch, 4, 2, 1, b"\x91\x01", unix_ms=NOW)
    spool.close()
    code, out, err = ended(start("spool", "export", folder, "odd"))
    bad = [m for m in map(json.loads, out.splitlines()) if "problem" in m]
    assert (code, "4 bodies cannot be read" in err, "Traceback" in err, len(bad)) == (1, True, False, 4)
    assert [base64.b64decode(m["raw"]) for m in bad] == [b"\x91" + deep, b"\xa1\xff", b"\x91\x01", b""]
    assert ended(start("spool", "show", folder, "odd"))[0] == 0


def test_a_drop_keeps_what_is_known_of_the_others(start: Start, tmp_path: Path) -> None:
    """The marks of the cursor, attempts and deaths among them, outlive a drop."""
    folder = tmp_path / "spool"
    spool = opened(folder)
    put(spool, "q", 1, [b"\x01", b"\x02"])
    spool.queue("q", unix_ms=NOW).write_cursor(b"marks")
    epoch = spool.epoch
    spool.close()
    assert ended(start("spool", "drop", str(folder), "q", f"desk:{epoch}:q/1", "--yes"))[0] == 0
    spool = opened(folder)
    assert spool.queue("q", unix_ms=NOW).recovery.marks == b"marks"
    spool.close()


def test_export_into_send(start: Start, left: str, node: Node) -> None:
    """What a killed node has left goes to another fabric through a pipe, and stays until it is dropped."""
    exporting, sending = start("spool", "export", left, "orders"), start("send", "elsewhere", "-")
    out = ended(exporting)[1]
    consumer = node.consumer("elsewhere", dict)
    bodies = "".join(json.dumps(json.loads(line)["body"]) + "\n" for line in out.splitlines())
    assert sending.stdin is not None
    sending.stdin.write(bodies)
    sending.stdin.close()
    sending.stdin = None
    got = []
    for _ in range(3):
        with consumer.get(DEADLINE) as body:
            got.append(body["number"])
    assert (got, ended(sending)[0]) == ([1, 2, 3], 0)
    assert len(lines(start, "spool", "export", left, "orders")) == 3


def test_unsafe_and_newer_folders(start: Start, left: str, tmp_path: Path) -> None:
    """Others can write, a link, a later version: exit code 5, one line, nothing changed."""
    link = tmp_path / "link"
    link.symlink_to(left)
    sheet = Path(left, "node")
    old = sheet.read_bytes()
    data = bytearray(old[: 32 + int.from_bytes(old[24:28], "little")])
    data[8:10] = (2).to_bytes(2, "little")
    data[12:16] = crc32c(bytes(data[16:]), crc32c(bytes(data[:12]))).to_bytes(4, "little")
    sheet.write_bytes(data)
    before = content(left)
    for command in (["verify"], ["drop", "orders", "--all", "--yes"]):
        code, out, err = ended(start("spool", command[0], left, *command[1:]))
        assert (code, out, "later version" in err, len(err.splitlines())) == (5, "", True, 1)
    assert content(left) == before
    sheet.write_bytes(old)
    Path(left).chmod(0o777)
    for folder, text in ((left, "can be written by others"), (str(link), "symbolic link")):
        code, out, err = ended(start("spool", "drop", folder, "orders", "--all", "--yes"))
        assert (code, out, text in err, len(err.splitlines())) == (5, "", True, 1)


def test_a_running_node_is_left_alone(start: Start, tmp_path: Path) -> None:
    """Its process is named, with an exit code of its own."""
    node = desk(tmp_path / "spool", "stays")
    try:
        for command, *arguments in (["verify"], ["show", "orders"], ["drop", "orders", "--all", "--yes"]):
            code, out, err = ended(start("spool", command, str(tmp_path / "spool"), *arguments))
            assert (code, out, str(node.pid) in err, len(err.splitlines())) == (4, "", True, 1)
    finally:
        node.send_signal(signal.SIGKILL)
        node.communicate()


def test_folders_that_are_no_spool(start: Start, tmp_path: Path, left: str) -> None:
    """One line that says so; nothing is made there."""
    code, out, err = ended(start("spool", "ls", str(tmp_path / "nothing")))
    assert (code, out, len(err.splitlines())) == (5, "", 1)
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "mine").mkdir()
    assert ended(start("spool", "verify", str(tmp_path / "mine")))[0] == 5
    assert list((tmp_path / "mine").iterdir()) == []
    code, _, err = ended(start("spool", "show", left, "others"))
    assert (code, "orders" in err) == (1, True)
    assert ended(start("dead", "show", left, "nonsense"))[0] == 2


def test_dead_letters(start: Start, given_up: str) -> None:
    """Listed with reason, error and attempts; retried they are sent at the next start; deleted they are gone."""
    found = lines(start, "dead", "ls", given_up, "-o", "json")
    assert [(x["body"], x["reason"], x["error"], x["attempts"]) for x in found] == [
        ({"number": n}, "rejected", "burnt", 1) for n in (1, 2)
    ]
    code, out, _ = ended(start("dead", "ls", given_up, "orders"))
    assert (code, out.count("burnt")) == (0, 2)
    assert lines(start, "dead", "show", given_up, found[0]["id"]) == [found[0]]
    assert ended(start("dead", "retry", given_up, found[1]["id"]))[:2] == (0, "1 dead letter queued again\n")
    code, _, err = ended(start("dead", "retry", given_up, found[1]["id"]))
    assert (code, "no dead letter" in err) == (1, True)
    assert ended(start("dead", "drop", given_up, "--all", "--yes"))[:2] == (0, "1 dead letter deleted\n")
    assert lines(start, "dead", "ls", given_up, "-o", "json") == []
    with Node("desk", spool=given_up) as node, Node("kitchen") as kitchen:
        message = kitchen.consumer("orders", dict).get(timeout=DEADLINE)
        with message as body:
            assert body == {"number": 2}
        node.producer("orders", dict).flush(timeout=DEADLINE)
        assert node.dead_letters("orders") == []


def test_on_a_full_disk(start: Start, small_disk: Path) -> None:
    """Every command works there, those that write too; what is dropped gives its space back."""
    folder = str(small_disk / "spool")
    spool = Spool.open(folder, random_bits=1, node_id="desk", unix_ms=NOW)
    put(spool, "orders", 1, [msgspec.msgpack.encode({"number": n}) for n in range(1000)])
    epoch = spool.epoch
    store_dead_letters(spool, "orders", (2001, 2002), b"\x01")
    spool.close()
    stuff(small_disk)
    commands = (
        ("spool", "ls", folder),
        ("spool", "show", folder, "orders"),
        ("spool", "verify", folder),
        ("spool", "export", folder, "orders"),
        ("spool", "drop", folder, "orders", f"desk:{epoch}:orders/7", "--yes"),
        ("dead", "ls", folder),
        ("dead", "show", folder, f"desk:{epoch}:orders/2001"),
        ("dead", "retry", folder, f"desk:{epoch}:orders/2001"),
        ("dead", "drop", folder, f"desk:{epoch}:orders/2002", "--yes"),
    )
    for command in commands:
        code, out, err = ended(start(*command))
        assert (code, bool(out), "space" in err) == (0, True, False), (command, err)
        stuff(small_disk)
    [row] = lines(start, "spool", "ls", folder, "-o", "json")
    assert (row["messages"], row["dead"]) == (1000, 0)


def test_on_a_disk_that_is_read_only(start: Start, small_disk: Path) -> None:
    """Who only looks needs to write nothing; who writes is told why not, in one line."""
    folder = str(small_disk / "spool")
    spool = opened(folder)
    put(spool, "orders", 1, [b"\x01"])
    spool.close()
    remount(small_disk, "ro")
    for looking in (("ls",), ("show", "orders"), ("verify",), ("export", "orders")):
        assert ended(start("spool", looking[0], folder, *looking[1:]))[0] == 0
    code, out, err = ended(start("spool", "drop", folder, "orders", "--all", "--yes"))
    assert (code, out, "Read-only" in err, len(err.splitlines())) == (5, "", True, 1)


def test_a_wrong_id_says_where_ids_are(start: Start, given_up: str) -> None:
    """`spool ls` has none; `spool show` and `dead ls` do."""
    code, _, err = ended(start("spool", "drop", given_up, "orders", "nonsense", "--yes"))
    assert (code, "`peerfabric spool show FOLDER orders` shows" in err) == (2, True)
    code, _, err = ended(start("dead", "drop", given_up, "nonsense", "--yes"))
    assert (code, "see `peerfabric dead ls`" in err) == (1, True)
    code, _, err = ended(start("dead", "drop", given_up, "desk:orders/1", "--yes"))
    assert (code, "`peerfabric dead ls` shows" in err) == (2, True)
