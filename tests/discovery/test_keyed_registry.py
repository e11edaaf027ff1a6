"""The registry of a fabric with secrets: who meets whom while they are changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from peerfabric.discovery.base import AnnounceKey, Lost
from peerfabric.discovery.host import fabric_folder
from peerfabric.discovery.keyed_registry import KeyedRegistry
from peerfabric.discovery.registry import RegistryBackend
from tests.discovery.conftest import Recorder, announcement_for, eventually

OLD, NEW = AnnounceKey("0000000a", b"a" * 32), AnnounceKey("0000000b", b"b" * 32)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def node(stack: ExitStack, *keys: AnnounceKey) -> tuple[KeyedRegistry, Recorder, str]:
    backend, recorder, announcement = (
        KeyedRegistry("tests", [key.key_id for key in keys]),
        Recorder(),
        announcement_for(),
    )
    stack.callback(backend.close)
    backend.announce(announcement)
    backend.watch(recorder)
    return backend, recorder, announcement.node_id


def sees(recorder: Recorder, node_id: str) -> bool:
    return node_id in {one.node_id for one in recorder.announcements()}


def test_folders_of_secrets_are_apart(stack: ExitStack) -> None:
    """Neither nodes of another secret nor those without one are seen."""
    _, recorder, ours = node(stack, OLD)
    _, others, _ = node(stack, NEW)
    plain, seen = RegistryBackend("tests"), Recorder()
    stack.callback(plain.close)
    plain.announce(announcement_for())
    plain.watch(seen)
    _, late, _ = node(stack, OLD)
    eventually(lambda: sees(late, ours), "the sighting")
    assert others.announcements() == seen.announcements() == []
    assert fabric_folder("tests", OLD.key_id).name == "tests~0000000a"
    assert len(recorder.announcements()) <= 1


def test_who_has_both_meets_all(stack: ExitStack) -> None:
    """Old, both and new, as while a secret is changed."""
    _, of_old, old = node(stack, OLD)
    _, of_both, both = node(stack, OLD, NEW)
    _, of_new, new = node(stack, NEW)
    eventually(lambda: sees(of_both, old) and sees(of_both, new), "both sightings")
    eventually(lambda: sees(of_old, both) and sees(of_new, both), "the sighting of both")
    assert not sees(of_old, new)
    assert not sees(of_new, old)


def test_rekeying(stack: ExitStack) -> None:
    """A node joins the folder of a new secret, is announced there, and leaves that of the old one."""
    _, of_new, new = node(stack, NEW)
    backend, recorder, moving = node(stack, OLD)
    _, of_old, _ = node(stack, OLD)
    eventually(lambda: sees(of_old, moving), "the sighting under the old one")
    backend.rekey([OLD, NEW])
    eventually(lambda: sees(of_new, moving) and sees(recorder, new), "the sightings under the new one")
    assert not of_old.lost(moving)
    backend.rekey([NEW])
    eventually(lambda: of_old.lost(moving), "the loss under the old one")
    assert not of_new.lost(moving)


def test_a_folder_that_is_left_shows_nobody_any_more(stack: ExitStack) -> None:
    """Or a node that was in it while secrets changed would never be lost."""
    backend, recorder, _ = node(stack, OLD, NEW)
    other, _, found = node(stack, OLD, NEW)
    old = f"registry~{OLD.key_id}"
    eventually(lambda: [one.node_id for one in recorder.announcements()].count(found) == 2, "both sightings")
    backend.rekey([NEW])
    lost = [event for event in recorder.events if isinstance(event, Lost)]
    assert Lost(node_id=found, source=old) in lost
    assert all(event.source == old for event in lost)
    other.close()
    new = Lost(node_id=found, source=f"registry~{NEW.key_id}")
    eventually(lambda: new in recorder.events, "the loss under the new one")
