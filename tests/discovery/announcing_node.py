"""A process that announces by one backend until its input ends; started by path, by the tests.

    announcing_node.py BACKEND FABRIC NODE_ID [EPOCH] [fork]

Prints `ready` and, with `fork`, the process id of a child that was forked after the announcement and lives on.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from peerfabric.discovery.backends import build_backends
from peerfabric.discovery.base import Announcement, Event, Sighting
from peerfabric.discovery.host import fabric_folder, host_id


def main(kind: str, fabric: str, node_id: str, epoch: int, *, fork: bool) -> None:
    (backend,) = build_backends(fabric=fabric, discovery=(kind,))
    endpoint, sockets = f"ipc://{fabric_folder(fabric)}/{node_id}.0.inbox", []
    if kind == "registry":
        # By its short name: a folder of pytest may be too long for the address of a socket.
        os.chdir(fabric_folder(fabric))
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[0].bind(f"{node_id}.0.inbox")
        sockets[0].listen()
    announcement = Announcement(
        node_id=node_id,
        epoch=epoch,
        name="child",
        fabric=fabric,
        host=host_id(),
        inbox=(endpoint, "tcp://127.0.0.1:4000"),
        outbox=(),
    )
    started_at = time.monotonic()

    def report(event: Event) -> None:
        if isinstance(event, Sighting) and isinstance(event.seen, Announcement):
            print(f"saw {event.seen.node_id} {time.monotonic() - started_at:.3f}", flush=True)

    backend.announce(announcement)
    if kind == "mdns":
        backend.watch(report)
    print("ready", flush=True)
    if fork:
        child = os.fork()
        if child == 0:
            backend.close()  # must do nothing: the announcement is the parent's
            os.read(0, 1)  # until the test closes the input
            os._exit(0)
        print(child, flush=True)
    sys.stdin.read()
    backend.close()


if __name__ == "__main__":
    kind, fabric, node_id = sys.argv[1:4]
    main(kind, fabric, node_id, int(sys.argv[4]) if len(sys.argv) > 4 else 7 << 20, fork="fork" in sys.argv)
