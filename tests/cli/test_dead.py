"""`peerfabric dead` in the cases that hurt: bytes, many letters, a kill in between, hostile texts, wrong folders."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from peerfabric import Node
from peerfabric.spool import Spool
from peerfabric.wire.bodies import ALONE_BYTES_MIN
from peerfabric.wire.frames import RAW
from tests.cli.conftest import DEADLINE, Start, ended
from tests.cli.spools import NOW, content, opened, put, store_dead_letters

TEA = b"\xa3tea"


def lines(start: Start, *arguments: str) -> list[dict[str, Any]]:
    code, out, err = ended(start(*arguments))
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def letters_left(folder: Path | str) -> set[int]:
    """The sequences of what is still dead in queue `q`."""
    spool = Spool.inspect(str(folder))
    log = spool.dead("q", unix_ms=NOW)
    settled = log.settled_ranges()
    reader = log.reader()
    found: set[int] = set()
    while records := reader.read(1 << 22):
        found |= {record.first for record in records if record.first not in settled.get(record.epoch, ())}
    spool.abandon()
    return found


@pytest.mark.parametrize("body", [b"", b"abc\x00\xff", bytes(ALONE_BYTES_MIN)], ids=["empty", "short", "alone"])
def test_bytes_come_back_as_they_were(start: Start, tmp_path: Path, body: bytes) -> None:
    """A retried letter of raw bytes is delivered with the same bytes, its headers, and its old id as origin."""
    folder = str(tmp_path / "spool")
    with Node("desk", spool=folder) as node, Node("kitchen") as kitchen:
        node.producer("q", bytes).send(body, headers={"a": "b"})
        message = kitchen.consumer("q", bytes).get(DEADLINE)
        message.reject("burnt")
        node.producer("q", bytes).flush(DEADLINE)
    [letter] = lines(start, "dead", "ls", folder, "-o", "json")
    assert (letter["id"], letter["headers"], letter["exact"]) == (message.id, {"a": "b"}, False)
    assert ended(start("dead", "retry", folder, "--all")) == (0, "1 dead letter queued again\n", "")
    with Node("desk", spool=folder) as node, Node("kitchen") as kitchen:
        again = kitchen.consumer("q", bytes).get(DEADLINE)
        with again as found:
            assert (found, again.headers, again.origin) == (body, {"a": "b"}, message.id)
        assert again.id != message.id
        node.producer("q", bytes).flush(DEADLINE)


def test_thousands_of_scattered_letters(start: Start, tmp_path: Path) -> None:
    """More gaps than a cursor has room for: every second message of 12,000 died, none of them stays a letter."""
    folder = tmp_path / "spool"
    spool = opened(folder)
    store_dead_letters(spool, "q", range(1, 12_001, 2), TEA)
    epoch = spool.epoch
    spool.close()
    first = f"desk:{epoch}:q/5999"
    assert ended(start("dead", "retry", str(folder), first)) == (0, "1 dead letter queued again\n", "")
    assert ended(start("dead", "retry", str(folder), "--all")) == (0, "5,999 dead letters queued again\n", "")
    assert letters_left(folder) == set()
    [row] = lines(start, "spool", "ls", str(folder), "-o", "json")
    assert (row["messages"], row["dead"]) == (6000, 0)
    origins = [m["origin"] for m in lines(start, "spool", "export", str(folder), "q")]
    assert sorted(origins) == sorted(f"desk:{epoch}:q/{n}" for n in range(1, 12_001, 2))


def test_gaps_with_living_messages_stay_open(start: Start, tmp_path: Path) -> None:
    """What may still become a letter is not settled in advance: 2 is alive between two dead ones, and dies later."""
    folder = tmp_path / "spool"
    spool = opened(folder)
    put(spool, "q", 1, [TEA, TEA, TEA, TEA])
    log = spool.queue("q", unix_ms=NOW)
    store_dead_letters(spool, "q", (1, 3, 4, 9), TEA)
    log.settle(spool.epoch, 1, 2)
    log.settle(spool.epoch, 3, 5)
    log.write_cursor()
    epoch = spool.epoch
    spool.close()
    ids = [f"desk:{epoch}:q/{n}" for n in (1, 3, 4)]
    assert ended(start("dead", "drop", str(folder), *ids, "--yes")) == (0, "3 dead letters deleted\n", "")
    spool = opened(folder)
    store_dead_letters(spool, "q", [2], TEA, epoch=epoch)
    spool.close()
    assert letters_left(folder) == {2, 9}


def test_a_kill_in_between_loses_nothing(start: Start, tmp_path: Path) -> None:
    """Killed at any time, each letter is a letter, or a message, or both."""
    folder = tmp_path / "spool"
    spool = opened(folder)
    store_dead_letters(spool, "q", range(1, 5001), TEA)
    spool.close()
    messages = folder / "queues" / "q"
    for part in range(0, 8, 2):
        before = set(messages.glob("*.seg"))
        process = start("dead", "retry", str(folder), "--all")
        give_up = time.monotonic() + DEADLINE
        while set(messages.glob("*.seg")) <= before and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.001)
        time.sleep(0.003 * part)
        process.kill()
        process.wait()
        sent = {int(m["origin"].rpartition("/")[2]) for m in lines(start, "spool", "export", str(folder), "q")}
        assert sent | letters_left(folder) == set(range(1, 5001))
    assert ended(start("dead", "retry", str(folder), "--all"))[0] == 0
    assert letters_left(folder) == set()


def test_an_error_cannot_command_the_terminal(start: Start, tmp_path: Path) -> None:
    """The text of an error is of another node: in the table nothing of it is obeyed."""
    folder = tmp_path / "spool"
    spool = opened(folder)
    store_dead_letters(spool, "q", [1], TEA, error="\x1b[2Jgone\x9b31m\n:tea:")
    spool.close()
    code, out, err = ended(start("dead", "ls", str(folder)))
    assert (code, err) == (0, "")
    assert r"\x1b[2Jgone\x9b31m\n:tea:" in out
    assert lines(start, "dead", "ls", str(folder), "-o", "json")[0]["error"] == "\x1b[2Jgone\x9b31m\n:tea:"


def test_letters_that_cannot_be_read_are_counted(start: Start, tmp_path: Path) -> None:
    """They are not listed and not retried, but said to be there, and can be dropped."""
    folder = tmp_path / "spool"
    spool = opened(folder)
    store_dead_letters(spool, "q", [1], b"\x01\x02", RAW)
    spool.dead("q", unix_ms=NOW).append(spool.epoch, 2, 1, 1, b"\x91\x01", b"\xc1", unix_ms=NOW)
    spool.close()
    code, out, err = ended(start("dead", "ls", str(folder), "-o", "json"))
    assert (code, len(out.splitlines()), "1 more cannot be read" in err) == (0, 1, True)
    code, out, err = ended(start("dead", "retry", str(folder), "--all"))
    assert (code, out, "1 dead letter cannot be read" in err) == (0, "1 dead letter queued again\n", True)
    assert ended(start("dead", "drop", str(folder), "--all", "--yes")) == (0, "1 dead letter deleted\n", "")
    assert letters_left(folder) == set()


def test_wrong_folders_and_ids_change_nothing(start: Start, tmp_path: Path) -> None:
    """Not even a folder that has a file `lock` of somebody else; ids of another node, or of nothing, are refused."""
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "lock").write_text("mine")
    folder = tmp_path / "spool"
    spool = opened(folder)
    store_dead_letters(spool, "q", [1], TEA)
    epoch = spool.epoch
    spool.close()
    before = content(tmp_path)
    for arguments, code, text in (
        (("retry", str(strange), "--all"), 5, "is no spool"),
        (("drop", str(strange), "--all", "--yes"), 5, "is no spool"),
        (("retry", str(tmp_path / "none"), "--all"), 5, "there is no such folder"),
        (("retry", str(folder), f"desk:{epoch}:q/2"), 1, "no dead letter"),
        (("show", str(folder), f"desk:{epoch}:other/1"), 1, "no dead letter"),
        (("retry", str(folder), f"shop:{epoch}:q/1"), 1, "another node"),
        (("retry", str(folder)), 2, "--all"),
        (("drop", str(folder), "--all"), 1, "--yes"),
        (("ls", str(folder)), 0, ""),
        (("show", str(folder), f"desk:{epoch}:q/1"), 0, ""),
    ):
        found, _, err = ended(start("dead", *arguments), "")
        assert (found, text in err, "Traceback" in err) == (code, True, False), arguments
    assert content(tmp_path) == before
    assert not (tmp_path / "none").exists()


def test_a_copy_of_a_running_spool_is_only_looked_at(start: Start, tmp_path: Path) -> None:
    """Looking is harmless; but two owners of one epoch's numbers are not made."""
    spool = opened(tmp_path / "spool")
    store_dead_letters(spool, "q", [1], TEA)
    shutil.copytree(tmp_path / "spool", tmp_path / "copy")
    (tmp_path / "copy").chmod(0o700)
    copy = str(tmp_path / "copy")
    assert len(lines(start, "dead", "ls", copy, "-o", "json")) == 1
    code, out, err = ended(start("dead", "retry", copy, "--all"))
    assert (code, out, len(err.splitlines())) == (4, "", 1)
    assert f"is a copy of the spool that process {os.getpid()} uses" in err
    assert letters_left(copy) == {1}
    spool.close()


def test_somebody_looks_while_one_wants_to_write(start: Start, tmp_path: Path) -> None:
    """The one who writes is told to wait, and nothing happens."""
    spool = opened(tmp_path / "spool")
    store_dead_letters(spool, "q", [1], TEA)
    spool.close()
    reader = Spool.inspect(str(tmp_path / "spool"))
    code, out, err = ended(start("dead", "drop", str(tmp_path / "spool"), "--all", "--yes"))
    assert (code, out, "a command looks into it" in err, len(err.splitlines())) == (4, "", True, 1)
    reader.abandon()
    assert ended(start("dead", "drop", str(tmp_path / "spool"), "--all", "--yes"))[0] == 0
