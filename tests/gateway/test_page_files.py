"""Files of the page: what they may not have in them, and how they are sent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from peerfabric.gateway.static import page
from tests.gateway.conftest import Gate, problem

PAGE = Path(__file__).parents[2] / "nodes" / "gateway" / "page"
FILES = sorted(PAGE.iterdir())


def test_it_is_small() -> None:
    """As it is sent, and as it is read by whoever wonders what it does: no build makes it from something else."""
    assert sum(len(file.packed) for file in page().values()) < 25_000
    assert sum(file.stat().st_size for file in FILES) < 60_000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_comes_from_outside_cannot_become_code(file: Path) -> None:
    """Text is set as text; nothing is made of strings, and nothing is in the page that its policy would refuse."""
    text = file.read_text()
    strings = r"innerHTML|outerHTML|insertAdjacent|\beval\b|document\.write|new Function|DOMParser|javascript:|srcdoc"
    assert not re.search(strings, text)
    assert not re.search(r"\son\w+=|\sstyle=|<script>|<style", text)
    assert not re.search(r"setTimeout\(\s*[\"'`]|setInterval\(\s*[\"'`]", text)
    assert max(len(line) for line in text.splitlines()) <= 120 or file.suffix not in (".js", ".css")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_asks_nobody_else(file: Path) -> None:
    """All addresses are relative, so that it works where it is mounted; a namespace is no address."""
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z0-9.-]+\.[a-z]{2,}/|[\"'(]/(?!\^)[a-z]", text)


def test_files_are_sent_with_a_policy(gate: Gate) -> None:
    """Without a token; what a browser has already is not sent again."""
    client = gate.client_of(None)
    index = client.get("/")
    assert index.headers["content-type"].startswith("text/html")
    policy = index.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert index.headers["x-content-type-options"] == "nosniff"
    assert index.headers["referrer-policy"] == "no-referrer"
    for name, file in page().items():
        found = client.get(f"/page/{name}")
        assert found.content == (PAGE / name).read_bytes()
        assert found.headers["content-encoding"] == "gzip"
        plain = client.get(f"/page/{name}", headers={"accept-encoding": "identity"})
        assert plain.content == found.content
        assert "content-encoding" not in plain.headers
        assert plain.headers["etag"] != found.headers["etag"]
        assert found.headers["content-type"].startswith(file.media_type)
        again = client.get(f"/page/{name}", headers={"if-none-match": found.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert set(re.findall(r'"(page/[\w.]+)"', index.text)) <= {f"page/{name}" for name in page()}


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fapp.py", "app.py", "%00", "__init__.py"])
def test_there_are_no_other_files(gate: Gate, name: str) -> None:
    problem(gate.client_of(None).get(f"/page/{name}"), 404)
