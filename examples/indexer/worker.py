"""A worker process: take a source, examine it, send on what was found."""

from __future__ import annotations

import sys

from peerfabric import Node
from peerfabric.indexer.findings import Module, Source, examine
from peerfabric.nodes.cli.children import end_with_parent


def main(name: str) -> None:
    node = Node(name)
    modules = node.producer("modules", Module)

    @node.on_message("sources")
    def index(source: Source) -> None:
        # Returning acks the source, so what was found in it must be safe by then: it is when the collector has
        # processed it. If this process is killed before that, the source goes to another worker.
        modules.send(examine(source), confirm="processed")

    node.run()


if __name__ == "__main__":
    end_with_parent()
    main(sys.argv[1])
