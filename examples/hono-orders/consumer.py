"""Consumer of the orders: processes each of them once, in any number of processes.

    python consumer.py [DATABASE]

An order may come twice: when a consumer was killed between its work and its ack, and when the gateway was killed just
after it had stored an order and the application asked again. What is done is noted in the database under the order's
own id, in the transaction that does it, so the second time nothing happens.
"""

from __future__ import annotations

import sqlite3
import sys

import msgspec

from peerfabric import Node


class Order(msgspec.Struct):
    id: str
    dish: str
    count: int


def prepare(database: str) -> sqlite3.Connection:
    """A connection to the database, with the table of what is done."""
    connection = sqlite3.connect(database, timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS done (id TEXT PRIMARY KEY, dish TEXT, count INTEGER)")
    return connection


def process(order: Order, connection: sqlite3.Connection) -> bool:
    """Do what is to be done for an order; False: that was done before."""
    done = connection.execute(
        "INSERT INTO done VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (order.id, order.dish, order.count)
    )
    return done.rowcount == 1


def main() -> None:
    connection = prepare(sys.argv[1] if len(sys.argv) > 1 else "orders.db")
    with Node("consumer", signals=True) as node:
        for message in node.consumer("orders", Order):
            with message as order, connection:  # leaving commits first, and acks then
                if process(order, connection):
                    print(f"processed {order.id}: {order.count} {order.dish}", flush=True)


if __name__ == "__main__":
    main()
