"""The page in a browser: what it shows, how soon, on which screens, and what it does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from peerfabric.gateway.auth import Token, Tokens
from peerfabric.reports import ConsumerAccount, QueueAccount
from peerfabric.status import Sending, Taking
from tests.gateway.conftest import SECRET, Gate
from tests.nodes.conftest import eventually
from tests.page.conftest import Site
from tests.page.fake import HOSTILE, FakeAnswer, Host, Many, Shop, answer, node, silent

READER = "secret-of-a-reader"
VIEWS = ("/queues", "/nodes", "/topics", "/services", "/spools", "/flow", "/queue/shop/mail", "/queue/shop/payments")


def row(page: Any, name: str) -> Any:
    """The row of a table whose first cell begins so."""
    return page.locator("tr", has=page.locator("td:first-child", has_text=re.compile(f"^{re.escape(name)}"))).first


def cell(page: Any, name: str, title: str) -> str:
    """What a row has in the column of that title."""
    return str(row(page, name).locator(f'td[data-title="{title}"]').inner_text())


def test_queues_are_shown_with_what_is_wrong_first(shop: Site) -> None:
    page = shop.page()
    row(page, "orders").wait_for()
    assert page.locator("#warnings li b").all_inner_texts() == ["no-answer", "no-consumer", "slow-handler"]
    assert "did you mean 'invoices'?" in page.locator("#warnings").inner_text()
    assert cell(page, "invocies", "Waiting") == "214"
    assert cell(page, "invocies", "Consumers") == "none"
    assert cell(page, "orders", "Consumers") == "2"
    assert cell(page, "payments", "Dead") == "3"
    assert row(page, "mail").locator(".badge").all_inner_texts() == ["warned", "blocked 2"]
    eventually(lambda: cell(page, "orders", "In / s") != "·", "a rate")
    assert page.title() == "peerfabric"


def test_a_queue_has_its_ends_and_its_handlers(shop: Site) -> None:
    """With the line at which a handler has been for long."""
    page = shop.page()
    row(page, "mail").click()
    page.wait_for_url("**/#/queue/shop/mail")
    detail = page.locator(".detail")
    detail.get_by_text("mail.py:118").wait_for()
    text = detail.inner_text()
    for name in ("shop-1", "kitchen-1", "kitchen-2", "mailer", "send_mail", "mailer mail-handler-2"):
        assert name in text
    page.get_by_role("link", name="mailer").click()
    page.wait_for_url("**/#/node/*")
    page.get_by_text("3.11.2").wait_for()
    page.go_back()
    detail.get_by_text("mail.py:118").wait_for()


def test_hostile_names_and_bodies_are_text(shop: Site) -> None:
    """Nothing of them becomes an element, in any view."""
    host = shop.host
    answers = host.answers
    hostile = node(
        HOSTILE,
        endpoints=(HOSTILE,),
        sends=(Sending(queue=HOSTILE, account=QueueAccount(queue=HOSTILE, waiting=1)),),
    )
    host.answers = lambda: [*answers(), answer(9, [hostile], argv0=HOSTILE)]  # type: ignore[method-assign]
    page = shop.page("/queue/shop/payments")
    told = f"event: message\ndata: {json.dumps({'topic': HOSTILE, 'body': HOSTILE})}\n\n"
    page.route("**/v1/topics/**", lambda route: route.fulfill(body=told, content_type="text/event-stream"))
    page.locator("details").nth(1).click()
    page.locator("details pre", has_text="onerror").wait_for()
    for view in (*VIEWS, f"/node/{hostile.node_id}.7", f"/tap/{HOSTILE}", f"/queue/shop/{HOSTILE}"):
        go(page, "/".join(quote(part) for part in view.split("/")))
        assert page.locator(".detail" if view.count("/") > 1 else ".list").count() == 1
        assert page.locator("img").count() == 0
        assert page.title() != "broken"
        if view.startswith("/tap"):
            page.locator(".tapped li", has_text="onerror").first.wait_for()
        elif view.endswith(HOSTILE):
            assert page.title() == f"{HOSTILE} · peerfabric"
    go(page, "/queues")
    row(page, HOSTILE).wait_for()


def go(page: Any, view: str) -> None:
    """Open a view; return when it has been drawn."""
    page.evaluate(
        """view => new Promise(done => {
            const drawn = () => requestAnimationFrame(() => requestAnimationFrame(done));
            if (location.hash === view) return drawn();
            addEventListener("hashchange", drawn, { once: true });
            location.hash = view;
        })""",
        f"#{view}",
    )


class Growing(Host):
    """A queue that grows from when it is told to, and a consumer that can be killed, or stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.consumer = 0, "runs"

    def answers(self) -> list[FakeAnswer]:
        account = QueueAccount(queue="orders", accepted=self.waiting, waiting=self.waiting)
        takes = Taking(queue="orders", account=ConsumerAccount(queue="orders"))
        found = [answer(1, [node("shop", sends=(Sending(queue="orders", account=account),))])]
        if self.consumer == "runs":
            found.append(answer(2, [node("kitchen", takes=(takes,))]))
        return [*found, silent(2)] if self.consumer == "stopped" else found


def test_what_changes_is_seen_soon(sites: Callable[..., Site]) -> None:
    """A queue that grows within 2 s, a killed consumer within 5 s, a stopped process as stopped."""
    host = Growing()
    page = sites(host, every=1.0).page()
    row(page, "orders").wait_for()
    began = time.monotonic()
    host.waiting = 4_321
    page.get_by_text("4,321").first.wait_for()
    grown = time.monotonic() - began
    began, host.consumer = time.monotonic(), "gone"
    page.locator('td[data-title="Consumers"]', has_text="none").wait_for()
    killed = time.monotonic() - began
    assert (grown < 2 + LATE, killed < 5 + LATE) == (True, True), (grown, killed)
    host.consumer = "runs"
    page.evaluate("location.hash = '#/nodes'")
    row(page, "kitchen").wait_for()
    host.consumer = "stopped"
    page.locator("tr.silent", has_text="kitchen").wait_for()
    assert cell(page, "kitchen", "State") == "no answer"
    assert "stopped, or starved" in page.locator("#warnings").inner_text()


LATE = 3.0
"""Seconds that a machine that runs other tests may add."""


def test_dead_letters_are_sent_again_and_dropped(shop: Site) -> None:
    """One at once; all only when the name has been typed."""
    page = shop.page("/queue/shop/payments")
    letters = page.locator("details")
    letters.first.wait_for()
    assert letters.count() == 3
    page.get_by_role("button", name="Retry", exact=True).first.click()
    page.get_by_text("1 sent again").wait_for()
    eventually(lambda: letters.count() == 2, "the end of one")
    page.get_by_role("button", name="Drop", exact=True).first.click()
    eventually(lambda: letters.count() == 1, "the end of another")
    page.get_by_role("button", name="Drop all").click()
    dialog = page.locator("dialog")
    assert dialog.get_by_role("button", name="Drop all").is_disabled()
    dialog.locator("input").fill("payment")
    assert dialog.get_by_role("button", name="Drop all").is_disabled()
    dialog.locator("input").press("Enter")
    assert dialog.is_visible()
    dialog.locator("input").fill("payments")
    dialog.get_by_role("button", name="Drop all").click()
    page.locator("#dead").get_by_text("None.").wait_for()
    assert [do for do, _ in shop.host.asked if do in ("retry", "drop")]
    assert shop.host.letters == []


def test_queues_are_paused_and_purged(shop: Site) -> None:
    page = shop.page("/queue/shop/orders")
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("paused at 1 consumer").wait_for()
    page.locator(".head .badge", has_text="paused at 2 of 2").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.locator(".head .badge").wait_for(state="detached")
    page.get_by_role("button", name="Purge").click()
    page.locator("dialog input").fill("orders")
    page.locator("dialog input").press("Enter")
    page.get_by_text("purged of 40 messages").wait_for()
    page.get_by_role("button", name="Purge").click()
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    assert [do for do, _ in shop.host.asked].count("purge") == 6


def test_who_may_not_act_is_offered_nothing(sites: Callable[..., Site]) -> None:
    """It sees the same, dead letters among it."""
    tokens = Tokens({READER: Token("eye", frozenset({("read", ">")}))})
    page = sites(Shop(), tokens=tokens).page("/queue/shop/payments", READER)
    page.locator("details").first.wait_for()
    assert page.locator("button:visible").all_inner_texts() == []


def test_the_token_leaves_the_address(shop: Site) -> None:
    """It is kept for the tab, so that a reload needs none; nothing asked for has it in its address."""
    page = shop.page()
    row(page, "orders").wait_for()
    assert SECRET not in page.url
    page.reload()
    row(page, "orders").wait_for()
    assert not any(SECRET in url for url in shop.requests)


def test_a_wrong_token_is_asked_for_again(sites: Callable[..., Site]) -> None:
    site = sites(Shop())
    page = site.page(secret="wrong-secret-of-nobody")
    page.get_by_text("nobody has this token").wait_for()
    page.get_by_label("Token").fill(SECRET)
    page.get_by_label("Token").press("Enter")
    row(page, "orders").wait_for()


def test_a_gateway_that_was_restarted_is_found_again(sites: Callable[..., Site], gates: Callable[..., Gate]) -> None:
    """What was shown stays, and is said to be old, until then."""
    site = sites(Shop())
    page = site.page()
    row(page, "orders").wait_for()
    site.gate.stop()
    page.locator("#state.lost").wait_for()
    assert row(page, "orders").is_visible()
    gates(listen=site.gate.address)
    page.locator("#state.live").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(shop: Site, scheme: str) -> None:
    """360 px wide nothing is cut off at the side, in any view; dark if the system is."""
    page = shop.page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    for view in VIEWS:
        go(page, view)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, view
        assert page.locator("main > :last-child").bounding_box()["width"] <= 344
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    light = sum(int(part) for part in re.findall(r"\d+", ground)) / 3
    assert (light < 40) if scheme == "dark" else (light > 220)


@pytest.mark.long
def test_many_queues_do_not_keep_a_frame_waiting(sites: Callable[..., Site]) -> None:
    """50 nodes with 200 queues each: no piece of work of the page takes 16 ms; only rows in sight exist."""
    site = sites(Many(), every=0.5)
    page = site.page()
    for view, first in (("/queues", "queue-00-000"), ("/flow", "node-00")):
        page.evaluate("view => { location.hash = view; }", f"#{view}")
        row(page, first).wait_for()
        assert page.locator("tbody tr").count() < 60
        looked(site, 3)  # of a program that was just loaded little is compiled
        site.browser.start_tracing(page=page, categories=["disabled-by-default-devtools.timeline"])
        looked(site, 4)
        spent = tasks(site.browser.stop_tracing())
        assert len(spent) > 50, "there were no looks"
        # Collections of garbage are among them, which come when they come.
        assert spent[-3] < 16, (view, spent[-10:])
    page.evaluate("location.hash = '#/queues'")
    row(page, "queue-00-000").wait_for()
    page.mouse.wheel(0, 6_000)
    page.locator("tr", has_text=re.compile("^queue-01-0")).first.wait_for()
    page.get_by_label("Filter").fill("queue-49-19")
    eventually(lambda: page.locator("tr.opens").count() == 10, "the filtered rows")


def looked(site: Site, more: int) -> None:
    """Wait until the host has been looked at so many times more."""
    end = site.host.looks + more
    eventually(lambda: site.host.looks >= end, "a look")


def tasks(trace: bytes) -> list[float]:
    """Milliseconds of processor time that each task of a page took, least first: the clock's would be others'."""
    events = json.loads(trace)["traceEvents"]
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    return sorted(
        event.get("tdur", 0) / 1000
        for event in events
        if event["name"] == "RunTask" and (event["pid"], event["tid"]) in threads
    )


def test_rows_are_sorted_and_filtered(shop: Site) -> None:
    """By a click on a title, once more the other way; the choice outlives a reload."""
    page = shop.page()
    row(page, "orders").wait_for()
    names = page.locator("tbody td:first-child a")
    assert names.all_inner_texts() == ["invocies", "invoices", "mail", "orders", "payments"]
    page.get_by_text("Redelivered").click()
    eventually(lambda: names.first.inner_text() == "payments", "the order")
    page.reload()
    eventually(lambda: names.first.inner_text() == "payments", "the order")
    page.keyboard.press("/")
    page.keyboard.type("inv")
    eventually(lambda: sorted(names.all_inner_texts()) == ["invocies", "invoices"], "the filtered rows")


def test_flow_says_who_feeds_whom(shop: Site) -> None:
    page = shop.page("/flow")
    row(page, "kitchen-1, kitchen-2, shop-1").wait_for()
    assert cell(page, "kitchen-1, kitchen-2, shop-1", "By") == "queue mail"
    assert cell(page, "kitchen-1, kitchen-2, shop-1", "To") == "mailer"


def test_slots_are_listed(shop: Site) -> None:
    page = shop.page("/spools")
    row(page, "/var/lib/shop : 0").wait_for()
    states = page.locator('td[data-title="State"]').all_inner_texts()
    assert states == ["running", "adopted", "empty", "left"]
    assert cell(page, "/var/lib/shop : 3", "Messages") == "40"


def test_topics_are_tapped(shop: Site) -> None:
    """Messages as they come, those that were missed as a gap."""
    told = 'event: message\ndata: {"topic": "prices.eu", "body": {"price": 7}}\n\nevent: gap\ndata: {"missed": 3}\n\n'
    page = shop.page("/topics")
    page.route("**/v1/topics/**", lambda route: route.fulfill(body=told, content_type="text/event-stream"))
    row(page, "prices.>").click()
    page.get_by_text('{"price":7}').first.wait_for()
    page.get_by_text("3 missed").first.wait_for()
    page.get_by_role("button", name="Hold").click()
    page.get_by_role("button", name="Go on").wait_for()
