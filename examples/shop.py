"""Queue, the producer's side."""

import msgspec

from peerfabric import Node


class Order(msgspec.Struct):
    number: int
    dish: str


with Node("shop", signals=True) as node:
    orders = node.producer("orders", Order)
    orders.send(Order(1, "tea"))  # accepted: the node is responsible from here
    orders.send(Order(2, "jam"), confirm="processed", timeout=5)
