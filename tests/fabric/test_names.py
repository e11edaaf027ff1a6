"""Names, patterns, and the prefixes that ZeroMQ filters by."""

from __future__ import annotations

import pytest

from peerfabric.errors import BadName
from peerfabric.names import check_name, check_pattern, filter_prefix, matches, queue_of


@pytest.mark.parametrize("name", ["a", "orders", "a.b.c", "A-1_x.y", "x" * 255])
def test_names(name: str) -> None:
    """Letters, digits, underscore and dash, in parts joined by dots."""
    assert check_name("queue", name) == name


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "a b", "ä", "a*", "x" * 256, "a\0", None, 7])
def test_no_names(name: object) -> None:
    """Everything else is refused, whatever its type."""
    with pytest.raises(BadName):
        check_name("queue", name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("web orders!", "has ' ', a character that is not allowed"),
        ("a/b", "has '/', a character"),
        ("a\0", r"has '\\x00', a character"),
        ("a..b", "has an empty part"),
        ("a.", "has an empty part"),
    ],
)
def test_what_is_wrong_with_a_name(name: str, problem: str) -> None:
    """The first character that is not allowed is named; a part that is empty has none."""
    with pytest.raises(BadName, match=problem):
        check_name("queue", name)


@pytest.mark.parametrize("pattern", ["*", ">", "a.*", "*.b.>", "a.b"])
def test_patterns(pattern: str) -> None:
    """A star is one part, a final `>` the rest."""
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", ["", "a.>.b", "a*", "a.**", ">.a"])
def test_no_patterns(pattern: str) -> None:
    """A star stands for a whole part, and `>` at the end."""
    with pytest.raises(BadName):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "selected", "not_selected"),
    [
        ("a.b", ["a.b"], ["a", "a.bc", "a.b.c"]),
        ("a.*", ["a.b", "a.c"], ["a", "a.b.c", "b.a"]),
        ("a.>", ["a.b", "a.b.c"], ["a", "ab.c"]),
        (">", ["a", "a.b.c"], []),
        ("*.x.>", ["a.x.1", "b.x.1.2"], ["a.x", "a.y.1"]),
    ],
)
def test_what_a_pattern_selects(pattern: str, selected: list[str], not_selected: list[str]) -> None:
    """And the prefix lets all of that pass."""
    topics = selected + not_selected
    assert [topic for topic in topics if matches(pattern, topic)] == selected
    prefix = filter_prefix(pattern)
    assert all((topic.encode() + b"\0").startswith(prefix) for topic in selected)


def test_an_exact_name_selects_no_longer_one() -> None:
    """ZeroMQ filters by prefix; the closing NUL makes the difference."""
    assert not b"ab\0".startswith(filter_prefix("a"))


def test_the_queue_of_a_stream() -> None:
    """Node id and epoch have no colon; what comes after them is the queue."""
    assert queue_of("n1:7340032:orders.eu") == "orders.eu"
