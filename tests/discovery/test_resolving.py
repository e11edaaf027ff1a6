"""Resolver of names: how often, how many, and what a name server that is away does to others."""

from __future__ import annotations

import logging
import threading

import pytest

from peerfabric.discovery import resolving
from peerfabric.discovery.base import Linked
from peerfabric.discovery.resolving import (
    ADDRESSES_MAX,
    RESOLVE_EVERY,
    RESOLVE_UNANSWERED,
    Name,
    Resolver,
    addresses_of,
    endpoint_of,
    is_numeric,
)
from tests.discovery.conftest import eventually

PEERS = Name("peers.test", 7700)


class Names:
    """A name server and a clock, turned by hand instead of by the thread."""

    def __init__(self, **answers: list[str] | OSError) -> None:
        self.now = 100.0
        self.answers: dict[str, list[str] | OSError] = {f"{name}.test": answer for name, answer in answers.items()}
        self.asked: list[tuple[float, str]] = []
        self.told: list[tuple[str, tuple[str, ...]]] = []
        self.resolver = Resolver(self.look_up, lambda: self.now)

    def look_up(self, host: str, port: int) -> list[str]:
        self.asked.append((self.now, host))
        answer = self.answers[host]
        if isinstance(answer, OSError):
            raise answer
        return answer

    def turn(self, *names: Name) -> float:
        """One turn of the thread; returns how long it would sleep."""
        return self.resolver._turn([(name, self.found) for name in names or (PEERS,)])

    def found(self, name: Name, endpoints: tuple[str, ...]) -> None:
        self.told.append((name.host, endpoints))


def test_all_addresses_of_a_name() -> None:
    """IPv6 in brackets, each once, and no more than there may be; told once."""
    names = Names(peers=["10.0.0.1", "fd00::1", "10.0.0.1"])
    names.turn()
    names.turn()
    assert names.told == [("peers.test", ("tcp://10.0.0.1:7700", "tcp://[fd00::1]:7700"))]
    names.answers["peers.test"] = [f"10.0.{n // 250}.{n % 250}" for n in range(ADDRESSES_MAX + 40)]
    names.now += RESOLVE_EVERY
    names.turn()
    assert len(names.told[-1][1]) == ADDRESSES_MAX


def test_how_often() -> None:
    """Every 5 s while nobody of it is linked, every 30 s else, by the endpoint in use or one that the peer names."""
    names = Names(peers=["10.0.0.1"])
    assert names.turn() == RESOLVE_UNANSWERED
    for linked in (Linked("tcp://10.0.0.1:7700", ()), Linked("tcp://10.9.9.9:1", ("tcp://10.0.0.1:7700",))):
        names.now += RESOLVE_EVERY
        names.resolver.linked = lambda linked=linked: [linked]  # type: ignore[misc]
        assert names.turn() == RESOLVE_EVERY
    names.now += RESOLVE_EVERY
    names.resolver.linked = lambda: [Linked("tcp://10.0.0.2:7700", ())]
    assert names.turn() == RESOLVE_UNANSWERED
    assert [at for at, _ in names.asked] == [100.0, 130.0, 160.0, 190.0]
    names.now += RESOLVE_UNANSWERED - 0.5
    assert names.turn() == 0.5
    assert len(names.asked) == 4


def test_changes_are_told() -> None:
    """And a name server that fails takes nothing back."""
    names = Names(peers=["10.0.0.1"])
    names.turn()
    for answer in (OSError("timed out"), [], ["10.0.0.2"]):
        names.now += RESOLVE_EVERY
        names.answers["peers.test"] = answer
        names.turn()
    assert names.told == [("peers.test", ("tcp://10.0.0.1:7700",)), ("peers.test", ("tcp://10.0.0.2:7700",))]


def test_one_bad_name_does_no_harm_to_others(caplog: pytest.LogCaptureFixture) -> None:
    """It is one warning that says what to do."""
    names = Names(bad=OSError("Name or service not known"), peers=["10.0.0.1"])
    with caplog.at_level(logging.WARNING, "peerfabric"):
        names.turn(Name("bad.test", 1), PEERS)
        names.now += RESOLVE_UNANSWERED
        names.turn(Name("bad.test", 1), PEERS)
    assert [host for host, _ in names.told] == ["peers.test"]
    (text,) = caplog.messages
    assert "bad.test is not found: Name or service not known; it is tried again every 5 s, correct it in peers=" in text


def test_a_resolver_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps neither the caller waiting, nor a close for long; nothing is told when it answers after all."""
    monkeypatch.setattr(resolving, "CLOSE_TIMEOUT", 0.05)
    answers, asked, told = threading.Event(), threading.Event(), []

    def look_up(host: str, port: int) -> list[str]:
        asked.set()
        answers.wait()
        return ["10.0.0.1"]

    resolver = Resolver(look_up)
    resolver.follow([PEERS], lambda name, endpoints: told.append(endpoints))
    assert asked.wait(20)
    resolver.follow([Name("more.test", 1)], lambda name, endpoints: told.append(endpoints))
    resolver.close()
    answers.set()
    eventually(lambda: not any(t.name == "peerfabric-resolver" for t in threading.enumerate()), "the end of the thread")
    assert told == []


def test_one_thread_for_all_who_follow() -> None:
    """Names that come later are looked up at once; without names there is no thread."""
    names = Names(peers=["10.0.0.1"], more=["10.0.0.2"])
    names.resolver.follow([], names.found)
    assert not any(thread.name == "peerfabric-resolver" for thread in threading.enumerate())
    names.resolver.follow([PEERS], names.found)
    eventually(lambda: len(names.told) == 1, "the first name")
    names.resolver.follow([Name("more.test", 1)], names.found)
    eventually(lambda: len(names.told) == 2, "the second name")
    assert [thread.name for thread in threading.enumerate()].count("peerfabric-resolver") == 1
    names.resolver.close()


def test_the_resolver_of_the_system() -> None:
    """Gives numeric addresses, and refuses what is no name."""
    assert "127.0.0.1" in addresses_of("127.0.0.1", 7700)
    assert endpoint_of("fd00::1", 1) == "tcp://[fd00::1]:1"
    with pytest.raises(OSError, match=r"."):
        addresses_of("no-such-name.invalid", 1)


@pytest.mark.parametrize(
    ("host", "numeric"),
    [("10.0.0.1", True), ("::1", True), ("fe80::1%eth0", True), ("localhost", False), ("10.1", False), ("", False)],
)
def test_what_is_numeric(host: str, numeric: bool) -> None:
    """An address as the standard writes it."""
    assert is_numeric(host) is numeric
