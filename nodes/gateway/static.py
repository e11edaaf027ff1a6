"""Files of the page, which shows the status and holds nothing itself: it needs no token, what it asks for does."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from peerfabric.gateway.operations import Operation
from peerfabric.gateway.problems import Problem

TYPES: Final = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
}

HEADERS: Final = {
    # Nothing of the page comes from elsewhere or is in the page itself, and nobody frames it to have it clicked on.
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # It is asked for each time, and answered in a line if it is the same.
    "Cache-Control": "no-cache",
}


class File(NamedTuple):
    """One file as it is sent: as it is, or `packed` by gzip; each form has a tag of its own."""

    content: bytes
    packed: bytes
    media_type: str
    tag: str


@cache
def page() -> dict[str, File]:
    """The files of the page by name."""
    found = {}
    for entry in files("peerfabric.gateway").joinpath("page").iterdir():
        media_type = TYPES.get(entry.name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            tag = hashlib.blake2b(content, digest_size=12).hexdigest()
            found[entry.name] = File(content, gzip.compress(content, mtime=0), media_type, tag)
    return found


async def _index(request: Request) -> Response:
    return _sent(request, "index.html")


async def _file(request: Request) -> Response:
    return _sent(request, request.path_params["file"])


def _sent(request: Request, name: str) -> Response:
    file = page().get(name)
    if file is None:
        raise Problem(404, "", f"the page has no file {name!r}; open / of this gateway", code="no-file")
    is_packed = "gzip" in request.headers.get("accept-encoding", "")
    headers = {**HEADERS, "Vary": "Accept-Encoding", "ETag": f'"{file.tag}{"-gzip" if is_packed else ""}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    return Response(file.packed if is_packed else file.content, headers=headers, media_type=file.media_type)


OPERATIONS: Final = [
    Operation(
        method="GET",
        path="/",
        name="getPage",
        scope="",
        handle=_index,
        summary="The page that shows the status, for people",
        answers={200: ("the page", {"type": "string", "contentMediaType": "text/html"})},
    ),
    Operation(
        method="GET",
        path="/page/{file}",
        name="getPageFile",
        scope="",
        handle=_file,
        summary="A file of that page",
        answers={200: ("the file", {"type": "string", "contentMediaType": "text/javascript"})},
    ),
]
