"""The collector process: add up what the workers found, and publish how far that is."""

from __future__ import annotations

from peerfabric import Message, Node
from peerfabric.indexer.findings import Module, Progress, Report, Totals
from peerfabric.nodes.cli.children import end_with_parent
from peerfabric.reports import QueueAccount


def main() -> None:
    totals = Totals()
    by_worker: dict[str, int] = {}
    seen: set[str] = set()
    repeated = 0
    node = Node("collector")
    reports = node.producer("reports", Report)
    progress = node.publisher("progress", Progress)
    progress.ready()

    @node.on_message("modules")
    def add(found: Module, message: Message[Module]) -> None:
        # At least once: a worker that dies between sending this and acking its source leaves the source to another,
        # and the same module comes again under another message id. Its name makes it count once.
        nonlocal repeated
        if found.module in seen:
            repeated += 1
        else:
            seen.add(found.module)
            totals.add(found)
            by_worker[message.sender] = by_worker.get(message.sender, 0) + 1
        progress.publish(Progress(len(seen), found.of))

    @node.on_message("accounts")
    def finish(account: QueueAccount) -> None:
        # The producer hands this in when every source is acked, so every module has been added.
        reports.send(Report(totals, by_worker, repeated, account), confirm="processed")

    node.run()


if __name__ == "__main__":
    end_with_parent()
    main()
