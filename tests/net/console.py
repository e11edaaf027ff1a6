"""Node that answers expressions of Python: `console.py NAME ROLE ARGUMENTS`, started by its path; arguments are JSON.

Its role is to `produce` or to `consume` on one queue, or to do `both`, so that it also has a link with itself.

Each line of standard input is one expression over `node`, `peers()`, `frames()` and the module `time`; the answer is a
line of JSON after `=`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from peerfabric import Node
from peerfabric.engine import Engine


def count_frames() -> list[int]:
    """Count what reaches the engine of this process."""
    counted, handle = [0], Engine.handle_frames

    def counting(*arguments: Any, **named: Any) -> Any:
        counted[0] += 1
        return handle(*arguments, **named)

    Engine.handle_frames = counting  # type: ignore[method-assign]
    return counted


def main(name: str, role: str, arguments: dict[str, Any]) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", level="INFO")
    counted = count_frames()
    with Node(name, **arguments) as node:
        # Without something in common there would be no links.
        if role != "produce":
            node.consumer("console", int)
        if role != "consume":
            node.producer("console", int)

        def peers() -> dict[str, list[str]]:
            """State and reason of each peer by its name, or by what else is known of it."""
            return {peer.name or peer.endpoint or peer.node_id: [peer.state, peer.reason] for peer in node.peers()}

        node.look_at_all()  # else it has no link with nodes with which it has nothing in common
        print("ready", flush=True)
        known = {"node": node, "peers": peers, "frames": lambda: counted[0], "time": time}
        for line in sys.stdin:
            print("=", json.dumps(eval(line, known)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
