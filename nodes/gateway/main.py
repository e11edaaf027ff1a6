"""Server of the gateway's own process: the address it listens at, its life from start to drain."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import re
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgspec
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from peerfabric.discovery.host import runtime_folder
from peerfabric.errors import ConfigError, EndpointInUse
from peerfabric.gateway.app import Gateway
from peerfabric.gateway.auth import Tokens, drawn_token

BACKLOG: Final = 1024
KEEP_ALIVE: Final = 75
"""Seconds that an idle connection stays: longer than proxies keep theirs, so that they are the ones who close it."""
REQUEST_TIMEOUT: Final = 30.0
"""Seconds for the head of a request: who sends a byte a minute, or nothing, would hold a connection for ever."""
STALLED_MAX: Final = 60_000
"""Milliseconds for which a connection may take nothing of what was sent to it."""
GRACE: Final = 5
"""Seconds for answers that are being sent when all else is over."""
HEADERS_BYTES_MAX: Final = 32 * 1024
"""Of one request; 8 KiB of headers of a message among them, which HTTP may write three times as long."""
TOKEN_FILE: Final = "~gateway-token"
"""In the runtime folder, where no fabric's name has a '~'."""
HEARD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_TCP: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]/]+):(?P<port>\d{1,5})")


class Address(msgspec.Struct, frozen=True):
    """Where a gateway listens: a host and a port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address in `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.

        Raises:
            ConfigError: It is none.
        """
        if text.startswith("unix:") and text != "unix:":
            return cls(path=os.path.abspath(text.removeprefix("unix:")))
        found = _TCP.fullmatch(text)
        if found is None or int(found["port"]) > 65535:
            raise ConfigError(
                f"{text!r} is no address to listen at; give HOST:PORT, such as 127.0.0.1:7780, or unix:PATH"
            )
        return cls(found["host"].strip("[]").replace("*", "0.0.0.0"), int(found["port"]))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.path:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_any(self) -> bool:
        """Whether it is all addresses of this machine, and so none by which anybody asks."""
        return self.host in ("0.0.0.0", "::")

    @property
    def url(self) -> str:
        """For people, and for clients on this machine."""
        if self.path:
            return f"unix:{self.path}"
        return f"http://{self.shown_host}:{self.port}"

    @property
    def shown_host(self) -> str:
        """The host as URLs have it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def names(self, further: Sequence[str]) -> list[str]:
        """The names by which it may be asked: "*" for a unix socket, which no browser reaches.

        0.0.0.0 and [::] stand for every address, as `Origins` has it.
        """
        if self.path:
            return ["*"]
        local = ["localhost", "127.0.0.1", "[::1]"] if self.is_local else ["localhost"] if self.is_any else []
        return [self.shown_host, *local, *further]


def listening(address: Address, *, workers: int = 1) -> tuple[socket.socket, Address]:
    """A socket that listens at `address`, and that address with the port that it got, if it was 0.

    For several workers it only holds the port, and each has a socket of its own there (`own_socket`): the system shares
    connections out among these, where of one socket the first worker that wakes up would take most. A unix socket they
    have together. It is for this user alone, and one that nobody listens at any more is replaced.

    Raises:
        ConfigError: It cannot be had: EndpointInUse, somebody else has it.
    """
    try:
        if address.path:
            _remove_deaf(address.path)
            return _listened(_bound(address)), address
        sock = _bound(address)
        address = Address(address.host, sock.getsockname()[1])
        if workers == 1:
            return _listened(sock), address
        sock.close()  # nobody else has it: with the option that follows it could be shared with another gateway
        return _bound(address, shared=True), address
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = "another path" if address.path else f"another port, or {address.shown_host}:0 for a free one,"
            raise EndpointInUse(address.url, step=f"give {free} with --listen") from None
        step = "give another address with --listen"
        raise ConfigError(f"cannot listen at {address.url}: {error.strerror or error}; {step}") from None


def own_socket(held: socket.socket) -> socket.socket:
    """The socket of one worker, at the address that `held` holds; a unix socket is `held` itself.

    It does not listen yet: no connection comes to it before its worker can answer.

    Raises:
        OSError: There can be none.
    """
    if held.family == socket.AF_UNIX:
        return held
    host, port = held.getsockname()[:2]
    held.close()
    return _bound(Address(host, port), shared=True)


def _bound(address: Address, *, shared: bool = False) -> socket.socket:
    family = socket.AF_UNIX if address.path else socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if address.path:
            before = os.umask(0o177)
            try:
                sock.bind(address.path)
            finally:
                os.umask(before)
            return sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Connections inherit these. Head and body of an answer are written apart, and the second would wait for an
        # acknowledgement; a reader that never reads would hold what it is sent for a quarter of an hour.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MAX)
        sock.bind((address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _listened(sock: socket.socket) -> socket.socket:
    try:
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_deaf(path: str) -> None:
    """Remove a unix socket that nobody listens at, which a killed process has left."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # and bind refuses
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)
        except OSError:
            pass


def check_open(address: Address, token_file: str | None) -> None:
    """Refuse to be reached from elsewhere with the one token that was drawn.

    Raises:
        ConfigError: Others could connect, and there is no file of tokens.
    """
    if not address.is_local and token_file is None:
        raise ConfigError(
            f"{address.url} can be reached from other machines; give --token-file, and put TLS in front, "
            f"or listen at 127.0.0.1 or unix:PATH"
        )


class _Connection(H11Protocol):
    """A connection that ends when a request does not come in time, which uvicorn itself would wait for for ever.

    That is its head, or, where it is refused before it is whole, the rest of it.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._expect()
        else:
            self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._late is None:  # and each byte that drips in does not prolong it
            self._late = self.loop.call_later(REQUEST_TIMEOUT, self.transport.close)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Server(uvicorn.Server):
    """One gateway that serves a socket until it is told to stop.

    Args:
        ready: Called when it answers.
        signals: Whether SIGTERM, SIGINT and SIGHUP tell it to stop. A second one ends it at once.
    """

    def __init__(self, gateway: Gateway, *, ready: Callable[[], None] = lambda: None, signals: bool = True) -> None:
        super().__init__(
            uvicorn.Config(
                gateway,
                http=_Connection,  # also where httptools is installed, which limits no headers
                lifespan="off",
                log_config=None,
                access_log=False,
                ws="none",
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=GRACE + 2,  # who does not read has been cut off by then
                h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
            )
        )
        self.gateway = gateway
        self.signal = 0
        """Which one has ended it."""
        self._ready, self._signals = ready, signals
        self._over = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # which sets the date that answers have
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), 1.0)  # and not a tenth of a second

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting = asyncio.get_running_loop().call_later(GRACE, self._cut_off)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    def _cut_off(self) -> None:
        """End the connections of those who do not read their answers; cancelled, each would be an error in the log."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if not self._signals or threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in HEARD}
        for number in HEARD:
            if before[number] is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def _on_signal(self, number: int) -> None:
        if self._ending is not None:
            self.force_exit = True
            self._over.set()
            return
        self.signal = number
        self.stop()

    def stop(self) -> None:
        """Refuse what is new from now on; serve what settles what was taken before, for a while, and end then."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        self.gateway.drain()
        await self.gateway.close_parts()
        self.should_exit = True
        self._over.set()


async def serve(
    gateway: Gateway, sock: socket.socket, *, ready: Callable[[], None] = lambda: None, started: Any = None
) -> int:
    """Answer at `sock` until a signal ends it, whose number is returned.

    Args:
        started: Called with the server when there is one, for who stops it otherwise.

    Raises:
        FabricError: The node cannot start, or messages that no spool keeps are undelivered at its end.
    """
    async with gateway:
        server = Server(gateway, ready=ready)
        if started is not None:
            started(server)
        await server.serve([sock])
    return server.signal


def tokens_for(address: Address, token_file: str | None) -> Tokens | None:
    """Who may ask a gateway at `address`: those of a file, whoever has the drawn token, or all that reach the socket.

    Raises:
        ConfigError: The file, or the one of the drawn token, cannot be used.
    """
    if token_file is not None:
        return Tokens.read(token_file)
    if address.path:
        return None
    secret, _ = drawn_token(runtime_folder() / TOKEN_FILE)
    return Tokens.of(secret, "drawn")
