"""Discovery backends of other packages, found by the entry points that they declare.

A package declares, in its pyproject.toml,

    [project.entry-points."peerfabric.discovery"]
    consul = "peerfabric_consul:ConsulBackend"

and is loaded only if `discovery=` names `consul`. What is declared is called with one argument, `BackendSettings`, and
gives a `Backend` whose `name` is that word. `peerfabric.discovery.conformance` has the tests for it.

Nothing that such a backend does can stop a node: errors that it raises are warnings, and announcements that it reports
are checked like those of strangers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from peerfabric.discovery.base import (
    Announcement,
    Backend,
    BackendSettings,
    Candidate,
    Event,
    Lost,
    Report,
    Sighting,
    Withdrawn,
)
from peerfabric.discovery.log import log
from peerfabric.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "peerfabric.discovery"

_METHODS: Final = ("announce", "watch", "close")


def find_entry_point(name: str) -> EntryPoint | None:
    """The entry point that declares the backend `name`; None if no package does.

    Raises:
        ConfigError: Several packages do.
    """
    from importlib.metadata import entry_points  # loads much, for a name that is not ours only

    found = list(entry_points(group=GROUP, name=name))
    if len(found) > 1:
        raise ConfigError(
            f"discovery {name!r} is declared by several packages, {', '.join(sorted(map(_package, found)))}; "
            f"uninstall all but one"
        )
    return found[0] if found else None


def load_backend(name: str, settings: BackendSettings) -> Backend:
    """Make the backend `name` of another package.

    Raises:
        ConfigError: It cannot be loaded or made, or is no backend; the text names the package.
    """
    entry = find_entry_point(name)
    if entry is None:
        raise ConfigError(f"discovery {name!r} is declared by no package; install the one that has it")
    package = _package(entry)
    try:
        backend = entry.load()(settings)
    except Exception as error:
        raise ConfigError(
            f"discovery {name!r} of package {package} cannot be used: {type(error).__name__}: {error}; "
            f"upgrade or correct that package, or take {name!r} out of discovery="
        ) from error
    missing = [method for method in _METHODS if not callable(getattr(backend, method, None))]
    if missing or getattr(backend, "name", None) != name:
        problem = f"has no {', '.join(missing)}()" if missing else f"calls itself {getattr(backend, 'name', None)!r}"
        raise ConfigError(
            f"discovery {name!r} of package {package} is no backend: it {problem}; "
            f"upgrade that package, or take {name!r} out of discovery="
        )
    return PackagedBackend(backend, package)


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value


class PackagedBackend:
    """A backend of another package, of which no error comes through, and no announcement over the limits."""

    def __init__(self, backend: Backend, package: str) -> None:
        self.name: Final = backend.name
        self._backend, self._package = backend, package
        self._report: Report | None = None
        self._complained: set[str] = set()

    def announce(self, announcement: Announcement) -> None:
        try:
            self._backend.announce(announcement)
        except Exception as error:
            self._complain("announce()", error)

    def watch(self, report: Report) -> None:
        self._report = report
        try:
            self._backend.watch(self._take)
        except Exception as error:
            self._complain("watch()", error)

    def close(self) -> None:
        self._report = None  # whatever it does after this, nothing is reported
        try:
            self._backend.close()
        except Exception as error:
            self._complain("close()", error)

    def _take(self, event: Event) -> None:
        report = self._report
        if report is None:
            return
        try:
            event = _checked(event, self.name)
        except (msgspec.ValidationError, TypeError, AttributeError) as error:
            self._complain("its reports", error)
            return
        report(event)

    def _complain(self, where: str, error: Exception) -> None:
        if where not in self._complained:
            self._complained.add(where)
            log.log(
                logging.WARNING,
                "%s: error in %s of package %s: %s: %s; the node goes on without it, tell the authors of the package",
                self.name,
                where,
                self._package,
                type(error).__name__,
                error,
            )


def _checked(event: Event, source: str) -> Event:
    match event:
        case Sighting(seen=Announcement() as seen):
            # msgspec checks lengths only when it decodes.
            return Sighting(seen=msgspec.convert(msgspec.structs.asdict(seen), Announcement), source=source)
        case Sighting(seen=Candidate(endpoint=endpoint)):
            return Sighting(seen=Candidate(_text(endpoint)), source=source)
        case Lost(node_id=node_id):
            return Lost(node_id=_text(node_id), source=source)
        case Withdrawn(endpoint=endpoint):
            return Withdrawn(endpoint=_text(endpoint), source=source)
        case _:
            raise TypeError(f"{type(event).__name__} is no Sighting, Lost or Withdrawn")


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 255:
        raise TypeError(f"{value!r:.60} is no text of at most 255 characters")
    return value
