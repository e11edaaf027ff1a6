"""Other gateways, as they are named on a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from peerfabric import ConfigError
from peerfabric.gateway.others import OTHERS_MAX, Other, others


def test_names_and_urls() -> None:
    """A URL alone is called as its host; what is after the "=" may have another."""
    assert others(["https://cellar:7780", "attic=http://10.0.0.7:80/fabric/"]) == (
        Other("cellar", "https://cellar:7780/"),
        Other("attic", "http://10.0.0.7:80/fabric/"),
    )


@pytest.mark.parametrize(
    ("also", "text"),
    [
        (["cellar"], "'cellar' leads to no gateway"),
        (["ftp://cellar/"], "leads to no gateway"),
        (["https://cellar/?x=1"], "leads to no gateway"),
        (["https://me:pass@cellar/"], "has a password in it"),
        (["<b>=https://cellar/"], "is no name"),
        (["https://cellar/", "cellar=http://other/"], "two gateways are called 'cellar'"),
        ([f"n{n}=http://h/" for n in range(OTHERS_MAX + 1)], "over the limit"),
    ],
)
def test_what_is_none_is_refused(also: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as refused:
        others(also)
    assert "pass@" not in str(refused.value)


def test_tokens_are_in_a_private_file(tmp_path: Path) -> None:
    """Each for one that is named; a file that others may read is none."""
    file = tmp_path / "tokens"
    file.write_text("# of our cellar\ncellar  secret-of-the-cellar\n")
    file.chmod(0o600)
    assert others(["https://cellar/"], str(file))[0].token == "secret-of-the-cellar"
    with pytest.raises(ConfigError, match="'cellar', which no --also names"):
        others(["https://attic/"], str(file))
    file.write_text("cellar\n")
    with pytest.raises(ConfigError, match="line 1: has 1 words"):
        others(["https://cellar/"], str(file))
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="token file"):
        others(["https://cellar/"], str(file))
