"""Local networks for tests, which are skipped where there can be none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.net import hosts


@pytest.fixture
def lan() -> Iterator[hosts.Lan]:
    """A switch without hosts; nothing of it is left after the test."""
    if why := hosts.missing():
        pytest.skip(why)
    with hosts.Lan() as made:
        yield made


@pytest.fixture
def three(lan: hosts.Lan) -> tuple[hosts.Host, hosts.Host, hosts.Host]:
    """Hosts a, b and c on one switch."""
    return lan.three()
