"""Who a node is: its key, where it is kept, and which id it makes; secrets of the fabric, read from where they lie."""

from __future__ import annotations

import os
import secrets
import shutil
import time
import traceback
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from peerfabric import ConfigError, Node
from peerfabric.nodes.epochs import epoch_now
from peerfabric.nodes.keys import (
    KEY_FILE,
    first_node_key,
    keep_node_key,
    new_node_key,
    read_node_key,
    read_secret,
    read_secrets,
    stamp,
    write_node_key,
)
from peerfabric.secret import NodeKey, new_secret
from tests.nodes.conftest import Front

SECRET = new_secret(secrets.token_bytes(32))


def public(secret: bytes) -> bytes:
    """Any function of the secret half will do here."""
    return blake2b(secret, digest_size=32).digest()


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def write(path: Path, text: str = SECRET.text(), mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return f"file:{path}"


# Secrets


def test_a_secret_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file, through a link as Kubernetes has them, with a line end; from a variable."""
    source = write(tmp_path / "data", f"{SECRET.text()}\n", 0o440)
    (tmp_path / "link").symlink_to("data")
    assert read_secret(source) == read_secret(f"file:{tmp_path / 'link'}") == SECRET
    monkeypatch.setenv("SECRET_OF_TESTS", SECRET.text())
    assert read_secret("env:SECRET_OF_TESTS") == SECRET


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o640 | 0o001, 0o602, 0o666])
def test_a_secret_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever can read it has it, and whoever can write it lets himself in."""
    with pytest.raises(ConfigError, match=r"others may use it .*chmod 600"):
        read_secret(write(tmp_path / "secret", mode=mode))


def test_what_is_no_secret_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the source; neither it nor a traceback with what is in our frames has what was read."""
    text = SECRET.text()
    wrong = [text[:-1] + ("a" if text[-1] != "a" else "b"), text[4:], text + text]
    monkeypatch.setenv("WRONG", wrong[0])
    sources = [write(tmp_path / f"secret{n}", each) for n, each in enumerate(wrong)] + ["env:WRONG"]
    for source in sources:
        with pytest.raises(ConfigError, match="not a secret") as raised:
            read_secret(source)
        assert source in str(raised.value)
        frames = traceback.TracebackException.from_exception(raised.value, capture_locals=True).stack[1:]
        shown = str(raised.value) + "".join(str(frame.locals) for frame in frames if "nodes/keys" in frame.filename)
        assert text[10:40] not in shown


def test_secrets_that_cannot_be_used(tmp_path: Path) -> None:
    """Missing, a folder, a pipe, far too large: each with what to do."""
    path = tmp_path / "secret"
    with pytest.raises(ConfigError, match=f"No such file.*peerfabric keygen {path}"):
        read_secret(f"file:{path}")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_secret(f"file:{tmp_path}")
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_secret(f"file:{path}")
    path.unlink()
    with pytest.raises(ConfigError, match="over the limit of 4,096"):
        read_secret(write(path, "x" * 5000))
    with pytest.raises(ConfigError, match="that variable is not set"):
        read_secret("env:NOT_SET_IN_TESTS")


def test_the_same_secret_twice_is_one(tmp_path: Path) -> None:
    """Two files that have the same until one of them is replaced."""
    other = new_secret(secrets.token_bytes(32))
    sources = [write(tmp_path / "current"), write(tmp_path / "next")]
    assert read_secrets(sources) == [SECRET]
    write(tmp_path / "next", other.text())
    assert read_secrets(sources) == [SECRET, other]


def test_a_changed_file_has_another_stamp(tmp_path: Path) -> None:
    """Also one of the same size, and one that is put in its place."""
    source = write(tmp_path / "secret")
    seen = {stamp(source)}
    write(tmp_path / "new", new_secret(secrets.token_bytes(32)).text())
    (tmp_path / "new").rename(tmp_path / "secret")
    seen.add(stamp(source))
    (tmp_path / "secret").chmod(0o640)
    seen.add(stamp(source))
    assert len(seen) == 3
    assert stamp("env:X") == stamp("file:/nowhere") == ()


# The node's key


def test_a_key_is_made_once_and_kept(tmp_path: Path, umask: None) -> None:
    """For its owner only; the next start finds it, and nothing is left beside it."""
    path = str(tmp_path / KEY_FILE)
    assert read_node_key(path, public) is None
    made = keep_node_key(path, public)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert keep_node_key(path, public).reveal() == made.reveal()
    assert len(made.node_id) == 32
    assert os.listdir(tmp_path) == [KEY_FILE]
    assert not write_node_key(path, new_node_key(public), f"{path}.tmp")
    assert keep_node_key(path, public).node_id == made.node_id


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is put in place by its name, and still never replaces another one."""

    def refuse(*paths: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = str(tmp_path / KEY_FILE)
    made = keep_node_key(path, public)
    with pytest.raises(PermissionError):
        write_node_key(path, new_node_key(public), f"{path}.tmp")
    assert keep_node_key(path, public).node_id == made.node_id
    assert os.listdir(tmp_path) == [KEY_FILE]


def test_a_damaged_key_is_not_replaced(tmp_path: Path) -> None:
    """It may have been the key of a spool with messages."""
    path = tmp_path / KEY_FILE
    keep_node_key(str(path), public)
    text = path.read_text()
    for wrong in (text[:-2], text.replace("pfn1-", "pf1-"), "", text[:20] + "0" + text[21:]):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match="damaged or none; put it back"):
            keep_node_key(str(path), public)
    path.write_text(text)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may use it"):
        keep_node_key(str(path), public)


def test_the_key_of_a_new_spool(tmp_path: Path) -> None:
    """What a start has left is used; a file that lost its content with the power is made anew."""

    def made() -> NodeKey:
        key = first_node_key(str(tmp_path), str(tmp_path), public)
        assert key is not None
        return key

    key = made()
    assert made().node_id == key.node_id
    (tmp_path / KEY_FILE).write_text("")
    assert made().node_id != key.node_id


# Nodes


def node_id_of(node: Any) -> str:
    return str(node.statistics().node_id)


def test_every_node_has_an_id_of_32_digits(front: Front) -> None:
    """Another one at each start, on this host too."""
    ids = set()
    for _ in range(2):
        with front.node("shop") as node:
            ids.add(node_id_of(node))
    assert len(ids) == 2
    assert {len(each) for each in ids} == {32}


def test_a_spool_keeps_its_node(front: Front, tmp_path: Path) -> None:
    """Its key lies beside its messages, and makes the id that it has."""
    spool = tmp_path / "spool"
    with front.node("shop", spool=spool) as node:
        node.producer("jobs", int)
        first = node_id_of(node)
    with front.node("shop", spool=spool) as node:
        node.producer("jobs", int)
        assert node_id_of(node) == first
    assert (spool / KEY_FILE).stat().st_mode & 0o777 == 0o600
    with front.node("shop", identity=spool / KEY_FILE) as node:
        node.producer("jobs", int)
        assert node_id_of(node) == first


def test_a_spool_keeps_its_node_on_the_lan(runtime: Path, tmp_path: Path) -> None:
    """Begun on one host without a secret, it goes on with one, as the same node."""
    write(tmp_path / "secret")
    with Node("shop", spool=tmp_path / "spool") as node:
        first = node_id_of(node)
    with Node("shop", spool=tmp_path / "spool", reach="lan", secret=f"file:{tmp_path / 'secret'}") as node:
        assert node_id_of(node) == first


def test_a_spool_of_before_stays_on_its_host(runtime: Path, tmp_path: Path) -> None:
    """Its id proves nothing, so it is refused where others would have to believe it, and is used here."""
    from peerfabric.spool import Spool

    spool = tmp_path / "spool"
    Spool.open(str(spool), random_bits=1, node_id="0123456789abcdef", unix_ms=0).close()
    write(tmp_path / "secret")
    with pytest.raises(ConfigError, match="drain it with reach='host', or begin a new one"):
        Node("shop", spool=spool, reach="lan", secret="insecure").statistics()
    with pytest.raises(ConfigError, match="drain the spool without secret="):
        Node("shop", spool=spool, secret=f"file:{tmp_path / 'secret'}").statistics()
    with Node("shop", spool=spool) as node:
        assert node_id_of(node) == "0123456789abcdef"


def test_a_spool_with_the_key_of_another_node(runtime: Path, tmp_path: Path) -> None:
    """Neither of the two ids would be right."""
    for name in "ab":
        with Node(name, spool=tmp_path / name) as node:
            node.statistics()
    with pytest.raises(ConfigError, match="give each node the key and the spool that it began with"):
        Node("a", spool=tmp_path / "a", identity=tmp_path / "b" / KEY_FILE).statistics()
    shutil.copy(tmp_path / "b" / KEY_FILE, tmp_path / "a" / KEY_FILE)
    with pytest.raises(ConfigError, match="give each node the key and the spool"):
        Node("a", spool=tmp_path / "a").statistics()
    (tmp_path / "a" / KEY_FILE).unlink()
    with Node("a", spool=tmp_path / "a") as node:
        node.statistics()
    write(tmp_path / "secret")
    with pytest.raises(ConfigError, match="put it back, or drain the spool without"):
        Node("a", spool=tmp_path / "a", secret=f"file:{tmp_path / 'secret'}").statistics()


def test_the_next_life_is_later_also_within_one_second() -> None:
    """Or a node with `identity=` that a supervisor starts again at once would be told that a later copy runs."""
    epochs = []
    for _ in range(50):
        epochs.append(epoch_now())
        time.sleep(0.001)
    assert epochs == sorted(set(epochs))
    assert len({epoch >> 20 for epoch in epochs}) < len(epochs)
