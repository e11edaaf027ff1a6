"""Nodes on hosts that a test asks what they see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tests.net.hosts import Host, Running, wait_for

CONSOLE: Final = Path(__file__).with_name("console.py")


class Console:
    """A node on a host, which produces or consumes on one queue, or does both; `arguments` are those of `Node`."""

    def __init__(self, host: Host, name: str = "", role: str = "both", **arguments: Any) -> None:
        self.host, self.name = host, name or host.name
        self.running: Running = host.start(CONSOLE, self.name, role, json.dumps(arguments))
        self.running.until("ready")

    def ask(self, expression: str) -> Any:
        """The value of an expression in its process."""
        self.running.tell(expression)
        return json.loads(self.running.until("="))

    def peers(self) -> dict[str, list[str]]:
        """State and reason of each peer by its name, or by its endpoint."""
        return self.ask("peers()")  # type: ignore[no-any-return]

    @property
    def node_id(self) -> str:
        return str(self.ask("node.statistics().node_id"))

    def reload(self) -> None:
        self.ask("node.reload()")

    def wait_for_link(self, *names: str, within: float = 30.0) -> float:
        """Wait until it has a link with each of `names`, and return the instant."""
        try:
            return wait_for(lambda: self.has_links(*names), f"links of {self.name} with {names}", within)
        except AssertionError as error:
            raise AssertionError(f"{error}; it sees {self.peers()}") from None

    def has_links(self, *names: str) -> bool:
        found = self.peers()
        return all(found.get(name, [""])[0] == "up" for name in names)

    def wait_for_reason(self, reason: str, within: float = 30.0) -> float:
        """Wait until it says of somebody why there is no link, and return the instant."""
        try:
            return wait_for(lambda: self._gives(reason), f"{reason!r} at {self.name}", within)
        except AssertionError as error:
            raise AssertionError(f"{error}; it sees {self.peers()}") from None

    def _gives(self, reason: str) -> bool:
        return any(found == reason for _, found in self.peers().values())


def lay(host: Host, name: str, text: str, mode: int = 0o600) -> Path:
    """Put a file into the home of a host, in place of an older one in one step."""
    path = host.folder / name
    new = path.with_suffix(".new")
    new.touch(mode)
    new.write_text(text)
    new.rename(path)
    return path
