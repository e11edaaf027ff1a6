"""The collector process: add up what the workers found, and publish how far that is."""

from __future__ import annotations

from peerfabric import Node
from peerfabric.indexer.findings import Module, Progress, Report, Totals
from peerfabric.nodes.cli.children import end_with_parent


def main() -> None:
    totals = Totals()
    by_worker: dict[str, int] = {}
    seen: set[str] = set()
    repeated = 0
    with Node("collector") as node:
        progress = node.publisher("progress", Progress)
        progress.ready()
        for message in node.consumer("modules", Module):
            with message as found:
                # At least once: a worker that dies between sending this and acking its source leaves the source to
                # another, and the same module comes again under another message id. Its name makes it count once.
                if found.module in seen:
                    repeated += 1
                else:
                    seen.add(found.module)
                    totals.add(found)
                    by_worker[message.sender] = by_worker.get(message.sender, 0) + 1
            progress.publish(Progress(len(seen), found.of))
            if len(seen) == found.of:
                break
        node.producer("reports", Report).send(Report(totals, by_worker, repeated), confirm="processed")


if __name__ == "__main__":
    end_with_parent()
    main()
