"""Exact sums although everybody is killed: `python exact_sums.py [KILLS]`.

One process pays, two others book. They are killed with SIGKILL, one after the other, wherever they just are, and are
started again. In the end each account has exactly what was paid to it, since

- the producer's spool has a payment before `send` returns,
- a ledger spares a consumer most of what it had done before it was killed,
- and what is left is caught by `Once`, in the transaction that books the payment.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

import msgspec

from peerfabric import Message, Node, Once, Options

PAYMENTS = 2000
ACCOUNTS = ("alice", "bob", "carol")


class Payment(msgspec.Struct):
    number: int
    account: str
    cents: int


def payment(number: int) -> Payment:
    """What is to be paid; anybody can work it out, so that the result can be checked."""
    return Payment(number, ACCOUNTS[number % 3], number * 7 % 1000)


def connect(folder: str) -> sqlite3.Connection:
    connection = sqlite3.connect(os.path.join(folder, "bank.db"), timeout=60)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


def pay(folder: str) -> None:
    """Send each payment once, over any number of lives."""
    with Node("payer", spool=os.path.join(folder, "spool"), options=Options(drain_timeout=60)) as node:
        # A message that was there at many deaths is given up in the end; here it has done nothing.
        producer = node.producer("payments", Payment, max_attempts=100)
        # Was the last `send` of our previous life in time? What is in the spool is booked first, then the bank knows.
        producer.flush()
        done = connect(folder).execute("SELECT COALESCE(MAX(number), 0) FROM bookings").fetchone()[0]
        for number in range(done + 1, PAYMENTS + 1):
            producer.send(payment(number))
        producer.flush()


def book(folder: str, name: str) -> None:
    """Book payments until somebody ends us."""
    connection = connect(folder)
    once = Once(connection)
    with Node(name) as node:
        for message in node.consumer("payments", Payment, ledger=os.path.join(folder, f"{name}.ledger")):
            with message, connection:  # leaving commits first and acks then
                book_one(connection, once, message)


def book_one(connection: sqlite3.Connection, once: Once, message: Message[Payment]) -> None:
    if once.first(message):
        paid = message.body
        connection.execute("INSERT INTO bookings VALUES (?, ?, ?)", (paid.number, paid.account, paid.cents))


def main(kills: int) -> None:
    with tempfile.TemporaryDirectory(prefix="pf-") as folder:
        connection = connect(folder)
        with connection:
            # No number is a key here: nothing but `Once` keeps a payment from being booked twice.
            connection.execute("CREATE TABLE bookings (number INTEGER, account TEXT, cents INTEGER)")
            Once(connection).create()
        roles = {"payer": ["pay"], "booker-1": ["book", "booker-1"], "booker-2": ["book", "booker-2"]}

        def start(name: str) -> subprocess.Popen[bytes]:
            role, *rest = roles[name]
            return subprocess.Popen([sys.executable, __file__, role, folder, *rest])

        def booked() -> int:
            return int(connection.execute("SELECT COUNT(*) FROM bookings").fetchone()[0])

        running = {name: start(name) for name in roles}
        try:
            for n in range(kills):
                while booked() < PAYMENTS * (n + 1) // (kills + 1):
                    time.sleep(0.001)
                victim = random.choice(sorted(running))
                running[victim].kill()
                running[victim].wait()
                running[victim] = start(victim)
            ended = running["payer"].wait()
            assert ended == 0, f"the payer ended with {ended}"
        finally:
            for process in running.values():
                process.send_signal(signal.SIGKILL)
                process.wait()

        expected: dict[str, int] = dict.fromkeys(ACCOUNTS, 0)
        for number in range(1, PAYMENTS + 1):
            expected[payment(number).account] += payment(number).cents
        sums = dict(connection.execute("SELECT account, SUM(cents) FROM bookings GROUP BY account"))
        notes = connection.execute("SELECT COUNT(*) FROM peerfabric_once").fetchone()[0]
        print(f"{booked()} bookings after {kills} kills, {notes} notes of them left")
        print("exact" if sums == expected else f"WRONG: {sums}, not {expected}")
        connection.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pay", folder]:
            pay(folder)
        case ["book", folder, name]:
            book(folder, name)
        case arguments:
            main(int(arguments[0]) if arguments else 20)
