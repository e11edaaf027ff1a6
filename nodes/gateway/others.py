"""Other gateways, whose hosts are shown and acted on together with this one's."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from peerfabric.errors import ConfigError
from peerfabric.nodes.keys import read_private

OTHERS_MAX: Final = 64
"""Each costs a thread for as long as it takes to answer."""
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
LOOK_TIMEOUT: Final = 2.0
ACT_TIMEOUT: Final = 10.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Other(NamedTuple):
    """Another gateway: its name here, its URL with a "/" at the end, the token that it knows."""

    name: str
    url: str
    token: str = ""


class Answered(NamedTuple):
    """What another gateway said: a document, or the problem for which there is none."""

    name: str
    content: bytes | None
    problem: str


def others(also: Sequence[str], tokens: str | None = None) -> tuple[Other, ...]:
    """Read what `--also` was given.

    Args:
        also: "NAME=URL", or a URL, whose host is the name then.
        tokens: A file that is this user's alone, with lines "NAME TOKEN".

    Raises:
        ConfigError: One is no such thing, two have one name, or the file cannot be used. No token is repeated.
    """
    known = _tokens(tokens) if tokens is not None else {}
    found: dict[str, Other] = {}
    for given in also:
        name, _, url = given.partition("=") if re.match(r"[^/:]*=", given) else ("", "", given)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"--also {given!r} leads to no gateway; give NAME=https://HOST:PORT/")
        if parts.username is not None or parts.password is not None:
            raise ConfigError(f"--also: the URL of {parts.hostname!r} has a password in it; use --also-tokens FILE")
        name = name or parts.hostname
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--also {given!r}: {name!r} is no name; use letters, digits, '_', '-' and '.'")
        if name in found:
            raise ConfigError(f"--also: two gateways are called {name!r}; give each NAME=URL with a name of its own")
        found[name] = Other(name, url.rstrip("/") + "/", known.pop(name, ""))
    if known:
        raise ConfigError(f"{tokens}: has a token of {min(known)!r}, which no --also names; name it, or take it out")
    if len(found) > OTHERS_MAX:
        raise ConfigError(f"--also names {len(found)} gateways, over the limit of {OTHERS_MAX}; leave some out")
    return tuple(found.values())


def _tokens(path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    content = read_private(path, f"token file {path}", "give a file of lines NAME TOKEN", most=1 << 20)
    for number, line in enumerate(content.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise ConfigError(f"{os.fspath(path)}, line {number}: has {len(words)} words; write NAME TOKEN")
        found[words[0]] = words[1]
    return found


async def ask_all(
    known: Sequence[Other],
    method: str,
    path: Sequence[str],
    query: Mapping[str, Any],
    body: bytes | None = None,
    timeout: float = ACT_TIMEOUT,
) -> list[Answered]:
    """Ask all gateways the same at once; each only for its own host, so that two that name each other make no circle.

    Args:
        path: The parts of it, as they are before they are quoted.
    """
    target = "/".join(quote(part, safe=":") for part in path)
    target += "?" + urlencode({**query, "own": 1})
    if not known:
        return []
    loop = asyncio.get_running_loop()
    # Threads of its own: those that wait for hosts that are gone would keep the loop's from all else.
    pool = ThreadPoolExecutor(len(known), thread_name_prefix="peerfabric-others")
    try:
        asked = [loop.run_in_executor(pool, _ask, other, method, target, body, timeout) for other in known]
        # Time is counted at each read there: who sends a byte a second would hold all the others up.
        ended = await asyncio.gather(*(asyncio.wait_for(each, 1.5 * timeout) for each in asked), return_exceptions=True)
    finally:
        pool.shutdown(wait=False)
    late = f"did not answer in {timeout:g} s"
    return [
        Answered(other.name, None, late) if isinstance(found, BaseException) else found
        for other, found in zip(known, ended, strict=True)
    ]


def _ask(other: Other, method: str, target: str, body: bytes | None, timeout: float) -> Answered:
    parts = urlsplit(other.url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    headers = {"Accept": "application/json"}
    if other.token:
        headers["Authorization"] = f"Bearer {other.token}"
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, parts.path + target, body, headers)
        answer = connection.getresponse()
        content = answer.read(ANSWER_BYTES_MAX + 1)
    except TimeoutError:
        return Answered(other.name, None, f"did not answer in {timeout:g} s")
    except (OSError, http.client.HTTPException) as error:
        return Answered(other.name, None, f"cannot be reached: {getattr(error, 'strerror', None) or repr(error)}")
    finally:
        connection.close()
    if len(content) > ANSWER_BYTES_MAX:
        return Answered(other.name, None, "answered too much")
    if answer.status != 200:
        return Answered(other.name, None, _refusal(answer.status, content))
    return Answered(other.name, content, "")


def _refusal(status: int, content: bytes) -> str:
    try:
        detail = msgspec.json.decode(content, type=dict[str, Any]).get("detail", "")
    except (msgspec.MsgspecError, UnicodeError):
        detail = ""
    return f"answered {status}: {detail}" if detail else f"answered {status}"
