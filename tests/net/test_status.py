"""Status of nodes on other hosts, asked of them over the links of the fabric."""

from __future__ import annotations

import pytest

from tests.net.consoles import Console, lay
from tests.net.hosts import Host, wait_for
from tests.net.test_secrets import keygen

ASK = (
    "(lambda found: sorted((n.name, n.host, s.process.pid) for s in found for n in s.nodes))"
    "(__import__('peerfabric.admin').admin.fabric_status(node, 5.0))"
)


@pytest.mark.long
def test_all_hosts(three: tuple[Host, Host, Host]) -> None:
    """Each node of a fabric with a secret is told of once, with the process that it is on its own host."""
    text = keygen(three[0]).read_text()
    nodes = [Console(host, reach="lan", secret=f"file:{lay(host, 'its', text)}", fabric="status") for host in three]
    nodes[0].wait_for_link("b", "c")
    wait_for(lambda: [name for name, _, _ in nodes[0].ask(ASK)] == ["a", "b", "c"], "all three")
    found = nodes[0].ask(ASK)
    assert len({host for _, host, _ in found}) == 3
    assert [pid for _, _, pid in found] == [node.ask("__import__('os').getpid()") for node in nodes]
