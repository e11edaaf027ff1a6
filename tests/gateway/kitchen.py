"""Consumer of the orders in tests: writes a line for each one, `PID NUMBER ID KEY`, before it acks it."""

from __future__ import annotations

import os
import sys

from peerfabric import Node


def main(path: str) -> None:
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with Node("kitchen", signals=True) as node:
        for message in node.consumer("orders", int):
            with message as number:
                key = message.headers.get("idempotency-key", "")
                os.write(out, f"{os.getpid()} {number} {message.id} {key}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])
