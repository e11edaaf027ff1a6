"""Node that answers expressions of Python: `console.py NAME ARGUMENTS`, started by its path; arguments are JSON.

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


def main(name: str, arguments: dict[str, Any]) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", level="INFO")
    counted = count_frames()
    with Node(name, **arguments) as node:

        def peers() -> dict[str, list[str]]:
            """State and reason of each peer by its name, or by its endpoint as long as that is all that is known."""
            return {peer.name or peer.endpoint: [peer.state, peer.reason] for peer in node.peers()}

        node.look_at_all()  # else it has no link with nodes with which it has nothing in common
        print("ready", flush=True)
        known = {"node": node, "peers": peers, "frames": lambda: counted[0], "time": time}
        for line in sys.stdin:
            print("=", json.dumps(eval(line, known)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
