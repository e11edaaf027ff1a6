"""Real nodes that link only for work, and find each other by a registry or by one seed."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from peerfabric import Node
from tests.nodes.conftest import eventually

pytestmark = pytest.mark.usefixtures("runtime")


def states(node: Node) -> list[str]:
    return sorted(peer.state for peer in node.peers())


def test_nodes_that_share_nothing_know_each_other_and_have_no_links() -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(Node(f"n{n}", fabric="roster")) for n in range(6)]
        for number, node in enumerate(nodes):
            node.producer(f"own.{number}", int)
        for node in nodes:
            eventually(lambda node=node: states(node) == ["idle"] * 5, "that all are known")  # type: ignore[misc]
        assert [node.statistics().peers for node in nodes] == [0] * 6
        nodes[0].look_at_all()
        eventually(lambda: states(nodes[0]) == ["up"] * 5, "links to look at all")
        eventually(lambda: all(peer.produces for peer in nodes[0].peers()), "what they produce")
        assert all(node.statistics().peers == 1 for node in nodes[1:])


def test_two_that_begin_to_share_a_queue_link_at_once() -> None:
    with Node("shop", fabric="roster") as shop, Node("kitchen", fabric="roster") as kitchen:
        eventually(lambda: states(shop) == ["idle"] and states(kitchen) == ["idle"], "that they know each other")
        orders = shop.producer("orders", int)
        meals = kitchen.consumer("orders", int)
        orders.send(1)
        began = time.monotonic()
        with meals.get(timeout=5) as order:
            assert order == 1
        assert time.monotonic() - began < 1.0


def test_one_seed_without_a_registry_is_enough() -> None:
    with ExitStack() as stack:

        def start(number: int, peers: tuple[str, ...]) -> Node:
            listen, ways = "tcp://127.0.0.1:*", ("static", "exchange")
            return stack.enter_context(Node(f"n{number}", fabric="roster", listen=listen, peers=peers, discovery=ways))

        seed = start(0, ())
        seed.peers()
        inbox = seed._async._context.engine.address.inbox[0]
        nodes = [seed, *(start(number, (inbox,)) for number in range(1, 8))]
        for node in nodes:
            eventually(lambda node=node: len(node.peers()) == 7, "that all are known")  # type: ignore[misc]
        orders = nodes[3].producer("orders", int)
        meals = nodes[6].consumer("orders", int)
        orders.send(1)
        with meals.get(timeout=3) as order:
            assert order == 1
        seed.close()
        more = nodes[2].producer("more", int)
        rest = nodes[5].consumer("more", int)
        more.send(2)
        with rest.get(timeout=5) as order:
            assert order == 2
