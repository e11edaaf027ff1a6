"""The producer process: send every source, wait until all are processed, hand the accounting to the collector."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from peerfabric import Node
from peerfabric.indexer.findings import Source, sources
from peerfabric.nodes.cli.children import end_with_parent
from peerfabric.reports import QueueAccount


def main(folder: Path) -> None:
    with Node("producer") as node:
        queue = node.producer("sources", Source)
        queue.send_many(sources(folder))
        queue.flush()
        account = next(account for account in node.statistics().producers if account.queue == "sources")
        node.producer("accounts", QueueAccount).send(account, confirm="processed")


if __name__ == "__main__":
    end_with_parent()
    logging.getLogger("peerfabric").setLevel(logging.ERROR)  # that flush() takes a while is no news here
    main(Path(sys.argv[1]))
