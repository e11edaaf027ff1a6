"""Opened files of a starting node: its spool, the store of each queue, the ledgers of its consumers, and its keys."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from peerfabric.discovery.base import AnnounceKey
from peerfabric.discovery.remarks import remark
from peerfabric.engine import Engine
from peerfabric.errors import ConfigError, SpoolError, counted
from peerfabric.nodes import process
from peerfabric.nodes.aio.consumer import AsyncConsumer
from peerfabric.nodes.aio.options import BUFFER_BYTES, MAX_ATTEMPTS
from peerfabric.nodes.aio.producer import AsyncProducer
from peerfabric.reports import DeadLetter
from peerfabric.wire.frames import MSGPACK

if TYPE_CHECKING:
    from peerfabric.nodes.settings import Settings
    from peerfabric.nodes.storage.disk_thread import Disk
    from peerfabric.nodes.storage.ledger_store import LedgerStore
    from peerfabric.nodes.storage.store import Store
    from peerfabric.queue.durable import DurableQueue
    from peerfabric.secret import NodeKey, Secret
    from peerfabric.spool import Spool

_NODE_ID: Final = re.compile(r"[0-9a-f]{32}")


class Opened:
    """Opened in one thread or several, one after the other; `read` as often as handles are added meanwhile.

    Args:
        settings: Of the node, which say where all this lies.
        adopted: A slot of the shared folder that was opened for the node, and its number; None: it takes one itself.
            It is closed with all the rest.
    """

    def __init__(self, settings: Settings, adopted: tuple[int, Spool] | None = None) -> None:
        self.spool: Spool | None = None
        self.slot = 0
        """The number of its spool among the slots of `settings.spool`; there when `read` has returned."""
        self.node_id = ""
        """Of the node; there when `read` has returned, as the two after it."""
        self.key: NodeKey | None = None
        """By which the node proves its id; None if nobody asks it to, and the id is not to be the same again."""
        self.secrets: list[Secret] = []
        """Of the fabric, the preferred one first; none in the clear."""
        self._settings = settings
        self._adopted = adopted
        self._path, self._fsync = settings.spool, settings.fsync
        self._ledger_stores: list[LedgerStore] = []
        self._stores: dict[str, Store] = {}
        self._letters: dict[str, list[DeadLetter]] = {}

    @property
    def key_ids(self) -> list[str]:
        """The public names of the secrets; there are none in the clear."""
        return [secret.key_id(self._settings.fabric) for secret in self.secrets]

    @property
    def first_key_id(self) -> str:
        """That of the preferred one; empty in the clear."""
        return next(iter(self.key_ids), "")

    @property
    def announce_keys(self) -> list[AnnounceKey]:
        """What proves announcements, by each secret."""
        fabric = self._settings.fabric
        return [AnnounceKey(secret.key_id(fabric), secret.announce_key(fabric)) for secret in self.secrets]

    def read(self, producers: Mapping[str, AsyncProducer[Any]], consumers: Mapping[str, AsyncConsumer[Any]]) -> None:
        """Open what is not opened yet, and read what a start needs of it.

        Raises:
            SpoolError, ConfigError: Something cannot be used; all is closed again.
        """
        process.opens(self)
        try:
            self._read(producers, consumers)
        except BaseException:
            self.close()
            raise

    def _read(self, producers: Mapping[str, AsyncProducer[Any]], consumers: Mapping[str, AsyncConsumer[Any]]) -> None:
        for consumer in list(consumers.values()):
            if consumer.ledger_store is not None and consumer.ledger_store not in self._ledger_stores:
                consumer.ledger_store.open()
                self._ledger_stores.append(consumer.ledger_store)
        if not self.node_id:
            self._read_keys()
        if self._path is None:
            return
        if self.spool is None:
            self.slot, self.spool = self._adopted or self._take_slot()
            self._adopt_identity(self.spool)
            for queue in self.spool.queues():
                self._read_store(self.spool, queue, self._fsync)
        for queue, producer in list(producers.items()):
            if producer.spooled and queue not in self._stores:
                self._read_store(self.spool, queue, bool(producer.options.fsync))

    def _take_slot(self) -> tuple[int, Spool]:
        from peerfabric.nodes.storage.shared import SharedSpool  # where there is a spool only, as below

        return SharedSpool(self._settings).take(self._first_id)

    # Who the node is

    def _read_keys(self) -> None:
        """Find the secrets, and who the node is; with a spool that has to agree.

        Raises:
            ConfigError: One of them cannot be used.
        """
        settings = self._settings
        if settings.secrets:
            from peerfabric.nodes.keys import read_secrets

            self.secrets = read_secrets(settings.secrets)
        if settings.identity is not None:
            from peerfabric.nodes.keys import keep_node_key

            self.key = keep_node_key(settings.identity, _curve_public())
        elif settings.secrets and settings.spool is None:
            from peerfabric.nodes.keys import new_node_key

            self.key = new_node_key(_curve_public())
        # An id that nobody will ask for a proof of is as good without a key, and costs no module.
        self.node_id = self.key.node_id if self.key is not None else secrets.token_hex(16)

    def _first_id(self, slot: int) -> str:
        """The id of the node whose spool a new slot becomes; a key that it is made from is there before it is used."""
        from peerfabric.nodes.keys import first_node_key, slot_key
        from peerfabric.spool.slots import slot_folder

        assert self._path is not None
        key = self.key or first_node_key(self._path, slot_folder(self._path, slot), _curve_public())
        if key is not None:
            key = slot_key(key, slot, _curve_public())
        return key.node_id if key is not None else secrets.token_hex(16)

    def _adopt_identity(self, spool: Spool) -> None:
        """The node is the one that the spool belongs to.

        Raises:
            ConfigError: Its key is another one's, or one is needed and there is none.
        """
        from peerfabric.nodes.keys import KEY_FILE, read_node_key, slot_key

        settings, path, given = self._settings, spool.folder, self.key
        whose = settings.identity if settings.identity is not None else f"{self._path}/{KEY_FILE}"
        if given is None:
            given = read_node_key(whose, _curve_public())
        self.key = slot_key(given, self.slot, _curve_public()) if given is not None else None
        self.node_id = spool.node_id
        if self.key is not None:
            if self.key.node_id != spool.node_id:
                raise ConfigError(
                    f"the spool {path} belongs to node {spool.node_id}, and the key {whose} to node "
                    f"{self.key.node_id}; give each node the key and the spool that it began with"
                )
        elif settings.reach == "lan" and not _NODE_ID.fullmatch(spool.node_id):
            raise ConfigError(
                f"the spool {path} is of a version whose nodes have no key, so others could not tell who sends; "
                f"drain it with reach='host', or begin a new one"
            )
        elif settings.secrets:
            raise ConfigError(
                f"the spool {self._path} has no {KEY_FILE}, by which node {spool.node_id} proves who it is; put it "
                f"back, or drain the spool without secret= and begin a new one"
            )

    def _read_store(self, spool: Spool, queue: str, fsync: bool) -> None:
        store = open_store(spool, queue, fsync)
        self._letters[queue] = store.letters()
        self._stores[queue] = store

    def has_all(self, producers: Mapping[str, AsyncProducer[Any]], consumers: Mapping[str, AsyncConsumer[Any]]) -> bool:
        """Whether all is opened that these need."""
        return all(
            consumer.ledger_store is None or consumer.ledger_store in self._ledger_stores
            for consumer in consumers.values()
        ) and all(not producer.spooled or queue in self._stores for queue, producer in producers.items())

    def resume(self, disk: Disk, engine: Engine, producers: Mapping[str, AsyncProducer[Any]], now: float) -> None:
        """Go on with what is in the store of each queue that the spool has, and of each producer.

        Raises:
            ConfigError: A producer shall do without the spool that has messages of its queue.
        """
        for queue, producer in producers.items():
            if not producer.spooled and queue in self._stores and self._stores[queue].recovered().eras:
                raise ConfigError(f"the spool has messages of queue {queue!r}; do not give spool=False for it")
        disk.stores.update(self._stores)
        recovered = {queue: store.recovered() for queue, store in disk.stores.items()}
        for queue, store in disk.stores.items():
            handle, found = producers.get(queue), recovered[queue]
            codec = handle.codec.number if handle is not None else MSGPACK
            memory = handle.options.buffer_bytes if handle is not None else BUFFER_BYTES
            attempts = found.marks.max_attempts or MAX_ATTEMPTS if handle is None else handle.options.max_attempts
            store.end = cast("DurableQueue", engine.open_producer(queue, codec, attempts, memory, now, found))
            for letter in self._letters[queue]:
                store.end.restore_dead_letter(letter)
            left = store.end.account()
            if left.recovered:
                there = counted(left.recovered - left.damaged, "message")
                remark(logging.INFO, "queue %r: the spool has %s from before", queue, there)
        engine.producers.durable = bool(disk.stores)

    def forked(self) -> None:
        """In a child process: all that is open belongs to the parent."""
        for ledger_store in self._ledger_stores:
            ledger_store.abandon()
        if self.spool is not None:
            self.spool.abandon()

    def close(self) -> None:
        """The start came to nothing. May be called twice."""
        for ledger_store in self._ledger_stores:
            ledger_store.close()
        if self.spool is not None:
            try:
                self.spool.close()
            except SpoolError as error:  # why the start failed says more
                remark(logging.WARNING, "%s", error)


def open_store(spool: Spool, queue: str, fsync: bool) -> Store:
    """The store of a queue; what was wrong with its files is logged."""
    from peerfabric.nodes.storage.store import Store, told_lost

    store = Store(spool, queue, fsync, time.time_ns() // 1_000_000)
    for line in store.findings:
        remark(logging.WARNING, "queue %r: %s", queue, line)
    if lost := store.lost():
        remark(logging.ERROR, "queue %r: %s", queue, told_lost(lost))
    return store


def _curve_public() -> Callable[[bytes], bytes]:
    from peerfabric.nodes.io.curve import curve_public  # with what only nodes with a key need

    return curve_public
