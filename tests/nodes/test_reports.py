"""What a node tells about messages that are on their way to its engine."""

from __future__ import annotations

import pytest

from peerfabric.nodes.aio.reports import with_handed_over
from peerfabric.reports import QueueAccount


@pytest.mark.parametrize(
    ("last", "letters", "accepted", "retried"),
    [(6, 1, 5, 1), (8, 1, 7, 1), (8, 2, 6, 2), (8, 3, 5, 3), (4, 1, 5, 1)],
    ids=["nothing", "two sends", "a send and a retry", "two retries", "the engine knows more by now"],
)
def test_retried_letters_are_never_counted_as_accepted(last: int, letters: int, accepted: int, retried: int) -> None:
    """Or `accepted` would fall once the engine has them."""
    known = QueueAccount(queue="jobs", accepted=5, retried=1, acked=6)
    found = with_handed_over(known, 7, last, letters)
    assert (found.accepted, found.retried) == (accepted, retried)
    assert found.waiting == max(0, last - 6)
    assert found.closes
