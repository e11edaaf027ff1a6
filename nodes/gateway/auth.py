"""Access to the gateway: tokens with scopes, the hosts it answers to, and pages of other origins."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

from peerfabric.errors import BadName, ConfigError
from peerfabric.gateway.problems import Problem
from peerfabric.names import check_name, check_pattern
from peerfabric.nodes.keys import read_private

if TYPE_CHECKING:
    from starlette.requests import Request

    from peerfabric.gateway.operations import Operation

Scope = Literal["send", "take", "publish", "subscribe", "call", "read", "admin"]
SCOPES: Final = frozenset[str](get_args(Scope))
READING: Final = frozenset({"", "read", "subscribe"})
"""Scopes whose operations change nothing."""
EVERYTHING: Final = ">"
ALL_ADDRESSES: Final = frozenset({"0.0.0.0", "[::]"})
SECRET_LENGTH_MIN: Final = 16
TOKENS_MAX: Final = 1_000
"""Each is compared with for every request."""
FILE_BYTES_MAX: Final = 512 * 1024
LOOK_EVERY: Final = 1.0
"""Seconds between two looks whether the file of tokens has changed."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HOST: Final = re.compile(r"(?:\[[0-9a-f:.]+\]|[^\s/?#@\\\[\]:]*)(?::\d{0,5})?")
"""With anything else in it, it would be a path, too, to who puts it into a URL."""
_SECRET: Final = re.compile(rf"[!-~]{{{SECRET_LENGTH_MIN},256}}")

_log = logging.getLogger("peerfabric")


class Token(msgspec.Struct, frozen=True):
    """Somebody who may ask: a name for the log, and scopes with the pattern of the names that each is for."""

    name: str
    grants: frozenset[tuple[str, str]]

    def allows(self, scope: str, name: str | None) -> bool:
        """Whether it may do what needs `scope` with what is called `name`, or matches that pattern.

        None: with everything that there is. "admin" includes "read".
        """
        wanted = ("read", "admin") if scope == "read" else (scope,)
        return any(
            covers(pattern, EVERYTHING if name is None else name)
            for granted, pattern in self.grants
            if granted in wanted
        )

    def has(self, scope: str) -> bool:
        """Whether it may do what needs `scope` with something."""
        return any(granted == scope for granted, _ in self.grants)


ANYBODY: Final = Token("anybody", frozenset((scope, EVERYTHING) for scope in SCOPES))
"""Whoever asks a gateway that asks nobody for a token."""


def covers(pattern: str, name: str) -> bool:
    """Whether `pattern` selects `name`, or, if that is a pattern itself, all that it selects."""
    if pattern in (EVERYTHING, name):
        return True
    wanted, parts = pattern.split("."), name.split(".")
    rest = wanted[-1] == EVERYTHING
    if rest:
        wanted = wanted[:-1]
        if len(parts) <= len(wanted):
            return False
        parts = parts[: len(wanted)]
    return len(wanted) == len(parts) and all(
        have != EVERYTHING and want in ("*", have) for want, have in zip(wanted, parts, strict=True)
    )


class Tokens:
    """The tokens that a gateway knows; those of a file are read again when it changes.

    Args:
        tokens: Secret → whose it is.
        path: The file that they are from, if they are.
    """

    def __init__(self, tokens: Mapping[str, Token], *, path: str = "") -> None:
        self._known = [(_digest(secret), token) for secret, token in tokens.items()]
        self.path = path
        self._stamp = _stamp(path)
        self._looked_at = time.monotonic()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Tokens:
        """The tokens of a file: a line each, `NAME:SCOPE,SCOPE:PATTERN:SECRET`, and comments after #.

        Lines with one secret are one token, with all that they allow. PATTERN is of names of queues, topics and
        services: `*` is one part of a name, `>` all that follows.

        Raises:
            ConfigError: It cannot be read, others may read it, or a line is none such. No secret is repeated.
        """
        path = os.fspath(path)
        return cls(_parse(_content(path), path), path=path)

    @classmethod
    def of(cls, secret: str, name: str = "token", scopes: Sequence[str] = tuple(SCOPES)) -> Tokens:
        """One token, for everything or for `scopes`."""
        return cls({secret: Token(name, frozenset((scope, EVERYTHING) for scope in scopes))})

    def find(self, secret: str) -> Token | None:
        """Whose `secret` is; None: nobody's. How long it takes tells nothing of the secrets."""
        if self.path and time.monotonic() >= self._looked_at + LOOK_EVERY:
            self._look()
        given, found = _digest(secret), None
        for digest, token in self._known:
            if hmac.compare_digest(digest, given):
                found = token  # and on to the last one
        return found

    def _look(self) -> None:
        """Read the file again if it has changed. Those known stay as they are if it is wrong now."""
        self._looked_at, stamp = time.monotonic(), _stamp(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._known = [(_digest(secret), token) for secret, token in _parse(_content(self.path), self.path).items()]
        except ConfigError as error:
            _log.error("the tokens stay as they were: %s", error)
        else:
            _log.info("read %d tokens from %s", len(self._known), self.path)


def _digest(secret: str) -> bytes:
    # Digests have one length, so that comparing them does not tell that of a secret.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _stamp(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _content(path: str) -> str:
    step = "give a file of lines NAME:SCOPE,SCOPE:PATTERN:SECRET"
    return read_private(path, f"token file {path}", step, most=FILE_BYTES_MAX)


def _parse(content: str, path: str) -> dict[str, Token]:
    grants: dict[str, tuple[str, set[tuple[str, str]]]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        parts = line.split(":", 3)
        if len(parts) < 4:
            raise ConfigError(f"{where}: has {len(parts)} parts; write NAME:SCOPE,SCOPE:PATTERN:SECRET")
        name, scopes, pattern, secret = (part.strip() for part in parts)
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: {name!r} is no name of a token; use letters, digits, '_', '-' and '.'")
        wanted = {scope.strip() for scope in scopes.split(",")}
        if not wanted <= SCOPES:
            strange = sorted(wanted - SCOPES)[0]
            raise ConfigError(f"{where}: there is no scope {strange!r}; use some of {', '.join(sorted(SCOPES))}")
        try:
            check_pattern(pattern)
        except BadName as error:
            raise ConfigError(f"{where}: {error}") from None
        if not _SECRET.fullmatch(secret):
            raise ConfigError(
                f"{where}: the secret has fewer than {SECRET_LENGTH_MIN} characters, more than 256, or blanks; "
                f"draw one: `openssl rand -base64 24`"
            )
        known, granted = grants.setdefault(secret, (name, set()))
        if known != name:
            raise ConfigError(f"{where}: has the secret of {known!r}; give each name a secret of its own")
        granted.update((scope, pattern) for scope in wanted)
    if not grants:
        raise ConfigError(f"{path}: has no token; write lines NAME:SCOPE,SCOPE:PATTERN:SECRET")
    if len(grants) > TOKENS_MAX:
        raise ConfigError(f"{path}: has {len(grants):,} tokens, over the limit of {TOKENS_MAX:,}; let some share one")
    return {secret: Token(name, frozenset(granted)) for secret, (name, granted) in grants.items()}


def drawn_token(path: Path) -> tuple[str, bool]:
    """The token in the file at `path`, for this user alone, and whether it was drawn just now as there was none.

    It stays there, so that a gateway that is started again has the token of before.

    Raises:
        ConfigError: The file cannot be written, or others may read it.
    """
    try:
        if path.exists():
            known = _content(os.fspath(path)).strip()
            if _SECRET.fullmatch(known):
                return known, False
        secret = secrets.token_urlsafe(32)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(f"{secret}\n")
        os.rename(beside, path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; set PEERFABRIC_RUNTIME to a folder of yours") from error
    return secret, True


# What a request says of itself


class Origins:
    """The hosts by whose names a gateway is asked, and the origins of pages that may ask it.

    A page of any site can send requests to this machine, and, with a name of its own that leads here, read the answers
    ("DNS rebinding"). The browser says where a page is from (Origin), and by what name it asks (Host).

    Args:
        hosts: "NAME" or "NAME:PORT"; None: any, which is safe where everybody needs a token. With "0.0.0.0" or "[::]"
            in it any address is one: no name leads to it, so no page can have it as a name of its own.
        cors: Origins beside that of a host itself, such as "https://shop.example".
    """

    def __init__(self, hosts: Sequence[str] | None, cors: Sequence[str] = ()) -> None:
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._any_address = self._hosts is not None and not self._hosts.isdisjoint(ALL_ADDRESSES)
        for origin in cors:
            if not re.fullmatch(r"https?://[^/\s*?#@]+", origin):
                raise ConfigError(f"{origin!r} is no origin; give SCHEME://HOST or SCHEME://HOST:PORT, each by itself")
        self._cors = frozenset(origin.lower() for origin in cors)

    def check(self, host: str, origin: str | None, *, by_any_name: bool = False) -> str | None:
        """Whom the answer may be shown to beside the gateway's own pages: an origin of `cors`, or None.

        Args:
            by_any_name: What is asked for tells nothing that a page could want: any host is let in.

        Raises:
            Problem: 400, that is no host; 403, it is asked by another name, or by a page of another origin.
        """
        host = host.lower()
        if not _HOST.fullmatch(host):
            detail = f"{host!r} is no host; send the header Host: NAME, or NAME:PORT"
            raise Problem(400, "Bad host", detail, code="bad-host")
        if not by_any_name and not self._is_ours(host):
            raise Problem(
                403,
                "Foreign host",
                f"this gateway is not called {host!r}; use the address it listens at, or start it with --host",
                code="foreign-host",
            )
        if origin is None:
            return None
        origin = origin.lower()
        if origin in self._cors:
            return origin
        if origin.partition("://")[2] != host:
            raise Problem(
                403,
                "Foreign origin",
                f"pages of {origin!r} may not ask this gateway; start it with --cors {origin}, if they shall",
                code="foreign-origin",
            )
        return None

    def _is_ours(self, host: str) -> bool:
        if self._hosts is None or host in self._hosts or _name(host) in self._hosts:
            return True
        return self._any_address and _is_address(_name(host))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """A host without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def authenticate(request: Request, tokens: Tokens | None) -> Token:
    """Who asks.

    Raises:
        Problem: 401, it gives no token, or one that nobody has.
    """
    if tokens is None:
        return ANYBODY
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Problem(
            401,
            "No token",
            "this needs a token; send the header Authorization: Bearer TOKEN",
            code="no-token",
            headers={"WWW-Authenticate": 'Bearer realm="peerfabric"'},
        )
    token = tokens.find(secret.strip())
    if token is None:
        raise Problem(
            401,
            "Unknown token",
            "nobody has this token; look at the gateway's --token-file, or at ~gateway-token in its runtime folder",
            code="unknown-token",
            headers={"WWW-Authenticate": 'Bearer realm="peerfabric", error="invalid_token"'},
        )
    return token


def authorize(token: Token, operation: Operation, path: Mapping[str, str]) -> None:
    """See that a token may do what it asks for.

    What is about no single name needs a grant for some, if it shows only what the asker has taken itself, and one for
    everything, if it reads or acts.

    Raises:
        BadName: Nothing can be called what it is about, whoever asks.
        Problem: 403, it may not.
    """
    scope = operation.scope
    if operation.subject:
        name = path[operation.subject]
        if operation.subject == "pattern":
            check_pattern(name)
        else:
            check_name(operation.subject, name)
        allowed, about = token.allows(scope, name), f" for {name!r}"
    elif scope in ("read", "admin"):
        allowed, about = token.allows(scope, None), " for everything (pattern '>')"
    else:
        allowed, about = token.has(scope), ""
    if not allowed:
        raise Problem(
            403,
            "Not allowed",
            f"token {token.name!r} has no scope {scope!r}{about}; add it to the gateway's --token-file",
            code="not-allowed",
        )
