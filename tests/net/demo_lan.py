"""Demo on three hosts: `make demo-lan` indexes Python's standard library over a network that does not hold still.

Three network namespaces get one secret and nothing else. The producer and the collector are on the first host, two
workers on each of the others. One worker is killed on the way, and the cable of its host is cut. Then the same is done
in a single process: exit code 0 if the totals are equal, 1 if not. Nothing is left behind, however it ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from peerfabric.indexer.findings import Report, Totals, examine, library, sources
from tests.net.hosts import HUNG, Host, Lan, Running, missing

CUT: Final = 6.0
"""Seconds for which the cable is cut; longer than the 4 s after which a silent host is given up."""
SILENT: Final = 120.0

WATCH: Final = """
import sys
import msgspec
from peerfabric import Node
from peerfabric.indexer.findings import Progress, Report
from peerfabric.nodes.cli.children import end_with_parent

end_with_parent()
with Node("demo") as node:
    updates = node.subscriber("progress", Progress)

    @node.on_message("reports")
    def take(report: Report) -> None:
        print("report", msgspec.json.encode(report).decode(), flush=True)

    for update in updates:
        print("progress", update.body.done, update.body.of, flush=True)
"""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def give_secret(hosts: tuple[Host, ...]) -> None:
    """Make one secret and lay it on each host, as one would with scp; it is all that the hosts are told."""
    first = hosts[0].folder / "fabric.secret"
    hosts[0].command("keygen", str(first)).finish()
    for host in hosts:
        own = host.folder / "fabric.secret"
        if own != first:
            own.touch(0o600)
            own.write_text(first.read_text())
        host.environment |= {"PEERFABRIC_REACH": "lan", "PEERFABRIC_SECRET_FILE": str(own)}


def index(lan: Lan, folder: Path) -> Report:
    """Let four workers on two hosts index `folder`, and return what the collector hands in."""
    a, b, c = hosts = lan.three()
    give_secret(hosts)
    running: list[Running] = []

    def start(host: Host, module: str, *arguments: str) -> Running:
        running.append(host.spawn(sys.executable, "-P", "-m", f"peerfabric.indexer.{module}", *arguments))
        return running[-1]

    watch = a.start(WATCH)
    start(a, "collector")
    workers = {f"{host.name}-{n}": start(host, "worker", f"{host.name}-{n}") for host in (b, c) for n in (1, 2)}
    start(a, "producer", str(folder))
    is_killed, cut_at, is_healed = False, 0.0, False
    while True:
        try:
            kind, _, rest = watch.line(0.2 if cut_at and not is_healed else SILENT).partition(" ")
        except AssertionError:
            if is_healed or not cut_at or time.monotonic() > cut_at + HUNG:
                raise
            kind = ""
        if cut_at and not is_healed and time.monotonic() > cut_at + CUT:
            is_healed = True
            lan.heal()
            say(f"the cable of host b is whole again after {time.monotonic() - cut_at:.1f} s")
        if kind == "report":
            return msgspec.json.decode(rest, type=Report)
        if kind != "progress":
            continue
        done, of = map(int, rest.split())
        if not is_killed and done * 4 >= of:
            is_killed = True
            workers["b-1"].kill()
            say(f"worker b-1 was killed (SIGKILL) after {done:,} files; c-3 joins")
            start(c, "worker", "c-3")
        if not cut_at and done * 2 >= of:
            cut_at = lan.cut("b")
            say(f"the cable of host b was cut after {done:,} files")


def main() -> int:
    parser = argparse.ArgumentParser(description="Index Python files over three hosts, and once more alone.")
    parser.add_argument("--folder", type=Path, default=library(), help="Python files to index")
    folder: Path = parser.parse_args().folder
    if why := missing():
        say(why)
        return 1
    work = sources(folder)
    say(f"{len(work):,} files under {folder}; three hosts, one secret")
    began_at = time.monotonic()
    with Lan(fabric="demo", quiet=True) as lan:
        report = index(lan, folder)
    took = time.monotonic() - began_at
    alone = Totals()
    for source in work:
        alone.add(examine(source))
    account = report.account
    print(f"workers: {', '.join(f'{name} {count:,}' for name, count in sorted(report.by_worker.items()))} files")
    print(
        f"{account.accepted:,} accepted, {account.acked:,} acked, {account.redelivered:,} delivered again, "
        f"{report.repeated:,} collected twice and counted once; {took:.1f} s"
    )
    print(f"three hosts: {report.totals.lines:,} lines, {report.totals.functions:,} functions")
    print(f"alone:       {alone.lines:,} lines, {alone.functions:,} functions")
    is_equal = report.totals == alone and account.closes and account.acked == alone.modules
    print("equal" if is_equal else "NOT EQUAL")
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
