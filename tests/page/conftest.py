"""Pages in headless Chromium, of gateways whose processes are fake."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from peerfabric.gateway import acts, looks
from tests.gateway.conftest import SECRET, Gate, gates
from tests.nodes.conftest import DEADLINE, runtime, start
from tests.page.fake import Host, Shop

__all__ = ["gates", "runtime", "start"]  # fixtures of other folders

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--renderer-process-limit=1",
]
PATHS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, one for all tests here: that of the system, or the one that Playwright has installed.

    No longer than for these: it keeps an event loop in the thread of the tests.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    found = os.environ.get("PEERFABRIC_CHROMIUM") or next(filter(None, map(shutil.which, PATHS)), None)
    with api.sync_playwright() as playwright:
        if found is None and not os.path.exists(playwright.chromium.executable_path):
            pytest.skip("there is no Chromium: apt-get install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


class Site:
    """A gateway with its page. What a page reported as wrong, and whom it asked, is kept."""

    def __init__(self, browser: Any, gate: Gate, host: Host) -> None:
        self.browser, self.gate, self.host = browser, gate, host
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._contexts: list[Any] = []

    def context(self, **options: Any) -> Any:
        """A browser as nobody has used it before."""
        context = self.browser.new_context(**options)
        context.set_default_timeout(1000 * DEADLINE)
        self._contexts.append(context)
        return context

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def page(self, route: str = "/queues", secret: str = SECRET, **options: Any) -> Any:
        """The page at `route`, opened with a token, after its first look."""
        page = self.context(**{"viewport": {"width": 1360, "height": 820}, **options}).new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._said)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(f"{self.gate.url}/#token={secret}")
        if secret == SECRET:
            page.wait_for_selector("#strip")
        page.evaluate("route => { location.hash = route; }", f"#{route}")
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def sites(browser: Any, gates: Callable[..., Gate], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """Start a gateway over a fake host, whose page is to be looked at."""
    made: list[Site] = []

    def make(host: Host, every: float = 0.3, **options: Any) -> Site:
        monkeypatch.setattr(looks, "EVERY", every)
        monkeypatch.setattr(looks, "ask_host", host.look)
        monkeypatch.setattr(acts, "list_processes", host.answers)
        monkeypatch.setattr(acts, "ask_process", host.ask)
        made.append(Site(browser, gates(**options), host))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture
def shop(sites: Callable[..., Site]) -> Iterator[Site]:
    """The page of an order shop; nothing may go wrong in it, and it may ask nobody else."""
    site = sites(Shop())
    yield site
    assert site.errors == []
    assert {url.split("/")[2] for url in site.requests} <= {site.gate.url.removeprefix("http://")}
