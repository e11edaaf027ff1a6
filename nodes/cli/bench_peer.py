"""Peer process of `peerfabric bench`: acks what comes, and sends pings back."""

from __future__ import annotations

from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.cli.children import end_with_parent


def main() -> None:
    node = Node("bench-peer")
    pongs = node.producer("pongs", bytes)

    @node.on_message("pings")
    def answer(ping: bytes) -> None:
        pongs.send(ping)

    with node:
        for batch in node.consumer("load", bytes).batches(max_size=10_000):
            batch.ack()


if __name__ == "__main__":
    end_with_parent()
    main()
