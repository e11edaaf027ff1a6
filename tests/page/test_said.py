"""What the page says of what is easily said wrong: patterns, silent processes, long numbers, one and none."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peerfabric.gateway import looks
from peerfabric.reports import ConsumerAccount, QueueAccount, ServiceAccount
from peerfabric.status import (
    InHand,
    Letters,
    Peer,
    Publishing,
    Sending,
    SpoolStatus,
    Subscribing,
    Taking,
    Warned,
)
from tests.nodes.conftest import eventually
from tests.page.conftest import Site
from tests.page.fake import FakeAnswer, Host, Shop, answer, letter, node, silent
from tests.page.test_page import VIEWS, cell, go, row


def test_topics_are_matched_with_patterns(sites: Callable[..., Site]) -> None:
    """In the flow and in the list: `*` is one part, a last `>` the rest; within one fabric, which is said."""
    topics = ("prices.eur", "prices", "orders.placed.eur")
    patterns = {"kitchen": "prices.*", "ledger": "orders.>", "till": "prices.*.x", "all": ">"}
    host = Host()
    host.answers = lambda: [  # type: ignore[method-assign]
        answer(1, [node("shop", publishes=tuple(Publishing(topic=topic, published=9) for topic in topics))]),
        *(
            answer(n, [node(name, subscribes=(Subscribing(pattern=pattern, received=0),))])
            for n, (name, pattern) in enumerate(patterns.items(), 2)
        ),
        answer(8, [node("far", "other", publishes=(Publishing(topic="prices.usd", published=9, subscribers=1),))]),
        answer(9, [node("near", "other", subscribes=(Subscribing(pattern="stock", received=3),))]),
    ]
    page = sites(host).page("/flow")
    page.locator("td", has_text="topic prices.eur").wait_for()
    found = page.evaluate(
        "[...document.querySelectorAll('tbody tr.opens, tbody tr:not(.space)')].map(row => "
        "[...row.cells].slice(0, 3).map(cell => cell.innerText.trim()))"
    )
    assert sorted(tuple(row) for row in found) == [
        ("farother", "topic prices.usd", "remote"),
        ("nobodyshop", "topic prices.*.x", "till"),
        ("remoteother", "topic stock", "near"),
        ("shopshop", "topic orders.placed.eur", "all, ledger"),
        ("shopshop", "topic prices", "all"),
        ("shopshop", "topic prices.eur", "all, kitchen"),
    ]
    go(page, "/topics")
    assert cell(page, "prices.eur", "Subscribers") == "2"
    assert cell(page, "prices.*", "Publishers") == "1"


class Stopped(Host):
    """A shop whose consumer, of this host, is stopped, and has never answered the page until `seen`."""

    def __init__(self, endpoint: str = "ipc:///run/kitchen") -> None:
        super().__init__()
        self.seen, self.endpoint = False, endpoint

    def answers(self) -> list[FakeAnswer]:
        peers = (Peer(node_id="2" * 32, name="kitchen", state="up", endpoint=self.endpoint),)
        sends = Sending(queue="orders", account=QueueAccount(queue="orders", waiting=7), consumers=("kitchen",))
        shop = answer(1, [node("shop", peers=peers, sends=(sends,))])
        kitchen = node(
            "kitchen", pump_late=4.0, takes=(Taking(queue="orders", account=ConsumerAccount(queue="orders")),)
        )
        return [shop, answer(2, [kitchen], cpu=time.time() % 1000) if self.seen else silent(2)]


@pytest.mark.parametrize(("endpoint", "told"), [("ipc:///run/kitchen", "no answer"), ("tcp://10.0.0.2:7", "remote")])
def test_a_stopped_consumer_is_not_elsewhere(sites: Callable[..., Site], endpoint: str, told: str) -> None:
    page = sites(Stopped(endpoint)).page()
    row(page, "orders").wait_for()
    assert cell(page, "orders", "Consumers") == told


def test_a_silent_process_has_a_name_and_no_old_figures(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program if it has never answered, or since when it has run; its figures are those of nobody."""
    monkeypatch.setattr(looks, "program_of", lambda pid: "/srv/kitchen.py")
    host = Stopped()
    site = sites(host)
    page = site.page("/nodes")
    row(page, "/srv/kitchen.py").wait_for()
    assert page.locator("#warnings .who").inner_text() == "/srv/kitchen.py"
    host.seen = True
    row(page, "kitchen").wait_for()
    eventually(lambda: cell(page, "kitchen", "Memory") != "·", "its memory")
    host.seen = False
    page.locator("tr.silent", has_text="kitchen").wait_for()
    figures = row(page, "kitchen").locator("td.number:visible").all_inner_texts()
    assert figures == ["2"] + ["·"] * (len(figures) - 1)
    monkeypatch.setattr(looks, "program_of", lambda pid: "")
    fresh = site.page("/nodes")
    row(fresh, "process 2").wait_for()
    assert re.match(r"started \d+d \d+h ago", fresh.locator("#warnings .who").inner_text())


@pytest.mark.parametrize(
    ("line", "program"),
    [
        (["python3", "-u", "shop.py", "--password", "hidden"], "shop.py"),
        (["/usr/bin/python3.11", "-m", "shop.main", "hidden"], "shop.main"),
        (["python3", "-c", "hidden"], "python3"),
        (["python3", "-X", "hidden", "shop.py"], "python3"),
        (["/opt/shop", "hidden"], "/opt/shop"),
        ([], ""),
    ],
)
def test_of_a_program_no_arguments_are_told(monkeypatch: pytest.MonkeyPatch, line: list[str], program: str) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"".join(f"{each}\0".encode() for each in line))
    assert looks.program_of(1) == program


CUT = """[...document.querySelectorAll("td.number, dd, th, .tabs a")].filter(each => {
    if (!each.offsetWidth || each.matches("dd, td") && !/^[-≤>\\d·]/.test(each.innerText)) return false;
    const range = document.createRange();
    range.selectNodeContents(each);
    const { paddingLeft, paddingRight } = getComputedStyle(each);
    const { right, width } = each.getBoundingClientRect();
    const room = width - parseFloat(paddingLeft) - parseFloat(paddingRight);
    const text = Math.max(...[...range.getClientRects()].map(each => each.width));
    const apart = each.matches("td") && range.getClientRects().length > 1;
    return text > room + 0.5 || right > innerWidth || apart;
}).map(each => `${each.dataset.title || ""} ${each.innerText} ${each.offsetWidth}`)"""
"""Numbers, titles and tabs of which something cannot be seen."""


@pytest.mark.parametrize("width", [360, 700, 1000, 1260, 1360])
def test_no_number_is_cut(sites: Callable[..., Site], width: int) -> None:
    """Long ones: a million messages, hours and minutes; nor are titles of columns, nor tabs."""
    account = QueueAccount(queue="orders", accepted=9_000_000, waiting=1_234_567, in_flight=123_456, on_disk=9_876_543)
    sends = Sending(queue="orders", account=account, oldest_waiting=44_999.0, letters=Letters(count=12_345))
    held = InHand(
        id="9f.7.1", age=45_000.0, attempt=12, lease_left=595.0, handler="cook", thread="t", line="cook.py:118"
    )
    takes = Taking(
        queue="orders",
        account=ConsumerAccount(queue="orders", received=9_999_999, processed=9_999_998, started=1, buffered=12_345),
        takers=4,
        last_taken=0.165,
        running=(held,),
        longest_running=45_000.0,
        seconds=(0, 0, 0, 0, 9, 0, 0, 0, 0, 0),
    )
    spool = SpoolStatus(folder="/spool", slot=0, used=230, limit=1 << 30, disk_free=999 << 30, last_sync=0.165)
    host = Host()
    shop = node("shop", uptime=44_999.0, spool=spool, sends=(sends,), pump_late=0.165)
    topics: dict[str, Any] = {
        "publishes": (Publishing(topic="prices", published=9_999_999),),
        "subscribes": (Subscribing(pattern="prices", received=9_999_999, missed=123_456, late=1_234, behind=995_000),),
        "serves": (ServiceAccount(service="price", answered=9_999_999, running=123, waiting=1_234, capacity=128),),
    }
    host.answers = lambda: [  # type: ignore[method-assign]
        answer(4_194_304, [shop], rss=995 << 20),
        answer(4_194_303, [node("kitchen", takes=(takes,), **topics)]),
    ]
    page = sites(host).page(viewport={"width": width, "height": 800})
    row(page, "orders").wait_for()
    for view in (*VIEWS[:6], "/queue/shop/orders", f"/node/{shop.node_id}.7"):
        go(page, view)
        assert page.evaluate(CUT) == [], view


def test_one_is_one(sites: Callable[..., Site]) -> None:
    """Of one thing there is no plural, of none there is no number; a tab counts the rows that it shows."""
    host = Shop()
    host.letters = [letter(n, id=f"{'9f2c' * 8}.7.4821{n}", attempts=n) for n in (1, 2)]
    site = sites(host)
    page = site.page("/nodes")
    row(page, "process 4740").wait_for()
    shown = page.locator("tbody tr:not(.space)").count()
    assert page.locator(".tabs a", has_text="Nodes").inner_text().split() == ["Nodes", str(shown)]
    assert page.locator("#warnings > button").text_content() == ""
    go(page, "/queue/shop/payments")
    page.locator("details").nth(1).wait_for()
    told = page.locator("summary .faint").all_inner_texts()
    assert told == ["1 attempt · ….7.48211", "2 attempts · ….7.48212"]
    answers = host.answers
    more = tuple(Warned(code="old", queue=f"q{n}", text="old") for n in range(2))
    host.answers = lambda: [*answers(), answer(9, [node("old", warnings=more)])]  # type: ignore[method-assign]
    page.get_by_role("button", name="1 more warning", exact=True).wait_for()
    host.answers = lambda: answers()[:1]  # type: ignore[method-assign]
    page.locator("#foot", has_text=re.compile(r"· 1 process$")).wait_for()


def test_who_has_no_token_is_told_where_it_lies(sites: Callable[..., Site]) -> None:
    """In no alarming colour, until something was typed that is wrong."""
    site = sites(Shop())
    page = site.context().new_page()
    page.goto(site.gate.url)
    page.get_by_label("Token").wait_for()
    text = page.locator("#sign-in").inner_text()
    assert "Paste" in text
    assert "~gateway-token" in text
    assert "Bearer" not in text
    assert page.locator("#sign-in .bad").inner_text() == ""
    page.get_by_label("Token").fill("wrong")
    page.get_by_label("Token").press("Enter")
    page.locator("#sign-in .bad", has_text="nobody has this token").wait_for()


@pytest.mark.parametrize(("limit", "told", "bad"), [(0, "no limit", 0), (250, "250 B", 1), (1000, "1.0 KiB", 0)])
def test_a_spool_without_a_limit_is_not_full(sites: Callable[..., Site], limit: int, told: str, bad: int) -> None:
    host = Host()
    spool = SpoolStatus(folder="/spool", slot=0, used=230, limit=limit)
    host.answers = lambda: [answer(1, [node("shop", spool=spool)])]  # type: ignore[method-assign]
    page = sites(host).page("/spools")
    row(page, "/spool : 0").wait_for()
    assert cell(page, "/spool : 0", "Used") == "230 B"
    assert cell(page, "/spool : 0", "Limit") == told
    assert page.locator("td.bad").count() == bad
