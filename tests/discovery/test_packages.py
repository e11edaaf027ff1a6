"""Backends of other packages: how they are found, and what their mistakes do."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peerfabric.discovery.backends import build_backends, check_choice
from peerfabric.discovery.base import Announcement, BackendSettings, Candidate, Lost, Report, Sighting, Withdrawn
from peerfabric.discovery.packages import PackagedBackend
from peerfabric.errors import ConfigError
from tests.discovery.conftest import Recorder, announcement_for


class Backend:
    """A backend of another package; it does as it is told."""

    name = "consul"
    settings: list[BackendSettings] = []

    def __init__(self, settings: BackendSettings) -> None:
        type(self).settings.append(settings)
        self.report: Report | None = None

    def announce(self, announcement: Announcement) -> None:
        pass

    def watch(self, report: Report) -> None:
        self.report = report

    def close(self) -> None:
        pass


class Lame(Backend):
    """It fails in all that it does."""

    def announce(self, announcement: Announcement) -> None:
        raise RuntimeError("no agent")

    def watch(self, report: Report) -> None:
        raise RuntimeError("no agent")

    def close(self) -> None:
        raise RuntimeError("no agent")


class Misnamed(Backend):
    name = "nomad"


class Broken(Backend):
    def __init__(self, settings: BackendSettings) -> None:
        raise ValueError("no token")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a package that declares a backend: a module, and the metadata that pip would write."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(what: str, package: str = "peerfabric-consul", name: str = "consul") -> None:
        info = site / f"{package.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[peerfabric.discovery]\n{name} = {what}\n")

    return install


HERE = "tests.discovery.test_packages"


def test_a_backend_is_found_by_its_name(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made with what it is told, among the others, in their order."""
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])
    install(f"{HERE}:Backend")
    Backend.settings.clear()
    check_choice(("consul", "registry"), ())
    assert Backend.settings == []
    backends = build_backends(fabric="tests", discovery=("consul", "registry"))
    assert [backend.name for backend in backends] == ["consul", "registry"]
    assert Backend.settings == [BackendSettings(fabric="tests", reach="host", key_ids=())]


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("no_such_module_of_ours:Backend", "ModuleNotFoundError: No module named"),
        (f"{HERE}:Missing", "AttributeError: module"),
        (f"{HERE}:Broken", "ValueError: no token"),
        (f"{HERE}:Misnamed", "it calls itself 'nomad'"),
        (f"{HERE}:announcement_for", "it has no announce, watch, close()"),
        (f"{HERE}:HERE", "TypeError"),
        (f"{HERE}:Recorder", "TypeError"),
    ],
)
def test_what_is_wrong_with_a_package(install: Any, monkeypatch: pytest.MonkeyPatch, what: str, problem: str) -> None:
    """The text names it, and what to do; a node is made only from a backend that can work."""
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])
    install(what)
    with pytest.raises(ConfigError) as caught:
        build_backends(fabric="tests", discovery="consul")
    text = str(caught.value)
    assert "discovery 'consul' of package peerfabric-consul 1.2 " in text
    assert problem in text
    assert text.endswith("that package, or take 'consul' out of discovery=")


def test_two_packages_with_one_name(install: Any) -> None:
    """Which of them is meant only the user knows."""
    install(f"{HERE}:Backend")
    install(f"{HERE}:Backend", "other-consul")
    with pytest.raises(ConfigError, match=r"several packages, other-consul 1\.2, peerfabric-consul 1\.2; uninstall"):
        check_choice("consul", ())


def test_our_own_names_are_ours(install: Any) -> None:
    """No package replaces a backend of ours."""
    install(f"{HERE}:Lame", name="registry")
    (backend,) = build_backends(fabric="tests", discovery="registry")
    assert not isinstance(backend, PackagedBackend)


def test_errors_of_a_backend_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """One for each kind; the node goes on."""
    lame = PackagedBackend(Lame(BackendSettings(fabric="tests", reach="host", key_ids=())), "peerfabric-consul 1.2")
    with caplog.at_level(logging.WARNING, "peerfabric"):
        for _ in range(2):
            lame.announce(announcement_for())
        lame.watch(Recorder())
        lame.close()
    assert len(caplog.messages) == 3
    assert all("of package peerfabric-consul 1.2: RuntimeError: no agent; " in text for text in caplog.messages)


def test_reports_are_checked(caplog: pytest.LogCaptureFixture) -> None:
    """As those of strangers are: limits, texts, and the source is the backend."""
    inner = Backend(BackendSettings(fabric="tests", reach="host", key_ids=()))
    backend, recorder = PackagedBackend(inner, "peerfabric-consul 1.2"), Recorder()
    backend.watch(recorder)
    assert inner.report is not None
    good = announcement_for(digest=b"d", outbox_key=b"k" * 32)
    bad: list[Any] = [
        Sighting(seen=announcement_for(node_id="../a"), source="consul"),
        Sighting(seen=announcement_for(inbox=("tcp://a:1",) * 17), source="consul"),
        Sighting(seen=Candidate(b"tcp://a:1"), source="consul"),  # type: ignore[arg-type]
        Sighting(seen="tcp://a:1", source="consul"),  # type: ignore[arg-type]
        Lost(node_id="a" * 300, source="consul"),
        "tcp://a:1",
    ]
    events: list[Any] = [
        Sighting(seen=good, source="registry"),
        Sighting(seen=Candidate("tcp://10.0.0.1:1"), source="consul"),
        Withdrawn(endpoint="tcp://10.0.0.1:1", source="consul"),
        Lost(node_id="a", source="registry"),
    ]
    with caplog.at_level(logging.WARNING, "peerfabric"):
        for event in bad + events:
            inner.report(event)
    assert recorder.events == [
        Sighting(seen=good, source="consul"),
        Sighting(seen=Candidate("tcp://10.0.0.1:1"), source="consul"),
        Withdrawn(endpoint="tcp://10.0.0.1:1", source="consul"),
        Lost(node_id="a", source="consul"),
    ]
    assert len(caplog.messages) == 1
    backend.close()
    inner.report(Lost(node_id="b", source="consul"))
    assert len(recorder.events) == 4


def test_nothing_of_it_is_loaded_for_others() -> None:
    """Looking through what is installed takes its time."""
    code = (
        "import sys; from peerfabric.discovery.backends import build_backends;"
        "build_backends(fabric='tests', discovery=('registry', 'static', 'exchange'), peers=['tcp://127.0.0.1:1']);"
        "sys.exit('importlib.metadata' in sys.modules or 'peerfabric.discovery.packages' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
