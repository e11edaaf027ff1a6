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
        # The source is acked when the collector has processed what was found in it, for which nobody waits here. If
        # this process is killed before that, the source goes to another worker.
        modules.send(examine(source))

    node.run()


if __name__ == "__main__":
    end_with_parent()
    main(sys.argv[1])
