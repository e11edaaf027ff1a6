"""Configuration of a node: a TOML file that is named, variables, and arguments, merged key by key.

    arguments  >  variables  >  file  >  defaults, by key; `peers` of all three are joined

A file is read only where `config=` or `PEERFABRIC_CONFIG` names it, never because it lies in the working folder: it
would be somebody else's. `options` is one key: an argument replaces the whole table. Relative paths in a file are
meant from its own folder, those of variables and arguments from the working folder.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import structs

from peerfabric.arguments import shown
from peerfabric.errors import ConfigError
from peerfabric.nodes.settings import Hidden, Settings, checked_settings
from peerfabric.options import Options

CONFIG_VARIABLE: Final = "PEERFABRIC_CONFIG"
SECRET_VARIABLE: Final = "PEERFABRIC_SECRET"
SECRET_FILE_VARIABLE: Final = "PEERFABRIC_SECRET_FILE"
FILE_BYTES_MAX: Final = 1024 * 1024
"""Of a configuration file. A list of 10,000 nodes takes some 600 KiB."""
ACCESS_MAX: Final = 16_384
"""Entries in `allow` or `revoked`."""

_NODE_ID: Final = re.compile(r"[0-9a-f]{32}")

_VARIABLES: Final[Mapping[str, str]] = {
    "PEERFABRIC_NAME": "name",
    "PEERFABRIC_FABRIC": "fabric",
    "PEERFABRIC_REACH": "reach",
    "PEERFABRIC_LISTEN": "listen",
    SECRET_FILE_VARIABLE: "secret",
    SECRET_VARIABLE: "secret",
    "PEERFABRIC_IDENTITY": "identity",
    "PEERFABRIC_INTERFACES": "interfaces",
    "PEERFABRIC_ADVERTISE": "advertise",
    "PEERFABRIC_PEERS": "peers",
    "PEERFABRIC_DISCOVERY": "discovery",
    "PEERFABRIC_SPOOL": "spool",
}
VARIABLES: Final = (CONFIG_VARIABLE, *_VARIABLES)
"""All variables that configure a node. Others whose names begin alike mean nothing to it: Kubernetes makes some where
a service is called peerfabric."""
_DEFAULTS: Final[Mapping[str, Any]] = {
    "name": None,
    "fabric": None,
    "listen": "auto",
    "peers": (),
    "discovery": "auto",
    "options": None,
    "spool": None,
    "fsync": False,
    "signals": False,
}
_LISTS: Final = frozenset({"interfaces", "advertise", "peers"})


class Configuration(NamedTuple):
    """What a node is to be made with: `values`, those of its arguments that are given anywhere; `sources` says where.

    The value of `secret` names where a secret lies and is none itself, so both can be shown.
    """

    values: dict[str, Any]
    sources: dict[str, str]


def merged(
    arguments: Mapping[str, Any], environ: Mapping[str, str], path: str | os.PathLike[str] | None = None
) -> Configuration:
    """Join what was given in three places; nothing is opened but the file, and nothing is remembered.

    Args:
        arguments: Those of `Node`, by name; None: not given.
        environ: Its variables; an empty one is not set.
        path: The configuration file; None: the one that `PEERFABRIC_CONFIG` names, if there is one.

    Raises:
        ConfigError: The file or a variable cannot be used; the text names it, the key, and what to write.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    path = path if path is not None else environ.get(CONFIG_VARIABLE) or None
    levels = [
        (given, dict.fromkeys(given, "argument")),
        _from_variables(environ),
        _from_file(path) if path is not None else ({}, {}),
    ]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for found, where in levels:
        for key, value in found.items():
            if key not in values:
                values[key], sources[key] = value, where[key]
    _join_peers(values, sources, levels)
    return Configuration(values, sources)


def configured(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """The checked settings of a node that was made with `arguments`, of which None are not given.

    `environ` has its variables; None: those of this process.

    Raises:
        ConfigError: Something in one of the three places cannot work; the text says in which, if not in the arguments.
    """
    secret = arguments.get("secret")
    if isinstance(secret, Hidden) and secret.value is None:
        arguments = {**arguments, "secret": None}
    environ = environ if environ is not None else os.environ
    path = arguments.get("config")
    values, sources = merged({key: value for key, value in arguments.items() if key != "config"}, environ, path)
    config = path if path is not None else environ.get(CONFIG_VARIABLE) or None
    try:
        settings = checked_settings(**{**_DEFAULTS, **values}, config=config)
    except ConfigError as error:
        wrong = re.match(r"\w+(?==)", str(error))
        source = sources.get(wrong[0], "argument") if wrong is not None else "argument"
        if source == "argument" or type(error) is not ConfigError:
            raise
        raise ConfigError(f"{error} (it is given by {source})") from None
    source = sources.get("listen", "argument")
    return structs.replace(settings, listen_source=source) if source != "argument" else settings


def _join_peers(
    values: dict[str, Any], sources: dict[str, str], levels: list[tuple[dict[str, Any], dict[str, str]]]
) -> None:
    """Peers are those of every level. Those of the environment go unused where the static backend was not chosen."""
    if any(not isinstance(found.get("peers", []), list | tuple) for found, _ in levels):
        return  # an argument that is wrong, which is for the check of all arguments to say
    chosen = values.get("discovery", "auto")
    unused = isinstance(chosen, list | tuple) and not {"static", "dns"}.intersection(map(str, chosen))
    joined, where = list[Any](), list[str]()
    for found, place in levels:
        if found.get("peers") and not (unused and place["peers"] == "PEERFABRIC_PEERS"):
            joined += found["peers"]
            where.append(place["peers"])
    values.pop("peers", None)
    sources.pop("peers", None)
    if joined:
        values["peers"], sources["peers"] = tuple(_unique(joined)), " and ".join(where)


def _unique(items: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


# Variables


def _from_variables(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for variable, key in _VARIABLES.items():
        text = environ.get(variable)
        if not text:
            continue
        if key in values:  # the one key with two
            raise ConfigError(
                f"{sources[key]} and {variable} are both set; unset one of them "
                f"({SECRET_FILE_VARIABLE} takes two paths with a comma between)"
            )
        sources[key] = variable
        values[key] = _variable(variable, key, text)
    return values, sources


def _variable(variable: str, key: str, text: str) -> Any:
    if variable == SECRET_VARIABLE:
        return "insecure" if text.strip() == "insecure" else f"env:{SECRET_VARIABLE}"
    if variable == SECRET_FILE_VARIABLE:
        if "pf1-" in text:
            raise ConfigError(
                f"{variable} holds a secret; it takes the path of a file, and {SECRET_VARIABLE} the text itself"
            )
        return _one_or_several([f"file:{path}" for path in _words(text, r",")])
    if key in _LISTS:
        return tuple(_words(text, r"[,\s]+"))
    if key == "discovery":
        return _one_or_several(_words(text, r"[,\s]+"))
    return text


def _words(text: str, separator: str) -> list[str]:
    return [word.strip() for word in re.split(separator, text) if word.strip()]


def _one_or_several(words: list[str]) -> str | tuple[str, ...]:
    return words[0] if len(words) == 1 else tuple(words)


# File


def _from_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"config={shown(path)} is no path; give that of a TOML file")
    name = os.path.abspath(os.fsdecode(path))
    values = values_of(name, _read(name))
    return values, {key: f"{name} {_place(key)}" for key in values}


def values_of(name: str, data: bytes) -> dict[str, Any]:
    """The arguments of a node that are in a file of that absolute path, which holds `data`.

    Raises:
        ConfigError: As of `merged`.
    """
    document = _parsed(name, data)
    reader = _Reader(name)
    values = {
        **reader.node(reader.table(document, "node")),
        **reader.options(reader.table(document, "options")),
        **reader.access(reader.table(document, "access")),
    }
    for key in document:
        if key not in ("node", "options", "access"):
            raise reader.unknown("", key, ("node", "options", "access"))
    return values


def _place(key: str) -> str:
    if key == "options":
        return "[options]"
    return f"[access].{key}" if key in ("allow", "revoked") else f"[node].{key}"


def _read(name: str) -> bytes:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for ever.
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError:  # a path with a NUL
        raise ConfigError(f"configuration {name!r}: is no path; give that of a TOML file") from None
    except OSError as error:
        step = "create it, or correct config= or PEERFABRIC_CONFIG"
        if error.errno == errno.EACCES:
            step = "let this user read it"
        raise ConfigError(f"configuration {name}: {error.strerror}; {step}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"configuration {name}: is not a regular file; give the path of a TOML file")
        if status.st_size > FILE_BYTES_MAX:
            raise ConfigError(f"configuration {name}: is over {FILE_BYTES_MAX:,} bytes; make it shorter")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"configuration {name}: {error.strerror}; look at the disk, then try again") from None
    finally:
        os.close(descriptor)


def _parsed(name: str, data: bytes) -> dict[str, Any]:
    import tomllib  # only who names a file pays for it

    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration {name}: is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration {name}: {_shown(str(error))}; correct it there") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets within brackets
        raise ConfigError(f"configuration {name}: has a value that cannot be read; make it simpler") from None


class _Reader:
    """What the tables of one file may hold. Texts of errors name file and key, and repeat no value."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._folder = os.path.dirname(name)

    def _wrong(self, place: str, problem: str) -> ConfigError:
        return ConfigError(f"configuration {self._name}: {place}: {problem}")

    def unknown(self, table: str, key: str, known: Iterable[str]) -> ConfigError:
        known = tuple(known)
        near = difflib.get_close_matches(key[:60], known, 1)
        step = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        return self._wrong(f"{table}.{_shown(key)}" if table else _shown(key), f"unknown; {step}")

    def table(self, document: dict[str, Any], key: str) -> dict[str, Any]:
        value = document.get(key, {})
        if not isinstance(value, dict):
            raise self._wrong(key, f"is {_kind(value)}; write a table, [{key}]")
        return value

    def node(self, table: dict[str, Any]) -> dict[str, Any]:
        for key in table:
            if key not in _NODE:
                raise self.unknown("[node]", key, _NODE)
        values = {key: _NODE[key](self, f"[node].{key}", value) for key, value in table.items()}
        for key in ("identity", "spool"):
            if key in values:
                values[key] = self._path(f"[node].{key}", values[key])
        if "secret" in values:
            found = values["secret"]
            sources = [self._secret(each) for each in ([found] if isinstance(found, str) else found)]
            values["secret"] = sources[0] if isinstance(found, str) else tuple(sources)
        return values

    def _path(self, place: str, text: str) -> str:
        if not text or "\0" in text:
            raise self._wrong(place, "is no path; write one, or leave the key out")
        return os.path.join(self._folder, text)

    def _secret(self, text: str) -> str:
        place = "[node].secret"
        if "pf1-" in text:  # not even as a part of a path, which is shown
            raise self._wrong(place, 'holds a secret; keep it in a file of its own and write "file:PATH"')
        if text.startswith("file:"):
            return f"file:{self._path(place, text.removeprefix('file:'))}"
        if text != "insecure" and not text.startswith("env:"):
            raise self._wrong(place, 'names no secret; write "file:PATH", "env:NAME" or "insecure"')
        return text

    def text(self, place: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self._wrong(place, f"is {_kind(value)}; write a text in quotes")
        return value

    def texts(self, place: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise self._wrong(place, f'is {_kind(value)}; write a list of texts, ["…"]')
        return tuple(self.text(f"{place}[{index}]", item) for index, item in enumerate(value))

    def text_or_texts(self, place: str, value: Any) -> str | tuple[str, ...]:
        return self.text(place, value) if isinstance(value, str) else self.texts(place, value)

    def flag(self, place: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise self._wrong(place, f"is {_kind(value)}; write true or false")
        return value

    def options(self, table: dict[str, Any]) -> dict[str, Any]:
        fields = Options.__struct_fields__
        for key, value in table.items():
            if key not in fields:
                raise self.unknown("[options]", key, fields)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self._wrong(f"[options].{key}", f"is {_kind(value)}; write a number")
        try:
            return {"options": Options(**table)} if table else {}
        except ConfigError as error:
            raise self._wrong("[options]", str(error)) from None

    def access(self, table: dict[str, Any]) -> dict[str, Any]:
        for key in table:
            if key not in ("allow", "revoked"):
                raise self.unknown("[access]", key, ("allow", "revoked"))
        values: dict[str, Any] = {}
        if "allow" in table:
            values["allow"] = self._allowed(table["allow"])
        if "revoked" in table:
            ids = self._few("[access].revoked", self.texts("[access].revoked", table["revoked"]))
            values["revoked"] = tuple(self._id(f"[access].revoked[{index}]", each) for index, each in enumerate(ids))
        return values

    def _allowed(self, entries: Any) -> tuple[str, ...]:
        place, form = "[access].allow", '{id = "…", name = "…"}'
        if not isinstance(entries, list):
            raise self._wrong(place, f"is {_kind(entries)}; write a list of {form}")
        if not entries:
            raise self._wrong(place, "is empty, which would let nobody in; leave it out to let in all with the secret")
        ids = []
        for index, entry in enumerate(self._few(place, entries)):
            here = f"{place}[{index}]"
            if not isinstance(entry, dict):
                raise self._wrong(here, f"is {_kind(entry)}; write {form}")
            for key in entry:
                if key not in ("id", "name"):
                    raise self.unknown(here, key, ("id", "name"))
            if "id" not in entry:
                raise self._wrong(here, f"has no id; write {form}, with the id that `peerfabric id` prints there")
            self.text(f"{here}.name", entry.get("name", ""))
            ids.append(self._id(f"{here}.id", self.text(f"{here}.id", entry["id"])))
        return tuple(dict.fromkeys(ids))

    def _few(self, place: str, entries: Sequence[Any]) -> Sequence[Any]:
        if len(entries) > ACCESS_MAX:
            raise self._wrong(place, f"has {len(entries):,} entries; {ACCESS_MAX:,} are the most, use a new secret")
        return entries

    def _id(self, place: str, text: str) -> str:
        if not _NODE_ID.fullmatch(text):
            raise self._wrong(place, "is no node id; write the 32 characters that `peerfabric id` prints there")
        return text


_NODE: Final[dict[str, Callable[[_Reader, str, Any], Any]]] = {
    "name": _Reader.text,
    "fabric": _Reader.text,
    "reach": _Reader.text,
    "listen": _Reader.text,
    "secret": _Reader.text_or_texts,
    "identity": _Reader.text,
    "interfaces": _Reader.texts,
    "advertise": _Reader.texts,
    "peers": _Reader.texts,
    "discovery": _Reader.text_or_texts,
    "spool": _Reader.text,
    "fsync": _Reader.flag,
}


def _kind(value: Any) -> str:
    """The TOML type of a value, in words; the value itself may be a secret."""
    kinds = ((bool, "a truth value"), (str, "a text"), (int | float, "a number"), (list, "a list"), (dict, "a table"))
    return next((words for kind, words in kinds if isinstance(value, kind)), "a date or time")


def _shown(text: str) -> str:
    """A text out of the file as it may stand in an error: short, printable, and without what looks like a secret."""
    text = re.sub(r"pf1-\S*", "pf1-…", text)
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= 200 else f"{text[:200]}…"


__all__ = ["CONFIG_VARIABLE", "SECRET_VARIABLE", "VARIABLES", "Configuration", "configured", "merged"]
